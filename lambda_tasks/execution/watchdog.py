"""Interrupts a coroutine that blocks its event loop beyond its time limits, by SIGALRM.

While a coroutine blocks, the loop's own timers can't fire: the signal's handler runs inside of it,
on the main thread, and raises there what is due. So the others of the batch go on.
"""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final, Protocol

PATIENCE_S: Final = 0.25
"""The loop's own timers come first: they raise a limit at an await."""


class Watched(Protocol):
    """A coroutine with time limits."""

    @property
    def next_limit(self) -> float | None:
        """When its next limit is over, in the loop's time; None after the last."""

    def pop_due(self, now: float) -> BaseException | None:
        """The exception of a limit that is over by now; each is given once."""


_running: ContextVar[Watched | None] = ContextVar("lambda_tasks_watched", default=None)
"""The coroutine that is watched, in its own code and in the tasks that it has started."""


class Watchdog:
    """One per process. On another thread than the main one it watches nothing."""

    def __init__(self) -> None:
        self._watched: set[Watched] = set()
        self._armed_for: float | None = None
        self._keepers = 0

    @contextmanager
    def watching(self, watched: Watched) -> Iterator[None]:
        """Watch what runs in the body, in this context."""
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
            self._rest()

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Stay armed in the body between one coroutine and the next, as to arm for each takes a
        tenth of the time of a short one. An alarm that comes too early only looks again."""
        self._keepers += 1
        try:
            yield
        finally:
            self._keepers -= 1
            self._rest()

    def _rest(self) -> None:
        """Leave SIGALRM to others, where nothing is watched."""
        if self._armed_for is not None and not self._watched and not self._keepers:
            self._arm()

    def _arm(self) -> None:
        limits = (each.next_limit for each in self._watched)
        at = self._armed_for = min(filter(None, limits), default=None)
        if at is None:
            signal.setitimer(signal.ITIMER_REAL, 0)
            return
        signal.signal(signal.SIGALRM, self._on_alarm)
        signal.setitimer(signal.ITIMER_REAL, max(at + PATIENCE_S - time.monotonic(), PATIENCE_S))

    def _on_alarm(self, signum: int, frame: object) -> None:
        watched = _running.get()
        error = None
        if watched is not None and watched in self._watched:
            error = watched.pop_due(time.monotonic() - PATIENCE_S)
        self._arm()
        if error is not None:
            raise error


watchdog = Watchdog()
