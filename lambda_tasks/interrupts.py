"""Ends what a thread waits for on its database connections, from another thread.

A lock that nobody gives, a query that takes for ever, a server that neither answers nor closes: the
thread that waits can't end it by itself. So the statement is cancelled on its server, by way of
another connection; where that has not helped after CANCEL_TIMEOUT_S, the connection's socket is shut down,
and the wait ends with an error.
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

logger = logging.getLogger("lambda_tasks")

LIBRARY_STATEMENT_LIMIT_S: Final = 10.0
"""Seconds for what the library itself asks of the database at once, such as a claim of ten."""

CANCEL_TIMEOUT_S: Final = 1.0
"""Seconds for a cancelled statement to end, and for the server to take the request to cancel it."""

CONNECT_TIMEOUT_S: Final = 10
"""To connect, where the project's OPTIONS say nothing: a wait that nobody can end."""

PYMYSQL_CONNECT_READ_TIMEOUT_S: Final = float(CONNECT_TIMEOUT_S)
"""The same as PyMySQL's read_timeout, which is no statement's."""

ANSWER_TIMEOUT_S: Final = 3.0
"""For a server to say that it is there; a connection that was dropped on the way is silent."""

MAX_UNCHECKED_IDLE_S: Final = 5.0
"""After so long a frozen container, or a server's idle timeout, may have ended a connection."""

PQTRANS_IDLE: Final = 0
"""libpq's PQTRANS_IDLE (PQtransactionStatus)."""

WATCH_INTERVAL_S: Final = 0.25


class Watched(Protocol):
    """What the watch looks at now and then."""

    def look(self, now: float) -> None:
        """Do what is due, in monotonic seconds; on the watch's thread."""


class Work:
    """What the thread that makes this does until finish(), or in the body of a `with`. Others may
    interrupt it meanwhile.

    `beside` are connections that it uses beside those that Django keeps for the thread.
    """

    def __init__(self, limit_s: float = math.inf, *beside: BaseDatabaseWrapper) -> None:
        self.was_interrupted = False
        self._cancel_at = time.monotonic() + limit_s
        self._hang_up_at = self._cancel_at + CANCEL_TIMEOUT_S
        self._connections = [*connections_of_this_thread(), *beside]
        self.lock = threading.Lock()
        self._is_over = False
        self._cancelling: list[tuple[threading.Thread, Any]] = []
        _works_of_this_thread().append(self)
        if limit_s < math.inf:
            _Watch.of_this_process.add(self)

    def interrupt(self, *, hang_up: bool = True) -> None:
        """Cancel what it waits for; and, with `hang_up`, cut its connections if it still waits.

        From any thread, an event loop's too: the watch does it.
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
        """On its own thread. What is being cancelled must not be what comes next."""
        _works_of_this_thread().remove(self)
        _Watch.of_this_process.discard(self)
        with self.lock:
            self._is_over = True
        for cancelling, raw in self._cancelling:
            cancelling.join(CANCEL_TIMEOUT_S)
            if cancelling.is_alive():
                _hang_up(raw)

    def look(self, now: float) -> None:
        """See Watched."""
        with self.lock:
            if self._is_over:
                _Watch.of_this_process.discard(self)  # it was interrupted as it came to its end
                return
            open_ones = [
                (each, each.connection) for each in self._connections if each.connection is not None
            ]
            if now >= min(self._cancel_at, self._hang_up_at):
                _cut.update(open_ones)
            if now >= self._cancel_at:
                self._cancel_at = math.inf
                self.was_interrupted = True
                self._cancelling += [(_cancelling(each, raw), raw) for each, raw in open_ones]
            if now >= self._hang_up_at:
                # It may connect once more, and wait again.
                self._cancel_at, self._hang_up_at = (
                    now + CANCEL_TIMEOUT_S,
                    now + 2 * CANCEL_TIMEOUT_S,
                )
                for _, raw in open_ones:
                    _hang_up(raw)


def interrupt_after(limit_s: float, *beside: BaseDatabaseWrapper) -> Work:
    """Interrupt what the body waits for on its connections after so many seconds. See Work."""
    return Work(limit_s, *beside)


def watch(each: Watched) -> None:
    """Let the watch look at something, until unwatch()."""
    _Watch.of_this_process.add(each)


def unwatch(each: Watched) -> None:
    """See watch()."""
    _Watch.of_this_process.discard(each)


@contextmanager
def wrap_statements(wrapper: Callable[..., Any]) -> Iterator[None]:
    """Let a wrapper have each statement of this thread in the body. See Django's documentation,
    "Database instrumentation"."""
    with ExitStack() as wrapped:
        for each in connections_of_this_thread():
            wrapped.enter_context(each.execute_wrapper(wrapper))
        yield


def statement_limit_s(connection: BaseDatabaseWrapper, limit_s: float) -> float:
    """The limit of a statement that may have to wait for a writer. None on SQLite, which waits for
    its one writer for as long as the project's OPTIONS say."""
    return math.inf if connection.vendor == "sqlite" else limit_s


