"""The local SQS answers the processes of its own run: no page of a browser, and no other process.

Each attack goes over HTTP to a real server, and would have an effect without the guard.
"""

import asyncio
import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import urlencode

import pytest
from botocore.exceptions import ClientError

from lambda_tasks.local import LocalSqs
from lambda_tasks.local.sqs_guard import Guard
from lambda_tasks.local.sqs_server import make_client

Answer = tuple[int, dict[str, str], str]
Headers = dict[str, str]

STOLEN = "a body that nobody else may read"
AUTHORITY = "127.0.0.1:4566"
KEY = "the-key-of-this-run"


@pytest.fixture(scope="module")
def sqs() -> Iterator[LocalSqs]:
    with LocalSqs() as server:
        yield server


@pytest.fixture
def queue_url(sqs: LocalSqs) -> Iterator[str]:
    """A queue in which one message is visible."""
    url = sqs.create_queue("guarded")
    sqs.client.send_message(QueueUrl=url, MessageBody=STOLEN)
    yield url
    sqs.client.delete_queue(QueueUrl=url)


def authorization(sqs: LocalSqs, key: str | None = None) -> str:
    key = key or sqs.client_options["aws_access_key_id"]
    scope = "20260101/us-east-1/sqs/aws4_request"
    return f"AWS4-HMAC-SHA256 Credential={key}/{scope}, SignedHeaders=host, Signature={'0' * 64}"


def asked(
    sqs: LocalSqs, method: str, path: str, headers: Headers, body: str | None = None
) -> Answer:
    """What a request gets. A header Host replaces the usual one."""
    connection = http.client.HTTPConnection("127.0.0.1", sqs.port, timeout=30)
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        answered = {name.lower(): value for name, value in response.getheaders()}
        return response.status, answered, response.read().decode()
    finally:
        connection.close()


def form(**fields: str) -> tuple[Headers, str]:
    return {"Content-Type": "application/x-www-form-urlencoded"}, urlencode(fields)


def in_json(action: str, **fields: Any) -> tuple[Headers, str]:
    headers = {
        "Content-Type": "application/x-amz-json-1.0",
        "X-Amz-Target": f"AmazonSQS.{action}",
    }
    return headers, json.dumps(fields)


def attempts(queue_url: str) -> dict[str, tuple[str, str, Headers, str | None]]:
    """Method, path, headers and body of what a stranger would like to do."""
    path = queue_url.split("/", 3)[3]
    create = {"Action": "CreateQueue", "QueueName": "made-by-a-stranger"}
    send = {"Action": "SendMessage", "QueueUrl": queue_url, "MessageBody": "forged"}
    receive = {"Action": "ReceiveMessage", "QueueUrl": queue_url}
    messages = f"/_ministack/sqs/messages?{urlencode({'QueueUrl': queue_url})}"
    return {
        "a form creates": ("POST", "/", *form(**create)),
        "a form sends": ("POST", "/", *form(**send)),
        "a form sends to its queue": ("POST", f"/{path}", *form(**send)),
        "a form receives": ("POST", "/", *form(**receive)),
        "a link sends": ("GET", f"/?{urlencode(send)}", {}, None),
        "JSON creates": ("POST", "/", *in_json("CreateQueue", QueueName="made-by-a-stranger")),
        "JSON sends": ("POST", "/", *in_json("SendMessage", QueueUrl=queue_url, MessageBody="x")),
        "JSON receives": ("POST", "/", *in_json("ReceiveMessage", QueueUrl=queue_url)),
        "JSON purges": ("POST", "/", *in_json("PurgeQueue", QueueUrl=queue_url)),
        "a reset": ("POST", "/_ministack/reset", {}, ""),
        "a look": ("GET", messages, {}, None),
        "a look at the health": ("GET", "/_ministack/health", {}, None),
        "another look at the health": ("GET", "/health", {}, None),
    }


STRANGERS = ["a page", "a form's page", "a link's page", "a rebound name", "no key", "another key"]
"""Who sends it, with all that this one could send at the most."""


