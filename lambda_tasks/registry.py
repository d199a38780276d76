"""From a dotted name to its task. A name of this project's own may import its module; a message's
word imports nothing."""

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import lru_cache
from threading import RLock

from django.apps import AppConfig, apps
from django.utils.module_loading import module_has_submodule

from . import conf
from .errors import UnknownTask
from .ports import Task

Adapt = Callable[[object, str | None], Task | None]
"""Makes one of our tasks from another interface's, found at a dotted name, as a message asks for it
that names this backend; None for others. Raises UnknownTask for a backend that is not ours."""

_tasks: dict[str, Task] = {}
_aliases: dict[str, Task] = {}
_adapters: list[Adapt] = []
_state = {"discovered": False}
_discovering = RLock()


def register(task: Task) -> None:
    """Make a task known under its name and its aliases; the last definition counts."""
    _tasks[task.name] = task
    for alias in task.options.aliases:
        _aliases[alias] = task


def tasks() -> list[Task]:
    """Every task that has been defined in this process so far."""
    return list(_tasks.values())


def register_interface(adapt: Adapt) -> None:
    """Let tasks of another interface run, and ours that are asked for through it."""
    _adapters.append(adapt)


def resolve(task_name: str, backend: str | None = None, *, may_import: bool = True) -> Task:
    """The task of this name, as a message asks for it that names this backend of django.tasks.

    With `may_import` the name is this project's own, of a record, say. Otherwise only what is
    loaded is looked at. Raises UnknownTask where there is none, or where the module is not one of
    an installed app or of LAMBDA_TASKS_MODULES.
    """
    found = _find(task_name, _import if may_import else _loaded)
    own = _tasks.get(task_name)
    if own is not found:  # it stands at an alias
        own = next((each for each in _tasks.values() if each is found), None)
    task = own if own is not None and backend is None else _adapted(found, backend)
    if task is not None:
        return task
    if own is not None:
        raise UnknownTask(
            f"{task_name!r} was enqueued through the backend {backend!r} of TASKS, and this "
            "project has no TASKS."
        )
    raise UnknownTask(
        f"{task_name!r} is no task. Is the function decorated with @lambda_task, or with "
        "django.tasks' @task?"
    )


def find_task(task_name: str) -> Task | None:
    """The task of this name, which is this project's own word; None where it is not known here."""
    try:
        return resolve(task_name)
    except UnknownTask:
        return None


def secret_names(task_name: str) -> frozenset[str]:
    """The secret parameters of a task; of one that is not known here, those of the setting."""
    task = find_task(task_name)
    return conf.current().redact if task is None else task.secret_names


def discover() -> None:
    """Import the `tasks` module of every installed app, and LAMBDA_TASKS_MODULES, once.

    Raises what the first of them raises that fails, after all others; then the next call tries
    again.
    """
    # Who asks meanwhile waits: what is not loaded yet is not unknown. Modules that ask while they
    # are imported go on.
    with _discovering:
        if _state["discovered"]:
            return
        _state["discovered"] = True
        failures = [error for name in _modules() if (error := _failure_of(name)) is not None]
        if failures:
            _state["discovered"] = False
            raise failures[0]


def _modules() -> Iterator[str]:
    """The modules in which tasks are declared."""
    for app in apps.get_app_configs():
        if module_has_submodule(app.module, "tasks"):
            yield f"{app.name}.tasks"
    for name in conf.current().modules:
        yield name
        module = sys.modules.get(name)
        if module is not None and module_has_submodule(module, "tasks"):
            yield f"{name}.tasks"


def _failure_of(module_name: str) -> BaseException | None:
    """Import a module; what it has raised, as it takes no other along."""
    try:
        importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        return error
    return None


def _find(task_name: str, find: Callable[[str], object]) -> object:
    """What stands at a name, or at an alias."""
    if (found := _at_alias_or(find, task_name)) is not None:
        return found
    try:
        # An alias is known once the module that declares it is imported.
        discover()
    except (Exception, SystemExit):
        # Of another app, it may be.
        if (found := _at_alias_or(find, task_name)) is not None:
            return found
        raise
    return _aliases[task_name] if task_name in _aliases else find(task_name)


def _at_alias_or(find: Callable[[str], object], task_name: str) -> object:
    """What is known by now; None where nothing is."""
    if task_name in _aliases:
        return _aliases[task_name]
    with suppress(UnknownTask):
        return find(task_name)
    return None


def _loaded(task_name: str) -> object:
    """What stands at a name in a module that is loaded. A module's own __getattr__, which may
    import, is not asked."""
    module_name, _, attribute = task_name.rpartition(".")
    _check_package(task_name)
    module = sys.modules.get(module_name)
    if module is None or attribute not in vars(module):
        raise UnknownTask(
            f"{task_name!r} is not loaded, and a message's word loads nothing. Declare the task in "
            "the `tasks` module of an app, import its module there, or name that in "
            "LAMBDA_TASKS_MODULES."
        )
    return vars(module)[attribute]


def _import(task_name: str) -> object:
    module_name, _, attribute = task_name.rpartition(".")
    _check_package(task_name)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            raise UnknownTask(f"There is no module {module_name!r} for {task_name!r}.") from error
        raise
    return getattr(module, attribute, None)


def _adapted(found: object, backend: str | None) -> Task | None:
    adapted = (adapt(found, backend) for adapt in _adapters)
    return next((task for task in adapted if task is not None), None)


def _check_package(task_name: str) -> None:
    if not may_be_imported(task_name):
        raise UnknownTask(
            f"{task_name!r} is not in a package of INSTALLED_APPS or of LAMBDA_TASKS_MODULES, so "
            "it is not imported."
        )


def may_be_imported(task_name: str) -> bool:
    """Whether its module is one of an installed app or of LAMBDA_TASKS_MODULES."""
    packages = (*apps.app_configs.values(), *conf.current().modules)
    return _is_within(task_name.rpartition(".")[0], packages)


@lru_cache(maxsize=256)
def _is_within(module_name: str, packages: tuple[AppConfig | str, ...]) -> bool:
    if not all(part.isidentifier() for part in module_name.split(".")):
        return False
    names = (each if isinstance(each, str) else each.name for each in packages)
    return any(f"{module_name}.".startswith(f"{name}.") for name in names)
