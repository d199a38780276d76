"""A thread that runs one call after the other, and that can be interrupted and given up.

Unlike the threads of a ThreadPoolExecutor it is a daemon: the process can end although a call
hangs.
"""

import asyncio
import contextvars
import logging
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import AbstractAsyncContextManager, suppress
from functools import partial
from queue import SimpleQueue
from typing import Any, Final, TypeVar

from asgiref.sync import ThreadSensitiveContext
from django.db import connections

from .. import interrupts, pools
from ..database_calls import database_thread
from ..interrupts import LIBRARY_STATEMENT_LIMIT_S
from ..threads import in_reserved_thread

logger = logging.getLogger("lambda_tasks")

T = TypeVar("T")

POLL_INTERVAL_S: Final = 0.05
"""Seconds between looks whether the thread is free."""

STUCK_AFTER_S: Final = 2.0
"""Seconds for an interrupted call to end. After that its thread is given up."""


class ThreadStuck(Exception):
    """A call did not end although it was interrupted. Its thread has to be given up."""


class InterruptibleThread(Executor):
    """An executor with a single thread, which is started by its first call."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls: SimpleQueue[_Call | _LoopCall | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._work: interrupts.Work | None = None
        self._is_shut_down = False
        self._lock = threading.Lock()
        self.is_stuck = False
        """Whether a call has raised ThreadStuck since the thread was given up last."""

    @property
    def is_busy(self) -> bool:
        """Whether a call is running."""
        return self._work is not None

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> "Future[T]":
        """See Executor."""
        return self._put(partial(fn, *args, **kwargs))

    def _put(self, function: Callable[[], T]) -> "Future[T]":
        call = _Call(function)
        self._add(call)
        return call.future

    def _add(self, call: "_Call | _LoopCall") -> None:
        if self._is_shut_down:
            raise RuntimeError("cannot schedule new futures after shutdown")
        self._calls.put(call)
        self._start()

    def start_call(self, function: Callable[[], T], limit_s: float) -> "asyncio.Future[T]":
        """Call a function in the caller's context, and interrupt it after `limit_s` seconds.

        See DatabaseThread. The future belongs to the running loop.
        """
        call = _LoopCall(partial(contextvars.copy_context().run, function), limit_s)
        self._add(call)
        return call.ended

    async def call(
        self, function: Callable[..., T], *args: Any, limit_s: float = LIBRARY_STATEMENT_LIMIT_S
    ) -> T:
        """Call a function on the thread, and interrupt the thread after `limit_s` seconds.

        Raises ThreadStuck if the call has not ended STUCK_AFTER_S after that.
        """
        # Not sync_to_async: it copies context variables there and back, which nobody needs here,
        # and takes half as much time again.
        call = _LoopCall(partial(function, *args))
        self._add(call)
        # It waits for the calls before it, too, so the time counts from here.
        late = asyncio.get_running_loop().call_later(limit_s, self._interrupt_late, call)
        try:
            result: T = await call.ended
        finally:
            late.cancel()
        return result

    def _interrupt_late(self, call: "_LoopCall") -> None:
        self.interrupt()
        asyncio.get_running_loop().call_later(STUCK_AFTER_S, self._raise_stuck, call)

    def _raise_stuck(self, call: "_LoopCall") -> None:
        if not call.ended.done():
            self.is_stuck = True
            call.ended.set_exception(ThreadStuck())

    def interrupt(self, *, hang_up: bool = True) -> None:
        """Interrupt the current call's wait for the database. See interrupts.Work.interrupt()."""
        work = self._work
        if work is not None:
            work.interrupt(hang_up=hang_up)

    def give_up(self) -> None:
        """Give up the thread to its current call. The following calls get a new thread."""
        self._thread = self._work = None
        self.is_stuck = False
        if not self._calls.empty():
            self._start()

    def is_free_within(self, seconds: float) -> bool:
        """Wait up to so many seconds for the current call; return whether the thread is free."""
        deadline = time.monotonic() + seconds
        while self.is_busy and time.monotonic() < deadline:
            time.sleep(POLL_INTERVAL_S)
        return not self.is_busy

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """See Executor. The thread makes the calls submitted before, and closes connections."""
        thread = self._thread
        self._is_shut_down = True
        self._calls.put(None)
        if wait and thread is not None:
            thread.join()

    async def aclose(self) -> None:
        """Shut down, and wait up to STUCK_AFTER_S until the thread has closed its connections.

        A driver that is still at work when the interpreter ends may crash the process.
        """
        thread = self._thread
        self.shutdown(wait=False)
        if thread is not None:
            # Not on the loop's default executor, whose threads tasks may fill.
            await in_reserved_thread(thread.join, STUCK_AFTER_S)
            if thread.is_alive():
                logger.warning(
                    "The thread %s has not ended within %g s, and is left to its call.",
                    self._name, STUCK_AFTER_S,
                )  # fmt: skip

    def _start(self) -> None:
        if self._thread is None:
            with self._lock:
                if self._thread is None:
                    self._thread = threading.Thread(
                        target=self._serve, name=self._name, daemon=True
                    )
                    self._thread.start()

    def _serve(self) -> None:
        interrupts.limit_connecting()
        # give_up() ends the loop of a stuck thread: once its call returns, another one serves.
        while self._thread is threading.current_thread():
            call = self._calls.get()
            if call is None:
                break
            if call.begin():
                self._serve_one(call)
            del call  # or its function and result would live until the next call
        pools.return_connections()
        connections.close_all()

    def _serve_one(self, call: "_Call | _LoopCall") -> None:
        work = interrupts.Work(call.limit_s)
        self._work = work
        end: Callable[[], None]
        try:
            end = partial(call.succeed, call.function())
        except BaseException as error:
            end = partial(call.fail, error)
        if self._work is work:
            self._work = None
        work.finish()
        end()


