"""Soft and hard time limits of sync code, by SIGALRM; `coroutine_limits` has the others.

An exception that is raised in the midst of a statement leaves its connection in a state that nobody
can use, and some drivers let no signal through. So a statement is cancelled first, and the limit
raised where it ends.
"""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from ..errors import HardTimeLimitExceeded, SoftTimeLimitExceeded
from ..interrupts import CANCEL_S, Work, statements_wrapped, watched

SOFT_MESSAGE: Final = "The task ran longer than its soft_timeout of {} s."
HARD_MESSAGE: Final = "The task ran longer than its hard_timeout of {} s."

PATIENCE_S: Final = 1.5 * CANCEL_S
"""With a statement that does not end although it is cancelled; then the limit is raised in it."""

EARLY_S: Final = 0.001
"""A timer may fire a little before its time."""


@contextmanager
def alarm(soft_s: float, hard_s: float) -> Iterator[None]:
    """Raise the two limits' exceptions in the body, which runs on the main thread.

    SoftTimeLimitExceeded first; HardTimeLimitExceeded if the body goes on all the same. The second
    alone, where the two are the same.
    """
    limits = _Limits(soft_s, hard_s)
    previous = signal.signal(signal.SIGALRM, limits.ring)
    limits.arm()
    try:
        with watched(limits), statements_wrapped(limits.execute):
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


class _Limits:
    """The limits that are still to come; only the main thread changes them."""

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

    def arm(self) -> None:
        """Set the timer for the next limit."""
        left_s = 0.0  # no timer
        if self._ahead:
            left_s = max(self._ahead[0][0] - time.monotonic(), EARLY_S)
        signal.setitimer(signal.ITIMER_REAL, left_s)

    def ring(self, signum: int, frame: object) -> None:
        """The timer's: raise what is due, here or where the statement that is under way ends."""
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
