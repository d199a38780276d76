"""The steps of durable functions: read at the start of each run, written with what they do.

A step's row is written in the transaction of the step, which has locked the record of its run: who
has cancelled the run, or taken it over, is seen there. Two runs can't write the same step, as its
name is part of the key.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid5

from django.db import transaction
from django.db.models import Exists, OuterRef, Q, QuerySet

from ..core.durable import FOREVER, Checkpoint, Kind
from ..core.graphs import WorkflowStatus
from ..core.lifecycle import UNFINISHED, Claim, Status
from ..core.message import CALL_HEADER, UNDO_HEADER, UNDONE_HEADER
from ..core.redaction import REDACTED
from . import signals
from .clock import Now
from .database import all_records, record_alias
from .encryption import decrypt_result, encrypt_result, encrypts_all, is_encrypted
from .retrying import with_retries
from .tables import RecordQuerySet, RunState, StepCheckpoint, TaskRecord, Workflow


@with_retries
def read(call_id: UUID) -> list[Checkpoint]:
    """Return the steps of a call, in order. Raises ValueError where one can't be decrypted."""
    return [_checkpoint_of(row) for row in _rows(call_id).order_by("number")]


@with_retries
def read_shown(call_id: UUID) -> list[Checkpoint]:
    """Return the steps of a call as people may see them: those of secret arguments redacted."""
    rows = list(_rows(call_id).order_by("number"))
    for row in rows:
        if is_encrypted(row.value) and not encrypts_all():
            row.value = REDACTED
    return [_checkpoint_of(row) for row in rows]


def write(call_id: UUID, checkpoints: Sequence[Checkpoint], *, is_secret: bool) -> None:
    """Write steps in the transaction of the last one; those that are there already end now."""
    new = [each for each in checkpoints if each.began_at is None]
    # What is written beside a step may be there: a compensation is named anew in each run, and a
    # hook of the last commit may have failed.
    for is_step in (False, True):
        rows = [
            StepCheckpoint(
                call_id=call_id,
                name=each.name,
                kind=each.kind,
                number=each.number,
                value=_encrypted(call_id, each, is_secret=is_secret),
                error=each.error,
                function=each.function,
                began_at=_moment(each.ran and each.ran[0]),
                ended_at=_moment(each.ran and each.ran[1]) if each.is_over else None,
            )
            for each in new
            if (each.kind == Kind.STEP and each.error is None) is is_step
        ]
        if rows:
            of_steps = StepCheckpoint.objects.using(record_alias())
            of_steps.bulk_create(rows, ignore_conflicts=not is_step)
    for each in checkpoints:
        if each.began_at is not None:
            ends: dict[str, Any] = {
                "error": each.error,
                "ended_at": Now() if each.is_over else None,
            }
            if each.kind != Kind.UNDO:  # whose value are its arguments
                ends["value"] = _encrypted(call_id, each, is_secret=is_secret)
            _rows(call_id).filter(name=each.name).update(**ends)


def _moment(at: float | None) -> Any:
    """Return a moment of this process, by time.monotonic(), on the database's clock; None is now.

    A step that has failed is written with the next one, which may take long.
    """
    return Now() if at is None else Now() - timedelta(seconds=max(time.monotonic() - at, 0.0))


def holds(claim: Claim) -> bool:
    """Lock the record of a run; return whether its claim holds.

    What it writes now shows that it makes progress: attempts before this one no longer count.
    """
    record = all_records().filter(
        id=claim.invocation_id, claim_token=claim.token, status=Status.RUNNING
    )
    if claim.attempt > 1:
        return bool(record.order_by().update(n_attempts=1))
    return record.order_by().select_for_update().exists()


def _encrypted(call_id: UUID, each: Checkpoint, *, is_secret: bool) -> Any:
    return encrypt_result(each.value, id=uuid5(call_id, each.name), is_secret=is_secret)


def _checkpoint_of(row: StepCheckpoint) -> Checkpoint:
    return Checkpoint(
        name=row.name,
        kind=row.kind,
        number=row.number,
        value=decrypt_result(row.value, id=uuid5(row.call_id, row.name)),
        error=row.error,
        function=row.function,
        is_over=row.ended_at is not None,
        began_at=row.began_at,
        ended_at=row.ended_at,
    )


def _rows(call_id: UUID) -> "QuerySet[StepCheckpoint]":
    return StepCheckpoint.objects.using(record_alias()).filter(call_id=call_id)


def waiting_undos(call_ids: Iterable[UUID]) -> set[UUID]:
    """Return those of these calls that have compensations which have not run."""
    return _with(call_ids, kind=Kind.UNDO, ended_at=None)


def have_steps(call_ids: Iterable[UUID]) -> set[UUID]:
    """Return those of these calls of which any step is kept."""
    return _with(call_ids)


def _with(call_ids: Iterable[UUID], **columns: Any) -> set[UUID]:
    rows = StepCheckpoint.objects.using(record_alias()).filter(call_id__in=set(call_ids), **columns)
    return set(rows.order_by().values_list("call_id", flat=True).distinct())


def runs_of(call_id: UUID) -> RecordQuerySet:
    """Return a query of the runs of a call, without those of its compensations."""
    return _all_runs_of(call_id).exclude(headers__has_key=UNDO_HEADER)


