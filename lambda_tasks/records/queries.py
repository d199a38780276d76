"""Queries of the records for users' code, the backend of django.tasks, `dev` and clean-up."""

from datetime import datetime
from uuid import UUID, uuid5

from django.db.models import Count

from ..core.lifecycle import SQS_TERMS, Claim, Status
from ..core.message import Message
from ..core.retries import continuation_id, retry_id
from .database import all_records
from .mapping import join_worker_ids, row_of
from .portable import record_of
from .retrying import with_retries
from .tables import TaskRecord


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


def finished_since(moment: datetime) -> list[TaskRecord]:
    """Return the records that ended after a moment, in the order of their ends."""
    return list(all_records().filter(end_time__gt=moment).order_by("end_time"))


def count_by_status() -> dict[str, int]:
    """Return the number of records in each status."""
    counts = all_records().order_by().values_list("status").annotate(Count("id"))
    return dict(counts)


@with_retries
def delete_finished(*, before: datetime, limit: int) -> int:
    """Delete up to `limit` records that ended before a moment; return how many."""
    finished = [status.value for status in Status if status.is_finished]
    chunk = list(
        all_records()
        .filter(end_time__lt=before, status__in=finished)
        .order_by()
        .values_list("id", flat=True)[:limit]
    )
    if not chunk:
        return 0
    _, deleted = all_records().filter(id__in=chunk).only("id").delete()
    return deleted.get(TaskRecord._meta.label, 0)


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
