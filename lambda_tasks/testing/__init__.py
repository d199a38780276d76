"""The helpers for a project's tests: they capture calls and run them through the real handler."""

from .assertions import aassert_idempotent, assert_enqueued, assert_idempotent
from .capturing import CapturedTasks, arun_enqueued, capture_tasks, run_enqueued
from .events import CapturedTask, lambda_event
from .faults import simulate
from .testcase import CaptureTasksMixin

__all__ = [
    "CaptureTasksMixin",
    "CapturedTask",
    "CapturedTasks",
    "aassert_idempotent",
    "arun_enqueued",
    "assert_enqueued",
    "assert_idempotent",
    "capture_tasks",
    "lambda_event",
    "run_enqueued",
    "simulate",
]
