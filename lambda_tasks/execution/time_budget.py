"""How long a task may run, how long a batch may take, and how long its records are held."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from ..conf import Settings
from ..ports import Task

LEASE_MARGIN_S: Final = 30.0
"""A lease outlives the hard timeout by this much: to kill, to roll back, to write the record."""

LAST_SECOND_S: Final = 1.0
"""Between what a task may need and the deadline of its batch: to roll back and to record. In a
short batch it is less."""

MARGINS_S: Final = 3.0
"""What a function needs beside the time of a task: for that, and to answer."""


class NoTimeLeft(Exception):
    """The deadline comes before the task could have its time."""


def limits_s(task: Task, settings: Settings) -> tuple[float, float]:
    """The soft and the hard timeout that a task asks for; where the two are the same, it has no
    soft one."""
    options = task.options
    hard_s = options.hard_timeout or settings.default_hard_timeout
    soft_s = options.soft_timeout or settings.default_soft_timeout
    return min(soft_s, hard_s), hard_s


@dataclass(frozen=True, slots=True)
class TimeBudget:
    """The time of a batch: when it began and when all must be told, in monotonic seconds."""

    began_at: float = 0.0
    deadline: float | None = None

    @property
    def longest_s(self) -> float:
        """What a task may take that has the whole batch to itself; infinity without a deadline."""
        if self.deadline is None:
            return math.inf
        whole_s = self.deadline - self.began_at
        return whole_s - min(LAST_SECOND_S, whole_s / 4)

    @property
    def left_s(self) -> float:
        """What a task may take that begins now; infinity without a deadline."""
        return self.longest_s - (time.monotonic() - self.began_at)

    def will_do(self, likely_s: float | None, *, is_first: bool) -> bool:
        """Whether what is left will probably do for a task that takes so long.

        Of what is not known, and of what is among the first, the first half of the time is enough:
        what takes longer than any batch could not begin otherwise.
        """
        left_s = self.left_s
        if likely_s is not None and likely_s <= left_s:
            return True
        return (likely_s is None or is_first) and left_s >= self.longest_s / 2

    def lease(self, tasks: Sequence[Task], settings: Settings) -> timedelta:
        """Long enough for every one of a batch that is claimed together to wait and to run."""
        if self.deadline is None:
            seconds = max(limits_s(task, settings)[1] for task in tasks)
        else:
            seconds = max(self.deadline - time.monotonic(), 0.0)
        return timedelta(seconds=math.ceil(seconds + LEASE_MARGIN_S))
