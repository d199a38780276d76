"""From a dotted name to its task, importing its module and nothing else."""

import importlib

from django.apps import apps
from django.utils.module_loading import autodiscover_modules

from . import conf
from .errors import UnknownTask
from .ports import Task

_tasks: dict[str, Task] = {}
_aliases: dict[str, Task] = {}
_state = {"discovered": False}


def register(task: Task) -> None:
    """Make a task known under its name and its aliases; the last definition counts."""
    _tasks[task.name] = task
    for alias in task.options.aliases:
        _aliases[alias] = task


def tasks() -> list[Task]:
    """Every task that has been defined in this process so far."""
    return list(_tasks.values())


def resolve(task_name: str) -> Task:
    """The task of this name. Raises UnknownTask where there is none, or where the module is not
    one of an installed app or of LAMBDA_TASKS_MODULES."""
    if task_name in _aliases:
        return _aliases[task_name]
    try:
        return _import(task_name)
    except UnknownTask:
        # An alias is known once the module that declares it is imported.
        discover()
        if task_name in _aliases:
            return _aliases[task_name]
        raise


def secret_names(task_name: str) -> frozenset[str]:
    """The secret parameters of a task; of one that is not known here, those of the setting."""
    try:
        return resolve(task_name).secret_names
    except UnknownTask:
        return conf.current().redact


def discover() -> None:
    """Import the `tasks` module of every installed app, once."""
    if not _state["discovered"]:
        _state["discovered"] = True
        autodiscover_modules("tasks")


def _import(task_name: str) -> Task:
    module_name, _, attribute = task_name.rpartition(".")
    if not _may_be_imported(module_name):
        raise UnknownTask(
            f"{task_name!r} is not in a package of INSTALLED_APPS or of LAMBDA_TASKS_MODULES, so "
            "it is not imported."
        )
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            raise UnknownTask(f"There is no module {module_name!r} for {task_name!r}.") from error
        raise
    found: object = getattr(module, attribute, None)
    task = next((each for each in _tasks.values() if each is found), None)
    if task is None:
        raise UnknownTask(f"{task_name!r} is no task. Is the function decorated with @lambda_task?")
    return task


def _may_be_imported(module_name: str) -> bool:
    if not all(part.isidentifier() for part in module_name.split(".")):
        return False
    allowed = (*(config.name for config in apps.get_app_configs()), *conf.current().modules)
    return any(f"{module_name}.".startswith(f"{package}.") for package in allowed)
