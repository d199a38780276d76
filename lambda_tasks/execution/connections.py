"""Keeps a thread's database connections from one attempt to the next, and no dead ones.

Django closes connections at the end of each request, by their age. Between tasks that would mean
a new connection for each; instead one is checked when it has idled, has had an error, or when its
server has said something unasked.
"""

import time
import weakref
from contextlib import AbstractContextManager
from typing import Any, Final

from django.db import InterfaceError, OperationalError, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from .. import interrupts, pools
from ..interrupts import MAX_UNCHECKED_IDLE_S, PQTRANS_IDLE, has_unexpected_input

OUTAGES: Final = (OperationalError, InterfaceError)
"""What a failing connection or server raises; a deadlock's victim gets one, too. A database that
refuses content raises others."""

_last_used: "weakref.WeakKeyDictionary[BaseDatabaseWrapper, float]" = weakref.WeakKeyDictionary()


def refresh() -> None:
    """Close what is unusable among this thread's connections; they are opened again on use."""
    now = time.time()
    for connection in connections.all(initialized_only=True):
        if connection.in_atomic_block:
            continue
        if connection.connection is None:
            connection.errors_occurred = False
            continue
        idled_s = now - _last_used.get(connection, now)
        if (
            connection.errors_occurred
            or idled_s > MAX_UNCHECKED_IDLE_S
            or has_unexpected_input(connection)
        ):
            _close_if_unusable(connection)
        _last_used[connection] = now


def begun_transaction(alias: str) -> AbstractContextManager[Any]:
    """An atomic block that has been entered, on a new connection where the old one is of no use.

    A statement on MySQL, for which a silent connection has no answer.
    """
    limit_s = interrupts.statement_limit_s(connections[alias], interrupts.ANSWER_TIMEOUT_S)
    begun: AbstractContextManager[Any] = transaction.atomic(using=alias)
    try:
        with interrupts.interrupt_after(limit_s):
            begun.__enter__()
    except OUTAGES:
        refresh()
        pools.acquire(connections[alias])
        begun = transaction.atomic(using=alias)
        begun.__enter__()
    return begun


def is_untouched(alias: str) -> bool:
    """Whether the open transaction has nothing to commit, nothing to roll back and no hooks: its
    BEGIN has not even been sent. Only PostgreSQL's drivers put it off and tell."""
    connection = connections[alias]
    if connection.vendor != "postgresql" or connection.connection is None:
        return False
    has_begun = connection.connection.info.transaction_status != PQTRANS_IDLE
    return not (has_begun or transaction.get_rollback(alias) or connection.run_on_commit)


def _close_if_unusable(connection: BaseDatabaseWrapper) -> None:
    if interrupts.answers(connection):
        connection.errors_occurred = False
    else:
        pools.renew(connection)
