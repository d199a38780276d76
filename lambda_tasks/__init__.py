"""Django tasks on AWS Lambda that are neither lost nor run twice.

The names here need no app registry, so that a `tasks` module can import them at any time.
"""

from .context import TaskContext
from .decorators import LambdaTaskWrapper, lambda_task
from .errors import (
    Continue,
    EnqueueError,
    HardTimeLimitExceeded,
    LambdaTasksError,
    MaxRetriesExceededError,
    MessageTooLarge,
    Retry,
    SoftTimeLimitExceeded,
    TaskFailed,
    WorkerProcessDied,
)
from .invocation import Invocation
from .logging import task_logger

__all__ = [
    "Continue",
    "EnqueueError",
    "HardTimeLimitExceeded",
    "Invocation",
    "LambdaTaskWrapper",
    "LambdaTasksError",
    "MaxRetriesExceededError",
    "MessageTooLarge",
    "Retry",
    "SoftTimeLimitExceeded",
    "TaskContext",
    "TaskFailed",
    "WorkerProcessDied",
    "lambda_task",
    "task_logger",
]
