"""Wakes workers of the table's queues at once, where the database can: PostgreSQL's NOTIFY."""

from typing import Any, Final

from django.db import connections

from .. import interrupts

CHANNEL: Final = "lambda_tasks"


def notify(alias: str) -> None:
    """Tell listeners that there is something new; after its commit, so that nobody looks too early.

    Nothing where the database can't notify.
    """
    if _can_notify(alias):
        with connections[alias].cursor() as cursor:
            cursor.execute("SELECT pg_notify(%s, '')", [CHANNEL])


class PostgresListener:
    """A connection of its own that receives notifications. It is for one reader at a time.

    It listens for as long as its worker runs, so it is not of a pool, which would have one less.
    """

    def __init__(self, alias: str) -> None:
        self._wrapper: Any = connections[alias].copy()
        self._wrapper.settings_dict["OPTIONS"].pop("pool", None)
        self._wrapper.inc_thread_sharing()  # opened on one thread, read on the event loop's
        limited = interrupts.interrupt_after(interrupts.LIBRARY_STATEMENT_LIMIT_S, self._wrapper)
        with limited, self._wrapper.cursor() as cursor:
            cursor.execute(f"LISTEN {CHANNEL}")
        self._connection: Any = self._wrapper.connection

    def fileno(self) -> int:
        """Readable when there is something to clear()."""
        descriptor: int = self._connection.fileno()
        return descriptor

    def clear(self) -> None:
        """Read what has come. Raises the driver's error where the connection is gone."""
        if hasattr(self._connection, "pgconn"):
            self._connection.pgconn.consume_input()
            while self._connection.pgconn.notifies():
                pass
        else:  # psycopg2
            self._connection.poll()
            self._connection.notifies.clear()

    def close(self) -> None:
        """Stop listening."""
        self._connection.close()


def listen(alias: str) -> PostgresListener | None:
    """Begin to listen; None where the database can't notify."""
    return PostgresListener(alias) if _can_notify(alias) else None


def _can_notify(alias: str) -> bool:
    return connections[alias].vendor == "postgresql"
