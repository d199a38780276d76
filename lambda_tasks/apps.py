"""The Django app."""

from django.apps import AppConfig


class LambdaTasksConfig(AppConfig):
    """Label and import package are `lambda_tasks`."""

    name = "lambda_tasks"
    verbose_name = "Lambda tasks"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Register the system checks."""
        from . import checks  # noqa: F401
