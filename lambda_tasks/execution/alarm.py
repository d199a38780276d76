"""Soft and hard time limits of sync code, by SIGALRM. `coroutine_limits` has those of coroutines.

An exception that is raised during a statement leaves the connection unusable, and some drivers
block signals. The alarm therefore cancels the statement first and raises the limit when the
statement ends.
"""

import signal
import sys
import time
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

from ..errors import HardTimeLimitExceeded, SoftTimeLimitExceeded
from ..interrupts import (
    CANCEL_TIMEOUT_S,
    Work,
    connections_of_this_thread,
    remove_wrapper,
    unwatch,
    watch,
)

SOFT_MESSAGE: Final = "The task ran longer than its soft_timeout of {} s."
HARD_MESSAGE: Final = "The task ran longer than its hard_timeout of {} s."

CANCEL_PATIENCE_S: Final = 1.5 * CANCEL_TIMEOUT_S
"""Seconds for a cancelled statement to end. After that the limit is raised within the statement."""

TIMER_TOLERANCE_S: Final = 0.001
"""Seconds by which a timer may fire too early."""

SWALLOWED_PATIENCE_S: Final = 0.01
"""Seconds until a limit that Python swallowed is raised again."""


class Alarm:
    """A context manager that raises the exceptions of two time limits in its body.

    The body runs on the main thread. It gets SoftTimeLimitExceeded first, and
    HardTimeLimitExceeded if it goes on. If both limits are the same, it gets the second alone.
    After the body, an alarm that was set before it is set again.
    """

    def __init__(self, soft_s: float, hard_s: float) -> None:
        now = time.monotonic()
        soft = (now + soft_s, SoftTimeLimitExceeded(SOFT_MESSAGE.format(soft_s)))
        hard = (now + hard_s, HardTimeLimitExceeded(HARD_MESSAGE.format(hard_s)))
        # A tuple that only the main thread replaces: the watch's thread reads it without a lock.
        self._pending: tuple[tuple[float, BaseException], ...]
        self._pending = (soft, hard) if soft_s < hard_s else (hard,)
        self._statement: Work | None = None
        self._interrupted: tuple[Work, BaseException] | None = None
        """The statement that was interrupted, and the limit that it was interrupted for."""
        self._patience_until = 0.0
        self._raised: BaseException | None = None
        """The limit that was raised last."""
        self._connections = connections_of_this_thread()
        self._previous_handler: Any = None
        self._previous_alarm_at: float | None = None
        self._previous_hook = sys.unraisablehook

    def __enter__(self) -> None:
        previous_s, _ = signal.getitimer(signal.ITIMER_REAL)
        if previous_s:
            self._previous_alarm_at = time.monotonic() + previous_s
        self._previous_handler = signal.signal(signal.SIGALRM, self.ring)
        self._previous_hook, sys.unraisablehook = sys.unraisablehook, self.hear_of_swallowed
        try:
            for each in self._connections:
                each.execute_wrappers.append(self.execute)
            watch(self)
            self.arm()
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *raised: object) -> None:
        self._pending = ()  # a signal that arrives from here on raises nothing
        self._raised = None
        signal.setitimer(signal.ITIMER_REAL, 0)
        if sys.unraisablehook == self.hear_of_swallowed:
            sys.unraisablehook = self._previous_hook
        unwatch(self)
        for each in self._connections:
            remove_wrapper(each, self.execute)
        signal.signal(signal.SIGALRM, self._previous_handler)
        if self._previous_alarm_at is not None:
            _set_timer(self._previous_alarm_at)

    def arm(self) -> None:
        """Set the timer for the next limit."""
        if self._pending:
            _set_timer(self._pending[0][0])
        else:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def ring(self, signum: int, frame: FrameType | None) -> None:
        """Handle SIGALRM: raise what is due now, or when the current statement ends."""
        if frame and frame.f_code is Alarm.__exit__.__code__ and frame.f_locals["self"] is self:
            return  # the body has just ended: raised here, the limit would skip the cleanup
        if _is_called_by(Alarm.hear_of_swallowed, frame):  # Python would swallow it once more
            signal.setitimer(signal.ITIMER_REAL, SWALLOWED_PATIENCE_S)
            return
        now = time.monotonic()
        self.look(now)
        if self._statement is not None and now < self._patience_until:
            signal.setitimer(signal.ITIMER_REAL, self._patience_until - now)
        else:
            self._raise_due()
            self.arm()  # for the next limit: none was due yet

    def hear_of_swallowed(self, unraisable: "sys.UnraisableHookArgs") -> None:
        """Handle sys.unraisablehook: raise a limit again that interrupted a finalizer."""
        # Python goes on after an exception in __del__, or in a callback of the garbage collector
        # or of a weak reference, and tells only this hook of it.
        limit, error = self._raised, unraisable.exc_value
        if limit is None or error is None or not _ended_by(error, limit):
            self._previous_hook(unraisable)
            return
        if error is not limit:  # the finalizer's own error, raised while it cleaned up
            self._previous_hook(unraisable)
        self._pending = ((time.monotonic(), limit.with_traceback(None)), *self._pending)
        signal.setitimer(signal.ITIMER_REAL, SWALLOWED_PATIENCE_S)

    def look(self, now: float) -> None:
        """See interrupts.Watched. Interrupts the current statement if a limit is over."""
        statement, error = self._statement, self._due(now)
        if statement is None or error is None or self._interrupted == (statement, error):
            return
        self._patience_until = now + CANCEL_PATIENCE_S
        self._interrupted = statement, error
        statement.interrupt(hang_up=isinstance(error, HardTimeLimitExceeded))

    def execute(self, execute: Callable[..., Any], *args: Any) -> Any:
        """Execute a statement, as Django's wrapper, and raise what became due meanwhile."""
        statement = self._statement = Work()
        try:
            return execute(*args)
        finally:
            statement.finish()
            self._statement = None
            self._raise_due()

    def _due(self, now: float) -> BaseException | None:
        """Return the exception of the last limit that is over, or None."""
        errors = [error for at, error in self._pending if at <= now + TIMER_TOLERANCE_S]
        return errors[-1] if errors else None

    def _raise_due(self) -> None:
        now = time.monotonic()
        error = self._due(now)
        if error is not None:
            self._pending = tuple(
                each for each in self._pending if each[0] > now + TIMER_TOLERANCE_S
            )
            self._raised = error
            self.arm()
            raise error


def _set_timer(at: float) -> None:
    signal.setitimer(signal.ITIMER_REAL, max(at - time.monotonic(), TIMER_TOLERANCE_S))


def _is_called_by(function: Callable[..., Any], frame: FrameType | None) -> bool:
    """Return whether this frame is one of a function, or of what it has called."""
    while frame is not None and frame.f_code is not function.__code__:
        frame = frame.f_back
    return frame is not None


def _ended_by(error: BaseException, limit: BaseException) -> bool:
    """Return whether an error is a limit, or was raised where the limit had been caught."""
    # The context alone doesn't tell: an error has it, too, if it comes from a finalizer that runs
    # while the body handles the limit. The limit has then left the finalizer's frames.
    caught_in = limit.__traceback__ and limit.__traceback__.tb_frame
    return error is limit or any(
        frame is caught_in for frame, _ in traceback.walk_tb(error.__traceback__)
    )
