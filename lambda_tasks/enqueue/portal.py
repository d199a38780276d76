"""The event loop of the way out, which any thread and any other loop can call.

In a web process it is the portal's own loop in a daemon thread. The Lambda handler lends its loop
instead, because Lambda freezes background threads between invocations.
"""

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Final, TypeVar

from django.core.exceptions import ImproperlyConfigured

from ..threads import (
    RESERVED_THREADS,
    NoThread,
    Thread,
    are_greenlets,
    make_executor,
    start_thread,
    wait_for,
)

T = TypeVar("T")

CANCEL_LIMIT_S: Final = 1.0
"""Seconds for cancelled tasks to end."""

FORKED: Final = (
    "This process is a fork of one that had enqueued tasks, and the server that forked it has not "
    "told Python. For uWSGI set `py-call-uwsgi-fork-hooks = true`, or `lazy-apps = true`."
)
"""The error in a fork without its hooks, which has the parent's event loop and not its thread."""


class Portal:
    """The way to one event loop, which starts at the first call. A forked child needs a new one."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._is_starting = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: Thread | None = None
        self._thread_pid: int | None = None

    def adopt(self, loop: asyncio.AbstractEventLoop) -> None:
        """Use a loop that the caller runs, unless the portal has a loop already."""
        with self._lock:
            if self._loop is None:
                self._loop = loop

    def call(self, func: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
        """Run a coroutine function on the loop and return its result, in a thread without a loop.

        Raises what the coroutine raises, and what loop() does.
        """
        loop = self.loop()  # before there is a coroutine, which nobody would await if it raises
        return wait_for(asyncio.run_coroutine_threadsafe(func(*args), loop))

    async def acall(self, func: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
        """See call(). Cancelling the caller does not cancel the coroutine on the loop."""
        # Without the shield, a cancelled request would also cancel the send of its messages.
        loop = self.loop()
        if asyncio.get_running_loop() is loop:
            return await asyncio.shield(loop.create_task(func(*args)))
        future = asyncio.run_coroutine_threadsafe(func(*args), loop)
        return await asyncio.shield(asyncio.wrap_future(future))

    def close(self) -> None:
        """Stop the portal's own loop and thread. A lent loop keeps running."""
        with self._lock:
            loop, thread, self._loop, self._thread = self._loop, self._thread, None, None
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()

    @property
    def is_lent(self) -> bool:
        """Whether the loop is the caller's own, which may stand still when its work is done."""
        return self._loop is not None and self._thread is None

    @property
    def has_thread(self) -> bool:
        """Whether the portal runs a loop of its own, which may still have work."""
        return self._thread is not None and self._thread_pid == os.getpid()

    def loop(self) -> asyncio.AbstractEventLoop:
        """Return the loop, which runs.

        Raises ImproperlyConfigured in a fork without hooks, and NoThread where it can't be started.
        """
        if self._thread is not None and self._thread_pid != os.getpid():
            raise ImproperlyConfigured(FORKED)
        if self._loop is None:
            with self._lock:
                if self._loop is None:
                    self._loop = self._start_thread()
        return self._loop

    def _start_thread(self) -> asyncio.AbstractEventLoop:
        if self._is_starting:
            raise NoThread  # a signal's handler has interrupted this thread here, and calls a task
        self._is_starting = True
        try:
            return self._start()
        finally:
            self._is_starting = False

    def _start(self) -> asyncio.AbstractEventLoop:
        started: Future[asyncio.AbstractEventLoop] = Future()
        if not are_greenlets():
            started.set_result(_new_loop())  # so that no coroutine has to wait
        try:
            self._thread = start_thread(_run_loop, started, name="lambda_tasks-portal")
        except NoThread:
            if started.done():
                started.result().close()
            raise
        self._thread_pid = os.getpid()
        return wait_for(started)


def _run_loop(started: "Future[asyncio.AbstractEventLoop]") -> None:
    """Run an event loop until it is stopped, and close it."""
    if not started.done():
        # gevent's selectors belong to the thread that makes them.
        try:
            started.set_result(_new_loop())
        except BaseException as error:
            started.set_exception(error)
            return
    loop = started.result()
    loop.run_forever()
    loop.run_until_complete(_cancel_tasks())
    loop.close()


async def _cancel_tasks() -> None:
    """Cancel what still runs, as sends do to a queue that hangs; asyncio reports it otherwise."""
    running = asyncio.all_tasks() - {asyncio.current_task()}
    for task in running:
        task.cancel()
    if running:
        await asyncio.wait(running, timeout=CANCEL_LIMIT_S)


def _new_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    # Under gevent the loop would make an executor of greenlets, for which Python waits at its end.
    loop.set_default_executor(make_executor(RESERVED_THREADS, "lambda_tasks-portal"))
    return loop
