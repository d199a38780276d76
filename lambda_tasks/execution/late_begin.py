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


@contextmanager
def late_atomic(connection: BaseDatabaseWrapper) -> Iterator[None]:
    """Enter an atomic block, and send its BEGIN before the first statement that is no SELECT.

    A savepoint is such a statement, so an atomic block of the task's own has what it reads locked.
    """
    connection.ensure_connection()
    keeper = _BeginKeeper()
    try:
        with connection.execute_wrapper(keeper), transaction.atomic(using=connection.alias):
            yield
    finally:
        if keeper.has_failed:
            # A SELECT that is read from, as by iterator(), keeps its old view of the data, with
            # which no BEGIN IMMEDIATE succeeds. No rollback ends it.
            connection.close()


class _BeginKeeper:
    """The wrapper of a connection's statements that keeps BEGIN back."""

    def __init__(self) -> None:
        self._begin: str | None = None
        self._has_begun = False
        self.has_failed = False

    def __call__(
        self, execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any
    ) -> Any:
        if self._has_begun:
            return execute(sql, params, many, context)
        if self._begin is None and sql.startswith("BEGIN"):
            self._begin = sql
            return None
        if not sql.lstrip().upper().startswith("SELECT"):
            self._has_begun = True
            if self._begin is not None:
                self._send_begin(self._begin, context["connection"])
        return execute(sql, params, many, context)

    def _send_begin(self, begin: str, connection: BaseDatabaseWrapper) -> None:
        try:
            with connection.cursor() as cursor:
                cursor.execute(begin)
        except BaseException:
            self._has_begun = False  # the task may catch the error, and write again
            self.has_failed = True
            raise


def is_writer(connection: BaseDatabaseWrapper) -> bool:
    """Return whether a connection is in a transaction that is SQLite's one writer."""
    raw = connection.connection
    return connection.vendor == "sqlite" and raw is not None and bool(raw.in_transaction)