def answers(connection: BaseDatabaseWrapper) -> bool:
    """Whether one of this thread's connections can be used; it has not long to say so."""
    with interrupt_after(ANSWER_TIMEOUT_S):
        return connection.is_usable()


def has_unexpected_input(connection: BaseDatabaseWrapper) -> bool:
    """Whether a server has said something unasked: most likely the end. Costs no statement."""
    if not hasattr(connection.connection, "fileno"):
        return False
    words = select.poll()
    words.register(connection.connection.fileno(), select.POLLIN)
    return bool(words.poll(0))


def has_work() -> bool:
    """Whether this thread does something that may be interrupted."""
    return bool(_works_of_this_thread())


def is_interrupted() -> bool:
    """Whether something that this thread does was interrupted, so that it has to wait no longer."""
    return any(work.was_interrupted for work in _works_of_this_thread())


@contextmanager
def pause_interrupts() -> Iterator[None]:
    """In the body nobody interrupts this thread, which is about to give a connection away."""
    with ExitStack() as held:
        for work in _works_of_this_thread():
            held.enter_context(work.lock)
        yield


def was_interrupted(connection: BaseDatabaseWrapper) -> bool:
    """Whether a statement on this very connection of the driver's was cancelled from elsewhere."""
    return connection in _cut and _cut[connection] is connection.connection


def limit_connecting() -> None:
    """Let no connection of this thread wait for ever to be opened."""
    for each in connections_of_this_thread():
        each.settings_dict = _limited(each)


def connect(connection: BaseDatabaseWrapper) -> None:
    """Open a connection that a caller's thread has, which is not for us to change, in CONNECT_TIMEOUT_S."""
    if connection.connection is None:
        own, connection.settings_dict = connection.settings_dict, _limited(connection)
        try:
            connection.ensure_connection()
        finally:
            connection.settings_dict = own


def _limited(connection: BaseDatabaseWrapper) -> dict[str, Any]:
    """Its settings, with a time limit where the project's OPTIONS have none."""
    options = connection.settings_dict.get("OPTIONS") or {}
    if connection.vendor not in ("postgresql", "mysql") or "connect_timeout" in options:
        return connection.settings_dict
    # A copy: other threads' connections have this dictionary, too.
    limited = {"connect_timeout": CONNECT_TIMEOUT_S, **options}
    if _is_pymysql(connection):
        limited = {"read_timeout": PYMYSQL_CONNECT_READ_TIMEOUT_S, **limited}
    return {**connection.settings_dict, "OPTIONS": limited}


def _is_pymysql(connection: Any) -> bool:
    """Its connect_timeout ends where somebody takes the connection, if only to be silent."""
    return connection.vendor == "mysql" and bool(connection.Database.__name__ == "pymysql")


def _end_greeting(connection: BaseDatabaseWrapper, **_: object) -> None:
    options = connection.settings_dict.get("OPTIONS") or {}
    if options.get("read_timeout") is PYMYSQL_CONNECT_READ_TIMEOUT_S:
        connection.connection._read_timeout = None


