"""The times of a batch: its tasks' limits, its deadline, and the leases of its records."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from ..conf import Settings
from ..ports import Task

LEASE_MARGIN_S: Final = 30.0
"""Seconds by which a lease outlives the hard timeout: to kill, roll back and write the record."""

RECORD_MARGIN_S: Final = 1.0
"""Seconds before a batch's deadline to roll back and to write records. In a short batch, less."""


class NoTimeLeft(Exception):
    """The batch has too little time left for the task."""


def limits_s(task: Task, settings: Settings) -> tuple[float, float]:
    """Return the soft and the hard timeout of a task; equal values for one without a soft one."""
    options = task.options
    hard_s = options.hard_timeout or settings.default_hard_timeout
    soft_s = options.soft_timeout or settings.default_soft_timeout
    return min(soft_s, hard_s), hard_s


@dataclass(frozen=True, slots=True)
class TimeBudget:
    """The time that a batch has. Times are in `time.monotonic()` seconds."""

    began_at: float = 0.0
    """The start of the batch."""
    deadline: float | None = None
    """The time by which all deliveries must be settled; None if there is no limit."""

    @property
    def longest_s(self) -> float:
        """The seconds of a task that has the whole batch to itself; infinity without a deadline."""
        if self.deadline is None:
            return math.inf
        whole_s = self.deadline - self.began_at
        return whole_s - min(RECORD_MARGIN_S, whole_s / 4)

    @property
    def left_s(self) -> float:
        """The seconds of a task that starts now; infinity without a deadline."""
        return self.longest_s - (time.monotonic() - self.began_at)

    def has_time_for(self, likely_s: float | None, *, is_first: bool) -> bool:
        """Return whether the time left is probably enough for a task that takes `likely_s`.

        A task of unknown duration, or one with `is_first`, may start in the first half of the
        batch's time whatever it takes. Without this, a task that takes longer than any batch would
        never start.
        """
        if self.deadline is None:
            return True
        left_s = self.left_s
        if likely_s is not None and likely_s <= left_s:
            return True
        return (likely_s is None or is_first) and left_s >= self.longest_s / 2

    def lease(self, tasks: Sequence[Task], settings: Settings) -> timedelta:
        """Return a lease that is long enough for all tasks of a batch to wait and to run."""
        if self.deadline is None:
            seconds = max(limits_s(task, settings)[1] for task in tasks)
        else:
            seconds = max(self.deadline - time.monotonic(), 0.0)
        return timedelta(seconds=math.ceil(seconds + LEASE_MARGIN_S))
