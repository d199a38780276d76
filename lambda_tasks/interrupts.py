"""Interrupts of threads that wait for the database.

A thread can't end its own wait for a lock that is never released, a query that never returns, or a
server that neither answers nor closes. So another thread does it. First it cancels the statement on
the server, over a second connection. If the thread still waits after CANCEL_TIMEOUT_S, it shuts
the connection's socket down, and the wait ends with an error.
"""

import itertools
import logging
import math
import os
import select
import signal
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Final, Protocol, Self

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created

from .threads import NoThread, Thread, start_thread

logger = logging.getLogger("lambda_tasks")

LIBRARY_STATEMENT_LIMIT_S: Final = 10.0
"""Seconds for one call of the library to the database, such as the claim of ten deliveries."""

CANCEL_TIMEOUT_S: Final = 1.0
"""Seconds for a cancelled statement to end, including the request that cancels it."""

CONNECT_TIMEOUT_S: Final = 10
"""Seconds to connect, where the project's OPTIONS set no limit: this wait can't be interrupted."""

PYMYSQL_GREETING_TIMEOUT_S: Final = float(CONNECT_TIMEOUT_S)
"""Seconds for PyMySQL to read the server's greeting. Recognized by identity, and then removed."""

ANSWER_TIMEOUT_S: Final = 3.0
"""Seconds for a server to answer a check. It never answers on a connection that was dropped."""

MAX_UNCHECKED_IDLE_S: Final = 5.0
"""Seconds for which an idle connection is trusted without a check.

After a longer time a freeze of the container, or the server's idle timeout, may have ended it.
"""

PQTRANS_IDLE: Final = 0
"""libpq's PQTRANS_IDLE (PQtransactionStatus)."""

WATCH_INTERVAL_S: Final = 0.25
"""Seconds between two looks of the watch: limits are exceeded by up to as much."""


class Watched(Protocol):
    """An object that the watch looks at every WATCH_INTERVAL_S seconds."""

    def look(self, now: float) -> None:
        """Do what is due at `now`, in monotonic seconds. Called on the watch's thread."""


