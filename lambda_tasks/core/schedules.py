"""Schedules: the times at which a task is due, decided without a clock and without a database."""

import hashlib
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from itertools import islice, takewhile
from typing import Any, Final, Literal, Protocol
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from .lifecycle import UNFINISHED, Status
from .message import YEARS

Missed = Literal["once", "all", "skip"]
Overlap = Literal["allow", "skip", "queue"]

LOOK_AHEAD: Final = timedelta(seconds=130)
"""How far ahead a tick enqueues.

EventBridge promises the minute of a tick and not its second, so two ticks may be two minutes apart.
"""

ON_TIME: Final = timedelta(seconds=60)
"""The lateness up to which a due time is not missed yet: it runs whatever `missed` says."""

DEFAULT_GRACE: Final = timedelta(days=1)
"""The age after which a missed due time does not run any more."""

MAX_MISSED: Final = 100
"""The most missed due times that run at once with `missed="all"`."""

MAX_COUNTED: Final = 1000
"""The most missed due times that are counted for the log."""

MAX_SPAN: Final = timedelta(days=36_500)
"""The longest time span: with a hundred years, every moment stays within the calendar."""

MAX_SCHEDULE_NAME: Final = 255
"""The most characters of a schedule's name, which is a column of its row."""

MAX_FAILURES: Final = 20
"""The most failures in a row that can be waited for before a schedule is switched off."""

CHOICES: Final = {"missed": ("once", "all", "skip"), "overlap": ("allow", "skip", "queue")}

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

MIN_EVERY: Final = timedelta(seconds=1)

AWS_WEEKDAYS: Final = {"1": "0", "2": "1", "3": "2", "4": "3", "5": "4", "6": "5", "7": "6"}
"""AWS's numbers of weekdays, of which 1 is Sunday, and those of cron, of which 0 is Sunday."""


class Rule(Protocol):
    """The due times of a schedule, all in UTC."""

    def after(self, moment: datetime) -> Iterator[datetime]:
        """Yield the due times after a moment, the earliest first."""
        ...

    def until(self, moment: datetime) -> Iterator[datetime]:
        """Yield the due times up to a moment, the latest first."""
        ...


@dataclass(frozen=True, slots=True)
class Cron:
    """The times of a cron expression with five fields, in a time zone.

    Where clocks go forward, a time that does not exist is due at the first one that does. Where
    they go back, a time that exists twice is due once, unless the hour or the minute is a wildcard.
    """

    expression: str
    timezone: str

    def __str__(self) -> str:
        return f"{self.expression} {self.timezone}"

    def after(self, moment: datetime) -> Iterator[datetime]:
        """See Rule."""
        last = moment.astimezone(ZoneInfo(self.timezone))
        for due in CronSim(self.expression, last):
            if due.utcoffset() != last.utcoffset():
                # Forward, CronSim leaves some out where clocks change by half an hour.
                yield from reversed(list(self._between(last, due)))
            yield due.astimezone(UTC)
            last = due

    def until(self, moment: datetime) -> Iterator[datetime]:
        """See Rule."""
        # CronSim yields what is before its start, and a due time is a whole minute.
        start = (moment + timedelta(seconds=1)).astimezone(ZoneInfo(self.timezone))
        for due in CronSim(self.expression, start, reverse=True):
            if due <= moment:
                yield due.astimezone(UTC)

    def _between(self, start: datetime, end: datetime) -> Iterator[datetime]:
        """Yield the due times between two moments, the latest first."""
        earlier = self.until(end.astimezone(UTC) - timedelta(seconds=1))
        return takewhile(lambda due: due > start, earlier)


