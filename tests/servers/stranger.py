"""What others do to the database that a project shares with them: locks, limits, ended sessions."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from tests.servers.mariadb import MariaDBServer
from tests.servers.postgres import PostgresServer

RECORDS: Final = "lambda_tasks_taskrecord"
MANY_CONNECTIONS: Final = 1000
"""More than any server here takes."""

MOST_DEADLOCKS: Final = 10
"""After which a statement is tried no more."""


@dataclass(frozen=True, slots=True)
class Claim:
    """By its token; `is_over` says that its lease has run out, or will within a second."""

    token: str
    is_over: bool


class Stranger(ABC):
    """Somebody else at the server of a project, as its administrator.

    `database` and `user` are the project's. What lasts for a while is a context manager.
    """

    random: ClassVar[str]
    now: ClassVar[str]

    def __init__(self, *, database: str, user: str) -> None:
        self.database = database
        self.user = user

    @contextmanager
    def locked_records(self, count: int) -> Iterator[int]:
        """Locks so many unfinished records at most; how many that are."""
        with closing(self._connect()) as connection, closing(connection.cursor()) as cursor:
            cursor.execute("BEGIN")
            yield sum(self._lock(cursor, id) for id in self._unfinished(cursor, count))
            cursor.execute("ROLLBACK")

    @contextmanager
    def all_connections(self) -> Iterator[int]:
        """Opens connections until the server takes no more; how many that are."""
        with ExitStack() as stack:
            opened = 0
            with suppress(self._refusal()):
                while opened < MANY_CONNECTIONS:
                    stack.enter_context(closing(self._connect(user=self.user)))
                    opened += 1
            yield opened

    def claims(self) -> dict[str, Claim]:
        """The claims that have not come to their ends, by the ids of their records."""
        rows = self._query(
            f"SELECT id, claim_token, lease_until < {self.now} + INTERVAL '1' SECOND "
            f"FROM {RECORDS} WHERE status = 'RUNNING'"
        )
        return {str(id): Claim(str(token), bool(is_over)) for id, token, is_over in rows}

    def end_leases(self) -> None:
        """Lets every claim look as if its holder had not been heard of for long, and as if it were
        time to look at its record."""
        long_ago = "'2000-01-01 00:00:00'"
        self._query(
            f"UPDATE {RECORDS} SET lease_until = {long_ago}, look_at = {long_ago} "
            "WHERE status = 'RUNNING'"
        )

    @abstractmethod
    def short_statements(self, limit_s: float) -> AbstractContextManager[None]:
        """The server ends every statement of the project that takes longer."""

    @abstractmethod
    def end_sessions(self) -> int:
        """Ends every session of the project; how many."""

    @abstractmethod
    def end_listeners(self) -> int:
        """Ends every session that listens for notifications; how many."""

    @abstractmethod
    def count_sessions(self) -> int:
        """How many sessions the project has."""

    @abstractmethod
    def _connect(self, **options: Any) -> Any: ...

    @abstractmethod
    def _refusal(self) -> type[Exception]: ...

    def _unfinished(self, cursor: Any, count: int) -> Sequence[Any]:
        # Not locked at once: MariaDB would lock all that it looks at.
        cursor.execute(
            f"SELECT id FROM {RECORDS} WHERE status IN ('QUEUED', 'RUNNING') "
            f"ORDER BY {self.random} LIMIT {count}"
        )
        return [id for (id,) in cursor.fetchall()]

    def _lock(self, cursor: Any, id: Any) -> bool:
        cursor.execute(f"SELECT 1 FROM {RECORDS} WHERE id = %s FOR UPDATE SKIP LOCKED", [id])
        return cursor.fetchone() is not None

    def _query(self, statement: str, *parameters: Any) -> Sequence[Any]:
        for _ in range(MOST_DEADLOCKS):
            try:
                return self._query_once(statement, *parameters)
            except Exception as error:
                if not _is_deadlock(error):
                    raise
        return self._query_once(statement, *parameters)

    def _query_once(self, statement: str, *parameters: Any) -> Sequence[Any]:
        with closing(self._connect()) as connection, closing(connection.cursor()) as cursor:
            cursor.execute(statement, parameters)
            return list(cursor.fetchall()) if cursor.description else []


def _is_deadlock(error: Exception) -> bool:
    """Whether the statement met the project's own, and lost."""
    return error.args[:1] == (1213,) or getattr(error, "sqlstate", None) == "40P01"


class PostgresStranger(Stranger):
    """See Stranger."""

    random = "random()"
    now = "now()"

    def __init__(self, server: PostgresServer, *, database: str, user: str) -> None:
        super().__init__(database=database, user=user)
        self._server = server

    @contextmanager
    def short_statements(self, limit_s: float) -> Iterator[None]:
        """See Stranger. Everybody's, in the sessions that are there too."""
        self._configure(f"ALTER SYSTEM SET statement_timeout = {round(limit_s * 1000)}")
        try:
            yield
        finally:
            self._configure("ALTER SYSTEM RESET statement_timeout")

    def end_sessions(self) -> int:
        """See Stranger."""
        return self._end("TRUE")

    def end_listeners(self) -> int:
        """See Stranger."""
        return self._end("query LIKE 'LISTEN %%'")

    def count_sessions(self) -> int:
        """See Stranger."""
        return len(self._query("SELECT pid FROM pg_stat_activity WHERE usename = %s", self.user))

    def _configure(self, statement: str) -> None:
        self._query(statement)
        self._query("SELECT pg_reload_conf()")

    def _end(self, condition: str) -> int:
        return len(
            self._query(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                f"WHERE usename = %s AND {condition}",
                self.user,
            )
        )

    def _connect(self, **options: Any) -> Any:
        return self._server.connect(self.database, **options)

    def _refusal(self) -> type[Exception]:
        import psycopg

        return psycopg.OperationalError


class MariaDBStranger(Stranger):
    """See Stranger."""

    random = "rand()"
    now = "utc_timestamp()"

    def __init__(self, server: MariaDBServer, *, database: str, user: str) -> None:
        super().__init__(database=database, user=user)
        self._server = server

    @contextmanager
    def short_statements(self, limit_s: float) -> Iterator[None]:
        """See Stranger. Only new sessions heed it, so those that are there are ended, and again
        those that have heeded it."""
        self._set_limit(limit_s)
        try:
            yield
        finally:
            self._set_limit(0)

    def end_sessions(self) -> int:
        """See Stranger."""
        sessions = self._sessions()
        for (id,) in sessions:
            with suppress(self._refusal()):  # it has ended by itself
                self._query(f"KILL {int(id)}")
        return len(sessions)

    def end_listeners(self) -> int:
        """See Stranger. It has no notifications."""
        return 0

    def count_sessions(self) -> int:
        """See Stranger."""
        return len(self._sessions())

    def _sessions(self) -> Sequence[Any]:
        listing = "SELECT id FROM information_schema.processlist WHERE user = %s"
        return self._query(listing, self.user)

    def _set_limit(self, seconds: float) -> None:
        self._query(f"SET GLOBAL max_statement_time = {seconds}")
        self.end_sessions()

    def _connect(self, **options: Any) -> Any:
        return self._server.connect(self.database, **options)

    def _refusal(self) -> type[Exception]:
        import pymysql

        return pymysql.MySQLError
