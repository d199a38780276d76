"""The schedules of this release: those that tasks declare, and those of the settings."""

import logging
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from django.conf import settings as django_settings

from . import conf, registry
from .core.schedules import Schedule, ambiguity, resolved
from .errors import UnknownSchedule, UnknownTask
from .logging import log_error
from .ports import Task

logger = logging.getLogger("lambda_tasks")


@dataclass(frozen=True, slots=True)
class DeclaredSchedule:
    """A schedule with the name of its task, and a backend of TASKS if the settings name one."""

    schedule: Schedule
    task_name: str
    backend: str | None = None

    @property
    def task(self) -> Task:
        """The task. Raises UnknownTask where there is none."""
        return registry.resolve(self.task_name, self.backend)


def declared() -> dict[str, DeclaredSchedule]:
    """Return the schedules by name. Of two with one name, the first counts."""
    found: dict[str, DeclaredSchedule] = {}
    for each in _all():
        found.setdefault(each.schedule.name, each)
    return found


def problems() -> list[str]:
    """Return every mistake in the schedules, one text each, for the system check."""
    found: list[str] = []
    counts = Counter(each.schedule.name for each in _all())
    alike: defaultdict[str, list[str]] = defaultdict(list)
    for each in declared().values():
        name = each.schedule.name
        alike[_as_databases_compare(name)].append(name)
        if counts[name] > 1:
            found.append(f"{counts[name]} schedules have the name {name!r}. Give each its own.")
        try:
            each.task.arguments_to_json(each.schedule.kwargs)
        except (TypeError, ValueError, UnknownTask) as error:
            found.append(f"The schedule {name!r}: {error}")
    found += [
        f"MySQL and MariaDB take the names {', '.join(map(repr, names))} for one. Give each "
        "schedule its own."
        for names in alike.values()
        if len(names) > 1
    ]
    return found


def find_declared(name: str) -> DeclaredSchedule:
    """Return the schedule of a name. Raises UnknownSchedule, with the names that there are."""
    schedules = declared()
    if name not in schedules:
        known = ", ".join(map(repr, sorted(schedules))) or "none"
        raise UnknownSchedule(f"There is no schedule {name!r}. The code declares {known}.")
    return schedules[name]


def _as_databases_compare(name: str) -> str:
    """Return a name without what MySQL leaves out of comparisons: case, accents, spaces at ends."""
    letters = unicodedata.normalize("NFKD", name)
    return "".join(each for each in letters if not unicodedata.combining(each)).casefold().strip()


def misreadings() -> list[str]:
    """Return the cron expressions that other libraries read differently, one text each."""
    return [
        f"The schedule {name!r} ({each.schedule.rule}) can be misread: {told}."
        for name, each in declared().items()
        if (told := ambiguity(each.schedule.rule))
    ]


def _all() -> Iterator[DeclaredSchedule]:
    """Yield the schedules of all tasks, then those of the settings."""
    zone = django_settings.TIME_ZONE
    # Not discover(): a module that can't be imported must not hold up the schedules of others.
    for module, error in registry.retry_imports().items():
        log_error(logger, error, "The schedules of %r don't run, as it can't be imported", module)
    for task in registry.tasks():
        for schedule in task.options.schedules:
            named = resolved(schedule, name=task.name, timezone=zone)
            yield DeclaredSchedule(named, task.name, task.backend)
    for setting in conf.current().schedules.values():
        yield DeclaredSchedule(setting.schedule, setting.task_name, setting.backend)