@dataclass(frozen=True, slots=True)
class Every:
    """The multiples of a time span since 1970, or since `anchor`, in real seconds."""

    interval: timedelta
    anchor: datetime = EPOCH

    def __str__(self) -> str:
        return f"every {self.interval}"

    def after(self, moment: datetime) -> Iterator[datetime]:
        """See Rule."""
        due = self.anchor + ((moment - self.anchor) // self.interval + 1) * self.interval
        while True:
            yield due
            due += self.interval

    def until(self, moment: datetime) -> Iterator[datetime]:
        """See Rule."""
        due = self.anchor + (moment - self.anchor) // self.interval * self.interval
        while True:
            yield due
            due -= self.interval


@dataclass(frozen=True, slots=True)
class Once:
    """One moment."""

    moment: datetime

    def __str__(self) -> str:
        return f"at {self.moment.isoformat()}"

    def after(self, moment: datetime) -> Iterator[datetime]:
        """See Rule."""
        if self.moment > moment:
            yield self.moment

    def until(self, moment: datetime) -> Iterator[datetime]:
        """See Rule."""
        if self.moment <= moment:
            yield self.moment


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """What is due when: a task with its arguments, a rule, and what happens to late due times."""

    rule: Rule
    name: str = ""
    """Unique among all schedules; the task's dotted name by default."""
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    missed: Missed = "once"
    """What runs of the due times that nobody enqueued in time: the latest, all, or none."""
    grace: timedelta = DEFAULT_GRACE
    """The age after which a missed due time does not run any more."""
    overlap: Overlap = "allow"
    """What happens to a run while the one before it still runs: it runs, ends, or waits."""
    spread: timedelta = timedelta(0)
    """A span by a share of which runs start later. The share follows from the name."""
    starts_at: datetime | None = None
    ends_at: datetime | None = None
    pause_after_failures: int | None = None
    """Failed runs in a row after which the schedule is switched off."""

    @property
    def offset(self) -> timedelta:
        """The part of `spread` by which its runs start later, the same for a name each time."""
        if not self.spread:
            return self.spread
        share = int.from_bytes(hashlib.sha256(self.name.encode()).digest()[:6]) / 2**48
        return self.spread * share


@dataclass(frozen=True, slots=True)
class Plan:
    """What a tick does for one schedule."""

    due: tuple[datetime, ...]
    """The due times to enqueue, the earliest first."""
    last_due: datetime
    """The time up to which due times are decided. It never goes back."""
    next_due: datetime | None
    """The first due time after that; None where there is none."""
    n_missed: int = 0
    """The due times that do not run because they were missed, up to MAX_COUNTED."""


def plan(
    schedule: Schedule,
    last_due: datetime,
    now: datetime,
    *,
    ahead: timedelta = LOOK_AHEAD,
) -> Plan:
    """Decide which due times after `last_due` are enqueued now, up to `ahead` from now."""
    horizon = _earlier(now + ahead, schedule.ends_at)
    begin = last_due if schedule.starts_at is None else max(last_due, _just_before(schedule))
    on_time_from = now - ON_TIME
    missed = list(_missed(schedule, begin, _earlier(on_time_from, schedule.ends_at)))
    n_kept = {"once": 1, "all": MAX_MISSED, "skip": 0}[schedule.missed]
    oldest = now - schedule.grace
    kept = [due for due in missed[:n_kept] if due >= oldest]
    coming = takewhile(lambda due: due <= horizon, schedule.rule.after(max(begin, on_time_from)))
    on_time = list(islice(coming, MAX_COUNTED))
    decided = max([last_due, *missed[:1], *on_time[-1:]])
    return Plan(
        due=(*reversed(kept), *on_time),
        last_due=decided,
        next_due=first_due(schedule, decided),
        n_missed=len(missed) - len(kept),
    )


def first_due(schedule: Schedule, since: datetime) -> datetime | None:
    """Return the first due time after a moment, within the schedule's start and end."""
    return next(iter(next_dues(schedule, since, 1)), None)


def next_dues(schedule: Schedule, since: datetime, count: int) -> list[datetime]:
    """Return the first due times after a moment, within the schedule's start and end."""
    return list(islice(_dues(schedule, since), count))


def _dues(schedule: Schedule, since: datetime) -> Iterator[datetime]:
    begin = since if schedule.starts_at is None else max(since, _just_before(schedule))
    end = schedule.ends_at
    return takewhile(lambda due: end is None or due <= end, schedule.rule.after(begin))


def in_words(schedule: Schedule) -> str:
    """Return what decides the due times of a schedule, as text: another text, other times."""
    parts = [str(schedule.rule)]
    if schedule.starts_at is not None:
        parts.append(f"from {schedule.starts_at.isoformat()}")
    if schedule.ends_at is not None:
        parts.append(f"until {schedule.ends_at.isoformat()}")
    return " ".join(parts)


def has_failed(schedule: Schedule, runs: Sequence[Set[str]]) -> bool:
    """Return whether the last runs have failed, as many as `pause_after_failures` says.

    Each run, the latest first, has the statuses of its record and of its retries. Runs without an
    end, without a record, and those that were cancelled or skipped say nothing.
    """
    n_failed = 0
    for statuses in runs:
        if Status.SUCCESS in statuses:
            return False
        n_failed += Status.FAILED in statuses and not statuses & {*UNFINISHED}
        if n_failed == schedule.pause_after_failures:
            return True
    return False


def due_between(schedule: Schedule, start: datetime, end: datetime) -> list[datetime]:
    """Return the due times from `start` to `end`, both included; at most MAX_COUNTED.

    None is outside of the schedule's own start and end.
    """
    due = takewhile(lambda due: due <= end, _dues(schedule, start - timedelta(microseconds=1)))
    return list(islice(due, MAX_COUNTED))


def _missed(schedule: Schedule, begin: datetime, end: datetime) -> Iterable[datetime]:
    due = takewhile(lambda due: due > begin, schedule.rule.until(end))
    return islice(due, MAX_COUNTED)


def _just_before(schedule: Schedule) -> datetime:
    assert schedule.starts_at is not None
    return schedule.starts_at - timedelta(microseconds=1)


def _earlier(moment: datetime, limit: datetime | None) -> datetime:
    return moment if limit is None else min(moment, limit)


# Their declaration


def make_schedule(rule: Rule, **policy: Any) -> Schedule:
    """Return a schedule with this rule. Raises TypeError or ValueError for an invalid policy."""
    known = [each.name for each in fields(Schedule) if each.name != "rule"]
    for option in policy:
        if option not in known:
            raise TypeError(f"A schedule has no {option!r}. It has {', '.join(known)}.")
    parsed: dict[str, Any] = {
        name: PARSERS[name](name, value) if name in PARSERS and value is not None else value
        for name, value in policy.items()
    }
    schedule = Schedule(rule=rule, **parsed)
    if schedule.starts_at and schedule.ends_at and schedule.ends_at < schedule.starts_at:
        raise ValueError(
            f"ends_at is {schedule.ends_at}, before starts_at, which is {schedule.starts_at}. Use "
            "a later one."
        )
    return schedule


def resolved(schedule: Schedule, *, name: str, timezone: str) -> Schedule:
    """Return a schedule with its default name and time zone filled in."""
    rule = schedule.rule
    lacks_zone = isinstance(rule, Cron) and not rule.timezone
    if schedule.name and not lacks_zone:
        return schedule
    if isinstance(rule, Cron) and lacks_zone:
        rule = Cron(rule.expression, timezone)
    return replace(schedule, rule=rule, name=schedule.name or name)


def to_span(option: str, value: timedelta | float) -> timedelta:
    """Return a time span, from seconds too. Raises ValueError unless it is from 0 to MAX_SPAN."""
    span: object = value
    if isinstance(value, int | float) and not isinstance(value, bool):
        with suppress(OverflowError, ValueError):  # infinite, or no number
            span = timedelta(seconds=value)
    if not isinstance(span, timedelta) or not timedelta(0) <= span <= MAX_SPAN:
        raise ValueError(
            f"{option} is {value!r}. Use a timedelta, or seconds, from 0 to {MAX_SPAN.days} days."
        )
    return span


def to_utc(option: str, value: datetime) -> datetime:
    """Return a moment in UTC.

    Raises ValueError for a datetime without a time zone, or outside the years of YEARS.
    """
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise ValueError(f"{option} is {value!r}. Use a datetime with a time zone.")
    if value.year not in YEARS:
        raise ValueError(f"{option} is {value!r}, outside the years 1970 to 8999.")
    return value.astimezone(UTC)


def make_cron(expression: str, timezone: str) -> Cron:
    """Return the rule of a cron expression; without a time zone, that of the project.

    Raises ValueError for an expression that is not one of five fields or never comes, with the
    translation for one of AWS's six fields, and for an unknown time zone.
    """
    if timezone:
        _check_zone(timezone)
    parts = expression.split()
    if len(parts) not in (5, 6):
        raise ValueError(
            f"{expression!r} has {len(parts)} fields. A cron expression has five: minute, hour, "
            "day of the month, month and day of the week."
        )
    if len(parts) == 6 or "?" in expression:
        raise ValueError(
            f"{expression!r} has the six fields of Amazon EventBridge. Use cron's five: "
            f"{_from_aws(parts)!r}."
        )
    try:
        next(CronSim(expression, datetime(2024, 1, 1, tzinfo=UTC)))
    except StopIteration:
        raise ValueError(f"{expression!r} never comes.") from None
    except CronSimError as error:
        raise ValueError(f"{expression!r} is no cron expression: {error}.") from None
    return Cron(expression, timezone)


def make_every(interval: timedelta, anchor: datetime | None) -> Every:
    """Return the rule of a time span. Raises ValueError where it is less than a second."""
    if interval < MIN_EVERY:
        raise ValueError(f"every is {interval!r}. Use a second or more.")
    return Every(interval) if anchor is None else Every(interval, anchor.astimezone(UTC))


def ambiguity(rule: Rule) -> str | None:
    """Return how a rule can be misread; None where all libraries read it alike."""
    if not isinstance(rule, Cron):
        return None
    _, _, day, _, weekday = rule.expression.split()
    restricted = [each for each in (day, weekday) if each != "*"]
    if len(restricted) < 2:
        return None
    if any(each.startswith("*") for each in restricted):
        return "it is due on days that match both its day of the month and its day of the week"
    return "it is due on days that match its day of the month or its day of the week"


def _choice(option: str, value: object) -> object:
    if value not in CHOICES[option]:
        shown = ", ".join(map(repr, CHOICES[option]))
        raise ValueError(f"{option} is {value!r}. Use one of {shown}.")
    return value


def _name(option: str, value: object) -> object:
    is_text = isinstance(value, str) and value.isprintable()
    if not isinstance(value, str) or not is_text or len(value) > MAX_SCHEDULE_NAME:
        raise ValueError(
            f"{option} is {reprlib.repr(value)}. Use text of up to {MAX_SCHEDULE_NAME} characters "
            "on one line."
        )
    return value


def _kwargs(option: str, value: object) -> object:
    if not isinstance(value, Mapping) or not all(isinstance(each, str) for each in value):
        raise ValueError(
            f"{option} is {reprlib.repr(value)}. Use a dict with the names of parameters as keys."
        )
    return value


def _count(option: str, value: object) -> object:
    if type(value) is not int or not 1 <= value <= MAX_FAILURES:
        raise ValueError(f"{option} is {value!r}. Use a whole number from 1 to {MAX_FAILURES}.")
    return value


PARSERS: Final[Mapping[str, Callable[[str, Any], object]]] = {
    "name": _name,
    "kwargs": _kwargs,
    "missed": _choice,
    "overlap": _choice,
    "grace": to_span,
    "spread": to_span,
    "starts_at": to_utc,
    "ends_at": to_utc,
    "pause_after_failures": _count,
}


def _check_zone(timezone: str) -> None:
    try:
        ZoneInfo(timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(
            f"{timezone!r} is no time zone. Use a name of the IANA database, such as "
            "'Europe/Berlin'."
        ) from None


def _from_aws(parts: list[str]) -> str:
    minute, hour, day, month, weekday = (each.replace("?", "*") for each in parts[:5])
    digits = "".join(AWS_WEEKDAYS.get(each, each) for each in weekday)
    is_plain = not any(each in weekday for each in "L#/")
    return " ".join([minute, hour, day, month, digits if is_plain else weekday])
