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
from .workflows import (
    WorkflowFilters,
    acancel_workflows,
    aretry_workflows,
    cancel_workflows,
    retry_workflows,
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
    "WorkflowFilters",
    "acancel",
    "acancel_workflows",
    "aenqueue",
    "ahealth",
    "apurge",
    "areplay",
    "arequeue",
    "aretry",
    "aretry_workflows",
    "arun_task",
    "arun_tasks",
    "astats",
    "astuck",
    "cancel",
    "cancel_workflows",
    "enqueue",
    "health",
    "purge",
    "replay",
    "requeue",
    "retry",
    "retry_workflows",
    "run_task",
    "run_tasks",
    "stats",
    "stuck",
]
