"""The backend for Django's own tasks, on this library's queues, executor and records."""

from .. import registry
from .backend import LambdaTasksBackend, django_task
from .declaring import LambdaTask, task
from .results import record_statuses
from .running import adapt

__all__ = ["LambdaTask", "LambdaTasksBackend", "django_task", "record_statuses", "task"]

registry.register_interface(adapt)