class DatabaseCalls:
    """A context in which a thread makes all calls to the database."""

    def __init__(self, thread: InterruptibleThread) -> None:
        self._thread = thread
        self._of_asgiref: AbstractAsyncContextManager[Any] = ThreadSensitiveContext(executor=thread)
        self._token: contextvars.Token[Any] | None = None

    async def __aenter__(self) -> None:
        self._token = database_thread.set(self._thread)
        await self._of_asgiref.__aenter__()

    async def __aexit__(self, *raised: Any) -> None:
        assert self._token is not None
        await self._of_asgiref.__aexit__(*raised)
        database_thread.reset(self._token)


class _Call:
    """A call of a thread-safe future."""

    limit_s = math.inf

    def __init__(self, function: Callable[[], Any]) -> None:
        self.function = function
        self.future: Future[Any] = Future()
        self.begin = self.future.set_running_or_notify_cancel
        self.succeed = self.future.set_result
        self.fail = self.future.set_exception


class _LoopCall:
    """A call of a coroutine, with a future of its loop: a thread-safe one costs as much again."""

    def __init__(self, function: Callable[[], Any], limit_s: float = math.inf) -> None:
        self.function = function
        self.limit_s = limit_s
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[Any] = self._loop.create_future()

    def begin(self) -> bool:
        """Return whether somebody still waits for the call."""
        return not self.ended.cancelled()

    def succeed(self, result: object) -> None:
        self._end(self.ended.set_result, result)

    def fail(self, error: BaseException) -> None:
        self._end(self.ended.set_exception, error)

    def _end(self, end: Callable[[Any], None], value: object) -> None:
        with suppress(RuntimeError):  # the loop is closed, and nobody waits
            self._loop.call_soon_threadsafe(self._settle, end, value)

    def _settle(self, end: Callable[[Any], None], value: object) -> None:
        if not self.ended.done():
            end(value)
