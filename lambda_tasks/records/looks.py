"""The records that somebody must look at, because the time in `look_at` has come.

An index sorts them by queue, priority and that time. So a look reads only the start of one range of
the index for each queue and priority, however many records are finished or due later.
"""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple
from uuid import UUID

from django.db import connections
from django.db.models import Q, QuerySet

from ..core.lifecycle import Status
from ..ports import LeftOut
from .clock import Now
from .database import all_records, record_alias, statements
from .encryption import UNAVAILABLE
from .mapping import WAKE_UP_COLUMNS, Row
from .portable import IS_LOST, placeholder
from .statements import Placeholder, pad, padded_size
from .tables import RecordQuerySet, TaskRecord

DUE_COLUMNS: Final = ("id", *WAKE_UP_COLUMNS, "status", "run_after", "look_at", "now")
"""The columns of records that are due; `now` is the database's clock."""


PUT_FIRST: Final = timedelta(days=1)
"""How long ago a record that is put first was due, as far as the order of looks is concerned."""


class Level(NamedTuple):
    """One queue and priority: a range of the index, in the order of `look_at`."""

    queue: str
    priority: int


def due_levels(*, early: timedelta = timedelta(0)) -> list[Level]:
    """Return the levels with records to look at now, or within `early`, highest priority first."""
    found = [Level(*each) for each in statements().levels(early)]
    return sorted(found, key=lambda level: -level.priority)


def due(
    level: Level, *, early: timedelta = timedelta(0), without: Collection[LeftOut] = ()
) -> RecordQuerySet:
    """Return the records whose time to look has come, or comes within `early`; longest due first.

    They are annotated with `now`, the database's clock. Runs that hold their lease are left out:
    where isolation is strict, a run can't finish its record if others write to it. Records without
    their secrets are left out, too, because only their delivery can run them, and so are the tasks
    and records in `without`.
    """
    names, ids = _split(without)
    return _due(level.queue, level.priority, early=early, names=names, ids=ids)


def lock_due(
    level: Level,
    *,
    limit: int,
    without: Collection[LeftOut] = (),
    since: datetime | None = None,
) -> list[Row]:
    """Lock up to `limit` due records that nobody else has locked; return DUE_COLUMNS of each.

    With `since`, only those whose time to look came then or later. A database without SKIP LOCKED
    locks none. See due().
    """
    names, ids = _split(without)
    given_names = {f"name{number}": name for number, name in enumerate(pad(names))}
    given_ids = {f"id{number}": id for number, id in enumerate(pad(ids))}
    # Each limit has a statement of its own, so few limits should occur.
    composed_limit = padded_size(limit)

    def compose() -> "QuerySet[TaskRecord, Any]":
        records = _due(
            placeholder("queue"),
            placeholder("priority"),
            early=timedelta(0),
            names=[placeholder("task_name", name) for name in given_names],
            ids=[placeholder("id", name) for name in given_ids],
        )
        if since is not None:
            records = records.filter(look_at__gte=placeholder("look_at", "since"))
        return lock_unlocked(records).values_list(*DUE_COLUMNS)[:composed_limit]

    key = ("due", composed_limit, len(given_names), len(given_ids), since is None)
    values = {
        **given_names, **given_ids,
        "queue": level.queue, "priority": level.priority, "since": since,
    }  # fmt: skip
    rows = statements().fetch(key, compose, values)
    return [dict(zip(DUE_COLUMNS, row, strict=True)) for row in rows[:limit]]


def is_first(row: Row) -> bool:
    """Return whether a row of DUE_COLUMNS was put first, or has been due for about as long."""
    return bool(row["look_at"] < row["now"] - PUT_FIRST / 2)


def _due(
    queue: str | Placeholder,
    priority: int | Placeholder,
    *,
    early: timedelta,
    names: Sequence[str | Placeholder],
    ids: Sequence[UUID | Placeholder],
) -> RecordQuerySet:
    return (
        all_records()
        .exclude(Q(task_name__in=names) | Q(id__in=ids))
        .filter(Q(status=Status.QUEUED) | IS_LOST)
        .filter(queue=queue, priority=priority, look_at__lte=Now() + early)
        .exclude(secrets=UNAVAILABLE)
        .annotate(now=Now())
        .order_by("look_at")
    )


def _split(without: Collection[LeftOut]) -> tuple[list[str], list[UUID]]:
    """Return the names of tasks and the ids of records that are left out."""
    names = [each for each in without if isinstance(each, str)]
    return names, [each for each in without if not isinstance(each, str)]


def kept_secrets_due(level: Level) -> RecordQuerySet:
    """Return the records of failed runs that have kept their secrets for long enough."""
    failed = all_records().filter(status=Status.FAILED, look_at__lte=Now())
    return failed.filter(queue=level.queue, priority=level.priority).order_by()


def waiting_secrets_due(level: Level) -> RecordQuerySet:
    """Return the steps that have waited in failed workflows for as long as secrets are kept."""
    waiting = all_records().filter(status=Status.WAITING, look_at__lte=Now())
    return waiting.filter(queue=level.queue, priority=level.priority).order_by()


def lock_unlocked(records: RecordQuerySet) -> RecordQuerySet:
    """Lock the records that nobody else has locked, and skip the others.

    A database without SKIP LOCKED returns all of them, and locks none.
    """
    if connections[record_alias()].features.has_select_for_update_skip_locked:
        return records.select_for_update(skip_locked=True)
    return records


def unsent(ids: Collection[UUID]) -> RecordQuerySet:
    """Return the records among these that are QUEUED and not sent yet."""
    return all_records().filter(id__in=ids, status=Status.QUEUED, sent_at=None).order_by()
