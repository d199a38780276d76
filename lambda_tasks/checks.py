"""System checks: every error of the settings, and modes that are not for production."""

from collections.abc import Sequence
from typing import Any

from django.core.checks import CheckMessage, Error, Tags, Warning, register  # noqa: A004
from django.core.exceptions import ImproperlyConfigured
from django.db import connections, router

from . import conf, registry
from .ports import Task


@register("lambda_tasks")
def check_settings(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    """Each error of a LAMBDA_TASKS_* setting."""
    return [Error(problem, id="lambda_tasks.E001") for problem in conf.errors()]


@register("lambda_tasks")
def check_tasks(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    """Each task whose annotations, queue or timeouts can't work."""
    if conf.errors():
        return []
    settings = conf.current()
    registry.discover()
    return [
        Error(f"{task.name}: {problem}", id="lambda_tasks.E002")
        for task in registry.tasks()
        for problem in _problems(task, settings)
    ]


@register("lambda_tasks", Tags.security, deploy=True)
def check_modes(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    """With --deploy: what is not for production."""
    if conf.errors():
        return []
    settings = conf.current()
    found: list[CheckMessage] = []
    if settings.noop_execution:
        found.append(
            Warning(
                "LAMBDA_TASKS_NOOP_EXECUTION is on: every task is dropped.",
                hint="Leave it out in production.",
                id="lambda_tasks.W001",
            )
        )
    if settings.eager:
        found.append(
            Warning(
                "LAMBDA_TASKS_EAGER is on: tasks run inside of requests, without timeouts.",
                hint="Leave it out in production.",
                id="lambda_tasks.W002",
            )
        )
    return found


@register("lambda_tasks")
def check_sqlite(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    """SQLite in its default mode, in which tasks that run side by side fail."""
    if conf.errors() or not _runs_elsewhere(conf.current()):
        return []
    from .models import TaskRecord

    database = connections[router.db_for_write(TaskRecord)]
    mode = database.settings_dict["OPTIONS"].get("transaction_mode") or "DEFERRED"
    if database.vendor != "sqlite" or mode.upper() != "DEFERRED":
        return []
    return [
        Warning(
            f"The database {database.alias!r} holds the task records and is an SQLite whose "
            "transactions begin as readers: of two that want to write, one fails at once with "
            "'database is locked'.",
            hint=(
                f"Let them wait for one another: DATABASES[{database.alias!r}]['OPTIONS'] = "
                "{'transaction_mode': 'IMMEDIATE', 'timeout': 30}"
            ),
            id="lambda_tasks.W003",
        )
    ]


def _runs_elsewhere(settings: conf.Settings) -> bool:
    return not (settings.eager or settings.noop_execution) and any(
        isinstance(queue, conf.SQSQueue) for queue in settings.queues.values()
    )


def _problems(task: Task, settings: conf.Settings) -> list[str]:
    problems = []
    try:
        task.arguments.build()
    except Exception as error:
        problems.append(str(error))
    try:
        longest = settings.queue(task.options.queue).max_timeout_s
    except ImproperlyConfigured as error:
        return [*problems, str(error)]
    hard_timeout = task.options.hard_timeout or settings.default_hard_timeout
    if hard_timeout > longest:
        problems.append(
            f"hard_timeout is {hard_timeout} s and the queue {task.options.queue!r} allows "
            f"{longest} s."
        )
    return problems
