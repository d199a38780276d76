"""MariaDB, from Debian's package, as an ordinary child process in a temporary directory."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Self

from tests.servers import ServerUnavailable
from tests.servers.redis_server import free_port, wait_for_port


class MariaDBServer:
    """A server on a free loopback port, with a root user without a password."""

    def __init__(self) -> None:
        self.port = free_port()
        self._directory = Path(tempfile.mkdtemp(prefix="lambda_tasks_mariadb_"))
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def start(self) -> None:
        data = self._directory / "data"
        as_user = ["--user=root"] if os.getuid() == 0 else []
        subprocess.run(
            [
                _program("mariadb-install-db"),
                f"--datadir={data}",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
                *as_user,
            ],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._process = subprocess.Popen(
            [
                _program("mariadbd"),
                "--no-defaults",
                f"--datadir={data}",
                f"--port={self.port}",
                "--bind-address=127.0.0.1",
                f"--socket={self._directory / 'socket'}",
                "--innodb-flush-log-at-trx-commit=0",
                *as_user,
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_for_port(self.port, self._process)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(timeout=30)
            self._process = None
        shutil.rmtree(self._directory, ignore_errors=True)

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

    def _create(self, name: str) -> None:
        import pymysql

        with (
            pymysql.connect(host="127.0.0.1", port=self.port, user="root") as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute(f"CREATE DATABASE `{name}` CHARACTER SET utf8mb4")


def _program(name: str) -> str:
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if path is None:
        raise ServerUnavailable(
            f"{name} is not installed. On Debian: apt-get install mariadb-server"
        )
    return path
