"""PgBouncer with transaction pooling, from Debian's package, before a PostgresServer."""

import pwd
import shutil
import socket
from typing import Any

from tests.servers.postgres import PostgresServer
from tests.servers.process import ServerProcess, ServerUnavailable, is_root

CONFIGURATION = """
[databases]
* = host={postgres} user=postgres
[pgbouncer]
listen_addr =
listen_port = 5432
unix_socket_dir = {directory}
auth_type = any
pool_mode = transaction
default_pool_size = {pool_size}
"""


class PgBouncer(ServerProcess):
    """A pooler with `pool_size` connections to each database of a server."""

    def __init__(self, postgres: PostgresServer, *, pool_size: int) -> None:
        super().__init__()
        self._postgres = postgres
        self._pool_size = pool_size

    def django_database(self, name: str) -> dict[str, Any]:
        """An entry of DATABASES."""
        return self.pooled(self._postgres.django_database(name))

    def pooled(self, database: dict[str, Any]) -> dict[str, Any]:
        """An entry of DATABASES for the server, by way of the pooler."""
        return database | {"HOST": str(self._directory), "DISABLE_SERVER_SIDE_CURSORS": True}

    def _run(self) -> None:
        program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
        if program is None:
            raise ServerUnavailable("There is no pgbouncer: apt-get install pgbouncer")
        directory = self._make_directory(for_others=is_root())
        configuration = directory / "pgbouncer.ini"
        configuration.write_text(
            CONFIGURATION.format(
                postgres=self._postgres.socket_directory,
                directory=directory,
                pool_size=self._pool_size,
            )
        )
        as_user = None
        if is_root():  # which it refuses to run as
            nobody = pwd.getpwnam("nobody")
            for path in (directory, configuration):
                shutil.chown(path, nobody.pw_uid, nobody.pw_gid)
            as_user = (nobody.pw_name, nobody.pw_gid)
        self._spawn([program, configuration], as_user=as_user)
        self._wait_until(self._answers)

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            return client.connect_ex(f"{self._directory}/.s.PGSQL.5432") == 0
