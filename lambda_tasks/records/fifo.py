"""The choice of records that the relay sends to a FIFO queue, in the order of each group."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from django.db import connections
from django.db.models import Q
from django.db.models.expressions import RawSQL
from django.db.models.functions import Coalesce

from ..core.lifecycle import Status
from ..core.message import MAX_GROUP_KEY, group_of
from . import looks
from .clock import Now
from .database import all_records, record_alias
from .tables import RecordQuerySet, TaskRecord

Times = tuple[datetime, datetime]
"""The time at which a message was stored, and its next time to look."""

MAX_OF_GROUP: Final = 100
"""The most messages of one group in a round. They are sent one after the other, so a short round
marks them as sent soon."""

SQLITE_ROW_NUMBER: Final = f"{TaskRecord._meta.db_table}.rowid"
"""The row number of SQLite, which grows with each INSERT."""


def select_in_order(level: looks.Level, to_send: RecordQuerySet, limit: int) -> list[Any]:
    """Return up to `limit` records to send, oldest first, and at most MAX_OF_GROUP of a group.

    A record that would overtake an earlier, postponed one of its group is postponed with it.
    """
    records = _oldest_first(to_send)[:limit]
    postponed = _postponed_by_group(level, records) if records else {}
    free: list[Any] = []
    counts: Counter[str] = Counter()
    blocked: defaultdict[datetime, list[UUID]] = defaultdict(list)
    for each in records:
        group = _group(each)
        earlier = [
            look_at
            for stored_at, look_at in postponed.get(group, ())
            if stored_at <= each.stored_at
        ]
        if earlier and each.status == Status.QUEUED and each.sent_at is None:
            blocked[max(earlier)].append(each.id)
        elif counts[group] < MAX_OF_GROUP:
            counts[group] += 1
            free.append(each)
    for look_at, ids in blocked.items():
        looks.unsent(ids).update(look_at=look_at)
    return free


def _postponed_by_group(level: looks.Level, records: Sequence[Any]) -> Mapping[str, list[Times]]:
    """Return the times of the postponed records in the groups of these records, by group."""
    groups = {_group(each) for each in records}
    # A message without a key is in the group of its task's name, or of the beginning of a long one.
    is_named = Q(task_name__in=groups | {each.task_name for each in records})
    for group in groups:
        if len(group) == MAX_GROUP_KEY:
            is_named |= Q(task_name__startswith=group)
    postponed = _with_stored_at(
        all_records()
        .filter(queue=level.queue, priority=level.priority, look_at__gt=Now())
        .filter(status=Status.QUEUED, sent_at=None, n_waits__gt=0)
        .filter(Q(group_key__in=groups) | (Q(group_key=None) | Q(group_key="")) & is_named)
    )
    found: defaultdict[str, list[Times]] = defaultdict(list)
    for each in postponed.only("group_key", "task_name", "look_at").order_by():
        found[_group(each)].append((each.stored_at, each.look_at))
    return found


def _group(record: Any) -> str:
    return group_of(record.group_key, record.task_name)


def _with_stored_at(records: RecordQuerySet) -> Any:
    return records.annotate(stored_at=Coalesce("enqueued_at", "look_at"))


def _oldest_first(records: RecordQuerySet) -> Any:
    records_with_time = _with_stored_at(records)
    if connections[record_alias()].vendor != "sqlite":
        return records_with_time.order_by("stored_at")
    # SQLite's clock has milliseconds only, so the row number decides between equal times.
    return records_with_time.order_by("stored_at", RawSQL(SQLITE_ROW_NUMBER, ()))  # noqa: S611 - a constant
