"""A TCP proxy before a database, that can fall silent: it neither passes bytes nor closes."""

import socket
import threading
from contextlib import suppress
from typing import Any, Self

from django.db import connection


class SilentProxy:
    """Use it as a context manager. What connects to `port` reaches the tests' database."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._is_silent = False
        self._pairs: list[_Pair] = []

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for pair in self._pairs:
            pair.close()

    def database(self) -> dict[str, Any]:
        """The tests' database by way of this proxy, as an entry of DATABASES."""
        settings = connection.settings_dict
        entry = {key: settings[key] for key in ("ENGINE", "NAME", "USER")}
        return {**entry, "HOST": "127.0.0.1", "PORT": self.port}

    def silence(self, *, new_ones: bool) -> None:
        """For ever for the connections that are there; until speak() for `new_ones`."""
        self._is_silent = new_ones
        for pair in self._pairs:
            pair.is_silent = True

    @property
    def swallowed(self) -> int:
        """Bytes that were not passed on."""
        return sum(pair.swallowed for pair in self._pairs)

    def speak(self) -> None:
        """To connections that are new from now on."""
        self._is_silent = False

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                pair = _Pair(client, _connect(), is_silent=self._is_silent)
                self._pairs.append(pair)
                pair.start()


class _Pair:
    def __init__(self, client: socket.socket, server: socket.socket, *, is_silent: bool) -> None:
        self._sockets = (client, server)
        self.is_silent = is_silent
        self.swallowed = 0

    def start(self) -> None:
        for source, target in (self._sockets, self._sockets[::-1]):
            threading.Thread(target=self._pass_on, args=(source, target), daemon=True).start()

    def close(self) -> None:
        for each in self._sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                if self.is_silent:
                    self.swallowed += len(data)
                else:
                    target.sendall(data)
            if not self.is_silent:
                target.shutdown(socket.SHUT_WR)


def _connect() -> socket.socket:
    """To the server of the tests' database."""
    host, port = connection.settings_dict["HOST"], connection.settings_dict["PORT"]
    if host.startswith("/"):
        server = socket.socket(socket.AF_UNIX)
        server.connect(f"{host}/.s.PGSQL.{port or 5432}")
        return server
    return socket.create_connection((host, int(port)))
