"""A thread that runs one call after the other, and that can be interrupted, and given up.

Unlike the threads of a ThreadPoolExecutor it is a daemon: the process does not wait for it when it
ends, whatever hangs there.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from queue import SimpleQueue
from typing import Any, Final, TypeVar

from django.db import connections

from .. import interrupts, pools
from ..interrupts import LIBRARY_STATEMENT_LIMIT_S

T = TypeVar("T")

LOOK_EVERY_S: Final = 0.05

STUCK_S: Final = 2.0
"""After a call was interrupted: to come to its end. Then its thread is given up."""


class ThreadStuck(Exception):
    """A call has not come to its end although it was interrupted; its thread is to be given up."""


class OwnThread(Executor):
    """One thread, started at its first use."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._work: interrupts.Work | None = None
        self._is_shut_down = False
        self._lock = threading.Lock()

    @property
    def is_busy(self) -> bool:
        """Whether a call is under way."""
        return self._work is not None

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> "Future[T]":
        """See Executor."""
        if self._is_shut_down:
            raise RuntimeError("cannot schedule new futures after shutdown")
        call = _Call(partial(fn, *args, **kwargs))
        self._calls.put(call)
        self._start()
        return call.future

    async def call(
        self, function: Callable[..., T], *args: Any, limit_s: float = LIBRARY_STATEMENT_LIMIT_S
    ) -> T:
        """Call a function there, and interrupt what is under way there after so many seconds.

        Raises ThreadStuck where that has not helped after STUCK_S. It takes two thirds of what
        sync_to_async takes to carry context variables there and back, of which none is ours.
        """
        loop = asyncio.get_running_loop()
        interrupting = loop.call_later(limit_s, self.interrupt)
        patience = asyncio.timeout(limit_s + STUCK_S)
        try:
            async with patience:
                return await loop.run_in_executor(self, function, *args)
        except TimeoutError:
            if patience.expired():
                raise ThreadStuck from None
            raise
        finally:
            interrupting.cancel()

    def interrupt(self, *, hang_up: bool = True) -> None:
        """End what the call that is under way waits for on its connections. See interrupts."""
        work = self._work
        if work is not None:
            work.interrupt(hang_up=hang_up)

    def give_up(self) -> None:
        """Leave the thread to the call that is under way; those that follow get another."""
        self._thread = self._work = None
        if not self._calls.empty():
            self._start()

    def is_free_within(self, seconds: float) -> bool:
        """Wait for the call that is under way."""
        deadline = time.monotonic() + seconds
        while self.is_busy and time.monotonic() < deadline:
            time.sleep(LOOK_EVERY_S)
        return not self.is_busy

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """See Executor. What was submitted before is called; then its connections are closed."""
        thread = self._thread
        self._is_shut_down = True
        self._calls.put(None)
        if wait and thread is not None:
            thread.join()

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
        while self._thread is threading.current_thread():
            call = self._calls.get()
            if call is None:
                break
            if call.future.set_running_or_notify_cancel():
                self._serve_one(call)
            del call  # not to keep what it holds alive until the next one
        pools.return_connections()
        connections.close_all()

    def _serve_one(self, call: "_Call") -> None:
        work = interrupts.Work()
        self._work = work
        end: Callable[[], None]
        try:
            end = partial(call.future.set_result, call.function())
        except BaseException as error:
            end = partial(call.future.set_exception, error)
        if self._work is work:
            self._work = None
        work.finish()
        end()


class _Call:
    def __init__(self, function: Callable[[], Any]) -> None:
        self.function = function
        self.future: Future[Any] = Future()
