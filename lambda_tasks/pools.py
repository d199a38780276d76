"""Takes connections from Django's pools, and gives them back.

Django gives a connection back at the end of a request (`OPTIONS = {"pool": ...}` on PostgreSQL,
psycopg_pool). Tasks run outside of requests, so here each piece of work gives back what it has
taken. A pool belongs to one process: it is closed before processes are forked and before a
snapshot, and a forked child forgets its parent's pools.
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

from django.core.exceptions import ImproperlyConfigured
from django.db import OperationalError
from django.db.backends.base.base import BaseDatabaseWrapper

from . import interrupts

logger = logging.getLogger("lambda_tasks")

P = ParamSpec("P")
T = TypeVar("T")

LIBRARY_CONNECTIONS: Final = 2
"""What the library itself needs at once beside the tasks: its own statements, and progress."""

RESERVED_CONNECTIONS: Final = 1
"""Connections that tasks leave in a pool to the library, where there is more than one task."""

POLL_INTERVAL_S: Final = 0.05

WARN_AFTER_S: Final = 5.0
WARN_EVERY_S: Final = 60.0
"""How long something waits before the log says so, and how often it does."""

CLOSE_TIMEOUT_S: Final = 1.0
"""For each of a pool's threads to end."""

MAX_DEAD_CONNECTIONS: Final = 2
"""Connections of a pool that are found dead, one after the other, before one is used as it is."""


class PoolExhausted(OperationalError):
    """No connection of a pool came free in time. The message says which settings to change."""


def has_pool(connection: BaseDatabaseWrapper) -> bool:
    """Whether the project's OPTIONS ask for a pool, of PostgreSQL's kind."""
    return connection.vendor == "postgresql" and bool(
        connection.settings_dict["OPTIONS"].get("pool")
    )


def max_size(connection: BaseDatabaseWrapper) -> int:
    """The most connections that a pool has at once. Raises whatever is wrong with its options."""
    size: int = connection.pool.max_size  # type: ignore[attr-defined]
    return size


