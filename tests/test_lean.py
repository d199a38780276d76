"""SendMessageBatch on the wire: botocore's way the first time, then the lean way, and back to
botocore's wherever anything is unusual."""

import functools
import http.server
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import botocore
import pytest
import wrapt
from aiobotocore.client import AioBaseClient
from aiobotocore.config import AioConfig
from aiobotocore.endpoint import AioEndpoint
from aiobotocore.httpsession import AIOHTTPSession
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.client import BaseClient
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from lambda_tasks import EnqueueError, runtime
from lambda_tasks.local import LocalSqs
from lambda_tasks.queues.aws import lean
from lambda_tasks.queues.aws.sigv4 import Signer
from tests.app import tasks
from tests.conftest import bodies_in, serving
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


def test_a_refused_request_casts_doubt_on_its_own_queue_alone_and_for_a_while(
    proxy: FaultySqs, monkeypatch: Any
) -> None:
    send()
    proxy.inject(Fault(status=403))
    send(2)
    tasks.add_direct.using(queue="other").execute_on_commit(a=1)

    assert ways(proxy) == ["botocore", "lean", "botocore", "botocore", "lean"]

    later = time.monotonic() + lean.DISTRUST_S
    monkeypatch.setattr(lean, "time", SimpleNamespace(monotonic=lambda: later, time=time.time))
    send()

    assert ways(proxy)[5:] == ["lean"]


def test_a_refusal_that_botocore_meets_too_casts_no_doubt(proxy: FaultySqs) -> None:
    send()
    proxy.inject(Fault(status=403, when=lambda content: content["QueueUrl"].endswith("-other")))
    proxy.inject(Fault(status=403, when=lambda content: content["QueueUrl"].endswith("-other")))
    with pytest.raises(EnqueueError, match="AccessDenied"):
        tasks.add_direct.using(queue="other").execute_on_commit(a=1)
    tasks.add_direct.using(queue="other").execute_on_commit(a=1)
    send()

    assert ways(proxy) == ["botocore", "lean", "botocore", "lean", "lean"]


@pytest.mark.parametrize("error", ["RequestThrottled", "com.amazonaws.sqs#KmsThrottled"])
def test_throttling_casts_no_doubt(proxy: FaultySqs, error: str) -> None:
    send()
    proxy.inject(Fault(status=403, error=error))
    send(2)

    assert ways(proxy) == ["botocore", "lean", "botocore", "lean"]


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


