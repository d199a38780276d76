"""Transactions of SQLite that begin with the first statement that writes.

SQLite has one writer at a time, and BEGIN IMMEDIATE is that writer until its end. A task that began
so would keep the site from writing for as long as the task takes. A plain BEGIN is no way out: it
fails at its first write if anybody has written since its first read. Without either, a task reads
what is committed, as with PostgreSQL's READ COMMITTED, until it writes.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from ..interrupts import wrapping_statements


@contextmanager
def late_atomic(connection: BaseDatabaseWrapper) -> Iterator[None]:
    """Enter an atomic block, and send its BEGIN before the first statement that is no SELECT.

    A savepoint is such a statement, so an atomic block of the task's own has what it reads locked.
    """
    connection.ensure_connection()
    keeper = _BeginKeeper()
    wrapped = wrapping_statements(connection, keeper)
    try:
        with wrapped, transaction.atomic(using=connection.alias):
            yield
    finally:
        if keeper.has_failed:
            # A SELECT that is read from, as by iterator(), keeps its old view of the data, with
            # which no BEGIN IMMEDIATE succeeds. No rollback ends it.
            connection.close()


class _BeginKeeper:
    """The wrapper of a connection's statements that keeps BEGIN back."""

    def __init__(self) -> None:
        self._begin = ""
        """The statement that is kept back."""
        self.has_begun = False
        self.has_failed = False

    def __call__(
        self, execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any
    ) -> Any:
        if self.has_begun:
            return execute(sql, params, many, context)
        if not self._begin and sql.startswith("BEGIN"):
            self._begin = sql
            return None
        if not sql.lstrip().upper().startswith("SELECT"):
            self._send_begin(context["connection"])
        return execute(sql, params, many, context)

    def _send_begin(self, connection: Any) -> None:
        """Begin, by the driver: the task's own BEGIN is refused by its text."""
        self.has_failed = True
        if self._begin:
            with connection.wrap_database_errors:
                connection.connection.execute(self._begin).close()
        self.has_begun, self.has_failed = True, False


def is_kept_back(connection: BaseDatabaseWrapper) -> bool:
    """Return whether the BEGIN of a connection's atomic block has not been sent yet."""
    wrappers = connection.execute_wrappers
    return any(isinstance(each, _BeginKeeper) and not each.has_begun for each in wrappers)


def is_writer(connection: BaseDatabaseWrapper) -> bool:
    """Return whether a connection is in a transaction that is SQLite's one writer."""
    raw = connection.connection
    return connection.vendor == "sqlite" and raw is not None and bool(raw.in_transaction)
