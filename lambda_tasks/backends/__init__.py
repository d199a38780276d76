"""Django's own tasks, on the queues, the executor and the records of this library."""

from .. import registry
from .backend import LambdaTasksBackend, django_task
from .declaring import LambdaTask, task
from .results import record_statuses
from .running import adapt

__all__ = ["LambdaTask", "LambdaTasksBackend", "django_task", "record_statuses", "task"]

registry.register_interface(adapt)
