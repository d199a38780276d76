"""What a worker process tells its parent by its pipe.

At first that it is ready. Then, for each run that it takes, that it begins it, before it does, and
its answer. The answer to a run and the beginning of the next are one message, if the next waits
already.
"""

import os
import pickle
import struct
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any, Final

from ..core.quick import quick_dataclass

READY: Final = b"ready"
"""The first message of a process, sent once it has loaded the project."""

READ_BYTES: Final = 256 * 1024
"""The most bytes that are read at once: about as many as a socket holds."""

NO_RUN: Final = 0
"""The number in place of a run that has ended, or begins."""

_HEADER: Final = struct.Struct("!IQQ")


@quick_dataclass(frozen=True, slots=True)
class Told:
    """A message of a worker process."""

    ended: int
    """The number of the run that has ended, or NO_RUN."""
    answer: Any
    """The answer to that run."""
    begun: int
    """The number of the run that begins, or NO_RUN."""


def tell(pipe: Connection, *, ended: int = NO_RUN, answer: Any = None, begun: int = NO_RUN) -> None:
    """Send a message, and wait for the parent for as long as it takes."""
    data = pickle.dumps(answer) if ended else b""
    left = memoryview(_HEADER.pack(len(data), ended, begun) + data)
    while left:
        left = left[os.write(pipe.fileno(), left) :]


class Listener:
    """The parent's end of a pipe."""

    def __init__(self, pipe: Connection) -> None:
        os.set_blocking(pipe.fileno(), False)
        self._pipe = pipe
        self._read = bytearray()

    @property
    def is_within_message(self) -> bool:
        """Whether a part of a message has arrived."""
        return bool(self._read)

    def hear(self) -> Iterator[Told]:
        """Yield the messages that have arrived.

        Raises EOFError or OSError if the process is gone.
        """
        try:
            data = os.read(self._pipe.fileno(), READ_BYTES)
        except BlockingIOError:
            return
        if not data:
            raise EOFError
        self._read += data
        while len(self._read) >= _HEADER.size:
            length, ended, begun = _HEADER.unpack_from(self._read)
            end = _HEADER.size + length
            if len(self._read) < end:
                return
            data = bytes(self._read[_HEADER.size : end])
            del self._read[:end]
            # Only our own process has the other end of the pipe.
            yield Told(ended, pickle.loads(data) if ended else None, begun)  # noqa: S301