def headers_of(who: str, sqs: LocalSqs) -> Headers:
    signed = {"Authorization": authorization(sqs)}
    match who:
        case "a page":
            return signed | {"Origin": "https://evil.example"}
        case "a form's page":
            return signed | {"Sec-Fetch-Site": "cross-site"}
        case "a link's page":
            return signed | {"Referer": "https://evil.example/"}
        case "a rebound name":
            return signed | {"Host": f"evil.example:{sqs.port}"}
        case "no key":
            return {}
        case _:
            return {"Authorization": authorization(sqs, "test")}


@pytest.mark.parametrize("who", STRANGERS)
def test_a_stranger_gets_a_reason_and_nothing_else(sqs: LocalSqs, queue_url: str, who: str) -> None:
    for what, (method, path, headers, body) in attempts(queue_url).items():
        status, answered, text = asked(sqs, method, path, headers | headers_of(who, sqs), body)

        assert status == 403, what
        assert not [name for name in answered if name.startswith("access-control")], what
        assert json.loads(text)["message"].startswith("This local SQS answers "), what
        assert STOLEN not in text
        assert sqs.client_options["aws_access_key_id"] not in text
    names = [url.rpartition("/")[2] for url in sqs.client.list_queues()["QueueUrls"]]
    assert names == ["guarded"]
    assert sqs.counts(queue_url) == {"visible": 1, "in_flight": 0, "delayed": 0}


@pytest.mark.parametrize("path", ["/", "/000000000000/guarded", "/_ministack/reset"])
@pytest.mark.parametrize("origin", ["https://evil.example", "null", ""])
def test_a_preflight_allows_nothing(sqs: LocalSqs, path: str, origin: str) -> None:
    headers = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,x-amz-target",
        "Access-Control-Request-Private-Network": "true",
    }

    status, answered, _ = asked(sqs, "OPTIONS", path, headers)

    assert status == 403
    assert not [name for name in answered if name.startswith("access-control")]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/_ministack/reset"),
        ("POST", "/_ministack/config"),
        ("POST", "/_localstack/reset"),
        ("GET", "/_ministack/sqs/messages"),
        ("POST", "//_ministack/reset"),
        ("POST", "/%5Fministack/reset"),
        ("POST", "/000000000000/guarded/../../_ministack/reset"),
    ],
)
def test_what_only_ministack_has_is_closed_to_the_run_itself(
    sqs: LocalSqs, queue_url: str, method: str, path: str
) -> None:
    status, _, text = asked(sqs, method, path, {"Authorization": authorization(sqs)})

    assert (status, "SQS's own paths" in text) == (403, True)
    assert sqs.counts(queue_url)["visible"] == 1


def test_a_client_of_another_run_is_told_why_it_is_refused(sqs: LocalSqs, queue_url: str) -> None:
    with LocalSqs() as another:
        options = another.client_options | {"endpoint_url": sqs.endpoint_url}
    client = make_client(options)

    with pytest.raises(ClientError, match=r"only the processes of its own run.*LocalSqs\.client_o"):
        client.receive_message(QueueUrl=queue_url)
    client.close()


def test_a_websocket_is_refused(sqs: LocalSqs) -> None:
    upgrade = {
        "Authorization": authorization(sqs),
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version": "13",
    }

    status, _, _ = asked(sqs, "GET", "/", upgrade)

    assert status == 403


@pytest.mark.parametrize(
    "head",
    [
        "GET /_ministack/health HTTP/1.0\r\n{signed}",
        "GET /_ministack/health HTTP/1.1\r\nHost: {host}\r\nHost: evil.example\r\n{signed}",
        "GET http://evil.example/_ministack/health HTTP/1.1\r\nHost: evil.example\r\n{signed}",
        "GET /_ministack/health HTTP/1.1\r\nHost: {host}\r\n{signed}{signed}",
    ],
    ids=["no host", "two hosts", "an absolute target", "two authorizations"],
)
def test_an_odd_request_is_refused(sqs: LocalSqs, head: str) -> None:
    text = head.format(
        host=f"127.0.0.1:{sqs.port}", signed=f"Authorization: {authorization(sqs)}\r\n"
    )
    with socket.create_connection(("127.0.0.1", sqs.port), timeout=30) as connection:
        connection.sendall(f"{text}\r\n".encode())
        status = connection.makefile("rb").readline().split()[1]

    assert status in (b"400", b"403")


