"""The turns to relay: one process does it for the whole system, however many there are.

A process takes the shift, which lasts a minute, and relays once. The others learn, when they ask,
how many ask and when the shift ends. The more there are, the longer each waits before it asks
again, so that asking costs the database the same whatever their number.
"""

import logging
import random
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Final

from ..database_calls import call_database
from ..ports import ShiftAnswer, ShiftTable

logger = logging.getLogger("lambda_tasks")

SHIFT_S: Final = 60.0
"""Seconds between two relays of the system."""

OWN_SHIFT_S: Final = 1.5 * SHIFT_S
"""Seconds for which a process has the shift that relays by a clock of its own, such as a tick's.

Its next relay may come a little late.
"""

MAX_ASKING: Final = 20
"""The processes that ask in each shift, about. So the next one takes over within seconds if one has
died."""

MAX_WAIT_S: Final = 3600.0
"""The most seconds after the end of a shift before a process asks again.

It may wait for so long in vain, if thousands of processes have become a few.
"""

JITTER: Final = 0.5
"""The fraction by which waits differ, so that copies of a process don't ask all at once."""

ASK_LIMIT_S: Final = 2.0
"""Seconds for the database to answer who asks. It takes longer only if the row is locked."""


class RelayShifts:
    """This process's view of the shifts: when to ask for one, and the answer.

    A new process leaves the first shift to others, so that its first work is not delayed.
    """

    def __init__(self, table: ShiftTable, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._table = table
        self._clock = clock
        self._n_shifts = 1.0
        self.start_over()

    def start_over(self) -> None:
        """Wait as a new process does. Copies of a process wait for different times."""
        self._due_at = self._clock() + SHIFT_S * random.uniform(1.0, 2.0)

    @property
    def due_in_s(self) -> float:
        """The seconds until it is time to ask."""
        return max(self._due_at - self._clock(), 0.0)

    async def take(self, *, always: bool = False) -> bool:
        """Ask for the shift; return whether this process must relay now.

        With `always` it takes the shift from whoever has it. If nobody answers, it must relay, too:
        two relays at a time are safe, and none would be a stop of the whole system.
        """
        self._due_at = self._clock() + SHIFT_S  # for a clock of one's own, or without an answer
        try:
            answer = await call_database(
                self._table.ask,
                lasts=timedelta(seconds=OWN_SHIFT_S if always else SHIFT_S),
                weight=self._n_shifts,
                always=always,
                limit_s=ASK_LIMIT_S,
            )
        except Exception as error:
            logger.warning(
                "Nobody can tell whether another process relays, so this one does: %s",
                error, exc_info=error,
            )  # fmt: skip
            return True
        if not always:
            self._wait(answer)
        return answer.is_granted

    def _wait(self, answer: ShiftAnswer) -> None:
        """Set the time to ask again. Whoever has a shift asks for the next one when it ends."""
        n_shifts = 1.0 if answer.is_granted else max(answer.n_asking / MAX_ASKING, 1.0)
        extra_s = min((n_shifts - 1.0) * SHIFT_S, MAX_WAIT_S / (1.0 + JITTER))
        self._n_shifts = 1.0 + extra_s / SHIFT_S
        extra_s *= random.uniform(1.0 - JITTER, 1.0 + JITTER)
        self._due_at = self._clock() + answer.left_s + extra_s
