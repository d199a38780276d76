"""Workflows as operators see them: found by name, status and time, cancelled, and retried."""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, TypedDict, Unpack
from uuid import UUID

from asgiref.sync import sync_to_async
from django.db import router
from django.db.models import Count, QuerySet

from ..core.graphs import WorkflowStatus
from ..errors import InvalidFilter
from ..models import TaskRecord, Workflow
from ..records.filters import as_uuid, moment
from ..twins import sync_form
from ..workflows import WorkflowRun
from .steering import Changes, OnProgress, ignore_progress

logger = logging.getLogger("lambda_tasks")

STATUSES: Final = frozenset(status.value for status in WorkflowStatus)

N_FAILED: Final = 20
"""The most failed steps that one look at a workflow names."""


class WorkflowFilters(TypedDict, total=False):
    """Conditions that all hold of the workflows that are meant. None counts as left out."""

    ids: Iterable[UUID | str] | None
    """The ids of workflows."""
    status: Sequence[str] | None
    """Some of RUNNING, SUCCESS, FAILED and CANCELLED."""
    name: Sequence[str] | None
    """The names that they were given."""
    since: datetime | timedelta | None
    """The earliest time of the call; a timedelta counts back from now."""
    until: datetime | timedelta | None
    """The time before which it was called; a timedelta counts back from now."""


def find_workflows(**filters: Unpack[WorkflowFilters]) -> "QuerySet[Workflow]":
    """Return the workflows for which all filters hold, the newest first.

    Raises InvalidFilter for a filter that makes no sense.
    """
    found = _all().order_by("-created_at", "id")
    for name, narrow in _NARROW.items():
        if (value := filters.get(name)) is not None:
            found = narrow(found, value)
    return found


def count_steps(id: UUID) -> list[dict[str, Any]]:
    """Return the numbers of a workflow's steps by task and status.

    Runs that a retry has followed are left out: the retry is the step then.
    """
    counted: Any = _steps(id).values("task_name", "status").annotate(count=Count("id"))
    return list(counted.order_by("task_name", "status"))


def failed_steps(id: UUID) -> list[TaskRecord]:
    """Return the first failed steps of a workflow."""
    return list(_steps(id).filter(status="FAILED").order_by("step")[:N_FAILED])


@sync_form("acancel_workflows(...)")
def cancel_workflows(
    *,
    dry_run: bool = False,
    on_progress: OnProgress = ignore_progress,
    **filters: Unpack[WorkflowFilters],
) -> Changes:
    """Cancel workflows that have not ended, with all their steps.

    Raises InvalidFilter without any filter, and for one that makes no sense.
    """
    return _change(filters, _CANCEL, dry_run=dry_run, on_progress=on_progress)


async def acancel_workflows(
    *,
    dry_run: bool = False,
    on_progress: OnProgress = ignore_progress,
    **filters: Unpack[WorkflowFilters],
) -> Changes:
    """See cancel_workflows()."""
    return await sync_to_async(cancel_workflows)(
        dry_run=dry_run, on_progress=on_progress, **filters
    )


@sync_form("aretry_workflows(...)")
def retry_workflows(
    *,
    dry_run: bool = False,
    on_progress: OnProgress = ignore_progress,
    **filters: Unpack[WorkflowFilters],
) -> Changes:
    """Run the failed steps of FAILED workflows again, as the same invocations; then the rest.

    Raises InvalidFilter without any filter, and for one that makes no sense.
    """
    return _change(filters, _RETRY, dry_run=dry_run, on_progress=on_progress)


async def aretry_workflows(
    *,
    dry_run: bool = False,
    on_progress: OnProgress = ignore_progress,
    **filters: Unpack[WorkflowFilters],
) -> Changes:
    """See retry_workflows()."""
    return await sync_to_async(retry_workflows)(dry_run=dry_run, on_progress=on_progress, **filters)


@dataclass(frozen=True, slots=True)
class _Action:
    """What can be done to the workflows that are in one status."""

    status: WorkflowStatus
    participle: str
    act: Callable[[WorkflowRun], object]
    """Does it to one of them, and returns what is false where nothing could be done."""
    why_not: str
    """Why nothing could be done."""


_CANCEL: Final = _Action(
    WorkflowStatus.RUNNING, "cancelled", WorkflowRun.cancel, "it has ended meanwhile"
)

_RETRY: Final = _Action(
    WorkflowStatus.FAILED,
    "retried",
    WorkflowRun.retry_failed,
    "none of its failed steps can run again: their secrets or records are gone",
)


def _change(
    filters: WorkflowFilters, action: _Action, *, dry_run: bool, on_progress: OnProgress
) -> Changes:
    """Change the workflows that can be changed; say of the others that are named why not."""
    if all(value is None for value in filters.values()):
        raise InvalidFilter("Name workflows by ids or by a filter, such as status or name.")
    ids = filters.get("ids")
    named = None if ids is None else list(map(as_uuid, ids))
    filters["ids"] = named
    meant = find_workflows(**filters)
    if named is None:
        meant = meant.filter(status=action.status)
    found = {each.pk: each.status for each in meant.only("status")}
    changes = Changes(skipped=dict.fromkeys(named or (), "there is no such workflow"))
    for number, (id, current) in enumerate(found.items(), 1):
        changes.skipped.pop(id, None)
        if current != action.status:
            changes.skipped[id] = f"it is {current}; {action.status} ones are {action.participle}"
        elif not (dry_run or action.act(WorkflowRun(id))):
            changes.skipped[id] = action.why_not
        else:
            changes.done.append(id)
        on_progress(number, len(found))
    if changes.done and not dry_run:
        logger.info("%d workflows were %s.", len(changes.done), action.participle)
    return changes


def _all() -> "QuerySet[Workflow]":
    """Return the workflows where they are written: a replica may lag."""
    return Workflow.objects.using(router.db_for_write(Workflow))


def _steps(id: UUID) -> "QuerySet[TaskRecord]":
    records = TaskRecord.objects.using(router.db_for_write(TaskRecord))
    return records.filter(workflow_id=id, step__isnull=False)


def _status(status: object) -> str:
    name = str(status).upper()
    if name in STATUSES:
        return name
    raise InvalidFilter(f"There is no status {status!r}. There are: {', '.join(WorkflowStatus)}.")


_NARROW: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "ids": lambda found, ids: found.filter(pk__in=[as_uuid(id) for id in ids]),
    "status": lambda found, status: found.filter(status__in=[_status(each) for each in status]),
    "name": lambda found, names: found.filter(name__in=names),
    "since": lambda found, since: found.filter(created_at__gte=moment("since", since)),
    "until": lambda found, until: found.filter(created_at__lt=moment("until", until)),
}
"""What each filter leaves of the workflows."""
