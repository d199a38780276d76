"""The schedules of tasks: `@lambda_task(schedule=cron("30 2 * * *", timezone="Europe/Berlin"))`."""

from datetime import UTC, datetime, timedelta
from typing import Any, TypedDict, Unpack

from .core import schedules as core
from .core.schedules import Missed, Once, Overlap, Schedule

__all__ = ["Schedule", "at", "cron", "every"]


class Policy(TypedDict, total=False):
    """What all schedules can have. Time spans may also be seconds. See Schedule."""

    name: str
    kwargs: dict[str, Any]
    missed: Missed
    grace: timedelta | float
    overlap: Overlap
    spread: timedelta | float
    starts_at: datetime | None
    ends_at: datetime | None
    pause_after_failures: int | None


def cron(expression: str, *, timezone: str = "", **policy: Unpack[Policy]) -> Schedule:
    """Return the schedule of a cron expression: minute, hour, day, month, day of the week.

    `timezone` is a name such as "Europe/Berlin", by default the setting TIME_ZONE. Raises
    ValueError for an expression that has no five fields or never comes, for an unknown time zone,
    and for a policy that is out of range.
    """
    return core.make_schedule(core.make_cron(expression, timezone), **policy)


def every(interval: timedelta | float, **policy: Unpack[Policy]) -> Schedule:
    """Return the schedule of a time span, in real seconds, from `starts_at` or the year 1970 on.

    Raises ValueError for less than a second, and for a policy that is out of range.
    """
    span = core.to_span("every", interval)
    return core.make_schedule(core.make_every(span, policy.get("starts_at")), **policy)


def at(moment: datetime, **policy: Unpack[Policy]) -> Schedule:
    """Return the schedule of one moment. Raises ValueError for one without a time zone."""
    return core.make_schedule(Once(core.to_utc("at", moment).astimezone(UTC)), **policy)