def _all_runs_of(call_id: UUID) -> RecordQuerySet:
    root = all_records().filter(id=call_id).values_list("root_id", flat=True).first()
    of_call = {f"headers__{CALL_HEADER}": str(call_id)}
    return all_records().filter(root_id=root or call_id, **of_call)


def last_run(call_id: UUID) -> RecordQuerySet:
    """Return a query of the runs of a call whose first row is the last run."""
    return runs_of(call_id).order_by("-enqueued_at", "-n_continues", "-n_retries")


def lock_last(call_id: UUID) -> TaskRecord | None:
    """Return the last run of a call, locked; None for none."""
    return last_run(call_id).select_for_update().first()


@with_retries
def unfinished_runs(call_id: UUID, *, anew: bool = False) -> list[UUID]:
    """Return the unfinished runs of a call, without those of its compensations.

    `anew` locks them, and so sees those that have begun since the transaction did.
    """
    runs = runs_of(call_id).filter(status__in=UNFINISHED).order_by()
    with transaction.atomic(using=record_alias()):
        return list((runs.select_for_update() if anew else runs).values_list("id", flat=True))


def undo_runs(call_id: UUID) -> list[UUID]:
    """Return the unfinished runs of the compensations of a call."""
    unfinished = _all_runs_of(call_id).filter(status__in=UNFINISHED, headers__has_key=UNDO_HEADER)
    return list(unfinished.order_by().values_list("id", flat=True))


def is_undone(call_id: UUID) -> bool:
    """Return whether compensations of a call have run, or run now."""
    undone = _rows(call_id).filter(kind=Kind.UNDO, ended_at__isnull=False)
    return undone.exists() or bool(undo_runs(call_id))


def may_be_undone(call_id: UUID, by: TaskRecord) -> bool:
    """Lock the last run of a call; return whether a run of its compensations may start over."""
    last = lock_last(call_id)
    undoing = _all_runs_of(call_id).filter(headers__has_key=UNDO_HEADER)
    is_over = last is None or last.status in (Status.FAILED, Status.CANCELLED)
    return is_over and not undoing.filter(enqueued_at__gt=by.enqueued_at).exists()


def next_timeout() -> UUID | None:
    """Return the run of a durable function whose wait for a signal ends first; None for none."""
    waiting = all_records().filter(
        status=Status.QUEUED,
        headers__has_key=CALL_HEADER,
        run_after__gt=Now(),
        run_after__lt=FOREVER,
    )
    return waiting.order_by("run_after", "id").values_list("id", flat=True).first()


def cancelled_workflows(call_id: UUID) -> list[UUID]:
    """Return the workflows that a call has waited for, and that were cancelled."""
    workflows = Workflow.objects.using(record_alias()).filter(
        call_id=call_id, status=WorkflowStatus.CANCELLED
    )
    return list(workflows.values_list("id", flat=True))


def forget_from(call_id: UUID, number: int, last: TaskRecord, *, was_undone: bool) -> None:
    """Forget the steps of a call from a number on, and in what its last run has waited."""
    _rows(call_id).filter(number__gte=number).delete()
    RunState.objects.using(record_alias()).filter(record_id=last.pk).delete()
    signals.forget_unanswered(call_id)
    if was_undone:
        headers = last.headers or {}
        undone = {UNDONE_HEADER: headers.get(UNDONE_HEADER, 0) + 1}
        all_records().filter(id=last.pk).update(headers={**headers, **undone})


def are_kept_for() -> Q:
    """Return the condition of workflows of a durable function whose steps are kept.

    It may read the results of its tasks as long.
    """
    steps = StepCheckpoint.objects.using(record_alias()).filter(call_id=OuterRef("call_id"))
    return Q(Exists(steps))


def is_unfinished() -> Q:
    """Return the condition of records that belong to a durable function which has not ended."""
    unfinished = all_records().filter(root_id=OuterRef("root_id"), status__in=UNFINISHED)
    # The header first: the records of other tasks need no further look.
    return Q(headers__has_key=CALL_HEADER) & Q(Exists(unfinished))


def forget_deleted(
    deleted: Iterable[tuple[UUID | None, Mapping[str, Any] | None]],
) -> None:
    """Forget the steps of calls whose last record is deleted. Takes roots and headers."""
    roots = {
        UUID(headers[CALL_HEADER]): root_id
        for root_id, headers in deleted
        if headers and CALL_HEADER in headers
    }
    for call_id, root_id in roots.items():
        of_call = {f"headers__{CALL_HEADER}": str(call_id)}
        if not all_records().filter(root_id=root_id or call_id, **of_call).exists():
            _rows(call_id).delete()
            signals.forget(call_id)


def wake(record_id: UUID, *, grace_s: float) -> bool:
    """Make a run due that waits to be woken; return whether there was one.

    The caller sends its message within `grace_s`; else the relay does.
    """
    waiting = all_records().filter(id=record_id, status=Status.QUEUED, run_after__gt=Now())
    look_at = Now() + timedelta(seconds=grace_s)
    return bool(waiting.order_by().update(run_after=Now(), look_at=look_at, sent_at=None))
