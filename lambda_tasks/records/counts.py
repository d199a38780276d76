"""Counts of records, in a time that does not grow with the table.

Unfinished records are counted by the index of `look_at`. For each queue and priority it is read in
two ranges, up to COUNTED records of each: what somebody must look at within seconds, and what
waits, or runs, for longer. The second begins with what was sent first, so the oldest is not missed.
What has ended is counted by the index of `end_time`, from the newest back to a moment, and up to
COUNTED as well.
"""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

from django.db import connections
from django.db.models import (
    Case,
    CharField,
    DateTimeField,
    F,
    Q,
    QuerySet,
    Value,
    When,
)
from django.db.models.functions import Coalesce, Greatest

from ..core.lifecycle import GRACE, Status
from .clock import Now, as_moment, read_clock
from .database import all_records, record_alias, statements
from .looks import Level
from .portable import RELAY_SHIFT
from .retrying import with_retries
from .statements import select
from .tables import RecordQuerySet, RelayShift, TaskRecord

COUNTED: Final = 5_000
"""The most records that one statement counts: some 5 ms, as the index does not have the status."""

COUNTED_TOGETHER: Final = 50
"""The levels that one statement counts: SQLite refuses more than 500 parts of one."""

FOR_EVER: Final = timedelta(days=2_500_000)
"""Longer than any record waits, and still within the calendar."""

WAITING: Final = "waiting"
DELAYED: Final = "delayed"
RUNNING: Final = "running"
STUCK: Final = "stuck"
"""The states of unfinished records: queued and due, due later, running, lost for long."""


class Group(NamedTuple):
    """The records of one queue, task and state that were counted."""

    queue: str
    task_name: str
    state: str
    """WAITING, DELAYED, RUNNING or STUCK; of records that have ended, their status."""
    n: int
    first: datetime | None
    """The earliest time: since when one waits, or its lease is over; or the first end."""


class Counted(NamedTuple):
    """What was counted."""

    now: datetime
    """The time of the database's clock."""
    unfinished: Sequence[Group]
    is_complete: bool
    """Whether all unfinished records were counted."""
    ended: Sequence[Group]
    ended_since: datetime
    """The moment from which on all ends were counted."""


@with_retries
def count(window: timedelta, stuck_after: timedelta) -> Counted:
    """Count the unfinished records, and those that have ended within the window.

    A lost run counts as stuck if its lease ended `stuck_after` ago. Until then it counts as
    running, as another worker takes it over.
    """
    now = read_clock(record_alias())
    unfinished, incomplete = count_unfinished(stuck_after)
    ended = _groups([_ended(now - window)])[0]
    since = now - window
    if _n_counted(ended) >= COUNTED:
        since = min(each.first for each in ended if each.first is not None)
    return Counted(now, unfinished, not incomplete, ended, since)


@with_retries
def count_unfinished(stuck_after: timedelta) -> tuple[list[Group], set[str]]:
    """Return the unfinished records by group, and the queues of which not all were counted."""
    levels = [Level(*each) for each in statements().levels(FOR_EVER)]
    found: list[Group] = []
    incomplete: set[str] = set()
    for at in range(0, len(levels), COUNTED_TOGETHER):
        part = levels[at : at + COUNTED_TOGETHER]
        ranges = [each for level in part for each in _unfinished(level, stuck_after)]
        for groups in _groups(ranges):
            if _n_counted(groups) >= COUNTED:
                incomplete.add(groups[0].queue)
            # A failed run that keeps its secrets for a while has ended.
            found += [each for each in groups if each.state]
    return found, incomplete


@with_retries
def last_round() -> datetime | None:
    """Return the end of the last shift of the relay; None if there was none."""
    shifts = RelayShift.objects.using(record_alias()).filter(name=RELAY_SHIFT)
    return shifts.values_list("next_at", flat=True).first()


def find_stuck(
    *, older_than: timedelta, queues: Sequence[str] | None, limit: int
) -> list[TaskRecord]:
    """Return records that should have gone on `older_than` ago, longest first in each queue.

    See is_stuck().
    """
    return _first_of_levels(is_stuck(older_than), queues=queues, limit=limit)


