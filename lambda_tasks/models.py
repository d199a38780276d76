"""The models of the Django app, and the payload of a stored call."""

from .errors import MaxRetriesExceededError
from .payload import SQSLambdaTask, SQSLambdaTaskMessage
from .records.tables import (
    LimitPace,
    LimitPlace,
    RelayShift,
    RunProgress,
    RunState,
    ScheduleState,
    StepCheckpoint,
    StepSignal,
    TaskRecord,
    TaskStatus,
    UsedSignature,
    Workflow,
    WorkflowJoin,
)

__all__ = [
    "LimitPace",
    "LimitPlace",
    "MaxRetriesExceededError",
    "RelayShift",
    "RunProgress",
    "RunState",
    "SQSLambdaTask",
    "SQSLambdaTaskMessage",
    "ScheduleState",
    "StepCheckpoint",
    "StepSignal",
    "TaskRecord",
    "TaskStatus",
    "UsedSignature",
    "Workflow",
    "WorkflowJoin",
]
