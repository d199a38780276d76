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
"""Between a task's hard timeout and the deadline of its batch: to roll back and to record."""

SHORTEST_LIMIT_S: Final = 0.2


class NoTimeLeft(Exception):
    """The deadline comes before the task could have its time."""


def limits_s(task: Task, settings: Settings) -> tuple[float, float]:
    """The soft and the hard timeout that a task asks for."""
    options = task.options
    hard_s = options.hard_timeout or settings.default_hard_timeout
    soft_s = options.soft_timeout or min(settings.default_soft_timeout, hard_s * 0.9)
    return min(soft_s, hard_s), hard_s


@dataclass(frozen=True, slots=True)
class TimeBudget:
    """The time of a batch: when it began and when all must be told, in monotonic seconds."""

    began_at: float = 0.0
    deadline: float | None = None

    def limits_s(self, task: Task, settings: Settings) -> tuple[float, float]:
        """The soft and the hard timeout of a task that begins now. Raises NoTimeLeft."""
        soft_s, hard_s = limits_s(task, settings)
        if self.deadline is None:
            return soft_s, hard_s
        longest_s = max(self.deadline - self.began_at - LAST_SECOND_S, SHORTEST_LIMIT_S)
        if longest_s < hard_s:
            # The whole batch is shorter than the task's limits: the task hears of it in time.
            hard_s = longest_s
            soft_s = min(soft_s, hard_s * 0.9)
        left_s = self.deadline - time.monotonic() - LAST_SECOND_S
        if left_s < soft_s:
            raise NoTimeLeft
        return soft_s, min(hard_s, left_s)

    def lease(self, tasks: Sequence[Task], settings: Settings) -> timedelta:
        """Long enough for every one of a batch that is claimed together to wait and to run."""
        if self.deadline is None:
            seconds = max(limits_s(task, settings)[1] for task in tasks)
        else:
            seconds = max(self.deadline - time.monotonic(), 0.0)
        return timedelta(seconds=math.ceil(seconds + LEASE_MARGIN_S))
