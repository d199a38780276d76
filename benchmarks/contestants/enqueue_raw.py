"""The endpoint's own capacity: bytes made beforehand over kept connections, no SQS client."""

import asyncio
import json
import os
import time
from urllib.parse import urlsplit

from benchmarks.contestants.bodies import batches

QUEUE_URL = os.environ["BENCHMARK_QUEUE_URL"]
CONNECTIONS = 16


def send(*, messages: int, form: str) -> float:
    """Seconds for so many messages in batches of ten."""
    return asyncio.run(_send(_request(), messages // 10))


async def _send(request: bytes, requests: int) -> float:
    clients = [
        await _connected(_Client(request, len(range(first, requests, CONNECTIONS))))
        for first in range(CONNECTIONS)
    ]
    began_at = time.perf_counter()
    for client in clients:
        client.start()
    await asyncio.gather(*(client.done for client in clients))
    return time.perf_counter() - began_at


async def _connected(client: "_Client") -> "_Client":
    address = urlsplit(QUEUE_URL)
    assert address.hostname is not None
    assert address.port is not None
    loop = asyncio.get_running_loop()
    await loop.create_connection(lambda: client, address.hostname, address.port)
    return client


class _Client(asyncio.Protocol):
    def __init__(self, request: bytes, requests: int) -> None:
        self.done = asyncio.get_running_loop().create_future()
        self._request = request
        self._left = requests
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def start(self) -> None:
        assert self._transport is not None
        if not self._left:
            self._transport.close()
            self.done.set_result(None)
            return
        self._left -= 1
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        # The endpoint writes each answer in one piece, far smaller than a buffer.
        assert data.startswith(b"HTTP/1.1 200 ")
        self.start()


def _request() -> bytes:
    body = json.dumps({"QueueUrl": QUEUE_URL, "Entries": next(batches(10))}).encode()
    return (
        b"POST / HTTP/1.1\r\nHost: localhost\r\nX-Amz-Target: AmazonSQS.SendMessageBatch\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    )
