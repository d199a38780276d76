"""The socket from which all worker processes take their runs.

Whichever process is idle takes the next run, so no run waits behind a long one. Each run is one
packet. A run that is too large for a packet is in a file, whose descriptor the packet carries.
"""

import array
import errno
import os
import pickle
import socket
import struct
import sys
import tempfile
from contextlib import suppress
from multiprocessing import connection
from multiprocessing.connection import Connection
from typing import IO, Any, Final

from ..threads import in_reserved_thread

HAS_PACKETS: Final = sys.platform == "linux"
"""Whether the platform has SOCK_SEQPACKET, whose readers see that the other end is closed."""

MAX_PACKET_BYTES: Final = 32 * 1024 if HAS_PACKETS else 1024
"""Largest run that is a packet.

A socket of Linux holds 208 KiB (net.core.wmem_default), and a packet of macOS at most 2 KiB
(net.local.dgram.maxdgram).
"""

_NUMBER: Final = struct.Struct("!Q")

_DESCRIPTOR_BYTES: Final = socket.CMSG_LEN(array.array("i", [0]).itemsize)


class RunSocket:
    """Both ends of the socket, in the parent of the worker processes."""

    def __init__(self) -> None:
        kind = socket.SOCK_SEQPACKET if HAS_PACKETS else socket.SOCK_DGRAM
        self._end, self.workers_end = socket.socketpair(socket.AF_UNIX, kind)
        self._end.setblocking(False)

    def send(self, packet: "Packet") -> bool:
        """Send a run without waiting; return False if the socket is full."""
        try:
            self._end.sendmsg(packet.parts, packet.ancillary, socket.MSG_DONTWAIT)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.ENOBUFS):
                return False
            raise
        return True

    def take_back(self) -> list[int]:
        """Take back the runs that no process has taken yet, and return their numbers."""
        numbers: list[int] = []
        start = bytearray(_NUMBER.size)
        with suppress(BlockingIOError):
            while True:
                self.workers_end.recvmsg_into([start], 0, socket.MSG_DONTWAIT)
                numbers += _NUMBER.unpack(start)
        return numbers

    def close(self) -> None:
        """Close both ends. Processes that wait for a run end."""
        self._end.close()
        self.workers_end.close()


class Packet:
    """A run to send."""

    def __init__(self, number: int, data: bytes, file: IO[bytes] | None = None) -> None:
        self.number = number
        self.parts = [_NUMBER.pack(number), data]
        self.ancillary: list[tuple[int, int, Any]] = []
        self._file = file
        if file is not None:
            descriptors = array.array("i", [file.fileno()])
            self.ancillary.append((socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors))

    def close(self) -> None:
        """Close the file, which whoever has taken the run keeps open."""
        if self._file is not None:
            self._file.close()


async def pack(number: int, run: object) -> Packet:
    """Return the packet of a run."""
    data = pickle.dumps(run)
    if len(data) <= MAX_PACKET_BYTES:
        return Packet(number, data)
    return Packet(number, b"", await in_reserved_thread(_file_with, data))


def _file_with(data: bytes) -> IO[bytes]:
    file = tempfile.TemporaryFile()  # noqa: SIM115 - a Packet keeps it open
    file.write(data)
    file.flush()
    return file


class TakenRun:
    """A run that a worker process has taken."""

    def __init__(self, packet: bytes, descriptors: bytes) -> None:
        (self.number,) = _NUMBER.unpack_from(packet)
        self._packet = packet
        self._descriptors = array.array("i", descriptors)

    def load(self) -> Any:
        """Return the run."""
        if not self._descriptors:
            return pickle.loads(self._packet[_NUMBER.size :])  # noqa: S301 - our parent has sent it
        with os.fdopen(self._descriptors[0], "rb") as file:
            file.seek(0)
            return pickle.load(file)  # noqa: S301 - the same


def take(workers_end: socket.socket, pipe: Connection, *, waits: bool) -> TakenRun | None:
    """Take the next run, in a worker process.

    Returns None if there is none, unless it `waits` for one. Raises EOFError if the parent is gone,
    of which only its pipe tells where there is no SOCK_SEQPACKET.
    """
    while True:
        if waits and not HAS_PACKETS and pipe in connection.wait([workers_end, pipe]):
            raise EOFError
        flags = 0 if waits and HAS_PACKETS else socket.MSG_DONTWAIT
        try:
            packet, ancillary, _, _ = workers_end.recvmsg(
                _NUMBER.size + MAX_PACKET_BYTES, _DESCRIPTOR_BYTES, flags
            )
        except BlockingIOError:
            if waits:
                continue  # another process was faster
            return None
        if not packet:
            raise EOFError
        return TakenRun(packet, ancillary[0][2] if ancillary else b"")
