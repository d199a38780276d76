"""What the way to SQS makes of a queue's URL, of options and of answers."""

import asyncio
import http.server
import socket
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar
from uuid import uuid4

import botocore.session
import pytest

from lambda_tasks import runtime
from lambda_tasks.core.message import Message, Outgoing
from lambda_tasks.local import LocalSqs
from lambda_tasks.ports import SendFailure
from lambda_tasks.queues.aws import client as client_module
from lambda_tasks.queues.aws import session as session_module
from lambda_tasks.queues.aws.client import AwsClient
from lambda_tasks.queues.aws.errors import RequestFailed
from lambda_tasks.queues.sqs import SQSQueue, SQSTransport
from lambda_tasks.runtime import Runtime
from tests.app import tasks
from tests.conftest import bodies_in, serving
from tests.servers.faulty_sqs import Fault, FaultySqs

URL = "https://sqs.eu-west-1.amazonaws.com/123456789012/default"


@pytest.mark.parametrize(
    ("host", "region", "endpoint_is_its_own"),
    [
        ("sqs.eu-west-1.amazonaws.com", "eu-west-1", False),
        ("sqs.cn-north-1.amazonaws.com.cn", "cn-north-1", False),
        ("sqs.us-gov-west-1.amazonaws.com", "us-gov-west-1", False),
        ("eu-central-1.queue.amazonaws.com", "eu-central-1", False),
        ("queue.amazonaws.com", "us-east-1", False),
        ("sqs-fips.us-east-1.amazonaws.com", "us-east-1", True),
        ("sqs.us-east-1.api.aws", "us-east-1", True),
        ("vpce-0abc-xyz.sqs.eu-west-1.vpce.amazonaws.com", "eu-west-1", True),
        ("127.0.0.1:4566", None, True),
    ],
)
@pytest.mark.parametrize("options", [{}, {"region_name": "mine", "endpoint_url": "http://mine"}])
def test_region_and_endpoint_come_from_the_queues_url(
    host: str, region: str | None, endpoint_is_its_own: bool, options: dict[str, Any]
) -> None:
    asked: list[Any] = []

    def client(service: str, options: Any, *, default_endpoint_url: Any, **rest: Any) -> Any:
        asked.append((options, default_endpoint_url))

    wiring: Any = SimpleNamespace(aws_options=options, client=client, signer=lambda audience: None)
    SQSQueue("default", f"https://{host}/123456789012/default").make_transport(wiring)

    derived = {} if region is None else {"region_name": region}
    assert asked == [(derived | options, f"https://{host}" if endpoint_is_its_own else None)]


@pytest.mark.parametrize(
    ("region", "partition"),
    [("eu-west-1", "aws"), ("cn-north-1", "aws-cn"), ("us-gov-west-1", "aws-us-gov")],
)
def test_the_arn_of_a_queue_has_the_partition_of_its_region(region: str, partition: str) -> None:
    queue = SQSQueue("default", f"https://sqs.{region}.amazonaws.com/123456789012/default")

    assert queue.arn == f"arn:{partition}:sqs:{region}:123456789012:default"
    assert queue.is_fed_by(queue.arn)


ELSEWHERE = "http://elsewhere:4566"


