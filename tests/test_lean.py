"""SendMessageBatch on the wire: botocore's way the first time, then the lean way, and back to
botocore's wherever anything is unusual."""

import http.server
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import aiobotocore.client
import botocore
import pytest
from aiobotocore.config import AioConfig
from aiobotocore.httpsession import AIOHTTPSession
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from lambda_tasks import EnqueueError, runtime
from lambda_tasks.local import LocalSqs
from lambda_tasks.queues.aws.sigv4 import Signer
from tests.app import tasks
from tests.conftest import bodies_in
from tests.servers.faulty_sqs import Fault, FaultySqs

pytestmark = pytest.mark.django_db(transaction=True)

Headers = dict[str, str]

OF_ONE_REQUEST = {"authorization", "x-amz-date", "content-length", "amz-sdk-invocation-id"}
OF_BOTOCORE = "amz-sdk-invocation-id"
"""It numbers a client's attempts; the lean way has none."""


@pytest.fixture
def proxy(queue: str, sqs: LocalSqs, settings: Any) -> Iterator[FaultySqs]:
    runtime.close()  # with every client that has learned already
    with FaultySqs(sqs.endpoint_url) as proxy:
        settings.LAMBDA_TASKS_AWS = sqs.client_options | {"endpoint_url": proxy.endpoint_url}
        yield proxy


def credential_of(sqs: LocalSqs) -> Headers:
    key = sqs.client_options["aws_access_key_id"]
    return {"authorization": f"AWS4-HMAC-SHA256 Credential={key}/"}


def send(times: int = 1) -> None:
    for _ in range(times):
        tasks.add_direct.execute_on_commit(a=1)


def ways(proxy: FaultySqs) -> list[str]:
    return ["botocore" if OF_BOTOCORE in headers else "lean" for headers, _ in proxy.requests.raw]


def signed_by_botocore(headers: Headers, body: bytes, credentials: Credentials) -> str:
    """The authorization that botocore gives to a request like this one."""
    names = headers["authorization"].partition("SignedHeaders=")[2].partition(",")[0].split(";")
    own = {"host", "x-amz-date", "x-amz-security-token"}
    request = AWSRequest(
        "POST",
        f"http://{headers['host']}/",
        {name: headers[name] for name in names if name not in own},
        body,
    )
    request.context["timestamp"] = headers["x-amz-date"]
    auth = SigV4Auth(credentials, "sqs", "us-east-1")
    auth._modify_request_before_signing(request)
    request.headers.replace_header("X-Amz-Date", headers["x-amz-date"])
    to_sign = auth.string_to_sign(request, auth.canonical_request(request))
    auth._inject_signature_to_request(request, auth.signature(to_sign, request))
    return str(request.headers["Authorization"])


def test_a_lean_request_differs_from_botocores_in_nothing_that_matters(
    proxy: FaultySqs, sqs: LocalSqs
) -> None:
    send(2)

    assert ways(proxy) == ["botocore", "lean"]
    (first, first_body), (second, second_body) = proxy.requests.raw
    leave = OF_ONE_REQUEST | {"amz-sdk-request"}
    assert {name: first[name] for name in first.keys() - leave} == {
        name: second[name] for name in second.keys() - leave
    }
    assert first_body.partition(b"invocation_id")[0] == second_body.partition(b"invocation_id")[0]
    options = sqs.client_options
    credentials = Credentials(options["aws_access_key_id"], options["aws_secret_access_key"])
    for headers, body in proxy.requests.raw:
        assert headers["authorization"] == signed_by_botocore(headers, body, credentials)


@given(
    body=st.binary(),
    key=st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=1),
    token=st.none() | st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=1),
    at=st.datetimes(min_value=datetime(2020, 1, 1), max_value=datetime(2099, 1, 1)),
)
def test_the_signature_is_botocores(body: bytes, key: str, token: str | None, at: datetime) -> None:
    same = {"content-type": "application/x-amz-json-1.0", "x-amz-target": "AmazonSQS.X"}
    signer = Signer(host="sqs.test:1", region="us-east-1", service="sqs", headers=same)
    credentials = Credentials("AKID", key, token)

    signed = signer.sign(body, credentials, at=at.replace(tzinfo=UTC).timestamp())

    headers = same | {"host": "sqs.test:1"} | signed
    assert signed["authorization"] == signed_by_botocore(headers, body, credentials)
    assert signed.get("x-amz-security-token") == token


@pytest.mark.parametrize("fault", [Fault(status=500), Fault(drop=True)])
def test_what_is_not_answered_with_success_is_asked_again_by_botocore(
    proxy: FaultySqs, sqs: LocalSqs, queue: str, fault: Fault
) -> None:
    send()
    proxy.inject(fault)
    send(2)

    assert ways(proxy) == ["botocore", "lean", "botocore", "lean"]
    assert len(bodies_in(sqs, queue)) == 3


def test_an_error_is_told_in_botocores_words(proxy: FaultySqs, sqs: LocalSqs, queue: str) -> None:
    send()
    sqs.client.delete_queue(QueueUrl=queue)
    try:
        with pytest.raises(EnqueueError, match="QueueDoesNotExist: The specified queue"):
            send()
    finally:
        sqs.create_queue(queue.rpartition("/")[2])
    assert ways(proxy) == ["botocore", "lean", "botocore"]