connection_created.connect(_end_greeting)


class _Watch:
    """A thread that looks at works that have a limit, and the like, as long as there are any."""

    of_this_process: "_Watch"

    def __init__(self) -> None:
        self._works: set[Watched] = set()
        self._something = threading.Condition()
        self._is_idle = True
        self._is_urgent = False
        self._thread: threading.Thread | None = None

    def add(self, work: Watched, *, is_urgent: bool = False) -> None:
        self._works.add(work)
        if self._is_idle or is_urgent:
            with self._something:
                self._is_idle = False
                self._is_urgent |= is_urgent
                if self._thread is None:
                    self._thread = threading.Thread(
                        target=self._run, name="lambda_tasks-watch", daemon=True
                    )
                    self._thread.start()
                self._something.notify()

    def discard(self, work: Watched) -> None:
        self._works.discard(work)

    def _run(self) -> None:
        _leave_signals_to_others()
        while True:
            # First a pause, without being idle: most works end before somebody has to look at
            # them, and to wake this thread for each would cost more than they do.
            with self._something:
                self._something.wait_for(lambda: self._is_urgent, WATCH_INTERVAL_S)
                self._is_urgent = False
            now = time.monotonic()
            for work in list(self._works):
                work.look(now)
            with self._something:
                self._is_idle = not self._is_urgent
                # `add` may have seen that it was not idle yet.
                self._something.wait_for(lambda: self._works or not self._is_idle)
                self._is_idle = False


_here = threading.local()


def connections_of_this_thread() -> list[BaseDatabaseWrapper]:
    """Also those that are still to be opened; kept, as to find them takes longer than to ask."""
    if not hasattr(_here, "connections"):
        _here.connections = list(connections.all())
    found: list[BaseDatabaseWrapper] = _here.connections
    return found


def _works_of_this_thread() -> list[Work]:
    if not hasattr(_here, "works"):
        _here.works = []
    found: list[Work] = _here.works
    return found


_cut: "weakref.WeakKeyDictionary[BaseDatabaseWrapper, Any]" = weakref.WeakKeyDictionary()
"""The driver's connection that was last cut, of each of Django's."""

_numbers = itertools.count(1)


def _leave_signals_to_others() -> None:
    """SIGALRM is for the thread that runs a task: it has to end what that one waits for."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


@contextmanager
def block_signals() -> Iterator[None]:
    """Threads that are started in the body leave all signals to others."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _cancelling(connection: BaseDatabaseWrapper, raw: Any) -> threading.Thread:
    """A thread that cancels what a connection does; it may wait for as long as it likes."""
    name = f"lambda_tasks-cancel-{next(_numbers)}"
    thread = threading.Thread(target=_cancel, args=(connection, raw), name=name, daemon=True)
    thread.start()
    return thread


def _cancel(connection: BaseDatabaseWrapper, raw: Any) -> None:
    """Each driver's own way; `raw` is its connection."""
    _leave_signals_to_others()
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
    beside = connection.copy()
    try:
        with beside.cursor() as cursor:
            cursor.execute("KILL QUERY %s", [id])
    finally:
        beside.close()


def _hang_up(raw: Any) -> None:
    """Shut a connection's socket down, so that who reads from it finds its end."""
    with suppress(Exception):  # it is closed by now, or is a file
        descriptor = _descriptor(raw)
        with socket.socket(fileno=os.dup(descriptor)) as duplicate:
            if _descriptor(raw) == descriptor:  # else it may be another's by now
                duplicate.shutdown(socket.SHUT_RDWR)


def _descriptor(raw: Any) -> int:
    # PyMySQL has no other way to tell than its own `_sock`.
    return int(raw.fileno() if hasattr(raw, "fileno") else raw._sock.fileno())


def _watch_anew() -> None:
    """Also in a forked child, which has none of its parent's threads."""
    _Watch.of_this_process = _Watch()
    _here.works = []


_watch_anew()
os.register_at_fork(after_in_child=_watch_anew)
