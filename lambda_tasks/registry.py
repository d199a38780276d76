"""The lookup of tasks by their dotted names.

A name that the project itself gives may import its module. A name that only a message gives imports
nothing.
"""

import importlib
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import lru_cache
from threading import RLock
from typing import Final

from django.apps import AppConfig, apps
from django.utils.module_loading import module_has_submodule

from . import conf
from .errors import UnknownTask
from .ports import Task

Adapt = Callable[[object, str | None], Task | None]
"""An adapter, which makes a Task from the object at a dotted name and the message's backend.

Returns None for objects and backends that it does not know. Raises UnknownTask for a backend of
TASKS that is not this library's.
"""

IMPORT_AGAIN_AFTER_S: Final = 600.0
"""Seconds until retry_imports() imports a module again that has failed."""

_tasks: dict[str, Task] = {}
_aliases: dict[str, Task] = {}
_adapters: list[Adapt] = []
_state = {"discovered": False}
_next_import = {"at": -math.inf}
_discovery_lock = RLock()


def register(task: Task) -> None:
    """Register a task under its name and its aliases. The last definition of a name counts."""
    _tasks[task.name] = task
    for alias in task.options.aliases:
        _aliases[alias] = task


def tasks() -> list[Task]:
    """Return every task that has been defined in this process so far."""
    return list(_tasks.values())


def registered(name: str) -> Task | None:
    """Return the task that this process has defined under a name, or None."""
    return _tasks.get(name)


def names() -> list[str]:
    """Return the sorted names of the tasks that the loaded task modules declare or import.

    Those of other interfaces are among them.
    """
    found = set(_tasks)
    for module in filter(None, map(sys.modules.get, list(_task_modules()))):
        for each in list(vars(module).values()):
            with suppress(UnknownTask):
                task = _adapt(each, None)
                found |= set() if task is None else {task.name}
    return sorted(found)


def register_interface(adapt: Adapt) -> None:
    """Register an adapter for the tasks of another interface, such as django.tasks."""
    _adapters.append(adapt)


def resolve(task_name: str, backend: str | None = None, *, may_import: bool = True) -> Task:
    """Return the task of a name, for a message that names this backend of django.tasks.

    With `may_import`, for a name that the project itself gives, as in a record, its module is
    imported. Otherwise only loaded modules are searched. Raises UnknownTask where there is no such
    task, or where its module belongs neither to an installed app nor to LAMBDA_TASKS_MODULES.
    """
    found = _find_object(task_name, _import if may_import else _find_loaded)
    registered = _tasks.get(task_name)
    if registered is not found:  # the name may be an alias
        registered = next((each for each in _tasks.values() if each is found), None)
    task = registered if registered is not None and backend is None else _adapt(found, backend)
    if task is not None:
        return task
    if registered is not None:
        raise UnknownTask(
            f"{task_name!r} was enqueued through the backend {backend!r} of TASKS, and this "
            "project has no TASKS. Add that backend to TASKS."
        )
    raise UnknownTask(
        f"{task_name!r} is not a task. Is the function decorated with @lambda_task, or with "
        "django.tasks' @task?"
    )


def find_task(task_name: str) -> Task | None:
    """Return the task of a name that the project itself gives, or None. May import its module."""
    try:
        return resolve(task_name)
    except UnknownTask:
        return None


def secret_names(task_name: str) -> frozenset[str]:
    """Return the secret parameters of a task; LAMBDA_TASKS_REDACT for an unknown task."""
    task = find_task(task_name)
    return conf.current().redact if task is None else task.secret_names


def discover() -> None:
    """Import the `tasks` module of every installed app, and LAMBDA_TASKS_MODULES, once.

    Imports all modules even if one fails, and then raises the first failure. The next call tries
    again.
    """
    for error in import_errors().values():
        raise error


def import_errors() -> dict[str, BaseException]:
    """Import the modules that declare tasks, once, and return the error of each that failed."""
    # Other threads wait, so that no task is unknown only because its module is not loaded yet. An
    # RLock, as a module may resolve tasks while it is imported here.
    with _discovery_lock:
        if _state["discovered"]:
            return {}
        _state["discovered"] = True
        errors = {name: _import_error(name) for name in _task_modules()}
        failures = {name: error for name, error in errors.items() if error is not None}
        _state["discovered"] = not failures
        return failures


