"""What operators ask of a running system, as functions: each has an async twin.

`manage.py lambda_tasks`, the endpoints and the admin call these.
"""

from ..doctor.findings import Finding
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
from .diagnosing import Fixes, adoctor, afix, doctor, fix
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
    "Finding",
    "Fixes",
    "Health",
    "InvalidFilter",
    "Problem",
    "Purged",
    "Replays",
    "RunCount",
    "Stats",
    "acancel",
    "adoctor",
    "aenqueue",
    "afix",
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
    "doctor",
    "enqueue",
    "fix",
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
