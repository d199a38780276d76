"""What operators ask of a running system, as functions: each has an async twin.

`manage.py lambda_tasks`, the endpoints and the admin call these.
"""

from ..errors import InvalidFilter
from ..records.filters import Filters
from .counting import (
    Counts,
    Health,
    Problem,
    Stats,
    ahealth,
    astats,
    astuck,
    health,
    stats,
    stuck,
)
from .running import RunCount, arun_task, arun_tasks, run_task, run_tasks
from .steering import (
    Changes,
    Purged,
    Replays,
    acancel,
    aenqueue,
    apurge,
    areplay,
    arequeue,
    aretry,
    cancel,
    enqueue,
    purge,
    replay,
    requeue,
    retry,
)

__all__ = [
    "Changes",
    "Counts",
    "Filters",
    "Health",
    "InvalidFilter",
    "Problem",
    "Purged",
    "Replays",
    "RunCount",
    "Stats",
    "acancel",
    "aenqueue",
    "ahealth",
    "apurge",
    "areplay",
    "arequeue",
    "aretry",
    "arun_task",
    "arun_tasks",
    "astats",
    "astuck",
    "cancel",
    "enqueue",
    "health",
    "purge",
    "replay",
    "requeue",
    "retry",
    "run_task",
    "run_tasks",
    "stats",
    "stuck",
]
