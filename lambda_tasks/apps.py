"""The Django app."""

from importlib.util import find_spec

import django
from django.apps import AppConfig
from django.conf import settings


class LambdaTasksConfig(AppConfig):
    """Label and import package are `lambda_tasks`."""

    name = "lambda_tasks"
    verbose_name = "Lambda tasks"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Register the system checks, and Django's tasks where the project has some."""
        from . import checks  # noqa: F401

        framework = "django.tasks" if django.VERSION >= (6, 0) else "django_tasks"
        if settings.is_overridden("TASKS") and find_spec(framework):  # type: ignore[misc]
            from . import backends  # noqa: F401 - so that a worker knows them
