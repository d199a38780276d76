"""Soft and hard time limits of a coroutine, raised within it at its current await."""

import asyncio
import contextlib
import inspect
from collections.abc import Callable, Coroutine, Generator
from types import FrameType
from typing import Any, Final, TypeVar

from ..errors import HardTimeLimitExceeded, SoftTimeLimitExceeded
from .alarm import HARD_MESSAGE, SOFT_MESSAGE
from .watchdog import watchdog

T = TypeVar("T")

CLEAN_UP_S: Final = 2.0
"""Seconds for a coroutine that goes on after its hard timeout. After that it is closed."""

TIMER_TOLERANCE_S: Final = 0.001
"""Seconds by which the event loop's timers may fire too early."""


class LimitedCoroutine:
    """An awaitable that drives a coroutine and raises its time limits within it.

    Await it in an asyncio task of its own. A timer cancels that task. The cancellation arrives
    here first: it is undone, and the limit's exception is thrown into the coroutine at its current
    await. The coroutine may catch the exception and go on.

    If the coroutine waits at the end of a TaskGroup, the group's tasks are cancelled first, and
    the exception arrives in the group's ExceptionGroup. The watchdog interrupts a coroutine that
    blocks the event loop.

    `on_limit` is called with each limit's exception before it is raised. It ends what the
    coroutine waits for on other threads.
    """

    def __init__(
        self,
        coroutine: Coroutine[Any, Any, T],
        *,
        soft_s: float,
        hard_s: float,
        on_limit: Callable[[BaseException], None],
    ) -> None:
        self._coroutine = coroutine
        self._on_limit = on_limit
        self._soft_s = soft_s
        self._hard_s = hard_s
        self._limits: list[tuple[float, BaseException]] = []
        """The limits still to come: each one's time, in the loop's seconds, and its exception."""
        self._pending: BaseException | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._ending: asyncio.Task[None] | None = None
        """The task that ends a group: the loop alone would not keep it."""

    def __await__(self) -> Generator[Any, Any, Any]:
        task = asyncio.current_task()
        assert task is not None
        loop = asyncio.get_running_loop()
        soft = SoftTimeLimitExceeded(SOFT_MESSAGE.format(self._soft_s))
        hard = HardTimeLimitExceeded(HARD_MESSAGE.format(self._hard_s))
        now, hard_s = loop.time(), self._hard_s
        self._limits = [
            (now + self._soft_s, soft), (now + hard_s, hard), (now + hard_s + CLEAN_UP_S, hard)
        ]  # fmt: skip
        self._arm(task)
        try:
            with watchdog.watching(self):
                return (yield from self._drive(task))
        finally:
            if self._timer is not None:
                self._timer.cancel()
            # close() raises RuntimeError if the coroutine catches GeneratorExit and awaits again.
            with contextlib.suppress(RuntimeError):
                self._coroutine.close()

    @property
    def next_limit(self) -> float | None:
        """The time of the next limit, in the loop's seconds; None after the last."""
        return self._limits[0][0] if self._limits else None

    def pop_due(self, now: float) -> BaseException | None:
        """Return the exception of a limit that is over at `now`, once, or None."""
        error = None
        while self._limits and self._limits[0][0] <= now + TIMER_TOLERANCE_S:
            error = self._limits.pop(0)[1]
        return error

    def _arm(self, task: "asyncio.Task[Any]") -> None:
        """Set the timer for the next limit."""
        # One timer at a time: a task that ends in time pays for one alone.
        self._timer = None
        if self._limits:
            self._timer = task.get_loop().call_at(self._limits[0][0], self._fire, task)

    def _fire(self, task: "asyncio.Task[Any]") -> None:
        error = self.pop_due(task.get_loop().time())
        self._arm(task)
        if error is None or task.done():
            return
        self._on_limit(error)
        start_in_group = _awaited_group_starter(self._coroutine)
        if start_in_group is None or not self._limits:
            self._interrupt(task, error)
            return
        # In a task of its own, as anyio asks which library runs the current one.
        ending = self._end_group(start_in_group, task, error)
        self._ending = task.get_loop().create_task(ending)

    async def _end_group(
        self,
        start_in_group: Callable[..., object],
        task: "asyncio.Task[Any]",
        error: BaseException,
    ) -> None:
        """Raise an error in a task of the group that the coroutine waits for.

        Thrown into the group's __aexit__, the error would leave the group's tasks running. A task
        of the group that raises it cancels them.
        """
        raising = _raise(error)
        try:
            start_in_group(lambda: raising)
        except RuntimeError:  # the group is shutting down already and takes no new task
            raising.close()
            if not task.done():
                self._interrupt(task, error)

    def _interrupt(self, task: "asyncio.Task[Any]", error: BaseException) -> None:
        """Raise an error where the coroutine waits."""
        _silence_awaited_futures(self._coroutine)
        self._pending = error
        task.cancel()

    def _drive(self, task: "asyncio.Task[Any]") -> Generator[Any, Any, Any]:
        resume: Callable[[Any], Any] = self._coroutine.send
        argument: Any = None
        while True:
            try:
                awaited = resume(argument)
            except StopIteration as stop:
                return stop.value
            try:
                argument = yield awaited
                resume = self._coroutine.send
            except asyncio.CancelledError as cancelled:
                resume, argument = self._coroutine.throw, self._error_to_throw(cancelled, task)
            except BaseException as error:
                resume, argument = self._coroutine.throw, error

    def _error_to_throw(
        self, cancelled: asyncio.CancelledError, task: "asyncio.Task[Any]"
    ) -> BaseException:
        pending, self._pending = self._pending, None
        if pending is None:
            return cancelled
        task.uncancel()
        if not self._limits:
            raise pending  # the time to clean up is over
        return pending


async def _raise(error: BaseException) -> None:
    raise error


def _awaited_group_starter(coroutine: object) -> Callable[..., object] | None:
    """Return how to start a task in the TaskGroup that the coroutine waits for, or None.

    Knows the task groups of asyncio and anyio.
    """
    frame = _innermost_frame(coroutine)
    if frame is None or frame.f_code.co_name not in ("__aexit__", "_aexit"):
        return None
    group = frame.f_locals.get("self")
    if isinstance(group, asyncio.TaskGroup):
        return lambda function: group.create_task(function())
    start_soon: Callable[..., object] | None = getattr(group, "start_soon", None)
    return start_soon


def _silence_awaited_futures(coroutine: object) -> None:
    """Retrieve the later results of the futures that the coroutine waits for.

    A call on a thread goes on after the coroutine was interrupted, and nobody awaits its result.
    asyncio would log an exception of it as never retrieved.
    """
    frame = _innermost_frame(coroutine)
    for each in frame.f_locals.values() if frame is not None else ():
        if asyncio.isfuture(each):
            each.add_done_callback(lambda done: done.cancelled() or done.exception())


def _innermost_frame(coroutine: object) -> FrameType | None:
    """Return the frame of the innermost coroutine: the one that awaits something else."""
    frame: FrameType | None = None
    while inspect.iscoroutine(coroutine):
        frame, coroutine = coroutine.cr_frame, coroutine.cr_await
    return frame