class Seen(list[str]):
    """What a tracer has seen."""

    def wrap(self, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
        """Trace a call, as a function wrapper of wrapt."""
        self.append(wrapped.__name__)
        return wrapped(*args, **kwargs)

    def hook(self, **kwargs: Any) -> None:
        """Trace a call, as a hook of botocore's events."""
        self.append(kwargs["event_name"])


METHODS = [
    (AioBaseClient, "_make_api_call"),
    (AioBaseClient, "_make_request"),
    (AioEndpoint, "create_request"),
    (AioEndpoint, "prepare_request"),
    (AioEndpoint, "_send_request"),
    (AIOHTTPSession, "send"),
]


@pytest.mark.parametrize(("owner", "name"), METHODS)
@pytest.mark.parametrize("n_before", [0, 2])
def test_a_tracer_that_wraps_botocores_methods_sees_each_call(
    proxy: FaultySqs, monkeypatch: Any, owner: type, name: str, n_before: int
) -> None:
    send(n_before)
    with monkeypatch.context() as patch:
        seen = Seen()
        patch.setattr(owner, name, getattr(owner, name))  # which is restored at the end
        wrapt.wrap_function_wrapper(owner.__module__, f"{owner.__name__}.{name}", seen.wrap)
        send(3)
    assert seen == [name] * 3

    send(2)

    assert len(seen) == 3
    assert ways(proxy)[n_before:] == ["botocore"] * 4 + ["lean"]


def test_a_plain_function_in_the_place_of_botocores_sees_each_call(
    proxy: FaultySqs, monkeypatch: Any
) -> None:
    seen: list[str] = []
    original: Any = AioBaseClient._make_api_call

    @functools.wraps(original)
    async def trace(self: Any, operation: str, parameters: Any) -> Any:
        seen.append(operation)
        return await original(self, operation, parameters)

    monkeypatch.setattr(AioBaseClient, "_make_api_call", trace)

    send(3)

    assert seen == ["SendMessageBatch"] * 3


@pytest.mark.parametrize("event", ["before-call.sqs", "request-created", "after-call.*.*"])
def test_a_hook_that_is_given_to_each_client_sees_each_call(
    proxy: FaultySqs, monkeypatch: Any, event: str
) -> None:
    seen = Seen()
    initialize = BaseClient.__init__

    def trace(self: Any, *args: Any, **kwargs: Any) -> None:
        initialize(self, *args, **kwargs)
        self.meta.events.register(event, functools.partial(seen.hook, of="the test"))

    monkeypatch.setattr(BaseClient, "__init__", trace)

    send(3)

    assert len(seen) == 3
    assert ways(proxy) == ["botocore"] * 3


def test_a_hook_that_comes_later_sees_each_call_from_then_on(
    proxy: FaultySqs, monkeypatch: Any
) -> None:
    clients: list[Any] = []
    initialize = BaseClient.__init__

    def collect(self: Any, *args: Any, **kwargs: Any) -> None:
        initialize(self, *args, **kwargs)
        clients.append(self)

    monkeypatch.setattr(BaseClient, "__init__", collect)
    seen = Seen()
    send(2)

    clients[0].meta.events.register("before-send.sqs", seen.hook)
    send(2)
    clients[0].meta.events.unregister("before-send.sqs", seen.hook)
    send(2)

    assert seen == ["before-send.sqs.SendMessageBatch"] * 2
    assert ways(proxy) == ["botocore", "lean", *["botocore"] * 3, "lean"]


@pytest.mark.parametrize(
    "url",
    [
        "https://sqs.eu-west-1.amazonaws.com",
        "https://vpce-1.sqs.eu-west-1.vpce.amazonaws.com:443",
        "http://Queue.test:80",
        "http://queue.test:443",
        "https://queue.test:8443",
        "http://[::1]:80",
        "http://[::1]:4566",
    ],
)
def test_a_request_is_signed_for_the_host_that_it_names(url: str) -> None:
    credentials = Credentials("AKID", "secret")
    request = AWSRequest("POST", f"{url}/", {"X-Amz-Target": "AmazonSQS.X"}, b"{}")
    SigV4Auth(credentials, "sqs", "eu-west-1").add_auth(request)
    timestamp = datetime.strptime(request.headers["X-Amz-Date"], "%Y%m%dT%H%M%SZ")

    template = lean.Template.from_request(request.prepare())

    assert template is not None
    signed = template.signer.sign(b"{}", credentials, at=timestamp.replace(tzinfo=UTC).timestamp())
    assert signed["authorization"] == request.headers["Authorization"]


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


@pytest.fixture
def no_credentials(proxy: FaultySqs, settings: Any, monkeypatch: Any, sqs: LocalSqs) -> None:
    """Let neither settings nor environment nor files have credentials."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    proxy.added_headers = credential_of(sqs)  # the client's change, and are none of the server's
    settings.LAMBDA_TASKS_AWS = {"region_name": "us-east-1", "endpoint_url": proxy.endpoint_url}


@pytest.mark.usefixtures("no_credentials")
def test_credentials_are_refreshed(proxy: FaultySqs, monkeypatch: Any) -> None:
    with serving(_ExpiringCredentials) as url:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", url)
        send(3)

    tokens = [headers["x-amz-security-token"] for headers, _ in proxy.requests.raw]
    assert ways(proxy) == ["botocore", "lean", "lean"]
    assert len(set(tokens)) == 3, tokens
    for headers, _ in proxy.requests.raw:
        number = headers["x-amz-security-token"].removeprefix("token-")
        assert f"Credential=AKID{number}/" in headers["authorization"]


class _MetadataService(http.server.BaseHTTPRequestHandler):
    """EC2's metadata service, which is away for its first `n_away` requests."""

    n_away = 1

    def do_PUT(self) -> None:
        self._answer(b"a token")

    def do_GET(self) -> None:
        content = {
            "Code": "Success",
            "AccessKeyId": "AKID",
            "SecretAccessKey": "test",
            "Token": "token",
            "Expiration": f"{datetime.now(UTC) + timedelta(hours=6):%Y-%m-%dT%H:%M:%SZ}",
        }
        is_list = self.path.endswith("/security-credentials/")
        self._answer(b"a-role" if is_list else json.dumps(content).encode())

    def _answer(self, body: bytes) -> None:
        is_away = type(self).n_away > 0
        type(self).n_away -= is_away
        self.send_response(503 if is_away else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.mark.usefixtures("no_credentials")
@pytest.mark.parametrize("n_away", [0, 1, 2])
def test_credentials_that_were_not_found_are_looked_for_again(
    proxy: FaultySqs, monkeypatch: Any, n_away: int
) -> None:
    monkeypatch.setattr(_MetadataService, "n_away", n_away)
    with serving(_MetadataService) as url:
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", url)
        send(2)

    assert ways(proxy) == ["botocore", "lean"]
    assert _MetadataService.n_away == 0


@pytest.mark.usefixtures("no_credentials")
def test_missing_credentials_are_told_with_the_fix(monkeypatch: Any) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")

    with pytest.raises(EnqueueError, match=r"locate credentials\. Give this process a role"):
        send()