def test_after_a_refused_signature_it_is_never_tried_again(proxy: FaultySqs) -> None:
    send()
    proxy.inject(Fault(status=403))
    send(2)

    assert ways(proxy) == ["botocore", "lean", "botocore", "botocore"]


def test_who_waited_for_an_answer_in_vain_waits_once(
    proxy: FaultySqs, sqs: LocalSqs, settings: Any
) -> None:
    config = AioConfig(read_timeout=4)
    settings.LAMBDA_TASKS_AWS = settings.LAMBDA_TASKS_AWS | {"config": config}
    send()
    proxy.inject(Fault(hang=True, drop=True))
    send()

    # The dispatcher's second attempt; none of botocore's in between.
    assert ways(proxy) == ["botocore", "lean", "lean"]


@pytest.mark.parametrize(
    "unusual", [{"signature_version": botocore.UNSIGNED}, {"proxies": "of the test"}]
)
def test_an_unusual_client_goes_botocores_way(
    proxy: FaultySqs, sqs: LocalSqs, settings: Any, unusual: dict[str, Any]
) -> None:
    proxy.added_headers = credential_of(sqs)  # one of the clients does not sign
    if "proxies" in unusual:
        unusual = {"proxies": {"http": proxy.endpoint_url}}
    settings.LAMBDA_TASKS_AWS = settings.LAMBDA_TASKS_AWS | {"config": AioConfig(**unusual)}

    send(3)

    assert ways(proxy) == ["botocore"] * 3


@pytest.mark.parametrize("error", [AttributeError, TypeError])
def test_a_client_that_is_made_in_another_way_goes_botocores_way(
    proxy: FaultySqs, monkeypatch: Any, error: type[Exception]
) -> None:
    calls = []
    original = AIOHTTPSession._get_session

    async def get_session(self: Any, proxy_url: Any) -> Any:
        calls.append(proxy_url)
        if len(calls) == 1:  # ours, before the request is sent
            raise error
        return await original(self, proxy_url)

    monkeypatch.setattr(AIOHTTPSession, "_get_session", get_session)

    send(2)

    assert len(calls) == 3
    assert ways(proxy) == ["botocore"] * 2


def test_who_traces_botocores_calls_sees_each(proxy: FaultySqs, monkeypatch: Any) -> None:
    seen = []

    class Tracing:
        """As wrapt's function wrappers, which tracers use, are no functions either."""

        def __init__(self, wrapped: Any) -> None:
            self.wrapped = wrapped

        def __get__(self, instance: Any, owner: Any) -> Any:
            return self if instance is None else lambda *args: self(instance, *args)

        def __call__(self, *args: Any) -> Any:
            seen.append(args[1])
            return self.wrapped(*args)

    owner = aiobotocore.client.AioBaseClient
    monkeypatch.setattr(owner, "_make_api_call", Tracing(owner._make_api_call))

    send(3)

    assert seen == ["SendMessageBatch"] * 3
    assert ways(proxy) == ["botocore"] * 3


def test_lambda_sees_a_function_that_enqueues_for_itself(
    proxy: FaultySqs, monkeypatch: Any
) -> None:
    send()
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "tests")
    monkeypatch.setenv("_X_AMZN_TRACE_ID", "Root=1-5759e988;Lineage=a:1")
    send()

    headers, _ = proxy.requests.raw[1]
    assert ways(proxy) == ["botocore", "lean"]
    assert headers["x-amzn-trace-id"] == "Root=1-5759e988;Lineage=a:1"


class _ExpiringCredentials(http.server.BaseHTTPRequestHandler):
    """A container's credentials, which are as good as expired each time they are given."""

    given = 0

    def do_GET(self) -> None:
        type(self).given += 1
        expiration = datetime.now(UTC) + timedelta(minutes=2)
        content = {
            "AccessKeyId": f"AKID{self.given}",
            "SecretAccessKey": "test",
            "Token": f"token-{self.given}",
            "Expiration": expiration.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_credentials_are_refreshed(
    proxy: FaultySqs, settings: Any, monkeypatch: Any, sqs: LocalSqs
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    proxy.added_headers = credential_of(sqs)  # the client's change, and are none of the server's
    settings.LAMBDA_TASKS_AWS = {
        "region_name": "us-east-1",
        "endpoint_url": proxy.endpoint_url,
    }
    with http.server.HTTPServer(("127.0.0.1", 0), _ExpiringCredentials) as server:
        url = f"http://127.0.0.1:{server.server_port}/"
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", url)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        send(3)
        server.shutdown()
        thread.join()

    tokens = [headers["x-amz-security-token"] for headers, _ in proxy.requests.raw]
    assert ways(proxy) == ["botocore", "lean", "lean"]
    assert len(set(tokens)) == 3, tokens
    for headers, _ in proxy.requests.raw:
        number = headers["x-amz-security-token"].removeprefix("token-")
        assert f"Credential=AKID{number}/" in headers["authorization"]
