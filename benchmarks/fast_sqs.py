"""An SQS endpoint that is much faster than its clients, with a latency that can be set.

It accepts every message and keeps none, so that what is measured is the sender. FastSqs starts it
as a child process; `python benchmarks/fast_sqs.py --latency-ms 8` runs it by hand.
"""

import argparse
import asyncio
import http.client
import json
import selectors
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from hashlib import md5
from typing import Any, Final, Self

HOST: Final = "127.0.0.1"
TARGET: Final = b"x-amz-target: amazonsqs."
LENGTH: Final = b"content-length:"


class FastSqs:
    """The parent's side. `url` is the endpoint, `queue_url` a queue on it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self.port = 0

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,  # closes with this process, and ends the child
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        return self

    def __exit__(self, *exc_info: object) -> None:
        assert self._process is not None
        self._process.communicate()

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def queue_url(self) -> str:
        return f"{self.url}/000000000000/benchmark"

    def set_latency_ms(self, latency_ms: float) -> None:
        """Answer each request that much later."""
        self._control("POST", f"/latency/{latency_ms}")

    def set_mode(self, mode: str) -> None:
        """Accept what comes, `refuse` it, or let it `hang` without an answer."""
        self._control("POST", f"/mode/{mode}")

    def take_counts(self) -> "Counts":
        """Requests and messages since the last time."""
        return Counts(**self._control("POST", "/reset"))

    def _control(self, method: str, path: str) -> Any:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=10)
        try:
            connection.request(method, path)
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()


@dataclass(slots=True)
class Counts:
    """What has arrived."""

    requests: int = 0
    messages: int = 0


class Queue:
    """What a queue does with a request, as far as a sender can tell."""

    def __init__(self, latency_ms: float = 0) -> None:
        self.url = ""
        self.latency_s = latency_ms / 1000
        self.mode = "accept"
        self.counts = Counts()
        self._made = 0
        self._actions: dict[str, Callable[[Any], dict[str, Any]]] = {
            "sendmessage": self._send_message,
            "sendmessagebatch": self._send_message_batch,
            "getqueueattributes": lambda request: {
                "Attributes": {"ApproximateNumberOfMessages": "0"}
            },
            "getqueueurl": self._get_queue_url,
        }

    def answer(self, action: str, body: bytes) -> tuple[int, bytes]:
        """The status and the body of the answer to an action, its name in lower case."""
        perform = self._actions.get(action)
        if perform is None:
            error = {"__type": "com.amazonaws.sqs#InvalidAction", "message": f"no {action!r} here"}
            return 400, json.dumps(error).encode()
        self.counts.requests += 1
        if self.mode == "refuse":
            error = {"__type": "com.amazonaws.sqs#AccessDenied", "message": "by the benchmark"}
            return 403, json.dumps(error).encode()
        return 200, json.dumps(perform(json.loads(body))).encode()

    def control(self, path: str) -> bytes:
        """The control paths: /stats, /reset, /latency/MS and /mode/MODE.

        Returns the counts until now.
        """
        counts = asdict(self.counts)
        if path == "/reset":
            self.counts = Counts()
        elif path.startswith("/latency/"):
            self.latency_s = float(path.removeprefix("/latency/")) / 1000
        elif path.startswith("/mode/"):
            self.mode = path.removeprefix("/mode/")
        return json.dumps(counts).encode()

    def _get_queue_url(self, request: Any) -> dict[str, Any]:
        return {"QueueUrl": f"{self.url}/000000000000/{request['QueueName']}"}

    def _send_message(self, request: Any) -> dict[str, Any]:
        return self._accepted(request["MessageBody"])

    def _send_message_batch(self, request: Any) -> dict[str, Any]:
        entries = request["Entries"]
        return {
            "Successful": [
                {"Id": entry["Id"], **self._accepted(entry["MessageBody"])} for entry in entries
            ]
        }

    def _accepted(self, body: str) -> dict[str, Any]:
        self._made += 1
        self.counts.messages += 1
        return {
            "MessageId": f"{self._made:08x}-0000-4000-8000-000000000000",
            "MD5OfMessageBody": md5(body.encode(), usedforsecurity=False).hexdigest(),
        }


class Connection(asyncio.Protocol):
    """HTTP/1.1 with keep-alive, as much of it as SQS clients use."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._received = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            head = self._received[:end].lower()
            body_at = end + 4
            body_end = body_at + int(_header(head, LENGTH) or 0)
            if len(self._received) < body_end:
                return
            self._on_request(head, self._received[body_at:body_end])
            self._received = self._received[body_end:]

    def _on_request(self, head: bytes, body: bytes) -> None:
        path = head.split(b" ", 2)[1].decode()
        if path.startswith(("/stats", "/reset", "/latency/", "/mode/")):
            self._write(200, self._queue.control(path))
            return
        status, answer = self._queue.answer(_header(head, TARGET).decode(), body)
        if self._queue.mode == "hang":
            return
        if self._queue.latency_s:
            loop = asyncio.get_running_loop()
            loop.call_later(self._queue.latency_s, self._write, status, answer)
        else:
            self._write(status, answer)

    def _write(self, status: int, body: bytes) -> None:
        assert self._transport is not None
        if not self._transport.is_closing():
            self._transport.write(
                b"HTTP/1.1 %d OK\r\nContent-Type: application/x-amz-json-1.0\r\n"
                b"Content-Length: %d\r\n\r\n%b" % (status, len(body), body)
            )


def _header(head: bytes, name: bytes) -> bytes:
    """What follows `name` on its line; both are in lower case."""
    start = head.find(name)
    if start < 0:
        return b""
    start += len(name)
    end = head.find(b"\r\n", start)
    return head[start : end if end >= 0 else None].strip()


async def serve(latency_ms: float, port: int) -> None:
    """Until standard input closes."""
    loop = asyncio.get_running_loop()
    queue = Queue(latency_ms)
    server = await loop.create_server(lambda: Connection(queue), HOST, port)
    port = server.sockets[0].getsockname()[1]
    queue.url = f"http://{HOST}:{port}"
    print(port, flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latency-ms", type=float, default=0)
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    # Not epoll, which rounds the latency up to whole milliseconds.
    loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(serve(options.latency_ms, options.port))
