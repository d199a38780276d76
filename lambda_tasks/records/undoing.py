"""What follows when a durable function fails or is cancelled: its compensations, in a run."""

import uuid
from collections.abc import Collection, Mapping
from typing import Any, Final, NamedTuple
from uuid import UUID

from ..core.graphs import WorkflowStatus
from ..core.message import CALL_HEADER, UNDO_HEADER
from .checkpoints import have_steps, waiting_undos
from .clock import Now
from .database import all_records, record_alias
from .tables import TaskRecord, Workflow

COPIED: Final = (
    "task_name", "args", "kwargs", "backend", "queue", "group_key", "priority", "root_id",
    "headers",
)  # fmt: skip
"""The columns that the run of the compensations has from the run that has ended."""


def call_of(headers: Mapping[str, Any] | None) -> UUID | None:
    """Return the call of a run that compensations may follow; None for any other run."""
    if headers is None or CALL_HEADER not in headers or UNDO_HEADER in headers:
        return None
    return UUID(headers[CALL_HEADER])


class EndedCall(NamedTuple):
    """A call of a durable function that has not succeeded."""

    run_id: UUID
    """Its last run."""
    call_id: UUID
    knows_undos: bool
    """Whether all compensations that the function has named are stored. Otherwise it may have named
    some since its last step."""


def follow(ended: Collection[EndedCall]) -> list[UUID]:
    """Store the runs of the compensations of calls that have not succeeded; return their ids.

    Call it in the transaction of their ends. What the calls wait for is cancelled: its steps end at
    the next round.
    """
    runs = {each.call_id: each.run_id for each in ended}
    awaited = Workflow.objects.using(record_alias()).filter(
        call_id__in=runs, status=WorkflowStatus.RUNNING
    )
    awaited.update(status=WorkflowStatus.CANCELLED)
    sure = waiting_undos(each.call_id for each in ended if each.knows_undos)
    possible = have_steps(each.call_id for each in ended if not each.knows_undos)
    return [_insert(runs[call_id]) for call_id in sorted(sure | possible)]


def _insert(run_id: UUID) -> UUID:
    columns = all_records().filter(id=run_id).values(*COPIED).get()
    headers = {**(columns["headers"] or {}), UNDO_HEADER: True}
    record = TaskRecord(
        **{**columns, "headers": headers}, id=uuid.uuid4(), enqueued_at=Now(), look_at=Now()
    )
    all_records().bulk_create([record])
    return record.id