@with_retries
def find_waiting(*, queues: Collection[str], limit: int) -> list[TaskRecord]:
    """Return records that are due and not begun, in each queue as workers look at them."""
    is_due = Q(run_after=None) | Q(run_after__lte=Now())
    return _first_of_levels(Q(is_due, status=Status.QUEUED), queues=queues, limit=limit)


def _first_of_levels(
    condition: Q, *, queues: Collection[str] | None, limit: int
) -> list[TaskRecord]:
    """Return the first unfinished records of each level for which a condition holds."""
    found: list[TaskRecord] = []
    for queue, priority in sorted(statements().levels(FOR_EVER), key=lambda level: -level[1]):
        if queues is None or queue in queues:
            level = all_records().filter(queue=queue, priority=priority, look_at__isnull=False)
            found += level.filter(condition).order_by("look_at")[: limit - len(found)]
        if len(found) >= limit:
            break
    return found


def is_stuck(older_than: timedelta) -> Q:
    """Return the condition of what should have gone on `older_than` ago.

    A lost run is stuck if nobody took it over, and what is due if no worker has begun it, unless it
    waits for a place of its limit. Behind many others, that may only mean that the queue is long. A
    call for a time that was past already, as a backfill makes them, was due when it was called.
    """
    since = Now() - older_than
    is_overdue = Q(enqueued_at__lt=since) & (Q(run_after=None) | Q(run_after__lt=since))
    is_queued = Q(status=Status.QUEUED, limit_key=None)
    return Q(status=Status.RUNNING, lease_until__lt=since) | is_queued & is_overdue


def _unfinished(
    level: Level, stuck_after: timedelta
) -> "tuple[QuerySet[TaskRecord, Any], QuerySet[TaskRecord, Any]]":
    """Return the two ranges of a level."""
    is_stuck = Q(status=Status.RUNNING, lease_until__lt=Now() - stuck_after)
    state = Case(
        When(is_stuck, then=Value(STUCK)),
        When(status=Status.RUNNING, then=Value(RUNNING)),
        When(status=Status.QUEUED, run_after__gt=Now(), then=Value(DELAYED)),
        When(status=Status.QUEUED, then=Value(WAITING)),
        default=Value(""),
        output_field=CharField(),
    )
    since = Case(
        When(status=Status.RUNNING, then=F("lease_until")),
        # Not before the call: a backfill's due times are past when it is made.
        default=Greatest(Coalesce(F("run_after"), F("enqueued_at")), F("enqueued_at")),
        output_field=DateTimeField(),
    )
    records = all_records().filter(queue=level.queue, priority=level.priority).order_by("look_at")
    soon = Now() + GRACE
    return (
        _columns(records.filter(look_at__lte=soon), state, since),
        _columns(records.filter(look_at__gt=soon), state, since),
    )


def _ended(since: datetime) -> "QuerySet[TaskRecord, Any]":
    records = all_records().filter(end_time__gte=since).order_by("-end_time")
    return _columns(records, F("status"), F("end_time"))


def _columns(records: RecordQuerySet, state: Any, since: Any) -> "QuerySet[TaskRecord, Any]":
    named = records.annotate(counted_as=state, since=since)
    return named.values_list("queue", "task_name", "counted_as", "since")[:COUNTED]


def _groups(queries: "Sequence[QuerySet[TaskRecord, Any]]") -> list[list[Group]]:
    """Count the records of each query by _columns(), all in one statement.

    The ORM groups no query that has a limit.
    """
    composed = [select(each)[0] for each in queries]
    parts = " UNION ALL ".join(
        f"SELECT {number} AS part, part{number}.* FROM ({sql}) part{number}"  # noqa: S608
        for number, (sql, _) in enumerate(composed)
    )
    names = "part, queue, task_name, counted_as"
    grouped = f"SELECT {names}, COUNT(*), MIN(since) FROM ({parts}) found GROUP BY {names}"  # noqa: S608
    with connections[record_alias()].cursor() as cursor:
        cursor.execute(grouped, [each for _, params in composed for each in params])
        rows = cursor.fetchall()
    found: list[list[Group]] = [[] for _ in composed]
    for part, queue, task_name, state, n, first in rows:
        moment = None if first is None else as_moment(first)
        found[part].append(Group(queue, task_name, state, n, moment))
    return found


def _n_counted(groups: Sequence[Group]) -> int:
    return sum(each.n for each in groups)
