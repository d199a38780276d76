"""Queries of the records for users' code, the backend of django.tasks, `dev` and clean-up."""

from collections.abc import Collection
from datetime import datetime
from uuid import UUID, uuid5

from django.db.models import Q

from ..core.lifecycle import SQS_TERMS, Claim, Status
from ..core.message import Message
from ..core.retries import continuation_id, retry_id
from .clock import Now
from .database import all_records, record_alias
from .mapping import join_worker_ids, last_worker_id, row_of
from .portable import record_of
from .retrying import with_retries
from .tables import (
    DoctorReport,
    ErrorFigures,
    LastTick,
    LimitPace,
    LimitPlace,
    QueueState,
    RecordQuerySet,
    RelayShift,
    RunFigures,
    RunProgress,
    RunState,
    ScheduleState,
    StepCheckpoint,
    StepSignal,
    TaskError,
    TaskRecord,
    UsedSignature,
    Workflow,
    WorkflowJoin,
)


@with_retries
def find(invocation_id: UUID) -> TaskRecord | None:
    """Return the record of an invocation, or None before there is one."""
    return all_records().with_progress().filter(id=invocation_id).first()


def find_last(invocation_id: UUID) -> TaskRecord | None:
    """Return the record of the latest invocation that follows from this one, or its own record."""
    record = following = _find(invocation_id)
    while following is not None:
        record = following
        following = _find_following(record)
    return record


def chain(root_id: UUID) -> list[TaskRecord]:
    """Return the records of an invocation and of all that follow from it, in that order."""
    records = list(all_records().filter(root_id=root_id).order_by("enqueued_at"))
    ids = {record.id for record in records}
    following = {record.retry_of: record for record in records if record.retry_of}
    chain = [record for record in records if record.id == root_id]
    # A cleanup deletes the oldest records first, so the chain may start later.
    chain = chain or [each for earlier, each in following.items() if earlier not in ids][:1]
    while chain and (after := following.pop(chain[-1].id, None)) is not None:
        chain.append(after)
    return chain


def claimed(message: Message, claim: Claim) -> TaskRecord:
    """Return the record of a claimed message, made from the claim without a query."""
    return record_of(
        row_of(message, message.queue or "", SQS_TERMS, enqueued_at=claim.enqueued_at),
        look_at=None,
        status=Status.RUNNING,
        start_time=claim.started_at,
        n_attempts=claim.attempt,
        worker_ids=join_worker_ids(claim.worker_ids),
    )


@with_retries
def check_migrated() -> None:
    """Raise NotMigrated unless the database has every table and column of the library."""
    for model in (
        TaskRecord, RunState, RunProgress, LimitPlace, LimitPace, RelayShift, ScheduleState,
        StepCheckpoint, StepSignal, UsedSignature, Workflow, WorkflowJoin,
        RunFigures, ErrorFigures, TaskError, LastTick, DoctorReport, QueueState,
    ):  # fmt: skip
        model._base_manager.using(record_alias()).order_by().first()


@with_retries
def ended_since(moment: datetime) -> list[tuple[UUID, datetime]]:
    """Return the id and end of each record that ended at a moment or later, in this order."""
    ended = all_records().filter(end_time__gte=moment).order_by("end_time", "id")
    return [(id, at) for id, at in ended.values_list("id", "end_time") if at is not None]


@with_retries
def find_many(ids: Collection[UUID]) -> list[TaskRecord]:
    """Return the records of these invocations, in the order of their ends."""
    return list(all_records().filter(id__in=ids).order_by("end_time", "id"))


@with_retries
def running_workers() -> list[str]:
    """Return the worker id of each run that has started and holds its lease."""
    running = _unfinished().filter(
        status=Status.RUNNING, start_time__isnull=False, lease_until__gt=Now()
    )
    return [last_worker_id(each) for each in running.values_list("worker_ids", flat=True)]


@with_retries
def count_waiting() -> int:
    """Return the number of queued records that are due."""
    is_due = Q(run_after=None) | Q(run_after__lte=Now())
    return _unfinished().filter(is_due, status=Status.QUEUED).count()


def _unfinished() -> RecordQuerySet:
    """Return a query that reads the index of unfinished records, as the status has none.

    With an index on the status, each claim and each end would write into every index.
    """
    return all_records().filter(look_at__isnull=False)


def _find_following(record: TaskRecord) -> TaskRecord | None:
    if record.claim_token is None:
        return None
    if record.status == Status.RETRYING:
        derived = retry_id(record.id, record.claim_token), uuid5(record.id, "retry")
    elif record.status == Status.SUCCESS:
        derived = continuation_id(record.id, record.claim_token), uuid5(record.id, "continue")
    else:
        return None
    # 1.0.0.dev0 derived the second id, which can be guessed from messages. So the record must also
    # have the root_id of this one, which no message can set.
    return _find(*derived, root_id=record.root_id or record.id)


@with_retries
def _find(*ids: UUID, **links: UUID) -> TaskRecord | None:
    return all_records().filter(id__in=ids, **links).first()