def acquire(
    connection: BaseDatabaseWrapper, *, limit_s: float | None = None, reserved: int = 0
) -> float:
    """Open a connection with one from its pool that works, unless it is open or has no pool.

    Waits for `limit_s` seconds, by default the pool's own `timeout`, and ends earlier where the
    thread's work is interrupted. `reserved` is how many connections a task leaves for others; the
    only task that has one may take the last. Returns the seconds that it took. Raises
    PoolExhausted, and what Django raises.
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
    """Give this thread's connections back to their pools, except those in a transaction."""
    for connection in _pooled_connections():
        raw = connection.connection
        if raw is None or connection.in_atomic_block or connection in keeping:
            continue
        # Nobody may cut it by the time that it is another thread's.
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
    """Give back what the body has taken from pools; what was open before stays open."""
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
    """A function that gives this thread's connections back when it has been called."""

    def called(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        finally:
            return_connections()

    return called


def discard(connection: BaseDatabaseWrapper) -> None:
    """Close a connection for good: its pool replaces it instead of handing it out again."""
    if has_pool(connection) and connection.connection is not None:
        with suppress(Exception):  # it is broken
            connection.connection.close()
    connection.close()


def renew(connection: BaseDatabaseWrapper) -> None:
    """Discard a connection that failed, and the idle ones of its pool, which may be dead, too."""
    discard(connection)
    if not has_pool(connection) or connection.settings_dict["CONN_HEALTH_CHECKS"]:
        return  # the pool itself looks at each before it hands it out
    pool = connection.pool  # type: ignore[attr-defined]
    with suppress(_driver_error(connection)):  # somebody else has taken the last one
        for _ in range(pool.get_stats()["pool_available"]):
            idle = pool.getconn(timeout=POLL_INTERVAL_S)
            idle.close()
            pool.putconn(idle)


def close() -> None:
    """Close this process's pools, and this thread's connections; what is used is opened anew.

    What other threads have taken is closed when they give it back.
    """
    return_connections()
    for connection in _pooled_connections():
        pool = _forget_pool(connection)
        if pool is not None:
            pool.close(timeout=CLOSE_TIMEOUT_S)


def is_exhausted(error: BaseException) -> bool:
    """Whether an error says that no connection of a pool came free."""
    driver = sys.modules.get("psycopg_pool")
    errors = () if driver is None else (driver.PoolTimeout, driver.TooManyRequests)
    return isinstance(error, PoolExhausted) or isinstance(error.__cause__, errors)


def add_remedy(error: BaseException) -> None:
    """Let an error that says so tell what to do, too, as PoolExhausted does."""
    is_told = isinstance(error, PoolExhausted) or REMEDY in getattr(error, "__notes__", ())
    if is_exhausted(error) and not is_told:
        error.add_note(REMEDY)


REMEDY: Final = (
    "A process needs a connection for each async task that runs at once, up to "
    f"LAMBDA_TASKS_CONCURRENCY, and {LIBRARY_CONNECTIONS} for the task records: raise 'max_size' in "
    "OPTIONS['pool'] of the database, or lower LAMBDA_TASKS_CONCURRENCY. A thread that a task has "
    "started keeps its connection until it calls connection.close()."
)


def _pooled_connections() -> list[BaseDatabaseWrapper]:
    """This thread's connections that have a pool, open or not."""
    return [each for each in interrupts.connections_of_this_thread() if has_pool(each)]


_last_used_at: "weakref.WeakKeyDictionary[Any, float]" = weakref.WeakKeyDictionary()
"""When each of the driver's connections was last given back, or taken."""


def _is_usable(connection: BaseDatabaseWrapper) -> bool:
    """Whether a connection that was just taken can be used: asked only if it has idled or there is
    a sign that its server has ended it."""
    raw, now = connection.connection, time.time()
    idled_s = now - _last_used_at.get(raw, -math.inf)
    _last_used_at[raw] = now
    is_in_doubt = idled_s > interrupts.MAX_UNCHECKED_IDLE_S or interrupts.has_unexpected_input(
        connection
    )
    return not is_in_doubt or interrupts.answers(connection)


_changed = threading.Condition()
"""Notified when a connection was given back. It guards what follows."""

_connecting: Final[set[BaseDatabaseWrapper]] = set()
"""The connections that are about to take one of the pool's."""

_task_connections: "weakref.WeakSet[BaseDatabaseWrapper]" = weakref.WeakSet()
"""The connections that have taken one of the pool's for a task, or are about to."""

_failures: Final[Counter[str]] = Counter()
"""How often each alias's pool had failed to connect when it last gave out a connection."""

_warned_at: Final[dict[str, float]] = {}


def _connect(connection: BaseDatabaseWrapper, limit_s: float | None, reserved: int) -> None:
    pool = _open_pool(connection)
    if limit_s is not None or interrupts.has_work():
        pool = _wait_for_connection(connection, limit_s, reserved)
    # Otherwise, in a web request say, Django waits: in the pool's own order, for its `timeout`.
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
    """Wait until there is a connection to take, which is the caller's then; its pool."""
    started_at = time.monotonic()
    with _changed:
        while not _has_free_connection(connection, pool := _open_pool(connection), reserved):
            waited_s = time.monotonic() - started_at
            longest_s = pool.timeout if limit_s is None else limit_s
            if waited_s > longest_s or interrupts.is_interrupted():
                raise _exhaustion_error(connection, pool, waited_s)
            if waited_s > WARN_AFTER_S:
                _warn_if_due(connection.alias, pool, waited_s)
            _changed.wait(POLL_INTERVAL_S)
        _connecting.add(connection)
        (_task_connections.add if reserved else _task_connections.discard)(connection)
    return pool


def _open_pool(connection: BaseDatabaseWrapper) -> Any:
    """The pool. Its threads are not to take the signals that a task's thread waits for."""
    pool: Any = connection.pool  # type: ignore[attr-defined]
    if pool.closed:
        with interrupts.block_signals(), suppress(_driver_error(connection)):
            pool.open()
    return pool


def _has_free_connection(connection: BaseDatabaseWrapper, pool: Any, reserved: int) -> bool:
    """Whether there is a connection to take beside those to leave.

    A pool that can grow does so for who waits there; Django would wait for longer.
    """
    stats = pool.get_stats()
    n_connecting = sum(each.alias == connection.alias for each in _connecting)
    free = stats["pool_max"] - stats["pool_size"] + stats["pool_available"] - n_connecting
    if free < 1 or (free <= reserved and _has_task(connection.alias)):
        return False
    if stats["pool_available"]:
        return True
    try:
        pool.putconn(pool.getconn(timeout=POLL_INTERVAL_S))
    except _driver_error(connection):
        return False
    return True


def _has_task(alias: str) -> bool:
    """Whether a task of this process has a connection."""
    return any(
        each.alias == alias and (each.connection is not None or each in _connecting)
        for each in _task_connections
    )


def _driver_error(connection: Any) -> type[Exception]:
    """What a pool raises that has no connection, or is closed."""
    error: type[Exception] = connection.Database.OperationalError
    return error


def _n_failures(pool: Any) -> int:
    """How often it has failed to connect."""
    count: int = pool.get_stats().get("connections_errors", 0)
    return count


def _exhaustion_error(connection: BaseDatabaseWrapper, pool: Any, waited_s: float) -> PoolExhausted:
    alias = connection.alias
    if _n_failures(pool) > _failures[alias]:
        _replace_pool(connection, pool)
        return PoolExhausted(
            f"The connection pool of DATABASES[{alias!r}] could not connect within {waited_s:.1f} "
            "s. The logger psycopg.pool tells why."
        )
    return PoolExhausted(
        f"No connection of the pool of DATABASES[{alias!r}], which has {pool.max_size}, came free "
        f"within {waited_s:.1f} s. {REMEDY}"
    )


def _replace_pool(connection: BaseDatabaseWrapper, pool: Any) -> None:
    """Let a pool that fails to connect be made anew: its own next try may be minutes away."""
    if connection._connection_pools.get(connection.alias) is pool:  # type: ignore[attr-defined]
        _forget_pool(connection)
        _failures[connection.alias] = 0
    closing = threading.Thread(
        target=pool.close, args=(CLOSE_TIMEOUT_S,), name="lambda_tasks-close-pool", daemon=True
    )
    with interrupts.block_signals():
        closing.start()


def _warn_if_due(alias: str, pool: Any, waited_s: float) -> None:
    """Once in a while, so that who only waits is not silent."""
    now = time.monotonic()
    if now - _warned_at.get(alias, -math.inf) > WARN_EVERY_S:
        _warned_at[alias] = now
        logger.warning(
            "A task or the library has waited %.0f s for a connection of the pool of "
            "DATABASES[%r], which has %d. %s",
            waited_s, alias, pool.max_size, REMEDY,
        )  # fmt: skip


def _forget_pool(connection: BaseDatabaseWrapper) -> Any:
    """Let Django make a new pool when it next needs one; the pool that it had, or None."""
    # Django's own close_pool() would make a pool to close it, and wait for long.
    return connection._connection_pools.pop(connection.alias, None)  # type: ignore[attr-defined]


_parent_connections: Final[list[Any]] = []
"""What is a parent's. It is kept, as its end would be the parent's, too."""


def _reset_after_fork() -> None:
    """In a forked child: its parent's sockets are not its own, and it has none of their threads."""
    global _changed  # noqa: PLW0603 - who held it is in the parent
    _changed = threading.Condition()
    _connecting.clear()
    _task_connections.clear()
    if "psycopg_pool" not in sys.modules:
        return
    with suppress(ImproperlyConfigured):  # then Django has no connections
        for connection in _pooled_connections():
            _parent_connections.append((_forget_pool(connection), connection.connection))
            connection.connection = None


os.register_at_fork(after_in_child=_reset_after_fork)
