"""The models of the Django app, and the payload of a stored call."""

from .payload import SQSLambdaTask, SQSLambdaTaskMessage
from .records.tables import RunProgress, RunState, SingletonLock, TaskRecord

__all__ = [
    "RunProgress",
    "RunState",
    "SQSLambdaTask",
    "SQSLambdaTaskMessage",
    "SingletonLock",
    "TaskRecord",
]
