"""The helpers for a project's tests: they capture calls and run them through the real handler.

Each is imported at its first use, because pytest imports this package for its plugin.
"""

from typing import TYPE_CHECKING

from ..lazy import lazy_names

if TYPE_CHECKING:
    from .assertions import aassert_idempotent, assert_enqueued, assert_idempotent
    from .capturing import CapturedTasks, arun_enqueued, capture_tasks, run_enqueued
    from .events import CapturedTask, lambda_event
    from .faults import simulate
    from .queue_conformance import QueueConformance
    from .testcase import CaptureTasksMixin
    from .ticking import atick, tick

__all__ = [
    "CaptureTasksMixin",
    "CapturedTask",
    "CapturedTasks",
    "QueueConformance",
    "aassert_idempotent",
    "arun_enqueued",
    "assert_enqueued",
    "assert_idempotent",
    "atick",
    "capture_tasks",
    "lambda_event",
    "run_enqueued",
    "simulate",
    "tick",
]

__getattr__ = lazy_names(
    __name__,
    {
        "CaptureTasksMixin": "testcase",
        "CapturedTask": "events",
        "CapturedTasks": "capturing",
        "QueueConformance": "queue_conformance",
        "aassert_idempotent": "assertions",
        "arun_enqueued": "capturing",
        "assert_enqueued": "assertions",
        "assert_idempotent": "assertions",
        "atick": "ticking",
        "capture_tasks": "capturing",
        "lambda_event": "events",
        "run_enqueued": "capturing",
        "simulate": "faults",
        "tick": "ticking",
    },
)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
