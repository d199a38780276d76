"""Connections from Django's pools: acquired for a piece of work, and returned after it.

Django returns a connection to its pool at the end of a request (`OPTIONS = {"pool": ...}` on
PostgreSQL, psycopg_pool). Tasks run outside of requests, so each piece of work here returns the
connections that it acquired. A pool belongs to one process: it is closed before processes are
forked and before a snapshot, and a forked child forgets its parent's pools.
"""

import logging
import math
import os
import sys
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, ParamSpec, TypeVar

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import OperationalError, connections
from django.db.backends.base.base import BaseDatabaseWrapper

from . import interrupts
from .threads import make_thread

logger = logging.getLogger("lambda_tasks")

P = ParamSpec("P")
T = TypeVar("T")

LIBRARY_CONNECTIONS: Final = 2
"""Connections that the library needs besides those of tasks: for its statements and progress."""

RESERVED_CONNECTIONS: Final = 1
"""Connections of a pool that tasks don't acquire, so that the library can still record outcomes."""

POLL_INTERVAL_S: Final = 0.05
"""Seconds between two checks for a free connection."""

WARN_AFTER_S: Final = 5.0
"""Seconds of waiting for a connection before the log says so."""

WARN_EVERY_S: Final = 60.0
"""Seconds between two such warnings for one database."""

CLOSE_TIMEOUT_S: Final = 1.0
"""Seconds for each thread of a pool to end."""

MAX_DEAD_CONNECTIONS: Final = 2
"""Dead connections of a pool that are replaced in a row, before one is used unchecked."""


class PoolExhausted(OperationalError):
    """A pool had no free connection in time. The message says which settings to change."""


def has_pool(connection: BaseDatabaseWrapper) -> bool:
    """Return whether a database is PostgreSQL and its OPTIONS configure a pool."""
    return connection.vendor == "postgresql" and bool(
        connection.settings_dict["OPTIONS"].get("pool")
    )


def max_size(connection: BaseDatabaseWrapper) -> int:
    """Return how many connections a pool may have at once.

    Raises what psycopg_pool raises where the pool's options are invalid.
    """
    size: int = connection.pool.max_size  # type: ignore[attr-defined]
    return size


def acquire(
    connection: BaseDatabaseWrapper, *, limit_s: float | None = None, reserved: int = 0
) -> float:
    """Acquire a working connection from the pool, and return how many seconds that took.

    Does nothing where the connection is open already or has no pool. Waits up to `limit_s` seconds,
    by default the pool's own `timeout`, and stops earlier when the thread's work is interrupted.
    `reserved`, which only tasks pass, is the number of connections that must stay free for others;
    while no other task holds a connection, a task may acquire the last one. Raises PoolExhausted,
    and what Django raises where the database can't be reached.
    """
    if not has_pool(connection) or connection.connection is not None or connection.in_atomic_block:
        return 0.0
    started_at = time.monotonic()
    for _ in range(MAX_DEAD_CONNECTIONS):
        _connect(connection, limit_s, reserved)
        if _is_usable(connection):
            break
        renew(connection)
    connection.ensure_connection()
    return time.monotonic() - started_at


def return_connections(keeping: Collection[BaseDatabaseWrapper] = ()) -> None:
    """Return this thread's connections to their pools, except `keeping` and those in a transaction.

    A connection that was interrupted, or whose transaction state is not idle, is closed instead.
    """
    for connection in _pooled_connections():
        raw = connection.connection
        if raw is None or connection.in_atomic_block or connection in keeping:
            continue
        # An interrupt that arrives after the return would cancel another thread's statement.
        with interrupts.pause_interrupts():
            if raw.info.transaction_status == interrupts.PQTRANS_IDLE and not (
                interrupts.was_interrupted(connection)
            ):
                _last_used_at[raw] = time.time()
                connection.close()
            else:
                discard(connection)
        with _changed:
            _changed.notify_all()


@contextmanager
def borrowed_connections() -> Iterator[None]:
    """Return the connections that the body acquired; those that were open before stay open."""
    here = _pooled_connections()
    if not here:
        yield
        return
    open_before = [each for each in here if each.connection is not None]
    try:
        yield
    finally:
        return_connections(open_before)


