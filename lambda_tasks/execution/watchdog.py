"""Interrupts a coroutine that blocks its event loop beyond its time limits, by SIGALRM.

While a coroutine blocks, the loop's timers can't fire. The signal's handler runs on the main
thread, within the blocking code, and raises the limit there. So the other tasks of the batch go
on.
"""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final, Protocol

LOOP_TIMER_PATIENCE_S: Final = 0.25
"""Seconds between a limit and its alarm: the loop's timer comes first, and raises at an await."""


class Watched(Protocol):
    """A coroutine with time limits."""

    @property
    def next_limit(self) -> float | None:
        """The time of the next limit, in the loop's seconds; None after the last."""

    def pop_due(self, now: float) -> BaseException | None:
        """Return the exception of a limit that is over at `now`, once, or None."""


_running: ContextVar[Watched | None] = ContextVar("lambda_tasks_watched", default=None)
"""The watched coroutine that the current code belongs to, also in the tasks that it started."""


class Watchdog:
    """The process's only watchdog. It works on the main thread and does nothing on others."""

    def __init__(self) -> None:
        self._watched: set[Watched] = set()
        self._armed_for: float | None = None
        self._n_keepers = 0

    @contextmanager
    def watching(self, watched: Watched) -> Iterator[None]:
        """Watch the code of the body, and the tasks that it starts."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        _running.set(watched)
        self._watched.add(watched)
        if self._armed_for is None or (watched.next_limit or 0) < self._armed_for:
            self._arm()
        try:
            yield
        finally:
            self._watched.discard(watched)
            self._disarm_if_idle()

    @contextmanager
    def stay_armed(self) -> Iterator[None]:
        """Keep the alarm set in the body, also between two coroutines."""
        # Setting it for each coroutine takes a tenth of the time of a short task. An alarm that
        # fires too early raises nothing and is set again.
        self._n_keepers += 1
        try:
            yield
        finally:
            self._n_keepers -= 1
            self._disarm_if_idle()

    def _disarm_if_idle(self) -> None:
        """Stop the timer if nothing is watched, so that others may use SIGALRM."""
        if self._armed_for is not None and not self._watched and not self._n_keepers:
            self._arm()

    def _arm(self) -> None:
        limits = (each.next_limit for each in self._watched)
        at = self._armed_for = min(filter(None, limits), default=None)
        if at is None:
            signal.setitimer(signal.ITIMER_REAL, 0)
            return
        signal.signal(signal.SIGALRM, self._on_alarm)
        signal.setitimer(
            signal.ITIMER_REAL,
            max(at + LOOP_TIMER_PATIENCE_S - time.monotonic(), LOOP_TIMER_PATIENCE_S),
        )

    def _on_alarm(self, signum: int, frame: object) -> None:
        watched = _running.get()
        error = None
        if watched is not None and watched in self._watched:
            error = watched.pop_due(time.monotonic() - LOOP_TIMER_PATIENCE_S)
        self._arm()
        if error is not None:
            raise error


watchdog = Watchdog()
