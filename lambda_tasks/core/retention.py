"""Retention: for how long the records of runs that have ended are kept."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from .lifecycle import Status

Span = timedelta | float | None
"""A time span, or days; None for ever."""

Keep = Span | Mapping[str, Span]
"""One span for all records of ended runs, or one for each status."""

Retention = Mapping[Status, timedelta | None]
"""The span for each status; None for ever."""

ENDED: Final = tuple(status for status in Status if status.is_finished)

DEFAULT_RETENTION: Final[Retention] = dict.fromkeys(ENDED, timedelta(days=7))

MAX_DAYS: Final = 36_500
"""The most days, which are a hundred years: the databases have no date much longer ago."""


def parse_keep(name: str, value: object) -> Retention:
    """Return the span of each status that `value` has one for.

    Raises TypeError or ValueError, with the name of the option or setting and the fix.
    """
    if not isinstance(value, Mapping):
        return dict.fromkeys(ENDED, _parse_span(name, value))
    known = [status.value for status in ENDED]
    for status in value:
        if status not in known:
            raise ValueError(
                f"{name} has the key {status!r}. Use {', '.join(map(repr, known))}, the statuses "
                "of records that have ended."
            )
    return {Status(status): _parse_span(f"{name}[{status!r}]", value[status]) for status in value}


def _parse_span(name: str, value: object) -> timedelta | None:
    if value is None or isinstance(value, timedelta):
        span = value
    elif isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= MAX_DAYS:
        span = timedelta(days=value)
    else:
        raise ValueError(
            f"{name} is {value!r}. Use days from 0 to {MAX_DAYS}, a timedelta, or None for ever."
        )
    if span is not None and not timedelta(0) <= span <= timedelta(days=MAX_DAYS):
        raise ValueError(f"{name} is {value!r}. Use a timedelta from 0 to {MAX_DAYS} days.")
    return span


@dataclass(frozen=True, slots=True)
class Cleanup:
    """Records that are deleted alike."""

    kept_for: timedelta
    statuses: tuple[Status, ...]
    task_name: str | None = None
    """The task; None for all others than those with a span of their own."""


def cleanups(default: Retention, tasks: Mapping[str, Retention]) -> Iterator[Cleanup]:
    """Yield what is deleted: the records of tasks with spans of their own, then all others.

    `tasks` has what each of these tasks says, by its name.
    """
    for task_name, retention in tasks.items():
        yield from _alike(retention, task_name)
    yield from _alike(default, None)


def _alike(retention: Retention, task_name: str | None) -> Iterator[Cleanup]:
    for span in dict.fromkeys(retention.values()):
        if span is not None:
            statuses = tuple(status for status, each in retention.items() if each == span)
            yield Cleanup(span, statuses, task_name)
