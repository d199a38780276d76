"""The messages between a worker process and its parent.

The process says that it is ready; then it takes runs, one at a time, and answers each. A large
message is announced by an empty one, so that the parent never waits on its event loop for the
other side to read or write.
"""

import asyncio
import pickle
from multiprocessing.connection import Connection
from typing import Any, Final

from ..threads import in_reserved_thread

READY: Final = b"ready"

SMALL_BYTES: Final = 4096
"""What a pipe takes at once, and has at once. It has room for 8 KiB on macOS, for more on Linux."""

LARGE_S: Final = 30.0
"""For a large message to go through the pipe."""


def send(pipe: Connection, value: object) -> None:
    """Send a message, however long the other side takes."""
    data = pickle.dumps(value)
    if len(data) > SMALL_BYTES:
        pipe.send_bytes(b"")
    pipe.send_bytes(data)


def receive(pipe: Connection) -> Any:
    """Wait for a message. Raises EOFError where the other side is gone."""
    return _loaded(pipe.recv_bytes() or pipe.recv_bytes())


async def asend(pipe: Connection, value: object) -> None:
    """Send a message to a process that waits for one.

    Raises TimeoutError where it does not take a large one in LARGE_S, OSError where it is gone.
    """
    data = pickle.dumps(value)
    if len(data) <= SMALL_BYTES:
        pipe.send_bytes(data)
        return
    pipe.send_bytes(b"")
    async with asyncio.timeout(LARGE_S):
        await in_reserved_thread(pipe.send_bytes, data)


async def areceive(pipe: Connection) -> Any:
    """Take the message that has begun to come.

    Raises TimeoutError where the rest of a large one does not come in LARGE_S, EOFError or OSError
    where the other side is gone.
    """
    data = pipe.recv_bytes()
    if not data:
        async with asyncio.timeout(LARGE_S):
            data = await in_reserved_thread(pipe.recv_bytes)
    return _loaded(data)


def _loaded(data: bytes) -> Any:
    return pickle.loads(data)  # noqa: S301, as nobody else has the other end of the pipe
