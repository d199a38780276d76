"""Notifications that wake the workers of database queues at once: PostgreSQL's NOTIFY."""

from typing import Any, Final

from django.db import connections

from .. import interrupts

CHANNEL: Final = "lambda_tasks"


def notify(alias: str) -> None:
    """Notify listeners of new records; does nothing where the database can't notify.

    Call it after the commit of the records, so that no worker looks before they are visible.
    """
    if _can_notify(alias):
        with connections[alias].cursor() as cursor:
            cursor.execute("SELECT pg_notify(%s, '')", [CHANNEL])


class PostgresListener:
    """A separate connection that receives notifications, for one reader at a time.

    It stays open while its worker runs, so it does not come from a connection pool: the pool would
    lack one connection all that time.
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
        """Return the descriptor, which is readable when there is something to clear()."""
        descriptor: int = self._connection.fileno()
        return descriptor

    def clear(self) -> None:
        """Discard the notifications that arrived.

        Raises the driver's error where the connection is lost.
        """
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
    """Start to listen on a new connection; return None where the database can't notify."""
    return PostgresListener(alias) if _can_notify(alias) else None


def _can_notify(alias: str) -> bool:
    return connections[alias].vendor == "postgresql"
