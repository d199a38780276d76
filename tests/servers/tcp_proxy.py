"""A TCP proxy that does what networks do: it holds bytes back, passes them slowly, or cuts."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final, Self

CHUNK: Final = 65_536
PIECES_PER_S: Final = 20
"""What passes slowly goes in so many pieces a second."""


class TcpProxy:
    """Use it as a context manager. What connects to `port` reaches what `connect` connects to.

    A target that can't be reached looks like one that hangs up at once.
    """

    def __init__(self, connect: Callable[[], socket.socket]) -> None:
        self._connect = connect
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self._flow = _Flow()
        self._are_new_ones_silent = False
        self._lock = threading.Lock()
        self._pairs: set[_Pair] = set()
        self._swallowed = 0

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._flow.change(is_held=False)
        self.cut()

    @contextmanager
    def held(self) -> Iterator[None]:
        """In the body no byte passes; those that came meanwhile pass after it, late."""
        self._flow.change(is_held=True)
        try:
            yield
        finally:
            self._flow.change(is_held=False)

    @contextmanager
    def slowed(self, bytes_per_s: float) -> Iterator[None]:
        """In the body each direction of each connection passes so many bytes a second."""
        self._flow.change(bytes_per_s=bytes_per_s)
        try:
            yield
        finally:
            self._flow.change(bytes_per_s=None)

    def cut(self) -> int:
        """Close all connections; how many there were."""
        pairs = self._open_pairs()
        for pair in pairs:
            pair.close()
        return len(pairs)

    def silence(self, *, new_ones: bool) -> None:
        """Swallow what is sent: for ever of the connections that are there; of `new_ones` too."""
        self._are_new_ones_silent = new_ones
        for pair in self._open_pairs():
            pair.is_silent = True

    def speak(self) -> None:
        """To connections that are new from now on."""
        self._are_new_ones_silent = False

    @property
    def swallowed(self) -> int:
        """Bytes that were not passed on."""
        with self._lock:
            return self._swallowed + sum(pair.swallowed for pair in self._pairs)

    def _open_pairs(self) -> list["_Pair"]:
        with self._lock:
            return list(self._pairs)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                try:
                    server = self._connect()
                except OSError:
                    client.close()
                    continue
                self._begin(_Pair(client, server, self._flow, self._are_new_ones_silent))

    def _begin(self, pair: "_Pair") -> None:
        with self._lock:
            self._pairs.add(pair)
        pair.start(self._forget)

    def _forget(self, pair: "_Pair") -> None:
        with self._lock:
            self._pairs.discard(pair)
            self._swallowed += pair.swallowed


class _Flow:
    """How bytes pass, in all connections of a proxy."""

    def __init__(self) -> None:
        self._is_held = False
        self._bytes_per_s: float | None = None
        self._changed = threading.Condition()

    def change(self, *, is_held: bool | None = None, bytes_per_s: float | None = None) -> None:
        with self._changed:
            if is_held is None:
                self._bytes_per_s = bytes_per_s
            else:
                self._is_held = is_held
            self._changed.notify_all()

    def wake(self) -> None:
        """Let each look whether its connection is still there."""
        with self._changed:
            self._changed.notify_all()

    def pieces(self, data: bytes, is_over: Callable[[], bool]) -> Iterator[bytes]:
        """The data in pieces, each when it may pass; none any more once it is over."""
        while data and not is_over():
            with self._changed:
                self._changed.wait_for(lambda: not self._is_held or is_over())
                bytes_per_s = self._bytes_per_s
            size = len(data) if bytes_per_s is None else max(1, int(bytes_per_s / PIECES_PER_S))
            yield data[:size]
            data = data[size:]
            if bytes_per_s is not None:
                time.sleep(1 / PIECES_PER_S)


class _Pair:
    """A client's connection and the one to the server that belongs to it."""

    def __init__(
        self, client: socket.socket, server: socket.socket, flow: _Flow, is_silent: bool
    ) -> None:
        self._sockets = (client, server)
        self._flow = flow
        self._is_cut = False
        self._open_directions = len(self._sockets)
        self._lock = threading.Lock()
        self.is_silent = is_silent
        self.swallowed = 0

    def start(self, ended: Callable[["_Pair"], None]) -> None:
        """`ended` hears when both directions have come to their ends."""
        for source, target in (self._sockets, self._sockets[::-1]):
            threading.Thread(target=self._run, args=(source, target, ended), daemon=True).start()

    def close(self) -> None:
        """From any thread; those of the directions close the sockets."""
        self._is_cut = True
        for each in self._sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self._flow.wake()

    def _run(
        self, source: socket.socket, target: socket.socket, ended: Callable[["_Pair"], None]
    ) -> None:
        with suppress(OSError):
            self._pass_on(source, target)
        with suppress(OSError):
            if not self.is_silent:
                target.shutdown(socket.SHUT_WR)
        with self._lock:
            self._open_directions -= 1
            is_last = self._open_directions == 0
        if is_last:
            for each in self._sockets:
                each.close()
            ended(self)

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        while data := source.recv(CHUNK):
            if self.is_silent:
                self.swallowed += len(data)
                continue
            for piece in self._flow.pieces(data, lambda: self._is_cut):
                target.sendall(piece)
