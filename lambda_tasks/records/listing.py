"""Records to look at: the newest with some filters, a lineage, and what has just ended."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple

from .database import all_records
from .filters import UNINDEXED, Filters, filtered
from .retrying import with_retries
from .tables import RecordQuerySet, TaskRecord

SEARCHED: Final = 10_000
"""The newest records that are searched for what no index finds, unless all of them are."""

MAX_LINEAGE: Final = 200
"""The most records of a lineage that are shown, the first and the last."""


class Page(NamedTuple):
    """The newest records with some filters."""

    records: Sequence[TaskRecord]
    searched_since: datetime | None
    """How far back they were searched for; None for all of them."""


@with_retries
def newest(filters: Filters, *, limit: int, search_all: bool) -> Page:
    """Return up to `limit` records, the newest call first.

    Without `search_all`, a filter that no index finds is applied to the newest SEARCHED records.
    """
    found = filtered(all_records(), filters).order_by("-enqueued_at")
    since = None
    if not search_all and any(filters.get(name) is not None for name in UNINDEXED):
        since = _search_since(filters)
    if since is not None:
        found = found.filter(enqueued_at__gte=since)
    return Page(list(found[:limit]), since)


@with_retries
def lineage(record: TaskRecord) -> list[TaskRecord]:
    """Return the records of an invocation, of its retries, further runs and replays, by time."""
    related = all_records().filter(root_id=record.root_id or record.id)
    first = list(related.order_by("enqueued_at")[: MAX_LINEAGE // 2])
    last = list(related.order_by("-enqueued_at")[: MAX_LINEAGE // 2])
    found = {each.id: each for each in (*first, *reversed(last), record)}
    return list(found.values())


@with_retries
def ended_since(moment: datetime, filters: Filters, *, limit: int) -> list[TaskRecord]:
    """Return the last `limit` records that ended at a moment or later, the earliest end first."""
    ended = filtered(all_records(), filters).filter(end_time__gte=moment)
    return list(ended.order_by("-end_time")[:limit])[::-1]


def _search_since(filters: Filters) -> datetime | None:
    """Return the time of the call from which on SEARCHED records are searched; None for all."""
    indexed: Filters = {"task": filters.get("task"), "until": filters.get("until")}
    if filters.get("ids") is not None:
        return None
    searched: RecordQuerySet = filtered(all_records(), indexed)
    times = searched.order_by("-enqueued_at").values_list("enqueued_at", flat=True)
    return next(iter(times[SEARCHED : SEARCHED + 1]), None)
