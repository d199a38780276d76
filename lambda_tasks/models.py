"""The models of the Django app, and the payload of a stored call."""

from .errors import MaxRetriesExceededError
from .payload import SQSLambdaTask, SQSLambdaTaskMessage
from .records.tables import (
    RelayShift,
    RunProgress,
    RunState,
    ScheduleState,
    SingletonLock,
    TaskRecord,
    TaskStatus,
)

__all__ = [
    "MaxRetriesExceededError",
    "RelayShift",
    "RunProgress",
    "RunState",
    "SQSLambdaTask",
    "SQSLambdaTaskMessage",
    "ScheduleState",
    "SingletonLock",
    "TaskRecord",
    "TaskStatus",
]
