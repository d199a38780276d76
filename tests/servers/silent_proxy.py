"""A TCP proxy before the database of the tests."""

import socket
from typing import Any

from django.db import connection

from tests.servers.tcp_proxy import TcpProxy


class SilentProxy(TcpProxy):
    """Use it as a context manager. What connects to `port` reaches the tests' database."""

    def __init__(self) -> None:
        super().__init__(_connect)

    def database(self) -> dict[str, Any]:
        """The tests' database by way of this proxy, as an entry of DATABASES."""
        settings = connection.settings_dict
        entry = {key: settings[key] for key in ("ENGINE", "NAME", "USER")}
        return {**entry, "HOST": "127.0.0.1", "PORT": self.port}


def _connect() -> socket.socket:
    """To the server of the tests' database."""
    host, port = connection.settings_dict["HOST"], connection.settings_dict["PORT"]
    if host.startswith("/"):
        server = socket.socket(socket.AF_UNIX)
        server.connect(f"{host}/.s.PGSQL.{port or 5432}")
        return server
    return socket.create_connection((host, int(port)))
