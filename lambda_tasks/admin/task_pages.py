"""What the pages of tasks show: each task's options, figures, schedule and errors."""

from collections import defaultdict
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

from django.utils.translation import gettext

from .. import registry
from ..core.figures import Range
from ..core.options import TaskOptions
from ..declared_schedules import declared
from ..operations import figures
from ..operations.figures import Outcomes, Spread, TaskFigures
from ..ports import Task
from . import overview_page, schedule_page, words

NO_RUNS = TaskFigures(
    name="",
    outcomes=Outcomes(),
    wait=Spread(None, None, 0.0),
    run=Spread(None, None, 0.0),
    share=0.0,
)
"""The figures of a task of which nothing has ended."""


def all_tasks(range: Range) -> dict[str, Any]:
    """Return all declared tasks, and those that have run and are not declared any more."""
    failed = registry.import_errors()
    counted = figures.tasks(range)
    are_declared = set(registry.names())
    names = sorted({*are_declared, *counted})
    last, schedules, now = figures.last_successes(names), _schedules(), datetime.now(UTC)
    rows = [
        {
            **overview_page.task_row(counted.get(name, NO_RUNS)),
            "name": name,
            "is_declared": name in are_declared,
            "last_success": words.since(last.get(name), now),
            "schedules": schedules.get(name, []),
        }
        for name in names
    ]
    return {"tasks": rows, "failed_modules": sorted(failed)}


def _schedules() -> dict[str, list[str]]:
    found: defaultdict[str, list[str]] = defaultdict(list)
    for name, each in declared().items():
        found[each.task_name].append(name)
    return found


def story(name: str, task: Task | None, range: Range, *, with_payloads: bool) -> dict[str, Any]:
    """Return what is known of a task."""
    told, now = figures.task(name, range), datetime.now(UTC)
    described = None if task is None else task.describe()
    return {
        "name": name,
        "description": described,
        "options": [] if task is None else options_of(task.options),
        "schedules": [
            {"name": key, "when": schedule_page.in_words(each.schedule.rule)}
            for key, each in declared().items()
            if each.task_name == name
        ],
        "figures": overview_page.task_row(told.figures),
        "last_success": words.since(told.last_success, now),
        "throughput": overview_page.throughput(told.series),
        "times": overview_page.times(told.series),
        "errors": overview_page.error_rows(told.errors, now, with_payloads=with_payloads),
    }


def options_of(options: TaskOptions) -> list[tuple[str, str]]:
    """Return the options that are other than by default, as they stand in the code."""
    default = TaskOptions()
    given = ((each.name, getattr(options, each.name)) for each in fields(options))
    return [
        (name, _written(value)) for name, value in given if value != getattr(default, name)
    ] or [(gettext("options"), gettext("all by default"))]


def _written(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(_written, value))
    return value.__qualname__ if isinstance(value, type) else str(value)
