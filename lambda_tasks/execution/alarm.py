"""Soft and hard time limits of sync code, by SIGALRM; `coroutine_limits` has the others.

An exception that is raised in the midst of a statement leaves its connection in a state that nobody
can use, and some drivers let no signal through. So a statement is cancelled first, and the limit
raised where it ends.
"""

import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

from ..errors import HardTimeLimitExceeded, SoftTimeLimitExceeded
from ..interrupts import CANCEL_TIMEOUT_S, Work, unwatch, watch, wrap_statements

SOFT_MESSAGE: Final = "The task ran longer than its soft_timeout of {} s."
HARD_MESSAGE: Final = "The task ran longer than its hard_timeout of {} s."

PATIENCE_S: Final = 1.5 * CANCEL_TIMEOUT_S
"""With a statement that does not end although it is cancelled; then the limit is raised in it."""

EARLY_S: Final = 0.001
"""A timer may fire a little before its time."""


class Alarm:
    """Raises the exceptions of two limits in the body, which runs on the main thread.

    SoftTimeLimitExceeded first; HardTimeLimitExceeded if the body goes on all the same. The second
    alone, where the two are the same. Only the main thread changes which are still to come.
    """

    def __init__(self, soft_s: float, hard_s: float) -> None:
        now = time.monotonic()
        soft = (now + soft_s, SoftTimeLimitExceeded(SOFT_MESSAGE.format(soft_s)))
        hard = (now + hard_s, HardTimeLimitExceeded(HARD_MESSAGE.format(hard_s)))
        self._ahead: tuple[tuple[float, BaseException], ...]
        self._ahead = (soft, hard) if soft_s < hard_s else (hard,)
        self._statement: Work | None = None
        self._interrupted: tuple[Work, BaseException] | None = None
        """Which statement, and for which limit."""
        self._patience_until = 0.0
        self._wrapped = wrap_statements(self.execute)
        self._handler_before: Any = None

    def __enter__(self) -> None:
        self._handler_before = signal.signal(signal.SIGALRM, self.ring)
        try:
            self._wrapped.__enter__()
            watch(self)
            self.arm()
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *raised: object) -> None:
        self._ahead = ()  # from here on nothing is raised
        signal.setitimer(signal.ITIMER_REAL, 0)
        unwatch(self)
        self._wrapped.__exit__(None, None, None)
        signal.signal(signal.SIGALRM, self._handler_before)

    def arm(self) -> None:
        """Set the timer for the next limit."""
        left_s = 0.0  # no timer
        if self._ahead:
            left_s = max(self._ahead[0][0] - time.monotonic(), EARLY_S)
        signal.setitimer(signal.ITIMER_REAL, left_s)

    def ring(self, signum: int, frame: FrameType | None) -> None:
        """The timer's: raise what is due, here or where the statement that is under way ends."""
        if frame is not None and frame.f_code is Alarm.__exit__.__code__:
            return  # the body has come to its end just before
        now = time.monotonic()
        self.look(now)
        if self._statement is not None and now < self._patience_until:
            signal.setitimer(signal.ITIMER_REAL, self._patience_until - now)
        else:
            self.arm()
            self._raise_due()

    def look(self, now: float) -> None:
        """See interrupts.Watched. Interrupt the statement that is under way, if a limit is over."""
        statement, error = self._statement, self._due(now)
        if statement is None or error is None or self._interrupted == (statement, error):
            return
        self._patience_until = now + PATIENCE_S
        self._interrupted = statement, error
        statement.interrupt(hang_up=isinstance(error, HardTimeLimitExceeded))

    def execute(self, execute: Callable[..., Any], *args: Any) -> Any:
        """Django's wrapper of a statement: raise what has become due meanwhile."""
        statement = self._statement = Work()
        try:
            return execute(*args)
        finally:
            statement.finish()
            self._statement = None
            self._raise_due()

    def _due(self, now: float) -> BaseException | None:
        """The last of the limits that are over."""
        errors = [error for at, error in self._ahead if at <= now + EARLY_S]
        return errors[-1] if errors else None

    def _raise_due(self) -> None:
        now = time.monotonic()
        error = self._due(now)
        if error is not None:
            self._ahead = tuple(each for each in self._ahead if each[0] > now + EARLY_S)
            self.arm()
            raise error
