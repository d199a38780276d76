"""Keeps database connections open between attempts, and replaces dead ones.

Django closes connections at the end of each request, by their age. Done between tasks, that would
open a new connection for each task. Instead, a connection is checked after it was idle, after an
error, and when its server has sent something unasked.

Threads that tasks start, by asyncio.to_thread() for example, may outlive their tasks. Their
connections can be used there only, so those threads check them, before the next use.
"""

import os
import threading
import time
import weakref
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

from django.db import InterfaceError, OperationalError, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created

from .. import interrupts, pools
from ..interrupts import MAX_UNCHECKED_IDLE_S, PQTRANS_IDLE, has_unexpected_input
from .late_begin import late_atomic

OUTAGES: Final = (OperationalError, InterfaceError)
"""The errors of a failing connection or server. The victim of a deadlock gets one of them too.

A database that refuses a value raises others.
"""

_last_used: "weakref.WeakKeyDictionary[BaseDatabaseWrapper, float]" = weakref.WeakKeyDictionary()


_foreign: "weakref.WeakKeyDictionary[BaseDatabaseWrapper, Any]" = weakref.WeakKeyDictionary()
"""The connections of threads that never call refresh(), each with the driver's connection that was
ready last."""

_doubted: "weakref.WeakKeyDictionary[BaseDatabaseWrapper, Any]" = weakref.WeakKeyDictionary()
"""Those that their threads have to check, each with the driver's connection that is meant."""

_foreign_lock = threading.Lock()


class _LastDoubt:
    at: float = 0.0


def refresh() -> None:
    """Close this thread's unusable connections. Django opens them again when they are used.

    The connections of threads that tasks have started are checked when they are used.
    """
    now = time.time()
    for connection in interrupts.connections_of_this_thread():
        if connection not in _last_used:
            _last_used[connection] = now
            _forget_foreign(connection)
        if connection.in_atomic_block:
            continue
        if connection.connection is None:
            connection.errors_occurred = False
            continue
        idled_s = now - _last_used[connection]
        if (
            connection.errors_occurred
            or idled_s > MAX_UNCHECKED_IDLE_S
            or has_unexpected_input(connection)
        ):
            _close_if_unusable(connection)
        _last_used[connection] = now
    if _foreign:
        _doubt_foreign(now)


def open_transaction(
    connection: BaseDatabaseWrapper, *, may_be_late: bool
) -> AbstractContextManager[Any]:
    """Enter an atomic block and return it, on a new connection if the old one is unusable.

    On SQLite it begins with its first write, if it `may_be_late`.
    """
    if may_be_late and connection.vendor == "sqlite":
        late = late_atomic(connection)
        late.__enter__()
        return late
    block: AbstractContextManager[Any] = transaction.atomic(using=connection.alias)
    try:
        # On MySQL this sends a statement, which a silent connection would never answer.
        sends = connection.vendor == "mysql"
        with interrupts.interrupt_after(interrupts.ANSWER_TIMEOUT_S) if sends else nullcontext():
            block.__enter__()
    except OUTAGES:
        refresh()
        pools.acquire(connection)
        block = transaction.atomic(using=connection.alias)
        block.__enter__()
    return block


def is_untouched(connection: Any) -> bool:
    """Return whether the open transaction has nothing to commit or roll back, and no hooks.

    Always False on databases other than PostgreSQL.
    """
    # Only PostgreSQL's drivers delay BEGIN until the first statement and show whether it was sent.
    if connection.vendor != "postgresql" or connection.connection is None:
        return False
    has_begun = connection.connection.info.transaction_status != PQTRANS_IDLE
    return not (has_begun or connection.get_rollback() or connection.run_on_commit)


def hooks_of(connection: BaseDatabaseWrapper) -> list[Any]:
    """Return the on_commit functions of the open transaction, without what was rolled back."""
    return [hook for _, hook, *_ in connection.run_on_commit]


def _close_if_unusable(connection: BaseDatabaseWrapper) -> None:
    if interrupts.answers(connection):
        connection.errors_occurred = False
    else:
        pools.renew(connection)


def _add_foreign(connection: Any, **_: object) -> None:
    if connection not in _last_used:
        with _foreign_lock:
            _foreign[connection] = connection.connection
        known = weakref.ref(connection)  # a cycle would keep it open until it is collected
        connection.close_if_health_check_failed = lambda: _close_if_doubted(known())


connection_created.connect(_add_foreign)


def _forget_foreign(connection: BaseDatabaseWrapper) -> None:
    """Note that the thread of a connection calls refresh()."""
    with _foreign_lock:
        _foreign.pop(connection, None)
        _doubted.pop(connection, None)
    vars(connection).pop("close_if_health_check_failed", None)


def _doubt_foreign(now: float) -> None:
    """Let other threads check their connections, each once and before its next use."""
    is_due = now - _LastDoubt.at > MAX_UNCHECKED_IDLE_S
    if is_due:
        _LastDoubt.at = now
    with _foreign_lock:
        for connection, ready in list(_foreign.items()):
            if is_due or connection.errors_occurred:
                _doubted[connection] = ready


def _close_if_doubted(connection: Any) -> None:
    """Do what Django does before it uses a connection, and check it if it is in doubt.

    Its thread calls this, so that nothing happens to the connection meanwhile. It is checked only
    between two transactions, and only if the driver's connection is still the one in doubt: a new
    one may not be ready yet. A check begins a transaction, and in one Django can't turn autocommit
    on.
    """
    type(connection).close_if_health_check_failed(connection)
    if connection not in _doubted or connection.in_atomic_block or not connection.autocommit:
        return
    with _foreign_lock:
        doubted = _doubted.pop(connection, None)
    if doubted is not None and doubted is connection.connection:
        _close_if_unusable(connection)


def forget_in_children() -> None:
    """Let the processes that this one forks open connections of their own.

    A task may fork in its transaction. A child that used or closed the connection would send its
    own bytes to the server in between.
    """
    os.register_at_fork(after_in_child=_forget_inherited)


_inherited: Final[list[BaseDatabaseWrapper]] = []
"""The parent's connections, kept alive in a child: when collected, they might be closed."""


def _forget_inherited() -> None:
    for connection in connections.all(initialized_only=True):
        _inherited.append(connection)
        del connections[connection.alias]
    interrupts.forget_connections()
