"""Threads of the library: of the operating system, and reserved, so that tasks can't occupy them.

The event loop's default executor won't do: tasks use it too, and forty name look-ups that hang
fill it. Nor does `threading` where gevent has patched it: its threads are greenlets, which share
one signal mask, and an event loop that runs in one of them runs in all of them for Django, which
then refuses every query.
"""

import asyncio
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cache
from typing import Any, Final, Protocol, TypeVar

from django.core.exceptions import ImproperlyConfigured

T = TypeVar("T")

RESERVED_THREADS: Final = 8
"""The most threads that a process keeps reserved."""

EXIT_THREADS: Final = 2
"""The reserved threads for calls at the end of a process: one that hangs must not hold up all."""

SWITCH_EVERY_S: Final = 0.0002
"""Seconds for which a thread that runs Python keeps others waiting that want to.

Python's own 5 ms are longer than most statements take. A thread would wait so long for the event
loop each time that the database has answered, and the tasks for that thread.
"""

GEVENT_WAIT_S: Final = 60.0
"""Seconds of each part of a wait under gevent."""


FORK_WAIT_S: Final = 10.0
"""The most seconds for which a fork waits for a thread of the library that imports modules."""


class NoThread(RuntimeError):
    """No thread can be started: the process has too many, or ends, when Python 3.12 starts none."""

    def __init__(self) -> None:
        super().__init__("no thread could be started: the process has too many, or is ending")


class Thread(Protocol):
    """What the library needs of a thread. See threading.Thread."""

    def start(self) -> None:
        """Start the thread."""

    def join(self, timeout: float | None = None) -> None:
        """Wait for the end of the thread, at most `timeout` seconds."""

    def is_alive(self) -> bool:
        """Return whether the thread has not ended."""
        ...


async def in_reserved_thread(function: Callable[..., T], *args: Any) -> T:
    """Call a function in one of the reserved threads."""
    return await asyncio.get_running_loop().run_in_executor(_threads(), function, *args)


def make_thread(target: Callable[..., object], *args: Any, name: str) -> Thread:
    """Return a daemon thread of the operating system that will call a function."""
    if are_greenlets():
        return _NativeThread(target, *args)
    return threading.Thread(target=target, args=args, name=name, daemon=True)


def start_thread(target: Callable[..., object], *args: Any, name: str) -> Thread:
    """Start a daemon thread of the operating system that calls a function.

    Raises NoThread where none can be started.
    """
    thread = make_thread(target, *args, name=name)
    try:
        thread.start()
    except RuntimeError as error:
        raise NoThread from error
    return thread


def make_executor(max_threads: int, name: str) -> ThreadPoolExecutor:
    """Return an executor of threads of the operating system, which works until the process ends.

    Under gevent each call has a new thread, and nothing limits their number.
    """
    if are_greenlets():
        return _NativeExecutor()
    return _DaemonExecutor(max_threads, name)


@contextmanager
def importing() -> Iterator[None]:
    """Let forks wait for the body, in which a thread of the library imports modules.

    A child that is forked meanwhile has the locks of these modules, but not the thread that would
    release them: its own import would never end.
    """
    with _Importing.lock:
        yield


def prepare_for_exit() -> None:
    """Start the threads that calls at the end of the process need: Python 3.12 starts none then.

    Raises NoThread where it is too late.
    """
    executor = _threads()
    if isinstance(executor, _DaemonExecutor):
        executor.start(EXIT_THREADS)


def switch_often() -> None:
    """Let the threads of this process take short turns. Call it in one that runs tasks."""
    sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH_EVERY_S))


def wait_for(future: "Future[T]") -> T:
    """Return the result of a future that another thread sets, or raise its error."""
    # gevent refuses to wait in a process where nothing is left to happen, as it knows nothing of
    # other threads. A timeout is something.
    while are_greenlets() and not future.done():
        wait([future], GEVENT_WAIT_S)
    return future.result()


