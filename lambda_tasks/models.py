"""The models of the Django app, and the payload of a stored call."""

from .errors import MaxRetriesExceededError
from .payload import SQSLambdaTask, SQSLambdaTaskMessage
from .records.tables import (
    RelayShift,
    RunProgress,
    RunState,
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
    "SingletonLock",
    "TaskRecord",
    "TaskStatus",
]
