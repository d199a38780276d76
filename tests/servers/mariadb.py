"""MariaDB, from Debian's package, as an ordinary child process in a temporary directory.

The system's own service, where there is one, is neither used nor touched. MariaDB runs as root
when it is told so by name.
"""

import os
import shutil
import socket
import subprocess
from typing import Any

from tests.servers.process import ServerProcess, ServerUnavailable, free_port, is_root


class MariaDBServer(ServerProcess):
    """A server on a free loopback port, with a user `root` without a password."""

    def __init__(self) -> None:
        super().__init__()
        self.port = free_port()

    def django_database(self, name: str, *, create: bool = True) -> dict[str, Any]:
        """An entry of DATABASES; Django's test runner creates the database by itself."""
        if create:
            self._create(name)
        return {
            "ENGINE": "django.db.backends.mysql",
            "NAME": name,
            "USER": "root",
            "HOST": "127.0.0.1",
            "PORT": self.port,
            "TEST": {"NAME": name},
        }

    def connect(self, database: str | None = None, *, user: str = "root") -> Any:
        """A connection of the driver's, in autocommit."""
        import pymysql

        return pymysql.connect(
            host="127.0.0.1", port=self.port, user=user, database=database, autocommit=True
        )

    def open_socket(self) -> socket.socket:
        """A socket that the server listens to. Raises OSError where it doesn't."""
        return socket.create_connection(("127.0.0.1", self.port))

    def _run(self) -> None:
        server, install = _program("mariadbd"), _program("mariadb-install-db")
        directory = self._make_directory()
        as_root = ["--user=root"] if is_root() else []
        common = ["--no-defaults", f"--datadir={directory / 'data'}", *as_root]
        _make_database(install, common)
        self._spawn(
            [
                server,
                *common,
                f"--port={self.port}",
                "--bind-address=127.0.0.1",
                f"--socket={directory / 'socket'}",
                f"--pid-file={directory / 'pid'}",
                "--max-connections=200",
                # What a test writes has no need to outlive the machine.
                "--innodb-flush-log-at-trx-commit=0",
                "--innodb-flush-method=nosync",
                "--skip-log-bin",
                # It crashes when columns are dropped at once and by the hundred, as the tests of
                # the migrations do, and the table becomes empty: purge then looks for what is gone.
                "--innodb-instant-alter-column-allowed=add_last",
            ]
        )
        self._wait_until(self._answers)

    def _answers(self) -> bool:
        """Its port alone says too little: it listens before it heeds a signal that stops it."""
        import pymysql

        try:
            self.connect().close()
        except pymysql.OperationalError:
            return False
        return True

    def _create(self, name: str) -> None:
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE IF NOT EXISTS `{name}` CHARACTER SET utf8mb4")


def _make_database(program: str, common: list[str]) -> None:
    options = ["--auth-root-authentication-method=normal", "--skip-test-db"]
    made = subprocess.run(
        [program, *common, *options], capture_output=True, text=True, check=False, cwd="/"
    )
    if made.returncode != 0:
        raise ServerUnavailable(f"{program} ended with {made.returncode}: {made.stderr}")


def _program(name: str) -> str:
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if path is None:
        raise ServerUnavailable(
            f"{name} is not installed. On Debian: apt-get install mariadb-server"
        )
    return path
