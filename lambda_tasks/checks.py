"""The system checks of the library: settings, tasks, databases and deployment."""

import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from django.apps import apps
from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register  # noqa: A004
from django.core.exceptions import ImproperlyConfigured
from django.db import connections, router
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Model
from django.urls import get_resolver
from django.utils.module_loading import import_string

from . import conf, declared_schedules, pools, registry
from .access import Custom
from .core.spelling import did_you_mean
from .ports import Task
from .queues.sqs import SQSQueue
from .records.encryption import check_available

MAX_SHOWN_TASKS: Final = 3
"""Names of tasks in one warning."""

QUEUES: Final = "LAMBDA_TASKS_QUEUES"

URLS_NAMESPACE: Final = "lambda_tasks"
"""The application namespace of lambda_tasks.urls."""

NOT_OF_PROJECT: Final = ("lambda_tasks.", "django.contrib.")
"""Prefixes of the modules of models that tasks of the project seldom write."""

BUILT_IN_PREFIX: Final = "lambda_tasks."
"""The prefix of the built-in tasks.

W006 leaves them out: a message that one of them passes on is checked where it arrives.
"""


@register("lambda_tasks")
def check_settings(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    """Report each error of a LAMBDA_TASKS_* setting (E008)."""
    return [Error(problem, id="lambda_tasks.E008") for problem in conf.errors()]


@register("lambda_tasks")
def check_installation(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    """Report django-lambda-tasks beside this library (E009): they have files of the same names."""
    try:
        installed = version("django-lambda-tasks")
    except PackageNotFoundError:
        return []
    return [
        Error(
            f"django-lambda-tasks {installed} is installed, too, and its package is lambda_tasks as"
            " well: installing or uninstalling it replaces or removes files of lambda-tasks.",
            hint=(
                "Uninstall django-lambda-tasks, and then install lambda-tasks again: "
                "pip install --force-reinstall --no-deps lambda-tasks"
            ),
            id="lambda_tasks.E009",
        )
    ]


@register("lambda_tasks")
def check_time_zones(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    """Report time zones that make leases wrong (E004).

    Leases are compared with the database's clock, so the stored times must be UTC.
    """
    from .records.tables import TaskRecord

    database = connections[router.db_for_write(TaskRecord)]
    problem = ""
    if not settings.USE_TZ:
        problem = "USE_TZ is False, so the times of records have no time zone. Set it to True."
    elif database.vendor != "postgresql" and database.timezone_name != "UTC":
        problem = (
            f"DATABASES[{database.alias!r}]['TIME_ZONE'] is {database.timezone_name!r}, and this "
            "database holds the task records, whose times are UTC. Remove it."
        )
    return [Error(problem, id="lambda_tasks.E004")] if problem else []


@register("lambda_tasks")
def check_database(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    """Report Aurora DSQL as the database of the records (E012)."""
    from .records.tables import TaskRecord

    database = connections[router.db_for_write(TaskRecord)]
    engine = database.settings_dict["ENGINE"]
    if "dsql" not in engine.lower():
        return []
    return [
        Error(
            f"DATABASES[{database.alias!r}]['ENGINE'] is {engine!r}. Aurora DSQL has no "
            "savepoints, and conflicts show at its commit only: it can't keep task records.",
            hint="Let the router keep the models of lambda_tasks in another database.",
            id="lambda_tasks.E012",
        )
    ]


@register("lambda_tasks")
def check_transactions(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    """Report a database of the records whose transactions are not those of tasks (E007, W011)."""
    from .records.tables import TaskRecord

    alias = router.db_for_write(TaskRecord)
    if not connections[alias].settings_dict["AUTOCOMMIT"]:
        return [
            Error(
                f"DATABASES[{alias!r}]['AUTOCOMMIT'] is False, so Django commits no transaction: "
                "what tasks write is lost, and so are their records.",
                hint="Remove it.",
                id="lambda_tasks.E007",
            )
        ]
    models = [each for each in apps.get_models() if _is_of_project(each)]
    elsewhere = {router.db_for_write(each): each._meta.label for each in models}
    if not elsewhere or alias in elsewhere:
        return []
    shown = ", ".join(f"{label} in {other!r}" for other, label in sorted(elsewhere.items()))
    return [
        Warning(
            f"The task records are in the database {alias!r}, and the project's models are not: "
            f"{shown}. A task's transaction is in the records' database, so what a failed task "
            "has written elsewhere is not rolled back.",
            hint=(
                "Let the router keep the models of lambda_tasks in the database of the models that "
                "tasks write, or use transaction.atomic(using=...) in the tasks."
            ),
            id="lambda_tasks.W011",
        )
    ]


def _is_of_project(model: type[Model]) -> bool:
    """Return whether a model is neither of this library nor of Django itself."""
    return model._meta.managed and not model.__module__.startswith(NOT_OF_PROJECT)


@register("lambda_tasks")
def check_tasks(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    """Report each task with invalid annotations, queue or timeouts (E002).

    Also reports each module of tasks that can't be imported (E006).
    """
    if conf.errors():
        return []
    failures = registry.import_errors()
    return [
        *(
            Error(_describe_import_error(module, error), id="lambda_tasks.E006")
            for module, error in failures.items()
        ),
        *(
            Error(f"{task.name}: {problem}", id="lambda_tasks.E002")
            for task in registry.tasks()
            if not failures or _is_loaded(task)
            for problem in _problems(task, conf.current())
        ),
    ]


def _is_loaded(task: Task) -> bool:
    """Return whether the module that declares a task is there; Python drops one that fails."""
    return task.name.rpartition(".")[0] in sys.modules


def _describe_import_error(module: str, error: BaseException) -> str:
    packages = conf.current().modules
    is_named = module in packages or module.removesuffix(".tasks") in packages
    of_setting = ", of LAMBDA_TASKS_MODULES," if is_named else ""
    *_, last = traceback.extract_tb(error.__traceback__)
    return (
        f"The module {module!r}{of_setting} can't be imported, so its tasks don't run: "
        f"{type(error).__name__}: {error} ({last.filename}, line {last.lineno})"
    )


@register("lambda_tasks")
def check_schedules(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    """Report schedules with a mistake (E010), and those that can be misread (W012)."""
    if conf.errors() or registry.import_errors():
        return []
    return [
        *(Error(each, id="lambda_tasks.E010") for each in declared_schedules.problems()),
        *(
            Warning(
                each,
                hint="Use two schedules, or test the day in the task, where you mean it otherwise.",
                id="lambda_tasks.W012",
            )
            for each in declared_schedules.misreadings()
        ),
    ]


@register("lambda_tasks", Tags.urls)
def check_endpoints(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    """Report functions (E011) and tasks (W015) that are not there, and that nobody is let in.

    The last is W013. A missing task is a warning, as the records of a former one may be meant.
    """
    if conf.errors():
        return []
    endpoints = conf.current().endpoints
    problems: list[CheckMessage] = [
        Error(
            f"LAMBDA_TASKS_ENDPOINTS[{endpoint!r}] names {each.path!r}, {problem}",
            id="lambda_tasks.E011",
        )
        for endpoint, authenticators in endpoints.items()
        for each in authenticators
        if isinstance(each, Custom) and (problem := _problem_of_function(each.path))
    ]
    problems += [
        Warning(
            f"LAMBDA_TASKS_ENDPOINTS[{endpoint!r}] is for {name!r}, which is not a task."
            f"{did_you_mean(name, registry.names())}",
            hint="Correct the name. Leave it if you mean the records of a task that was there.",
            id="lambda_tasks.W015",
        )
        for endpoint, authenticators in endpoints.items()
        for name in sorted(set().union(*(each.scope.tasks for each in authenticators)))
        if not _is_there(name)
    ]
    if not any(endpoints.values()) and _has_endpoints():
        problems.append(
            Warning(
                "The URLs include lambda_tasks.urls, and LAMBDA_TASKS_ENDPOINTS lets nobody in: "
                "every endpoint answers 401.",
                hint='Say who may call what: LAMBDA_TASKS_ENDPOINTS = {"tick": [{"bearer": ...}]}, '
                "or leave the URLs out.",
                id="lambda_tasks.W013",
            )
        )
    return problems


def _is_there(task_name: str) -> bool:
    try:
        return registry.find_task(task_name) is not None
    except Exception:
        return True  # its module can't be imported: E006 says why


def _problem_of_function(path: str) -> str:
    try:
        function = import_string(path)
    except Exception as error:
        return f"which can't be imported: {error}"
    return "" if callable(function) else f"which is a {type(function).__name__}. Name a function."


def _has_endpoints() -> bool:
    # A project without URLs has none; one whose URLs can't be imported hears of it from Django.
    return (
        bool(getattr(settings, "ROOT_URLCONF", None)) and URLS_NAMESPACE in get_resolver().app_dict
    )


@register("lambda_tasks")
def check_redacted_names(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    """Report names of LAMBDA_TASKS_REDACT that no task has as a parameter (W008).

    Not where Django's tasks may run: nobody lists those.
    """
    if conf.errors() or registry.has_other_interfaces():
        return []
    hidden = {name for task in _loaded_tasks() for name in task.secret_names}
    return [
        Warning(
            f"LAMBDA_TASKS_REDACT has {name!r}, but no task has a parameter of this name, so it "
            "hides nothing.",
            hint="Correct the name, or remove it.",
            id="lambda_tasks.W008",
        )
        for name in sorted(conf.current().redact - hidden)
    ]


@register("lambda_tasks", Tags.security, deploy=True)
def check_secrets_keys(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    """Report, with --deploy, secrets that are encrypted with a key from SECRET_KEY (W009)."""
    if conf.errors() or conf.current().runs_without_queues or conf.current().secrets_keys:
        return []
    if not conf.current().encrypt_arguments and not any(map(_stores_secrets, _loaded_tasks())):
        return []
    return [
        Warning(
            "LAMBDA_TASKS_SECRETS_KEYS is not set, so secret arguments are encrypted with a key "
            "that follows from SECRET_KEY: whoever knows that can read them, and when it changes "
            "they can't be read any more, unless it is in SECRET_KEY_FALLBACKS.",
            hint="Set LAMBDA_TASKS_SECRETS_KEYS = [...] to a key of secrets.token_urlsafe(32).",
            id="lambda_tasks.W009",
        )
    ]


@register("lambda_tasks", deploy=True)
def check_queues(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    """Report, with --deploy, that no queues are named (W010)."""
    if conf.errors() or conf.current().runs_without_queues or hasattr(settings, QUEUES):
        return []
    return [
        Warning(
            f"{QUEUES} is not set, so tasks wait in the table of the records. Only "
            "`manage.py lambda_tasks worker` runs them; a Lambda function gets none.",
            hint=(
                f'Name the queue: {QUEUES} = {{"default": "https://sqs..."}}. If workers run the '
                f'tasks, say so: {QUEUES} = {{"default": {{"database": True}}}}.'
            ),
            id="lambda_tasks.W010",
        )
    ]


@register("lambda_tasks")
def check_queue_prefix(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    """Report queues of SQS by their URLs that lack LAMBDA_TASKS_QUEUE_PREFIX (W014).

    A staging system would put its messages into the queues of production.
    """
    if conf.errors() or not (prefix := conf.current().queue_prefix):
        return []
    without = [
        name
        for name, queue in conf.current().queues.items()
        if isinstance(queue, SQSQueue) and not queue.queue_name.startswith(prefix)
    ]
    if not without:
        return []
    return [
        Warning(
            f"LAMBDA_TASKS_QUEUE_PREFIX is {prefix!r}, but these queues are given by URLs without "
            f"it: {', '.join(without)}. A URL is taken as it is.",
            hint='Give them by name, {"queue_name": ...}, or write the prefix into the URLs.',
            id="lambda_tasks.W014",
        )
    ]


@register("lambda_tasks", Tags.security, deploy=True)
def check_modes(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    """Report, with --deploy, the modes that are not for production (W001, W002, W003)."""
    if conf.errors():
        return []
    current = conf.current()
    modes = [
        (
            current.noop_execution,
            "LAMBDA_TASKS_NOOP_EXECUTION is on: every task is dropped.",
            "lambda_tasks.W001",
        ),
        (
            current.eager,
            "LAMBDA_TASKS_EAGER is on: tasks run inside of requests, without timeouts.",
            "lambda_tasks.W002",
        ),
        (
            current.local_workers > 0,
            "LAMBDA_TASKS_LOCAL_WORKERS is set: tasks run in children of the web process.",
            "lambda_tasks.W003",
        ),
    ]
    return [
        Warning(problem, hint="Remove the setting in production.", id=id)
        for is_on, problem, id in modes
        if is_on
    ]


@register("lambda_tasks", Tags.security, deploy=True)
def check_direct_messages(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    """Report, with --deploy, the tasks that unsigned direct messages can run (W006)."""
    if conf.errors() or conf.current().signing_keys or not conf.current().is_open_to_others:
        return []
    if conf.current().direct_messages == "any":
        runnable = "every task"
    else:
        direct = sorted(each.name for each in _loaded_tasks() if _is_direct(each))
        is_cut = len(direct) > MAX_SHOWN_TASKS
        runnable = ", ".join(direct[:MAX_SHOWN_TASKS] + ["..."] * is_cut)
    if not runnable:
        return []
    return [
        Warning(
            f"Whoever can send to a queue of LAMBDA_TASKS_QUEUES can run {runnable}, with any "
            "arguments: a direct message has no record to compare it with, and is not signed.",
            hint="Set LAMBDA_TASKS_SIGNING_KEYS.",
            id="lambda_tasks.W006",
        )
    ]


def _loaded_tasks() -> list[Task]:
    """Return the tasks of all modules that can be imported; E006 reports the others."""
    registry.import_errors()
    return registry.tasks()


def _stores_secrets(task: Task) -> bool:
    return bool(task.secret_names) and not task.is_direct(None)


def _is_direct(task: Task) -> bool:
    return task.is_direct(None) and not task.name.startswith(BUILT_IN_PREFIX)


@register("lambda_tasks")
def check_sqlite(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    """Report SQLite in its default transaction mode, where concurrent tasks fail (W004)."""
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
            "transactions begin as readers: if two of them write, one fails at once with "
            "'database is locked'.",
            hint=(
                "Make transactions wait for one another: "
                f"DATABASES[{database.alias!r}]['OPTIONS'] = "
                "{'transaction_mode': 'IMMEDIATE', 'timeout': 30}"
            ),
            id="lambda_tasks.W004",
        )
    ]


@register("lambda_tasks")
def check_pools(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    """Report pools that can't be created (E005), or are too small for the concurrency (W005)."""
    if conf.errors() or conf.current().eager or conf.current().noop_execution:
        return []
    checked = [_check_pool(each) for each in connections.all() if pools.has_pool(each)]
    return [found for found in checked if found is not None]


def _check_pool(database: BaseDatabaseWrapper) -> CheckMessage | None:
    from .records.tables import TaskRecord

    setting = f"DATABASES[{database.alias!r}]['OPTIONS']['pool']"
    try:
        available = pools.max_size(database)
    except Exception as error:
        return Error(f"{setting} is invalid: {error}", id="lambda_tasks.E005")
    concurrency = conf.current().concurrency
    has_records = database.alias == router.db_for_write(TaskRecord)
    for_library = pools.LIBRARY_CONNECTIONS if has_records else 0
    needed = concurrency + for_library
    if available >= needed:
        return None
    more = f", and {for_library} for the task records" if for_library else ""
    lower = ""
    if available > for_library:
        lower = f", or lower LAMBDA_TASKS_CONCURRENCY to {available - for_library}"
    return Warning(
        f"{setting} has {available} connections, and a process that runs tasks may need {needed} "
        f"at once: one for each async task, up to LAMBDA_TASKS_CONCURRENCY ({concurrency}){more}. "
        "With fewer, tasks wait for one another, within their time limits.",
        hint=f"Set 'max_size': {needed} there{lower}.",
        id="lambda_tasks.W005",
    )


def _problems(task: Task, current: conf.Settings) -> list[str]:
    try:
        task.check()
    except Exception as error:
        return [str(error)]  # nothing else of it can be read
    problems: list[str] = []
    try:
        queue = current.queue(task.options.queue)
    except ImproperlyConfigured as error:
        return [str(error)]
    if _stores_secrets(task):
        try:
            check_available(task.name)
        except ImproperlyConfigured as error:
            problems.append(str(error))
    hard_timeout_s = task.options.hard_timeout or current.default_hard_timeout
    return [*problems, *queue.problems(task, hard_timeout_s=hard_timeout_s)]
