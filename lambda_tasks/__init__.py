"""Django tasks on AWS Lambda that are neither lost nor run twice.

The names here need no app registry, so that a `tasks` module can import them at any time. Each is
imported at its first use: pytest imports this package for its plugin in every project of an
environment, and most of them need nothing of it.
"""

from typing import TYPE_CHECKING

from .lazy import lazy_names

if TYPE_CHECKING:
    from .context import TaskContext
    from .decorators import LambdaTaskWrapper, lambda_task
    from .durable import SyncWorkflowContext, WorkflowContext
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
    "SyncWorkflowContext",
    "TaskContext",
    "TaskFailed",
    "WorkerProcessDied",
    "WorkflowContext",
    "lambda_task",
    "task_logger",
]

__getattr__ = lazy_names(
    __name__,
    {
        "Continue": "errors",
        "EnqueueError": "errors",
        "HardTimeLimitExceeded": "errors",
        "Invocation": "invocation",
        "LambdaTaskWrapper": "decorators",
        "LambdaTasksError": "errors",
        "MaxRetriesExceededError": "errors",
        "MessageTooLarge": "errors",
        "Retry": "errors",
        "SoftTimeLimitExceeded": "errors",
        "SyncWorkflowContext": "durable",
        "TaskContext": "context",
        "TaskFailed": "errors",
        "WorkerProcessDied": "errors",
        "WorkflowContext": "durable",
        "lambda_task": "decorators",
        "task_logger": "logging",
    },
)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