def are_greenlets() -> bool:
    """Return whether gevent has made greenlets of the threads of this process."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("threading"))


def run_between_requests() -> bool:
    """Return whether the threads of this process run while no request is handled.

    Lambda freezes a function between invocations, whatever serves the requests in it. uWSGI keeps
    the interpreter's lock between requests, unless it is told that there are threads. Greenlets
    have connections of their own, which the library's threads can't see.
    """
    if "AWS_LAMBDA_RUNTIME_API" in os.environ or are_greenlets():
        return False
    uwsgi = sys.modules.get("uwsgi")
    return uwsgi is None or not {"enable-threads", "threads"}.isdisjoint(uwsgi.opt)


def check_server() -> None:
    """Raise ImproperlyConfigured in a process of a server that leaves no room for threads."""
    patcher = sys.modules.get("eventlet.patcher")
    if patcher is not None and patcher.is_monkey_patched("thread"):
        raise ImproperlyConfigured(
            "eventlet has patched the threads of this process, and lambda_tasks can't send "
            "messages from its green threads. Use another worker class of your server, such as "
            "gthread or gevent."
        )


def check_event_loops() -> None:
    """Raise ImproperlyConfigured where event loops and Django's ORM can't share a process."""
    if are_greenlets():
        raise ImproperlyConfigured(
            "gevent has made greenlets of this process's threads, and an event loop in one of "
            "them keeps Django's ORM from working in all. Call execute_on_commit() in a sync view, "
            "or serve async views by an ASGI server such as uvicorn."
        )


class _DaemonExecutor(ThreadPoolExecutor):
    """An executor of daemon threads.

    Python shuts its own executors down before exit handlers are called, and waits for their
    threads. These do what they are given until the process has ended, and nobody waits for them.
    """

    def __init__(self, max_threads: int, name: str) -> None:
        self._max_threads = max_threads
        self._name = name
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._n_threads = 0
        self._n_open = 0
        """The calls that wait or run."""
        self._change = threading.RLock()  # for handlers of signals that call tasks

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> "Future[T]":
        future: Future[T] = Future()
        with self._change:
            self._n_open += 1
            n_needed = min(self._n_open, self._max_threads)
        try:
            self.start(n_needed)
        except NoThread:
            if not self._n_threads:
                with self._change:
                    self._n_open -= 1
                if self is _threads():
                    raise
                return _threads().submit(fn, *args, **kwargs)
        self._calls.put(lambda: _run_call(future, fn, args, kwargs))
        return future

    def start(self, n_threads: int) -> None:
        """Start threads until there are so many. Raises NoThread where none can be started."""
        while True:
            with self._change:
                if self._n_threads >= n_threads:
                    return
                self._n_threads += 1
                name = f"{self._name}_{self._n_threads}"
            try:
                start_thread(self._serve, name=name)
            except NoThread:
                with self._change:
                    self._n_threads -= 1
                raise

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the threads once they have made the calls that wait. Waits for none."""
        for _ in range(self._n_threads):
            self._calls.put(None)

    def _serve(self) -> None:
        while (call := self._calls.get()) is not None:
            call()
            del call  # else the thread would keep the last call's arguments and result alive
            with self._change:
                self._n_open -= 1


def _run_call(
    future: "Future[T]", fn: Callable[..., T], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(fn(*args, **kwargs))
    except BaseException as error:
        future.set_exception(error)


class _NativeThread:
    """A Thread under gevent, which leaves no other way than the function that it has replaced."""

    def __init__(self, target: Callable[..., object], *args: Any) -> None:
        self._target = target
        self._args = args
        self._end: Future[None] = Future()

    def start(self) -> None:
        from gevent import monkey

        monkey.get_original("_thread", "start_new_thread")(self._run, ())

    def join(self, timeout: float | None = None) -> None:
        if timeout is None:
            wait_for(self._end)
        else:
            wait([self._end], timeout)

    def is_alive(self) -> bool:
        return not self._end.done()

    def _run(self) -> None:
        from gevent import get_hub

        try:
            self._target(*self._args)
        finally:
            self._end.set_result(None)
            get_hub().destroy(destroy_loop=True)  # else its descriptors stay open


class _NativeExecutor(ThreadPoolExecutor):
    """An executor under gevent, whose own one returns futures that asyncio does not take.

    An event loop has only a ThreadPoolExecutor for its default. This one never starts a thread of
    `threading`, which Python would join as the process ends: a greenlet of another thread.
    """

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> "Future[T]":
        future: Future[T] = Future()

        make_thread(_run_call, future, fn, args, kwargs, name="").start()
        return future


@cache
def _threads() -> ThreadPoolExecutor:
    return make_executor(RESERVED_THREADS, "lambda_tasks-reserved")


class _Importing:
    lock = threading.RLock()
    forking: Final[set[int]] = set()
    """The threads that hold the lock as they fork."""


def _wait_for_imports() -> None:
    # Not for ever: an import may wait for a module that the forking thread is about to load.
    if _Importing.lock.acquire(timeout=FORK_WAIT_S):
        _Importing.forking.add(threading.get_ident())


def _go_on_after_fork() -> None:
    if (thread := threading.get_ident()) in _Importing.forking:
        _Importing.forking.remove(thread)
        _Importing.lock.release()


def _reset_after_fork() -> None:
    _Importing.lock = threading.RLock()
    _Importing.forking.clear()
    _threads.cache_clear()


os.register_at_fork(
    before=_wait_for_imports, after_in_parent=_go_on_after_fork, after_in_child=_reset_after_fork
)
