"""Soft and hard time limits of a coroutine, raised inside of it where it stands."""

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
"""For a coroutine that goes on after its hard timeout; then it is closed, whatever it does."""

EARLY_S: Final = 0.001
"""A loop's timers may fire a little before their time."""


class LimitedCoroutine:
    """Await it inside a task of its own: drives a coroutine and raises the limits inside of it.

    A timer cancels the asyncio task; here the cancellation arrives first, is taken back, and the
    limit's exception is thrown into the coroutine instead, at the await where it stands. It may
    catch it and go on awaiting. Where the coroutine waits for the tasks of a TaskGroup, these are
    cancelled first, and the exception arrives in the group's ExceptionGroup. One that blocks the
    event loop is interrupted by the watchdog. `on_limit` is called with each limit's exception
    before that is raised, to end what the coroutine waits for elsewhere.
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
        """When each is over, in the loop's time, from the start of the coroutine on."""
        self._pending: BaseException | None = None
        self._timer: asyncio.TimerHandle | None = None

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
            # One that will not be closed is left where it stands.
            with contextlib.suppress(RuntimeError):
                self._coroutine.close()

    @property
    def next_limit(self) -> float | None:
        """When the next limit is over, in the loop's time; None after the last."""
        return self._limits[0][0] if self._limits else None

    def pop_due(self, now: float) -> BaseException | None:
        """The exception of a limit that is over by now; each is raised once."""
        error = None
        while self._limits and self._limits[0][0] <= now + EARLY_S:
            error = self._limits.pop(0)[1]
        return error

    def _arm(self, task: "asyncio.Task[Any]") -> None:
        """For the next limit; only a task that meets one pays for the timers of others."""
        self._timer = None
        if self._limits:
            self._timer = task.get_loop().call_at(self._limits[0][0], self._fire, task)

    def _fire(self, task: "asyncio.Task[Any]") -> None:
        error = self.pop_due(task.get_loop().time())
        self._arm(task)
        if error is None or task.done():
            return
        self._on_limit(error)
        start_in_group = _group_that_is_waited_for(self._coroutine)
        if start_in_group is not None and self._limits:
            # Thrown in there, it would leave the group's tasks behind.
            with contextlib.suppress(RuntimeError):
                start_in_group(_raise, error)
                return
        _forget_what_is_waited_for(self._coroutine)
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
                resume, argument = self._coroutine.throw, self._instead_of(cancelled, task)
            except BaseException as error:
                resume, argument = self._coroutine.throw, error

    def _instead_of(
        self, cancelled: asyncio.CancelledError, task: "asyncio.Task[Any]"
    ) -> BaseException:
        pending, self._pending = self._pending, None
        if pending is None:
            return cancelled
        task.uncancel()
        if not self._limits:
            raise pending  # it has had its time to clean up
        return pending


async def _raise(error: BaseException) -> None:
    raise error


def _group_that_is_waited_for(coroutine: object) -> Callable[..., object] | None:
    """How to start a task in the TaskGroup, asyncio's or anyio's, at whose end it stands."""
    frame = _innermost_frame(coroutine)
    if frame is None or frame.f_code.co_name not in ("__aexit__", "_aexit"):
        return None
    group = frame.f_locals.get("self")
    if isinstance(group, asyncio.TaskGroup):
        return lambda function, error: group.create_task(function(error))
    start_soon: Callable[..., object] | None = getattr(group, "start_soon", None)
    return start_soon


def _forget_what_is_waited_for(coroutine: object) -> None:
    """Where it waits for a thread, the call there comes to an end of its own, which nobody hears of
    any more: asyncio need not complain of that."""
    frame = _innermost_frame(coroutine)
    for each in frame.f_locals.values() if frame is not None else ():
        if asyncio.isfuture(each):
            each.add_done_callback(lambda done: done.cancelled() or done.exception())


def _innermost_frame(coroutine: object) -> FrameType | None:
    """The one that awaits what is no coroutine."""
    frame: FrameType | None = None
    while inspect.iscoroutine(coroutine):
        frame, coroutine = coroutine.cr_frame, coroutine.cr_await
    return frame
