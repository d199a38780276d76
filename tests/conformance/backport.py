"""Django 5.2: django-tasks under the names by which Django's tests know the framework."""

import logging
import sys

PARTS = ("base", "exceptions", "signals", "backends", "backends.base")


def install() -> None:
    """Let `django.tasks` be django-tasks."""
    import django_tasks
    import django_tasks.backends.dummy
    import django_tasks.backends.immediate
    import django_tasks.signals

    parts = (*PARTS, "backends.dummy", "backends.immediate")
    sys.modules["django.tasks"] = django_tasks
    for part in parts:
        sys.modules[f"django.tasks.{part}"] = sys.modules[f"django_tasks.{part}"]
    django_tasks.Task = django_tasks.base.Task  # type: ignore[attr-defined]
    exceptions = django_tasks.exceptions
    exceptions.InvalidTask = exceptions.InvalidTaskError  # type: ignore[attr-defined]
    exceptions.InvalidTaskBackend = exceptions.InvalidTaskBackendError  # type: ignore[attr-defined]
    django_tasks.signals.logger = logging.getLogger("django.tasks")