class Work:
    """A piece of work of the thread that creates it, which other threads may interrupt.

    It lasts until finish(), or for the body of a `with`. The watch interrupts it after `limit_s`
    seconds, by default never. `extra_connections` are those that the work uses besides the ones
    that Django keeps for the thread.
    """

    def __init__(self, limit_s: float = math.inf, *extra_connections: BaseDatabaseWrapper) -> None:
        self.was_interrupted = False
        self._cancel_at = time.monotonic() + limit_s
        self._hang_up_at = self._cancel_at + CANCEL_TIMEOUT_S
        self._connections = [*connections_of_this_thread(), *extra_connections]
        self.lock = threading.Lock()
        self._is_over = False
        self._cancellers: list[tuple[Thread, Any]] = []
        _works_of_this_thread().append(self)
        if limit_s < math.inf:
            _Watch.of_this_process.add(self)

    def interrupt(self, *, hang_up: bool = True) -> None:
        """Cancel the statement that the work waits for; with `hang_up`, then shut its sockets down.

        Can be called on any thread, an event loop's too: the watch's thread does the work.
        """
        self._cancel_at = time.monotonic()
        if hang_up:
            self._hang_up_at = self._cancel_at + CANCEL_TIMEOUT_S
        _Watch.of_this_process.add(self, is_urgent=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.finish()

    def finish(self) -> None:
        """End the work. Must be called on the thread that created it.

        Waits for cancels under way, as a late one would hit the thread's next statement.
        """
        _works_of_this_thread().remove(self)
        _Watch.of_this_process.discard(self)
        with self.lock:
            self._is_over = True
        for canceller, raw in self._cancellers:
            canceller.join(CANCEL_TIMEOUT_S)
            if canceller.is_alive():
                _hang_up(raw)

    def look(self, now: float) -> None:
        """See Watched."""
        with self.lock:
            if self._is_over:
                # interrupt() may have added it to the watch again after finish().
                _Watch.of_this_process.discard(self)
                return
            open_ones = [
                (each, each.connection) for each in self._connections if each.connection is not None
            ]
            if now >= min(self._cancel_at, self._hang_up_at):
                _interrupted.update(open_ones)
            if now >= self._cancel_at:
                self._cancel_at = math.inf
                self.was_interrupted = True
                for each, raw in open_ones:
                    with suppress(NoThread):  # then its socket is shut down, if it may be
                        self._cancellers.append((_start_canceller(each, raw), raw))
            if now >= self._hang_up_at:
                # The thread may reconnect and wait again, so the limits start over.
                self._cancel_at = now + CANCEL_TIMEOUT_S
                self._hang_up_at = self._cancel_at + CANCEL_TIMEOUT_S
                for _, raw in open_ones:
                    _hang_up(raw)


def interrupt_after(limit_s: float, *extra_connections: BaseDatabaseWrapper) -> Work:
    """Interrupt the body of a `with` if it waits for the database after `limit_s` seconds.

    See Work.
    """
    return Work(limit_s, *extra_connections)


def watch(watched: Watched) -> None:
    """Let the watch look at an object regularly, until unwatch()."""
    _Watch.of_this_process.add(watched)


def start_watch() -> None:
    """Start the watch's thread: at the end of a process, Python 3.12 starts none."""
    with interrupt_after(LIBRARY_STATEMENT_LIMIT_S):
        pass


def unwatch(watched: Watched) -> None:
    """Stop the watch from looking at an object."""
    _Watch.of_this_process.discard(watched)


@contextmanager
def wrapping_statements(
    connection: BaseDatabaseWrapper, wrapper: Callable[..., Any]
) -> Iterator[None]:
    """Pass a connection's statements through a wrapper, in the body of a `with`.

    See "Database instrumentation" in Django's documentation.
    """
    connection.execute_wrappers.append(wrapper)
    try:
        yield
    finally:
        remove_wrapper(connection, wrapper)


def remove_wrapper(connection: BaseDatabaseWrapper, wrapper: Callable[..., Any]) -> None:
    """Remove a wrapper of statements, unless it is gone.

    Django's execute_wrapper() would remove the last wrapper, which may be another one: a tracer's,
    say, that came meanwhile to stay.
    """
    if wrapper in connection.execute_wrappers:
        connection.execute_wrappers.remove(wrapper)


def statement_limit_s(connection: BaseDatabaseWrapper, limit_s: float) -> float:
    """Return the limit in seconds of a statement that may have to wait for a writer.

    It is `limit_s`, but infinity on SQLite, which waits for its one writer for as long as the
    project's OPTIONS say.
    """
    return math.inf if connection.vendor == "sqlite" else limit_s


def answers(connection: BaseDatabaseWrapper) -> bool:
    """Return whether a connection of this thread works, asking its server for ANSWER_TIMEOUT_S."""
    with interrupt_after(ANSWER_TIMEOUT_S):
        return connection.is_usable()


def has_unexpected_input(connection: BaseDatabaseWrapper) -> bool:
    """Return whether the server sent data that no statement asked for. Runs no statement itself.

    Such data is most likely the server's message that it has closed the connection.
    """
    if not hasattr(connection.connection, "fileno"):
        return False
    poller = select.poll()
    poller.register(connection.connection.fileno(), select.POLLIN)
    return bool(poller.poll(0))


def has_work() -> bool:
    """Return whether this thread does work that may be interrupted."""
    return bool(_works_of_this_thread())


def is_interrupted() -> bool:
    """Return whether work of this thread was interrupted, so that the thread must stop waiting."""
    return any(work.was_interrupted for work in _works_of_this_thread())


@contextmanager
def pause_interrupts() -> Iterator[None]:
    """Hold back interrupts of this thread in the body, which returns a connection to its pool."""
    with ExitStack() as locks:
        for work in _works_of_this_thread():
            locks.enter_context(work.lock)
        yield


def was_interrupted(connection: BaseDatabaseWrapper) -> bool:
    """Return whether another thread interrupted a statement on the current driver connection."""
    return connection in _interrupted and _interrupted[connection] is connection.connection


def limit_connecting() -> None:
    """Set a connect timeout on this thread's connections, where the project sets none."""
    for each in connections_of_this_thread():
        each.settings_dict = _settings_with_timeout(each)


def connect(connection: BaseDatabaseWrapper) -> None:
    """Open a connection of the caller's thread in CONNECT_TIMEOUT_S, and keep its settings."""
    if connection.connection is None:
        original = connection.settings_dict
        connection.settings_dict = _settings_with_timeout(connection)
        try:
            connection.ensure_connection()
        finally:
            connection.settings_dict = original


def _settings_with_timeout(connection: BaseDatabaseWrapper) -> dict[str, Any]:
    """Return a connection's settings, with a connect timeout where the OPTIONS have none."""
    options = connection.settings_dict.get("OPTIONS") or {}
    if connection.vendor not in ("postgresql", "mysql") or "connect_timeout" in options:
        return connection.settings_dict
    # A copy, as the connections of other threads share this dictionary.
    limited = {"connect_timeout": CONNECT_TIMEOUT_S, **options}
    if _is_pymysql(connection):
        limited = {"read_timeout": PYMYSQL_GREETING_TIMEOUT_S, **limited}
    return {**connection.settings_dict, "OPTIONS": limited}


def _is_pymysql(connection: Any) -> bool:
    """Return whether the driver is PyMySQL.

    Its connect_timeout covers only the TCP connection, not a server that accepts and stays silent.
    """
    return connection.vendor == "mysql" and bool(connection.Database.__name__ == "pymysql")


def _remove_read_timeout(connection: BaseDatabaseWrapper, **_: object) -> None:
    """Let statements of PyMySQL take any time: `read_timeout` was only for the greeting."""
    options = connection.settings_dict.get("OPTIONS") or {}
    if options.get("read_timeout") is PYMYSQL_GREETING_TIMEOUT_S:
        connection.connection._read_timeout = None


connection_created.connect(_remove_read_timeout)


class _Watch:
    """A thread that looks at works with a limit, and other watched objects, while there are any."""

    of_this_process: "_Watch"

    def __init__(self) -> None:
        self._watched: set[Watched] = set()
        self._condition = threading.Condition()
        self._is_idle = True
        self._is_urgent = False
        self._thread: Thread | None = None

    def add(self, watched: Watched, *, is_urgent: bool = False) -> None:
        self._watched.add(watched)
        if self._is_idle or is_urgent:
            with self._condition:
                self._is_idle = False
                self._is_urgent |= is_urgent
                if self._thread is None:
                    try:
                        self._thread = start_thread(self._run, name="lambda_tasks-watch")
                    except NoThread:
                        # The work goes on without its limit. The next one tries again.
                        self._is_idle = True
                        return
                self._condition.notify()

    def discard(self, watched: Watched) -> None:
        self._watched.discard(watched)

    def _run(self) -> None:
        _block_all_signals()
        while True:
            # The pause comes first, and not as idle: most works end before the first look, and
            # waking this thread for each would cost more than the works do.
            with self._condition:
                self._condition.wait_for(lambda: self._is_urgent, WATCH_INTERVAL_S)
                self._is_urgent = False
            now = time.monotonic()
            for watched in list(self._watched):
                watched.look(now)
            with self._condition:
                self._is_idle = not self._is_urgent
                # `self._watched` too: add() may have run before this was idle, and not notified.
                self._condition.wait_for(lambda: self._watched or not self._is_idle)
                self._is_idle = False


_thread_state = threading.local()


def connections_of_this_thread() -> list[BaseDatabaseWrapper]:
    """Return this thread's connections, also those that are not open yet.

    The list is cached: finding the connections takes longer than most uses of it.
    """
    if not hasattr(_thread_state, "connections"):
        _thread_state.connections = list(connections.all())
    found: list[BaseDatabaseWrapper] = _thread_state.connections
    return found


def forget_connections() -> None:
    """Find the connections of this thread anew: it has others now."""
    vars(_thread_state).pop("connections", None)


def _works_of_this_thread() -> list[Work]:
    if not hasattr(_thread_state, "works"):
        _thread_state.works = []
    found: list[Work] = _thread_state.works
    return found


_interrupted: "weakref.WeakKeyDictionary[BaseDatabaseWrapper, Any]" = weakref.WeakKeyDictionary()
"""The driver connection that was last interrupted, by its Django connection."""

_canceller_numbers = itertools.count(1)


def _block_all_signals() -> None:
    """Keep signals from this thread: SIGALRM must reach the thread that runs a task."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


@contextmanager
def block_signals() -> Iterator[None]:
    """Block all signals in the body, and so in the threads that the body starts."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_canceller(connection: BaseDatabaseWrapper, raw: Any) -> Thread:
    """Start a thread that cancels a connection's statement.

    A thread for each, as the cancel opens a connection of its own, which may wait too.
    """
    name = f"lambda_tasks-cancel-{next(_canceller_numbers)}"
    return start_thread(_cancel, connection, raw, name=name)


def _cancel(connection: BaseDatabaseWrapper, raw: Any) -> None:
    """Cancel the statement of a driver connection, in the driver's own way."""
    _block_all_signals()
    try:
        if connection.vendor == "postgresql":
            getattr(raw, "cancel_safe", raw.cancel)()
        elif connection.vendor == "mysql":
            _kill_query(connection, raw.thread_id())
        elif connection.vendor == "sqlite":
            raw.interrupt()
    except Exception as error:
        logger.info("A statement could not be cancelled: %r", error)


def _kill_query(connection: BaseDatabaseWrapper, id: int) -> None:
    second = connection.copy()
    try:
        with second.cursor() as cursor:
            cursor.execute("KILL QUERY %s", [id])
    finally:
        second.close()


def _hang_up(raw: Any) -> None:
    """Shut a connection's socket down, so that the thread that reads from it gets an error."""
    with suppress(Exception):  # the connection may be closed by now, or have a file, not a socket
        descriptor = _descriptor(raw)
        # Shut a duplicate down: the thread may close the connection meanwhile, and its descriptor
        # may then be another connection's.
        with socket.socket(fileno=os.dup(descriptor)) as duplicate:
            if _descriptor(raw) == descriptor:
                duplicate.shutdown(socket.SHUT_RDWR)


def _descriptor(raw: Any) -> int:
    # PyMySQL has no fileno(), only its private `_sock`.
    return int(raw.fileno() if hasattr(raw, "fileno") else raw._sock.fileno())


def _reset_watch() -> None:
    """Start without a watch thread: a forked child has none of its parent's threads."""
    _Watch.of_this_process = _Watch()
    _thread_state.works = []


_reset_watch()
os.register_at_fork(after_in_child=_reset_watch)
