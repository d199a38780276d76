"""The models of the Django app, and the payload of a stored call."""

from .errors import MaxRetriesExceededError
from .payload import SQSLambdaTask, SQSLambdaTaskMessage
from .records.tables import (
    ErrorFigures,
    LimitPace,
    LimitPlace,
    RelayShift,
    ReleaseSeen,
    RunFigures,
    RunProgress,
    RunState,
    ScheduleState,
    TaskError,
    TaskRecord,
    TaskStatus,
    UsedSignature,
    Workflow,
    WorkflowJoin,
)

__all__ = [
    "ErrorFigures",
    "LimitPace",
    "LimitPlace",
    "MaxRetriesExceededError",
    "RelayShift",
    "ReleaseSeen",
    "RunFigures",
    "RunProgress",
    "RunState",
    "SQSLambdaTask",
    "SQSLambdaTaskMessage",
    "ScheduleState",
    "TaskError",
    "TaskRecord",
    "TaskStatus",
    "UsedSignature",
    "Workflow",
    "WorkflowJoin",
]
