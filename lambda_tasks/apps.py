"""The Django app of the library."""

from importlib.util import find_spec

import django
from django.apps import AppConfig
from django.conf import settings


class LambdaTasksConfig(AppConfig):
    """The app `lambda_tasks`."""

    name = "lambda_tasks"
    verbose_name = "Lambda tasks"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Register the system checks, and the backends where the project sets TASKS."""
        from . import checks  # noqa: F401

        framework = "django.tasks" if django.VERSION >= (6, 0) else "django_tasks"
        if settings.is_overridden("TASKS") and find_spec(framework):  # type: ignore[misc]
            from . import backends  # noqa: F401 - registers the adapter of Django's tasks
