"""The event loop of the way out, which any thread and any other loop can call.

In a web process it is the portal's own loop in a daemon thread. The Lambda handler lends its loop
instead, because Lambda freezes background threads between invocations.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Portal:
    """The way to one event loop, which starts at the first call. A forked child needs a new one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def adopt(self, loop: asyncio.AbstractEventLoop) -> None:
        """Use a loop that the caller runs, unless the portal has a loop already."""
        with self._lock:
            if self._loop is None:
                self._loop = loop

    def call(self, func: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
        """Run a coroutine function on the loop and return its result, in a thread without a loop.

        Raises what the coroutine raises.
        """
        return asyncio.run_coroutine_threadsafe(func(*args), self._ensure_loop()).result()

    async def acall(self, func: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
        """See call(). Cancelling the caller does not cancel the coroutine on the loop."""
        # Without the shield, a cancelled request would also cancel the send of its messages.
        loop = self._ensure_loop()
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
            loop.close()

    @property
    def has_thread(self) -> bool:
        """Whether the portal runs a loop of its own, which may still have work."""
        return self._thread is not None

    def _ensure_loop(self) -> asyncio.AbstractEventLoop:
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
