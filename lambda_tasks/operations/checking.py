"""Checks of what callers of operations pass."""

import math
from datetime import timedelta

from django.core.exceptions import ImproperlyConfigured

from .. import conf, registry
from ..core.spelling import did_you_mean
from ..errors import InvalidFilter, UnknownTask
from ..ports import Task
from ..records import steering as rows
from ..records.filters import Filters


def find_task(name: str) -> Task:
    """Return the task of a name. Raises UnknownTask, with the closest name that there is."""
    try:
        return registry.resolve(name)
    except UnknownTask as error:
        hint = did_you_mean(name, task_names())
        told = f"There is no task {name!r}." if hint and "." not in name else error
        raise UnknownTask(f"{told}{hint}") from None


def task_names() -> list[str]:
    """Return the names of the tasks of all modules that can be imported."""
    registry.import_errors()  # what can't be imported has no names to offer
    return registry.names()


def check_names(filters: Filters) -> None:
    """Raise InvalidFilter for a task or a queue that neither the project nor a record knows."""
    for name in _names(filters.get("task")):
        if registry.find_task(name) is None and not rows.knows(task_name=name):
            hint = did_you_mean(name, task_names())
            raise InvalidFilter(f"There is no task {name!r}, and no record of one.{hint}")
    queues = conf.current().queues
    for name in _names(filters.get("queue")):
        if name not in queues and not rows.knows(queue=name):
            hint = did_you_mean(name, queues)
            raise InvalidFilter(f"There is no queue {name!r}, and no record of one.{hint}")


def _names(value: object) -> list[str]:
    """Return the names in a filter; what is none, the filter itself refuses."""
    if isinstance(value, str):
        return [value]
    return [name for name in value if isinstance(name, str)] if isinstance(value, list) else []


def known_queue(name: str) -> str:
    """Return the name of a queue. Raises InvalidFilter, with the names that there are."""
    try:
        return conf.current().queue(name).name
    except ImproperlyConfigured as error:
        raise InvalidFilter(str(error)) from None


def check_time(name: str, value: object) -> None:
    """Raise InvalidFilter unless a value is a timedelta of more than zero."""
    if not isinstance(value, timedelta) or value <= timedelta(0):
        raise InvalidFilter(f"{name} is {value!r}. Use a timedelta of more than zero.")


def check_number(name: str, value: object, *, least: float = 0, most: float = math.inf) -> None:
    """Raise InvalidFilter unless a value is a number in this range."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not least <= value <= most:  # type: ignore[operator]
        upper = "on" if most == math.inf else f"to {most:g}"
        raise InvalidFilter(f"{name} is {value!r}. Use a number from {least:g} {upper}.")
