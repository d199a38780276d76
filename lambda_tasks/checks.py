"""System checks: every error of the settings, and modes that are not for production."""

from collections.abc import Sequence
from typing import Any, Final

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register  # noqa: A004
from django.core.exceptions import ImproperlyConfigured
from django.db import connections, router
from django.db.backends.base.base import BaseDatabaseWrapper

from . import conf, pools, registry
from .ports import Task

SHOWN_TASKS: Final = 3

OWN_TASKS: Final = "lambda_tasks."
"""The built-in tasks: what they pass on is looked at where it arrives."""


@register("lambda_tasks")
def check_settings(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    """Each error of a LAMBDA_TASKS_* setting."""
    return [Error(problem, id="lambda_tasks.E001") for problem in conf.errors()]


@register("lambda_tasks")
def check_time_zones(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    """Times that can't be compared with the database's clock, by which leases are reckoned."""
    from .records.tables import TaskRecord

    database = connections[router.db_for_write(TaskRecord)]
    problem = ""
    if not settings.USE_TZ:
        problem = "USE_TZ is False, so that the times of records have no zone. Set it to True."
    elif database.vendor != "postgresql" and database.timezone_name != "UTC":
        problem = (
            f"DATABASES[{database.alias!r}]['TIME_ZONE'] is {database.timezone_name!r}, and this "
            "database holds the task records, whose times are UTC. Leave it out."
        )
    return [Error(problem, id="lambda_tasks.E004")] if problem else []


@register("lambda_tasks")
def check_tasks(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    """Each task whose annotations, queue or timeouts can't work."""
    if conf.errors():
        return []
    registry.discover()
    return [
        Error(f"{task.name}: {problem}", id="lambda_tasks.E002")
        for task in registry.tasks()
        for problem in _problems(task, conf.current())
    ]


@register("lambda_tasks", Tags.security, deploy=True)
def check_modes(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    """With --deploy: what is not for production."""
    if conf.errors():
        return []
    chosen = conf.current()
    modes = [
        (
            chosen.noop_execution,
            "LAMBDA_TASKS_NOOP_EXECUTION is on: every task is dropped.",
            "lambda_tasks.W001",
        ),
        (
            chosen.eager,
            "LAMBDA_TASKS_EAGER is on: tasks run inside of requests, without timeouts.",
            "lambda_tasks.W002",
        ),
        (
            chosen.local_workers > 0,
            "LAMBDA_TASKS_LOCAL_WORKERS is set: tasks run beside the process that serves requests.",
            "lambda_tasks.W004",
        ),
    ]
    return [
        Warning(problem, hint="Leave it out in production.", id=id)
        for is_on, problem, id in modes
        if is_on
    ]


@register("lambda_tasks", Tags.security, deploy=True)
def check_direct_messages(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    """With --deploy: calls that messages bring themselves, which nobody has signed."""
    if conf.errors() or conf.current().signing_keys or not conf.current().is_fed_by_aws:
        return []
    if conf.current().direct_messages == "any":
        taken = "every task"
    else:
        registry.discover()
        direct = sorted(each.name for each in registry.tasks() if _is_direct(each))
        taken = ", ".join(direct[:SHOWN_TASKS] + ["..."] * (len(direct) > SHOWN_TASKS))
    if not taken:
        return []
    return [
        Warning(
            f"Whoever can send to a queue of LAMBDA_TASKS_QUEUES can run {taken}, with any "
            "arguments: a direct message has no record, and nothing is signed.",
            hint="Set LAMBDA_TASKS_SIGNING_KEYS.",
            id="lambda_tasks.W006",
        )
    ]


def _is_direct(task: Task) -> bool:
    return task.is_direct(None) and not task.name.startswith(OWN_TASKS)


@register("lambda_tasks")
def check_sqlite(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    """SQLite in its default mode, in which tasks that run side by side fail."""
    if conf.errors() or conf.current().eager or conf.current().noop_execution:
        return []
    from .records.tables import TaskRecord

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


@register("lambda_tasks")
def check_pools(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    """Connection pools that can't be made, or have too little for the tasks that run at once."""
    if conf.errors() or conf.current().eager or conf.current().noop_execution:
        return []
    checked = [_check_pool(each) for each in connections.all() if pools.has_pool(each)]
    return [found for found in checked if found is not None]


def _check_pool(database: BaseDatabaseWrapper) -> CheckMessage | None:
    from .records.tables import TaskRecord

    setting = f"DATABASES[{database.alias!r}]['OPTIONS']['pool']"
    try:
        most = pools.max_size(database)
    except Exception as error:
        return Error(f"{setting} can't work: {error}", id="lambda_tasks.E005")
    at_once = conf.current().concurrency
    is_ours = database.alias == router.db_for_write(TaskRecord)
    own = pools.LIBRARY_CONNECTIONS if is_ours else 0
    if most >= at_once + own:
        return None
    more = f", and {own} for the task records" if own else ""
    lower = f", or lower LAMBDA_TASKS_CONCURRENCY to {most - own}" if most > own else ""
    return Warning(
        f"{setting} has {most} connections, and a process that runs tasks may need {at_once + own} "
        f"at once: one for each async task, up to LAMBDA_TASKS_CONCURRENCY ({at_once}){more}. "
        "Otherwise tasks wait for one another, within their time limits.",
        hint=f"Set 'max_size': {at_once + own} there{lower}.",
        id="lambda_tasks.W005",
    )


def _problems(task: Task, chosen: conf.Settings) -> list[str]:
    problems = []
    try:
        task.check()
    except Exception as error:
        problems.append(str(error))
    try:
        queue = chosen.queue(task.options.queue)
    except ImproperlyConfigured as error:
        return [*problems, str(error)]
    hard_timeout_s = task.options.hard_timeout or chosen.default_hard_timeout
    return [*problems, *queue.problems(task, hard_timeout_s=hard_timeout_s)]