def retry_imports() -> dict[str, BaseException]:
    """Do import_errors() for those who ask again and again, each minute for example.

    After a failure it tries nothing for IMPORT_AGAIN_AFTER_S, and returns no error meanwhile: each
    try runs half of a module again, and its error is known.
    """
    with _discovery_lock:
        if time.monotonic() < _next_import["at"]:
            return {}
        errors = import_errors()
        if errors:
            _next_import["at"] = time.monotonic() + IMPORT_AGAIN_AFTER_S
        return errors


def has_other_interfaces() -> bool:
    """Return whether tasks of other interfaces may run, which tasks() does not list."""
    return bool(_adapters)


def _task_modules() -> Iterator[str]:
    """Yield the names of the modules that declare tasks."""
    for app in apps.get_app_configs():
        if module_has_submodule(app.module, "tasks"):
            yield f"{app.name}.tasks"
    for name in conf.current().modules:
        yield name
        module = sys.modules.get(name)
        if module is not None and module_has_submodule(module, "tasks"):
            yield f"{name}.tasks"


def _import_error(module_name: str) -> BaseException | None:
    """Import a module and return the error that it raised, so that other imports go on."""
    try:
        importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        return error
    return None


def _find_object(task_name: str, find: Callable[[str], object]) -> object:
    """Return the object at a dotted name, or the task with that alias. Raises UnknownTask."""
    if (found := _look_up(task_name, find)) is not None:
        return found
    try:
        # An alias is known only after the module that declares it was imported.
        discover()
    except (Exception, SystemExit):
        # The failure may be another app's, and the task there all the same.
        if (found := _look_up(task_name, find)) is not None:
            return found
        raise
    return _aliases[task_name] if task_name in _aliases else find(task_name)


def _look_up(task_name: str, find: Callable[[str], object]) -> object:
    """Return the task with this alias or the object at this name, or None without discovery."""
    if task_name in _aliases:
        return _aliases[task_name]
    with suppress(UnknownTask):
        return find(task_name)
    return None


def _find_loaded(task_name: str) -> object:
    """Return the object at a name in a loaded module. Raises UnknownTask.

    Reads vars() instead of getattr(): a module's own __getattr__ may import others.
    """
    module_name, _, attribute = task_name.rpartition(".")
    module = sys.modules.get(module_name)
    if module is None or attribute not in vars(module):
        raise UnknownTask(
            f"{task_name!r} is not loaded, and messages import nothing. Declare the task in the "
            "`tasks` module of an app, import its module there, or add its module to "
            "LAMBDA_TASKS_MODULES."
        )
    return vars(module)[attribute]


def _import(task_name: str) -> object:
    module_name, _, attribute = task_name.rpartition(".")
    if module_name not in sys.modules:
        _check_package(task_name)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            raise UnknownTask(f"There is no module {module_name!r} for {task_name!r}.") from error
        raise
    return getattr(module, attribute, None)


def _adapt(found: object, backend: str | None) -> Task | None:
    adapted = (adapt(found, backend) for adapt in _adapters)
    return next((task for task in adapted if task is not None), None)


def _check_package(task_name: str) -> None:
    if not may_be_imported(task_name):
        raise UnknownTask(
            f"{task_name!r} is not imported, as its package is neither in INSTALLED_APPS nor in "
            "LAMBDA_TASKS_MODULES. Add it there if the task is this project's."
        )


def may_be_imported(task_name: str) -> bool:
    """Return whether a task's module is in a package of INSTALLED_APPS or LAMBDA_TASKS_MODULES."""
    packages = (*apps.app_configs.values(), *conf.current().modules)
    return _is_within(task_name.rpartition(".")[0], packages)


@lru_cache(maxsize=256)
def _is_within(module_name: str, packages: tuple[AppConfig | str, ...]) -> bool:
    if not all(part.isidentifier() for part in module_name.split(".")):
        return False
    names = (each if isinstance(each, str) else each.name for each in packages)
    return any(f"{module_name}.".startswith(f"{name}.") for name in names)
