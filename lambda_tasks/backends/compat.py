"""The differences between Django 6.0, 6.1, and Django 5.2 with the package django-tasks.

All other modules import the tasks framework from here.
"""

from typing import TYPE_CHECKING, Any

import django
from django.core.exceptions import ImproperlyConfigured

NATIVE = django.VERSION >= (6, 0)
"""Whether the framework is a part of Django."""

if TYPE_CHECKING or not NATIVE:
    try:
        from django_tasks import task_backends
        from django_tasks.backends.base import BaseTaskBackend
        from django_tasks.base import (
            DEFAULT_TASK_BACKEND_ALIAS,
            DEFAULT_TASK_PRIORITY,
            DEFAULT_TASK_QUEUE_NAME,
            Task,
            TaskContext,
            TaskError,
            TaskResult,
            TaskResultStatus,
        )
        from django_tasks.exceptions import TaskResultDoesNotExist
        from django_tasks.signals import task_enqueued, task_finished, task_started
        from django_tasks.utils import normalize_json
    except ModuleNotFoundError as error:
        raise ImproperlyConfigured(
            f"Django {django.get_version()} has no tasks framework. Install the package "
            "django-tasks, which provides it: pip install 'lambda-tasks[django-tasks]'"
        ) from error
else:
    from django.tasks import task_backends
    from django.tasks.backends.base import BaseTaskBackend
    from django.tasks.base import (
        DEFAULT_TASK_BACKEND_ALIAS,
        DEFAULT_TASK_PRIORITY,
        DEFAULT_TASK_QUEUE_NAME,
        Task,
        TaskContext,
        TaskError,
        TaskResult,
        TaskResultStatus,
    )
    from django.tasks.exceptions import InvalidTask, InvalidTaskBackend, TaskResultDoesNotExist
    from django.tasks.signals import task_enqueued, task_finished, task_started
    from django.utils.json import normalize_json

if TYPE_CHECKING:
    from django_tasks.exceptions import InvalidTaskBackendError as InvalidTaskBackend
    from django_tasks.exceptions import InvalidTaskError as InvalidTask
elif not NATIVE:
    # django-tasks after 0.12 has Django's own names.
    from django_tasks import exceptions

    InvalidTask = getattr(exceptions, "InvalidTask", None) or exceptions.InvalidTaskError
    InvalidTaskBackend = (
        getattr(exceptions, "InvalidTaskBackend", None) or exceptions.InvalidTaskBackendError
    )

if TYPE_CHECKING:
    from .typed import TypedTask as TaskBase

    AnyTask = Task[..., Any]
    AnyResult = TaskResult[Any]
else:
    # Django's classes are not generic.
    AnyTask, AnyResult = Task, TaskResult

    class TaskBase:
        """The base class `TaskBase[P, R]`: Django's Task."""

        def __class_getitem__(cls, parameters: Any) -> type[Task]:
            return Task


__all__ = [
    "DEFAULT_TASK_BACKEND_ALIAS",
    "DEFAULT_TASK_PRIORITY",
    "DEFAULT_TASK_QUEUE_NAME",
    "NATIVE",
    "AnyResult",
    "AnyTask",
    "BaseTaskBackend",
    "InvalidTask",
    "InvalidTaskBackend",
    "Task",
    "TaskBase",
    "TaskContext",
    "TaskError",
    "TaskResult",
    "TaskResultDoesNotExist",
    "TaskResultStatus",
    "normalize_json",
    "task_backends",
    "task_enqueued",
    "task_finished",
    "task_started",
]
