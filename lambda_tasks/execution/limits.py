"""How long a task may run, and how long who runs it holds its record."""

import math
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from ..conf import Settings
from ..ports import Task

LEASE_MARGIN_S: Final = 30.0
"""A lease outlives the hard timeout by this much: to kill, to roll back, to write the record."""


def limits_s(task: Task, settings: Settings) -> tuple[float, float]:
    """The soft and the hard timeout."""
    options = task.options
    hard_s = options.hard_timeout or settings.default_hard_timeout
    soft_s = options.soft_timeout or min(settings.default_soft_timeout, hard_s * 0.9)
    return min(soft_s, hard_s), hard_s


def lease_of(tasks: Sequence[Task], settings: Settings, deadline: float | None = None) -> timedelta:
    """Long enough for every one of a batch that is claimed together to wait and to run.

    `deadline`, in monotonic seconds, is when their place ends.
    """
    seconds = max(limits_s(task, settings)[1] for task in tasks)
    if deadline is not None:
        seconds = max(deadline - time.monotonic(), 0.0)
    return timedelta(seconds=math.ceil(seconds + LEASE_MARGIN_S))
