"""Finds the records that somebody must look at: those whose `look_at` has come.

An index has them by queue, priority and that time. So a look reads the beginning of one range of it
for each queue and priority, however many records are finished or wait for a later time.
"""

from collections.abc import Collection
from datetime import timedelta
from typing import NamedTuple
from uuid import UUID

from django.db import connections
from django.db.models import Q

from ..core.lifecycle import Status
from .clock import Now
from .database import all_records, record_alias, statements
from .encryption import UNAVAILABLE
from .portable import IS_LOST
from .tables import RecordQuerySet


class Level(NamedTuple):
    """What an index keeps together, and in order: the records of one queue and priority."""

    queue: str
    priority: int


def levels() -> list[Level]:
    """The queues and priorities that must be looked at, higher priorities first.

    There may be nothing in one of them yet.
    """
    found = [Level(*each) for each in statements().levels()]
    return sorted(found, key=lambda level: -level.priority)


def due(level: Level, *, early: timedelta = timedelta(0)) -> RecordQuerySet:
    """The records whose time to look has come, or comes within `early`; the longest due first.

    With `now`, the database's clock. A run that holds its lease is passed over: where isolation is
    strict, a record that others write can't be finished by its run. So is what only its delivery
    can run, as the record lacks its secrets.
    """
    return (
        all_records()
        .filter(Q(status=Status.QUEUED) | IS_LOST)
        .filter(queue=level.queue, priority=level.priority, look_at__lte=Now() + early)
        .exclude(secrets=UNAVAILABLE)
        .annotate(now=Now())
        .order_by("look_at")
    )


def kept_secrets_due(level: Level) -> RecordQuerySet:
    """The records of failed runs that have kept their secrets for long enough."""
    failed = all_records().filter(status=Status.FAILED, look_at__lte=Now())
    return failed.filter(queue=level.queue, priority=level.priority).order_by()


def unlocked(records: RecordQuerySet) -> RecordQuerySet:
    """Lock the records that nobody else has locked. Without SKIP LOCKED: all of them, unlocked."""
    if connections[record_alias()].features.has_select_for_update_skip_locked:
        return records.select_for_update(skip_locked=True)
    return records


def left(ids: Collection[UUID]) -> RecordQuerySet:
    """The records among these that are stored and not sent yet."""
    return all_records().filter(id__in=ids, status=Status.QUEUED, sent_at=None).order_by()
