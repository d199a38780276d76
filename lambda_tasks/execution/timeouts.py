"""Soft and hard time limits: by SIGALRM in a worker process, by cancellation in a coroutine."""

import asyncio
import signal
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from ..errors import HardTimeLimitExceeded, SoftTimeLimitExceeded

T = TypeVar("T")

SOFT_MESSAGE: Final = "The task ran longer than its soft_timeout of {} s."
HARD_MESSAGE: Final = "The task ran longer than its hard_timeout of {} s."


@contextmanager
def alarm(soft_s: float, hard_s: float) -> Iterator[None]:
    """Raise the two limits' exceptions in the body, which runs on the main thread.

    SoftTimeLimitExceeded first; HardTimeLimitExceeded if the body goes on all the same.
    """

    def on_soft(signum: int, frame: object) -> None:
        signal.signal(signal.SIGALRM, on_hard)
        signal.setitimer(signal.ITIMER_REAL, hard_s - soft_s)
        raise SoftTimeLimitExceeded(SOFT_MESSAGE.format(soft_s))

    def on_hard(signum: int, frame: object) -> None:
        raise HardTimeLimitExceeded(HARD_MESSAGE.format(hard_s))

    previous = signal.signal(signal.SIGALRM, on_soft)
    signal.setitimer(signal.ITIMER_REAL, soft_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


class Limited:
    """Await it inside a task of its own: drives a coroutine and raises the limits inside of it.

    A timer cancels the asyncio task; here the cancellation arrives first, is taken back, and the
    limit's exception is thrown into the coroutine instead, at the await where it stands. It may
    catch it and go on awaiting.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, T], *, soft_s: float, hard_s: float) -> None:
        self._coroutine = coroutine
        self._limits = {
            soft_s: SoftTimeLimitExceeded(SOFT_MESSAGE.format(soft_s)),
            hard_s: HardTimeLimitExceeded(HARD_MESSAGE.format(hard_s)),
        }
        self._pending: BaseException | None = None

    def __await__(self) -> Generator[Any, Any, Any]:
        task = asyncio.current_task()
        assert task is not None
        loop = asyncio.get_running_loop()
        timers = [
            loop.call_later(seconds, self._fire, task, error)
            for seconds, error in self._limits.items()
        ]
        try:
            return (yield from self._drive(task))
        finally:
            for timer in timers:
                timer.cancel()
            self._coroutine.close()

    def _fire(self, task: "asyncio.Task[Any]", error: BaseException) -> None:
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
        return pending
