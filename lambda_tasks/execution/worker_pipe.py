"""The messages between a worker process and its parent.

The process reports that it is ready. Then it receives runs, one at a time, and answers each. An
empty message announces a large one, so that the parent's event loop never waits for the other side
to read or write.
"""

import asyncio
import pickle
import sys
from multiprocessing.connection import Connection
from typing import Any, Final

from ..threads import in_reserved_thread

READY: Final = b"ready"
"""The first message of a process, sent once it has loaded the project."""

SMALL_BYTES: Final = 4096
"""Largest message that is sent and received without waiting.

A pipe holds 8 KiB on macOS and more on Linux.
"""

MAX_SENT_AT_ONCE_BYTES: Final = 32 * 1024 if sys.platform == "linux" else SMALL_BYTES
"""Largest message that is sent to a process without waiting: it reads all that came before.

A socket of Linux holds 208 KiB (net.core.wmem_default). To send on another thread takes 0.2 ms.
"""

LARGE_MESSAGE_LIMIT_S: Final = 30.0
"""Seconds for a large message to pass through the pipe."""


def send(pipe: Connection, value: object) -> None:
    """Send a message, and wait for the other side for as long as it takes."""
    data = pickle.dumps(value)
    if len(data) > SMALL_BYTES:
        pipe.send_bytes(b"")
    pipe.send_bytes(data)


def receive(pipe: Connection) -> Any:
    """Wait for a message and return it. Raises EOFError if the other side is gone."""
    return _load(pipe.recv_bytes() or pipe.recv_bytes())


async def asend(pipe: Connection, value: object) -> None:
    """Send a message to a process that waits for one.

    Raises TimeoutError if the process does not read a large message within
    LARGE_MESSAGE_LIMIT_S, and OSError if it is gone.
    """
    data = pickle.dumps(value)
    if len(data) <= MAX_SENT_AT_ONCE_BYTES:
        pipe.send_bytes(data)
        return
    pipe.send_bytes(b"")
    async with asyncio.timeout(LARGE_MESSAGE_LIMIT_S):
        await in_reserved_thread(pipe.send_bytes, data)


async def areceive(pipe: Connection) -> Any:
    """Receive a message whose first bytes have arrived.

    Raises TimeoutError if the rest of a large message does not arrive within
    LARGE_MESSAGE_LIMIT_S, and EOFError or OSError if the other side is gone.
    """
    data = pipe.recv_bytes()
    if not data:
        async with asyncio.timeout(LARGE_MESSAGE_LIMIT_S):
            data = await in_reserved_thread(pipe.recv_bytes)
    return _load(data)


def _load(data: bytes) -> Any:
    return pickle.loads(data)  # noqa: S301 - only our own process has the other end of the pipe