def test_the_keys_of_two_servers_differ_and_are_kept_for_a_restart() -> None:
    one, another = LocalSqs(), LocalSqs()
    keys = [server.client_options["aws_access_key_id"] for server in (one, another)]
    secrets = [server.client_options["aws_secret_access_key"] for server in (one, another)]

    assert len({*keys, *secrets}) == 4
    for _ in range(2):
        with one:
            one.create_queue("mine")
    assert one.client_options["aws_access_key_id"] == keys[0]
    assert not [each for each in (*keys, *secrets) if each in repr(one)]


def test_no_command_line_tells_the_key(sqs: LocalSqs) -> None:
    psutil: Any = pytest.importorskip("psutil")
    keys = [sqs.client_options[f"aws_{name}"] for name in ("access_key_id", "secret_access_key")]

    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):  # a child of another test may have ended meanwhile
            words = " ".join(child.cmdline())
            assert not [each for each in keys if each in words]


def refusal(path: str = "/", **headers: str) -> str | None:
    """What the guard alone says of a request that is right but for these headers."""

    async def never(*_: Any) -> None:
        raise AssertionError

    own = {"host": AUTHORITY, "authorization": f"AWS4-HMAC-SHA256 Credential={KEY}/20260101/"}
    sent = own | {name.replace("_", "-"): value for name, value in headers.items()}
    encoded = [(name.encode(), value.encode("latin-1")) for name, value in sent.items()]
    return Guard(never, authority=AUTHORITY, access_key=KEY).refusal(path, encoded)


def test_what_a_process_of_the_run_sends_comes_in() -> None:
    assert refusal() is None
    assert refusal("/000000000000/default.fifo") is None
    assert refusal("/_ministack/health") is None
    assert refusal(sec_fetch_site="none") is None


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({"host": "localhost:4566"}, "requests for the host 127.0.0.1:4566"),
        ({"host": "127.0.0.1"}, "requests for the host"),
        ({"host": "127.0.0.1:45660"}, "requests for the host"),
        ({"host": "x127.0.0.1:4566"}, "requests for the host"),
        ({"origin": "http://127.0.0.1:4566"}, "a header origin"),
        ({"origin": "none"}, "a header origin"),
        ({"referer": ""}, "a header referer"),
        ({"sec_fetch_site": "same-origin"}, "a header sec-fetch-site"),
        ({"sec_fetch_site": "None"}, "a header sec-fetch-site"),
        ({"authorization": ""}, "only the processes of its own run"),
        ({"authorization": f"AWS4-HMAC-SHA256 Credential={KEY}"}, "only the processes"),
        ({"authorization": f"AWS4-HMAC-SHA256 Credential={KEY[:-1]}/x"}, "only the processes"),
        ({"authorization": f"AWS4-HMAC-SHA256 Credential={KEY}s/x"}, "only the processes"),
        ({"authorization": f"AWS4-HMAC-SHA256 Credential=x, Credential={KEY}/"}, "only the proc"),
        ({"authorization": "AWS4-HMAC-SHA256 Credential=\xe9/x"}, "only the processes"),
        ({"authorization": f"Basic {KEY}"}, "only the processes"),
    ],
)
def test_the_guard_says_what_is_wrong(headers: dict[str, str], reason: str) -> None:
    assert reason in (refusal(**headers) or "")


def passed_on(scope: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    """What the app behind the guard gets, and what the guard sends itself."""
    passed: list[Any] = []
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        passed.append(scope)

    async def receive() -> Any:
        raise AssertionError

    async def send(message: Any) -> None:
        sent.append(message["type"])

    asyncio.run(Guard(app, authority=AUTHORITY, access_key=KEY)(scope, receive, send))
    return passed, sent


def test_the_guard_passes_on_the_servers_own_start_and_end() -> None:
    scope = {"type": "lifespan"}

    assert passed_on(scope) == ([scope], [])


def test_the_guard_passes_on_no_websocket() -> None:
    headers = [(b"host", AUTHORITY.encode())]

    assert passed_on({"type": "websocket", "path": "/", "headers": headers}) == (
        [],
        ["websocket.close"],
    )
