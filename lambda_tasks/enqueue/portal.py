"""The one event loop that the way out runs on: call it from any thread, or any other loop.

In a web process it is a loop of our own in a daemon thread; the Lambda handler lends its own
instead, because a background thread would be frozen with the container.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Portal:
    """Started at first use; not to be used on both sides of a fork."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def adopt(self, loop: asyncio.AbstractEventLoop) -> None:
        """Use a loop that somebody else runs, unless there is one of our own already."""
        with self._lock:
            if self._loop is None:
                self._loop = loop

    def call(self, func: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
        """Run a coroutine function on the loop and wait for it, from a thread without a loop."""
        return asyncio.run_coroutine_threadsafe(func(*args), self._started()).result()

    async def acall(self, func: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
        """The same from a coroutine. Cancelling the caller does not cancel what it handed over."""
        loop = self._started()
        if asyncio.get_running_loop() is loop:
            return await asyncio.shield(loop.create_task(func(*args)))
        future = asyncio.run_coroutine_threadsafe(func(*args), loop)
        return await asyncio.shield(asyncio.wrap_future(future))

    def close(self) -> None:
        """Stop the loop of our own; one that was lent goes on."""
        with self._lock:
            loop, thread, self._loop, self._thread = self._loop, self._thread, None, None
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    @property
    def has_thread(self) -> bool:
        """There is a loop of our own, and so there may be something on it."""
        return self._thread is not None

    def _started(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            with self._lock:
                if self._loop is None:
                    self._loop = self._start_thread()
        return self._loop

    def _start_thread(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=loop.run_forever, name="lambda_tasks-portal", daemon=True
        )
        self._thread.start()
        return loop
