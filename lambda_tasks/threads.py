"""Threads of the library: of the operating system, and reserved, so that tasks can't occupy them.

The event loop's default executor won't do: tasks use it too, and forty name look-ups that hang
fill it. Nor does `threading` where gevent has patched it: its threads are greenlets, which share
one signal mask, and an event loop that runs in one of them runs in all of them for Django, which
then refuses every query.
"""

import asyncio
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cache
from typing import Any, Final, Protocol, TypeVar

from django.core.exceptions import ImproperlyConfigured

T = TypeVar("T")

RESERVED_THREADS: Final = 8
"""The most threads that a process keeps reserved."""


GEVENT_WAIT_S: Final = 60.0
"""Seconds of each part of a wait under gevent."""


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


def make_executor(max_threads: int, name: str) -> ThreadPoolExecutor:
    """Return an executor of threads of the operating system.

    Under gevent each call has a new thread, and nothing limits their number.
    """
    if are_greenlets():
        return _NativeExecutor()
    return ThreadPoolExecutor(max_threads, thread_name_prefix=name)


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

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(fn(*args, **kwargs))
            except BaseException as error:
                future.set_exception(error)

        make_thread(run, name="").start()
        return future


@cache
def _threads() -> ThreadPoolExecutor:
    return make_executor(RESERVED_THREADS, "lambda_tasks-reserved")


os.register_at_fork(after_in_child=_threads.cache_clear)