@pytest.mark.parametrize(
    ("variables", "profile"),
    [
        ({}, ""),
        ({"AWS_ENDPOINT_URL": ELSEWHERE}, ""),
        ({"AWS_ENDPOINT_URL_SQS": ELSEWHERE}, "endpoint_url = http://everything:1"),
        ({"AWS_ENDPOINT_URL_BATCH": ELSEWHERE}, ""),
        ({"AWS_ENDPOINT_URL": ELSEWHERE, "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"}, ""),
        ({}, f"endpoint_url = {ELSEWHERE}"),
        ({}, f"ignore_configured_endpoint_urls = true\nendpoint_url = {ELSEWHERE}"),
        ({}, f"services = local\n[services local]\nsqs =\n  endpoint_url = {ELSEWHERE}"),
    ],
)
@pytest.mark.parametrize("url", ["http://localhost:4566/000000000000/default", URL])
def test_an_endpoint_of_aws_configuration_is_followed_as_botocore_follows_it(
    variables: dict[str, str], profile: str, url: str, monkeypatch: Any, tmp_path: Path
) -> None:
    config = tmp_path / "config"
    config.write_text(f"[default]\n{profile}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    keys: dict[str, Any] = {"aws_access_key_id": "key", "aws_secret_access_key": "secret"}
    theirs = botocore.session.Session().create_client("sqs", "eu-west-1", **keys)
    runtime_of_the_test = Runtime()
    monkeypatch.setattr(Runtime, "aws_options", {"region_name": "eu-west-1", **keys}, raising=False)
    SQSQueue("default", url).make_transport(runtime_of_the_test)
    (ours,) = runtime_of_the_test._clients.values()

    async def endpoint_url() -> str:
        client = await ours._open()
        await ours.aclose()
        return str(client.meta.endpoint_url)

    followed = asyncio.run(endpoint_url())

    # Without an endpoint of that configuration, botocore knows no host but AWS's.
    is_configured = theirs.meta.endpoint_url != "https://sqs.eu-west-1.amazonaws.com"
    own = "http://localhost:4566" if "localhost" in url else theirs.meta.endpoint_url
    assert followed == (theirs.meta.endpoint_url if is_configured else own)


@pytest.mark.django_db(transaction=True)
def test_options_that_are_none_are_left_to_the_environment(
    queue: str, sqs: LocalSqs, settings: Any, monkeypatch: Any
) -> None:
    runtime.close()
    for name, value in sqs.client_options.items():
        if name.startswith("aws_"):
            monkeypatch.setenv(name.upper(), value)
            settings.LAMBDA_TASKS_AWS = settings.LAMBDA_TASKS_AWS | {name: None}

    tasks.add_direct.execute_on_commit(a=1)

    assert len(bodies_in(sqs, queue)) == 1


class PlayedClient:
    """Answers as some emulator might."""

    def __init__(self, answer: dict[str, Any]) -> None:
        self._answer = answer
        self.parameters: list[dict[str, Any]] = []

    async def call(self, operation: str, **parameters: Any) -> Any:
        self.parameters.append(parameters)
        return self._answer


@pytest.mark.parametrize("empty", [{}, {"Failed": None}, {"Failed": []}])
def test_what_is_accepted_is_so_however_the_rest_is_left_out(empty: dict[str, Any]) -> None:
    failures = sent(PlayedClient({"Successful": [{"Id": "0"}], **empty}))

    assert failures == [None]


@pytest.mark.parametrize("answer", [{}, {"Successful": None}, {"Successful": [{"Id": "7"}]}])
def test_what_the_answer_does_not_mention_may_yet_be_accepted(answer: dict[str, Any]) -> None:
    (failure,) = sent(PlayedClient(answer))

    assert failure == SendFailure("the response does not mention the message", retryable=True)


def test_what_is_held_for_less_than_a_second_does_not_come_back_at_once() -> None:
    client: Any = PlayedClient({})
    queue = SQSQueue("default", "https://sqs.eu-west-1.amazonaws.com/1/default")
    wiring: Any = SimpleNamespace(aws_options={}, client=lambda service, options, **rest: client)

    asyncio.run(queue.postpone(wiring, "handle", 0.2))

    assert client.parameters[0]["VisibilityTimeout"] == 1


def sent(
    client: Any, *, delay_s: int = 0, run_after: datetime | None = None
) -> Sequence[SendFailure | None]:
    message = Message(task_name="f", kwargs={}, invocation_id=uuid4(), run_after=run_after)
    transport = SQSTransport("https://sqs.eu-west-1.amazonaws.com/1/default", client)
    return asyncio.run(transport.send([Outgoing(message, "{}", "default", delay_s)]))


@pytest.mark.parametrize(
    ("left_s", "delays_s"), [(200.2, [200, 199]), (900, [300]), (-5, [None]), (None, [300])]
)
def test_a_message_that_is_sent_later_than_it_was_called_is_delayed_for_what_is_left(
    left_s: float | None, delays_s: list[int | None]
) -> None:
    client: Any = PlayedClient({})
    due = None if left_s is None else datetime.now(UTC) + timedelta(seconds=left_s)

    sent(client, delay_s=300, run_after=due)

    [entry] = client.parameters[0]["Entries"]
    assert entry.get("DelaySeconds") in delays_s


def test_a_client_that_was_closed_is_opened_again_on_another_loop(sqs: LocalSqs) -> None:
    client = AwsClient("sqs", sqs.client_options)

    async def use() -> None:
        await asyncio.gather(*(client.call("list_queues") for _ in range(3)))
        await client.aclose()

    asyncio.run(use())
    asyncio.run(use())


@pytest.mark.parametrize(("waits_s", "limit"), [(0, "0.2 s"), (0.1, "0.3 s")])
def test_a_request_without_an_answer_says_how_long_it_has_waited(
    sqs: LocalSqs, monkeypatch: pytest.MonkeyPatch, waits_s: float, limit: str
) -> None:
    monkeypatch.setattr(client_module, "CALL_TIMEOUT_S", 0.2)

    async def call(endpoint_url: str) -> None:
        options = {**sqs.client_options, "endpoint_url": endpoint_url}
        client = AwsClient("sqs", options, waits_s=waits_s)
        try:
            await client.call("list_queues")
        finally:
            await client.aclose()

    with FaultySqs(sqs.endpoint_url) as proxy:
        proxy.inject(Fault(action="ListQueues", hang=True))
        with pytest.raises(RequestFailed, match=f"sqs did not answer within {limit}"):
            asyncio.run(call(proxy.endpoint_url))


class _Answering(http.server.BaseHTTPRequestHandler):
    """An SQS that gives the answer of the test."""

    status = 200
    headers_of_answer: ClassVar[dict[str, str]] = {}
    body = b"{}"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(self.status)
        for name, value in self.headers_of_answer.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def failure_at(endpoint_url: str, *, region_name: str | None = "eu-west-1") -> SendFailure:
    """The failure of one request to an endpoint, with an AWS client."""
    keys = {"aws_access_key_id": "key", "aws_secret_access_key": "secret"}
    client = AwsClient("sqs", keys | {"region_name": region_name, "endpoint_url": endpoint_url})

    async def fail() -> SendFailure:
        try:
            with pytest.raises(RequestFailed) as error:
                await client.call("send_message_batch", QueueUrl=URL, Entries=[])
        finally:
            await client.aclose()
        return error.value.failure

    return asyncio.run(fail())


@pytest.mark.parametrize(
    ("status", "headers", "body", "reason", "retryable"),
    [
        (
            400,
            {"x-amzn-query-error": "KMS.ThrottlingException;Sender"},
            b'{"__type": "com.amazonaws.sqs#KmsThrottled", "message": "Rate exceeded"}',
            "KMS.ThrottlingException: Rate exceeded",
            True,
        ),
        (403, {}, b'{"__type": "com.amazonaws.sqs#RequestThrottled"}', "RequestThrottled", True),
        (400, {}, b'{"__type": "TooManyRequestsException"}', "TooManyRequestsException", True),
        (400, {}, b'{"__type": "InvalidMessageContents"}', "InvalidMessageContents", False),
        (403, {}, b'{"__type": "AccessDenied", "message": "no"}', "AccessDenied: no", False),
        (
            400,
            {"x-amzn-query-error": "AWS.SimpleQueueService.NonExistentQueue;Sender"},
            b'{"__type": "com.amazonaws.sqs#QueueDoesNotExist"}',
            "AWS.SimpleQueueService.NonExistentQueue",
            False,
        ),
        (500, {}, b'{"__type": "InternalFailure"}', "InternalFailure", True),
        (502, {}, b"<html>a proxy's page</html>", "Bad Gateway", True),
    ],
)
def test_an_answer_tells_whether_the_request_may_succeed_later(
    status: int,
    headers: dict[str, str],
    body: bytes,
    reason: str,
    retryable: bool,
    monkeypatch: Any,
) -> None:
    monkeypatch.setattr(_Answering, "status", status)
    monkeypatch.setattr(_Answering, "headers_of_answer", headers)
    monkeypatch.setattr(_Answering, "body", body)
    with serving(_Answering) as url:
        failure = failure_at(url)

    assert reason in failure.reason
    assert failure.retryable is retryable


@pytest.mark.parametrize("host", ["127.0.0.1", "nowhere.invalid"])
def test_a_host_that_is_not_there_may_be_there_later(host: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        failure = failure_at(f"http://{host}:{unused.getsockname()[1]}")

    assert host in failure.reason
    assert failure.retryable


def test_a_connection_that_takes_too_long_may_be_faster_later(monkeypatch: Any) -> None:
    monkeypatch.setattr(session_module, "CONNECT_TIMEOUT_S", 0.05)
    with socket.create_server(("127.0.0.1", 0), backlog=1) as full, ExitStack() as open_sockets:
        for _ in range(3):  # more than its queue holds, so that no other gets an answer
            each = open_sockets.enter_context(socket.socket())
            each.setblocking(False)
            each.connect_ex(full.getsockname())
        failure = failure_at(f"http://127.0.0.1:{full.getsockname()[1]}")

    assert "Connect timeout" in failure.reason
    assert failure.retryable


def test_a_region_that_is_nowhere_is_told_with_the_fix(monkeypatch: Any) -> None:
    for name in ("AWS_DEFAULT_REGION", "AWS_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")

    failure = failure_at("http://127.0.0.1:9", region_name=None)

    assert failure.reason == (
        "You must specify a region. Set AWS_DEFAULT_REGION, or region_name in LAMBDA_TASKS_AWS."
    )
    assert not failure.retryable


@pytest.mark.parametrize(
    ("code", "retryable"),
    [
        ("RequestThrottled", True),
        ("KmsThrottled", True),
        ("KMS.ThrottlingException", True),
        ("ServiceUnavailable", True),
        ("InvalidMessageContents", False),
        ("KMS.DisabledException", False),
    ],
)
def test_an_entry_that_is_throttled_is_sent_again_whoever_is_at_fault(
    code: str, retryable: bool
) -> None:
    entry = {"Id": "0", "SenderFault": True, "Code": code, "Message": "why"}

    assert sent(PlayedClient({"Failed": [entry]})) == [
        SendFailure(f"{code}: why", retryable=retryable)
    ]


@pytest.mark.django_db(transaction=True)
def test_a_call_survives_a_queue_that_refuses_connections_for_a_moment(
    queue: str, sqs: LocalSqs, settings: Any
) -> None:
    runtime.close()
    with FaultySqs(sqs.endpoint_url) as proxy:
        settings.LAMBDA_TASKS_AWS = sqs.client_options | {"endpoint_url": proxy.endpoint_url}
        proxy.stop()
        threading.Timer(0.5, proxy.start).start()

        tasks.add_direct.execute_on_commit(a=1)

    assert len(bodies_in(sqs, queue)) == 1
