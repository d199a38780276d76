"""Soft and hard time limits of sync code, by SIGALRM; `coroutine_limits` has the others."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from ..errors import HardTimeLimitExceeded, SoftTimeLimitExceeded

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
