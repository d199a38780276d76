"""What the database of the records says of itself: connections, isolation, clock, migrations."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.migrations.executor import MigrationExecutor

from .clock import read_clock
from .database import record_alias

APP = "lambda_tasks"


@dataclass(frozen=True, slots=True)
class Server:
    """A database server, as one connection sees it."""

    alias: str
    """The key in DATABASES."""
    vendor: str
    max_connections: int | None
    """How many connections this user may open; None where that is unknown, as on SQLite."""
    n_connections: int | None
    """How many are open now, of everybody."""
    isolation: str
    """The isolation level of new transactions, such as "read committed"; "" where it has none."""
    is_behind_pooler: bool
    """Whether a pooler such as PgBouncer is in front, whose limits are not known here."""
    has_server_side_cursors: bool
    """Whether Django uses cursors that outlive a transaction."""


@dataclass(frozen=True, slots=True)
class Migrations:
    """Where the tables and the code are at odds."""

    unapplied: tuple[str, ...]
    """The migrations of the code that the database lacks."""
    unknown: tuple[str, ...]
    """The migrations of the library in the database that this code does not know."""


def describe() -> Server:
    """Return what the database says of itself."""
    connection = connections[record_alias()]
    read = {"postgresql": _postgresql, "mysql": _mysql}.get(connection.vendor)
    found = {} if read is None else read(connection)
    nothing: dict[str, Any] = {"max_connections": None, "n_connections": None, "isolation": ""}
    return Server(
        alias=connection.alias,
        vendor=connection.vendor,
        is_behind_pooler=found.pop("is_behind_pooler", False),
        has_server_side_cursors=connection.vendor == "postgresql"
        and not connection.settings_dict.get("DISABLE_SERVER_SIDE_CURSORS"),
        **(nothing | found),
    )


def read_time() -> datetime:
    """Return the time of the database's clock."""
    return read_clock(record_alias())


def compare_migrations() -> Migrations:
    """Return where the tables and the code are at odds, in the database of the records."""
    executor = MigrationExecutor(connections[record_alias()])
    loader = executor.loader
    plan = executor.migration_plan(loader.graph.leaf_nodes())
    applied = {key for key in loader.applied_migrations if key[0] == APP}
    # A squashed migration counts as applied with those that it replaces.
    known = loader.disk_migrations.keys() | {
        key for each in loader.disk_migrations.values() for key in each.replaces
    }
    return Migrations(
        tuple(f"{migration.app_label}.{migration.name}" for migration, _ in plan),
        tuple(sorted(".".join(key) for key in applied - known)),
    )


POSTGRESQL = """
SELECT
    current_setting('max_connections')::int
        - current_setting('superuser_reserved_connections')::int,
    (SELECT datconnlimit FROM pg_database WHERE datname = current_database()),
    (SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user),
    (SELECT sum(numbackends) FROM pg_stat_database),
    current_setting('transaction_isolation'),
    pg_backend_pid()
"""


def _postgresql(connection: BaseDatabaseWrapper) -> dict[str, Any]:
    *limits, n_connections, isolation, pid = _row(connection, POSTGRESQL)
    # A pooler answers the driver itself, with a process id of its own making.
    told: Any = connection.connection
    return {
        "max_connections": min(each for each in limits if each >= 0),  # -1 is no limit
        "n_connections": int(n_connections),
        "isolation": isolation,
        "is_behind_pooler": told.info.backend_pid != pid,
    }


def _mysql(connection: BaseDatabaseWrapper) -> dict[str, Any]:
    def value(name: str) -> str | None:
        rows = _rows(connection, f"SHOW VARIABLES LIKE '{name}'")
        return str(rows[0][1]) if rows else None

    # MariaDB has the second name up to 11.0.
    isolation = value("transaction_isolation") or value("tx_isolation") or ""
    [(_, n_connections)] = _rows(connection, "SHOW GLOBAL STATUS LIKE 'Threads_connected'")
    limits = [int(value("max_connections") or 0), int(value("max_user_connections") or 0)]
    return {
        "max_connections": min(each for each in limits if each),  # 0 is no limit
        "n_connections": int(n_connections),
        "isolation": isolation.lower().replace("-", " "),
    }


def _row(connection: BaseDatabaseWrapper, sql: str) -> Any:
    [row] = _rows(connection, sql)
    return row


def _rows(connection: BaseDatabaseWrapper, sql: str) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchall()