def returning_connections(function: Callable[P, T]) -> Callable[P, T]:
    """Wrap a function so that each call ends by returning this thread's connections.

    Their statements are forgotten; see forget_statements().
    """

    def called(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        finally:
            forget_statements()
            return_connections()

    return called


def forget_statements() -> None:
    """Forget the statements that Django keeps of this thread's connections with DEBUG.

    It does so at the start of a request, which never comes in a worker. Those that a test counts
    stay.
    """
    if not settings.DEBUG:
        return
    for connection in connections.all(initialized_only=True):
        if not connection.force_debug_cursor:
            connection.queries_log.clear()


def discard(connection: BaseDatabaseWrapper) -> None:
    """Close a connection instead of returning it: its pool replaces it with a new one."""
    if has_pool(connection) and connection.connection is not None:
        with suppress(Exception):  # a broken connection may fail to close
            connection.connection.close()
    connection.close()


def renew(connection: BaseDatabaseWrapper) -> None:
    """Discard a failed connection and its pool's idle ones, which may be dead as well."""
    discard(connection)
    if not has_pool(connection) or connection.settings_dict["CONN_HEALTH_CHECKS"]:
        return  # with health checks the pool tests each connection before it hands it out
    pool = connection.pool  # type: ignore[attr-defined]
    with suppress(_driver_error(connection)):  # another thread acquired the last idle one
        for _ in range(pool.get_stats()["pool_available"]):
            idle = pool.getconn(timeout=POLL_INTERVAL_S)
            idle.close()
            pool.putconn(idle)


def close() -> None:
    """Close this process's pools and this thread's pooled connections.

    Connections of other threads are closed when they are returned. The next use of a database opens
    a new pool.
    """
    return_connections()
    for connection in _pooled_connections():
        pool = _forget_pool(connection)
        if pool is not None:
            pool.close(timeout=CLOSE_TIMEOUT_S)


def is_exhausted(error: BaseException) -> bool:
    """Return whether an error says that a pool had no free connection."""
    driver = sys.modules.get("psycopg_pool")
    errors = () if driver is None else (driver.PoolTimeout, driver.TooManyRequests)
    return isinstance(error, PoolExhausted) or isinstance(error.__cause__, errors)


def add_remedy(error: BaseException) -> None:
    """Add REMEDY as a note to a pool's timeout error, unless the error has it already."""
    has_remedy = isinstance(error, PoolExhausted) or REMEDY in getattr(error, "__notes__", ())
    if is_exhausted(error) and not has_remedy:
        error.add_note(REMEDY)


REMEDY: Final = (
    "A process needs a connection for each async task that runs at once, up to "
    f"LAMBDA_TASKS_CONCURRENCY, and {LIBRARY_CONNECTIONS} for the task records: raise 'max_size' "
    "in OPTIONS['pool'] of the database, or lower LAMBDA_TASKS_CONCURRENCY. A thread that a task "
    "has started keeps its connection until it calls connection.close()."
)
"""The settings to change where a pool is too small."""


def _pooled_connections() -> list[BaseDatabaseWrapper]:
    """Return this thread's connections that have a pool, open or not."""
    return [each for each in interrupts.connections_of_this_thread() if has_pool(each)]


_last_used_at: "weakref.WeakKeyDictionary[Any, float]" = weakref.WeakKeyDictionary()
"""Wall-clock seconds when each driver connection was last acquired or returned."""


def _is_usable(connection: BaseDatabaseWrapper) -> bool:
    """Return whether a newly acquired connection can be used.

    The server is asked only where the connection was idle for long or has unexpected input, as the
    question costs a round trip.
    """
    raw, now = connection.connection, time.time()
    idled_s = now - _last_used_at.get(raw, -math.inf)
    _last_used_at[raw] = now
    is_in_doubt = idled_s > interrupts.MAX_UNCHECKED_IDLE_S or interrupts.has_unexpected_input(
        connection
    )
    return not is_in_doubt or interrupts.answers(connection)


_changed = threading.Condition()
"""Notified when a connection is returned or opened. Guards the next two collections."""

_connecting: Final[set[BaseDatabaseWrapper]] = set()
"""Django connections that were granted a pooled connection and have not opened it yet."""

_task_connections: "weakref.WeakSet[BaseDatabaseWrapper]" = weakref.WeakSet()
"""Django connections that hold a pooled connection for a task, or are about to open one."""

_failures: Final[Counter[str]] = Counter()
"""Connection errors of each alias's pool, as counted when it last handed out a connection."""

_warned_at: Final[dict[str, float]] = {}
"""Monotonic seconds of the last warning about each alias's pool."""


def _connect(connection: BaseDatabaseWrapper, limit_s: float | None, reserved: int) -> None:
    pool = _open_pool(connection)
    if limit_s is not None or interrupts.has_work():
        pool = _wait_for_connection(connection, limit_s, reserved)
    # Elsewhere, as in a web request, ensure_connection() waits in the pool's own queue, up to its
    # `timeout`.
    try:
        connection.ensure_connection()
    finally:
        with _changed:
            _connecting.discard(connection)
            _changed.notify_all()
    _failures[connection.alias] = _n_failures(pool)


def _wait_for_connection(
    connection: BaseDatabaseWrapper, limit_s: float | None, reserved: int
) -> Any:
    """Wait until a connection is free, grant it to the caller, and return the pool."""
    started_at = time.monotonic()
    with _changed:
        while not _has_free_connection(connection, pool := _open_pool(connection), reserved):
            waited_s = time.monotonic() - started_at
            max_wait_s = pool.timeout if limit_s is None else limit_s
            if waited_s > max_wait_s or interrupts.is_interrupted():
                raise _exhaustion_error(connection, pool, waited_s)
            if waited_s > WARN_AFTER_S:
                _warn_if_due(connection.alias, pool, waited_s)
            _changed.wait(POLL_INTERVAL_S)
        _connecting.add(connection)
        (_task_connections.add if reserved else _task_connections.discard)(connection)
    return pool


def _open_pool(connection: BaseDatabaseWrapper) -> Any:
    """Return the pool of a connection, open."""
    pool: Any = connection.pool  # type: ignore[attr-defined]
    if pool.closed:
        # The pool's threads inherit the signal mask. SIGALRM must reach the thread of a task.
        with interrupts.block_signals(), suppress(_driver_error(connection)):
            pool.open()
    return pool


def _has_free_connection(connection: BaseDatabaseWrapper, pool: Any, reserved: int) -> bool:
    """Return whether a connection can be acquired while `reserved` others stay free."""
    stats = pool.get_stats()
    n_connecting = sum(each.alias == connection.alias for each in _connecting)
    free = stats["pool_max"] - stats["pool_size"] + stats["pool_available"] - n_connecting
    if free < 1 or (free <= reserved and _has_task(connection.alias)):
        return False
    if stats["pool_available"]:
        return True
    # psycopg_pool grows only while a caller waits in getconn(). A short wait starts that; Django's
    # own wait would last for the pool's whole `timeout`.
    try:
        pool.putconn(pool.getconn(timeout=POLL_INTERVAL_S))
    except _driver_error(connection):
        return False
    return True


def _has_task(alias: str) -> bool:
    """Return whether a task of this process holds a connection of this database."""
    return any(
        each.alias == alias and (each.connection is not None or each in _connecting)
        for each in _task_connections
    )


def _driver_error(connection: Any) -> type[Exception]:
    """Return the class of the errors that a pool raises when it is exhausted or closed."""
    error: type[Exception] = connection.Database.OperationalError
    return error


def _n_failures(pool: Any) -> int:
    """Return how often a pool has failed to connect."""
    count: int = pool.get_stats().get("connections_errors", 0)
    return count


def _exhaustion_error(connection: BaseDatabaseWrapper, pool: Any, waited_s: float) -> PoolExhausted:
    """Return the error to raise, and replace a pool that failed to connect."""
    alias = connection.alias
    if _n_failures(pool) > _failures[alias]:
        _replace_pool(connection, pool)
        return PoolExhausted(
            f"The connection pool of DATABASES[{alias!r}] could not connect within {waited_s:.1f} "
            "s. See the reason in the log lines of the logger psycopg.pool."
        )
    return PoolExhausted(
        f"The pool of DATABASES[{alias!r}], which has {pool.max_size} connection(s), had none free "
        f"within {waited_s:.1f} s. {REMEDY}"
    )


def _replace_pool(connection: BaseDatabaseWrapper, pool: Any) -> None:
    """Forget a pool that fails to connect, so that Django makes a new one.

    The pool itself backs off: its next attempt to connect may be minutes away.
    """
    if connection._connection_pools.get(connection.alias) is pool:  # type: ignore[attr-defined]
        _forget_pool(connection)
        _failures[connection.alias] = 0
    closer = make_thread(pool.close, CLOSE_TIMEOUT_S, name="lambda_tasks-close-pool")
    with interrupts.block_signals():
        closer.start()


def _warn_if_due(alias: str, pool: Any, waited_s: float) -> None:
    """Log a wait for a connection, at most every WARN_EVERY_S seconds for each database."""
    now = time.monotonic()
    if now - _warned_at.get(alias, -math.inf) > WARN_EVERY_S:
        _warned_at[alias] = now
        logger.warning(
            "A task or the library has waited %.0f s for a connection of the pool of "
            "DATABASES[%r], which has %d. %s",
            waited_s, alias, pool.max_size, REMEDY,
        )  # fmt: skip


def _forget_pool(connection: BaseDatabaseWrapper) -> Any:
    """Remove a pool from Django's registry and return it, or None where there is none.

    Django makes a new pool when it next needs one.
    """
    # Not Django's close_pool(): it makes a pool where there is none, and closes with the default
    # timeout of five seconds for each thread.
    return connection._connection_pools.pop(connection.alias, None)  # type: ignore[attr-defined]


_parent_connections: Final[list[Any]] = []
"""Pools and connections of the parent process, kept alive in a forked child.

A child that collected them would close them, and end the parent's connections on the server.
"""


def _reset_after_fork() -> None:
    """Forget the parent's pools in a forked child, which has its sockets but not its threads."""
    global _changed  # noqa: PLW0603 - a thread of the parent may have held it at the fork
    _changed = threading.Condition()
    _connecting.clear()
    _task_connections.clear()
    if "psycopg_pool" not in sys.modules:
        return
    with suppress(ImproperlyConfigured):  # without settings there are no connections
        for connection in _pooled_connections():
            _parent_connections.append((_forget_pool(connection), connection.connection))
            connection.connection = None


os.register_at_fork(after_in_child=_reset_after_fork)
