"""The models of the Django app, and the payload of a stored call."""

from .errors import MaxRetriesExceededError
from .payload import SQSLambdaTask, SQSLambdaTaskMessage
from .records.tables import (
    ErrorFigures,
    LastTick,
    LimitPace,
    LimitPlace,
    QueueState,
    RelayShift,
    RunFigures,
    RunProgress,
    RunState,
    ScheduleState,
    StepCheckpoint,
    StepSignal,
    TaskError,
    TaskRecord,
    TaskStatus,
    UsedSignature,
    Workflow,
    WorkflowJoin,
)

__all__ = [
    "ErrorFigures",
    "LastTick",
    "LimitPace",
    "LimitPlace",
    "MaxRetriesExceededError",
    "QueueState",
    "RelayShift",
    "RunFigures",
    "RunProgress",
    "RunState",
    "SQSLambdaTask",
    "SQSLambdaTaskMessage",
    "ScheduleState",
    "StepCheckpoint",
    "StepSignal",
    "TaskError",
    "TaskRecord",
    "TaskStatus",
    "UsedSignature",
    "Workflow",
    "WorkflowJoin",
]
