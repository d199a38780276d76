"""The deletion of the records of runs that have ended."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from django.db.models import Q

from ..core.retention import Cleanup, Retention
from . import checkpoints, workflows
from .clock import read_clock
from .database import all_records, record_alias
from .retrying import with_retries
from .steering import delete
from .tables import RecordQuerySet

CHUNK_SIZE: Final = 1000
"""Records that are deleted in one transaction, which takes some hundredths of a second."""


def delete_ended(
    cleanup: Cleanup, others: Mapping[str, Retention], *, at_least: timedelta
) -> Iterator[int]:
    """Delete records in chunks, each in its own transaction; yield how many after each.

    `others` are the tasks with spans of their own. No record is deleted that ended less than
    `at_least` ago. Each chunk starts where the one before it ended, so that records that are kept
    are read once, however many they are.
    """
    now = _now()
    before = now - max(cleanup.kept_for, at_least)
    ended = all_records().filter(end_time__lt=before, status__in=cleanup.statuses)
    ended = ended.exclude(unique_until__gt=now)  # an equal call must still find it
    ended = ended.filter(workflow_id=None)  # those of a workflow go together
    ended = ended.exclude(checkpoints.is_unfinished())
    if cleanup.task_name is None:
        column, records = "end_time", ended.exclude(_of_others(others))
    else:
        # Called before the end, so the index of the task's calls leads to its old records.
        column = "enqueued_at"
        records = ended.filter(task_name=cleanup.task_name, enqueued_at__lt=before)
    if cleanup.task_name is None:
        yield from workflows.delete_ended(before, cleanup.statuses)
    start = None
    while chunk := _find(records, column, start):
        start = chunk[-1][1]
        yield delete([id for id, _ in chunk])


def _of_others(tasks: Mapping[str, Retention]) -> Q:
    """Return the condition of records whose task has a span of its own for their status."""
    alike: defaultdict[frozenset[Any], list[str]] = defaultdict(list)
    for task_name, retention in tasks.items():
        alike[frozenset(retention)].append(task_name)
    found = Q(pk__in=[])
    for statuses, names in alike.items():
        # Records of django-lambda-tasks may have no time of the call, and follow the default.
        found |= Q(task_name__in=names, status__in=statuses, enqueued_at__isnull=False)
    return found


@with_retries
def _now() -> datetime:
    return read_clock(record_alias())


@with_retries
def _find(
    records: RecordQuerySet, column: str, start: datetime | None
) -> list[tuple[UUID, datetime]]:
    rest = records if start is None else records.filter(**{f"{column}__gte": start})
    return list(rest.order_by(column).values_list("id", column)[:CHUNK_SIZE])
