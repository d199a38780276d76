"""Workflows in the database: stored, read, cancelled and retried."""

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

from django.db import connections, transaction
from django.db.models import Count, F, Q

from ..core.graphs import HUB, MAX_STEPS, ROOT, WorkflowStatus
from ..core.lifecycle import UNFINISHED, Cancelled, Status
from ..core.redaction import REDACTED
from ..errors import LeaseLost
from ..ports import StoredWorkflow
from .cancelling import cancel as cancel_records
from .checkpoints import are_kept_for
from .clock import Now
from .database import all_records, record_alias, statements
from .encryption import decrypt_result
from .joins import read_terms, wake_waiting
from .looks import lock_unlocked
from .mapping import DROPPED, queued_rows
from .releasing import send_released
from .retrying import with_retries
from .tables import TaskRecord, Workflow, WorkflowJoin

PAGE: Final = 500
"""Results that are read at once."""

CANCEL_FOR_S: Final = 5.0
"""Seconds in which a cancel comes back for records that others have locked."""

CHUNK_SIZE: Final = 1000
"""Records that are deleted in one transaction."""

MAX_CANCELS: Final = 100
"""The most workflows whose steps one round cancels."""

PAUSE_S: Final = 0.05
"""Seconds between two looks at such records."""


def insert(workflow: StoredWorkflow) -> None:
    """Store a workflow, its joins and its steps, in the caller's transaction or one of its own."""
    alias = record_alias()
    with transaction.atomic(using=alias, savepoint=False):
        Workflow.objects.using(alias).bulk_create([_row_of(workflow)])
        _insert_parts(workflow)


def _insert_parts(workflow: StoredWorkflow) -> None:
    joins = WorkflowJoin.objects.using(record_alias())
    joins.bulk_create(list(_counts_of(workflow)), batch_size=1000)
    for waits in (False, True):
        rows = queued_rows(each.outgoing for each in workflow.steps if each.waits is waits)
        if rows:
            insert_rows = statements().insert_waiting if waits else statements().insert_queued
            insert_rows(rows)


@with_retries
def check_room(id: UUID, n_steps: int) -> None:
    """Raise ValueError where a workflow would have too many steps with these.

    Raises LeaseLost where it does not run: then none of its runs can commit.
    """
    found = Workflow.objects.using(record_alias()).filter(id=id)
    status, before = found.values_list("status", "n_steps").get()
    if status != WorkflowStatus.RUNNING:
        raise LeaseLost(f"The workflow {id} is {status}, so its steps can't commit any more.")
    if before + n_steps > MAX_STEPS:
        raise ValueError(
            f"The workflow {id} has {before} steps, and with {n_steps} more it would have more "
            f"than {MAX_STEPS}. Let each step do more, or start another workflow."
        )


@with_retries
def reserve(id: UUID, *, n_steps: int, n_joins: int) -> tuple[int, int]:
    """Reserve numbers for steps and joins that are added; return the lowest of each.

    Locks the workflow until the end of the transaction. Raises what check_room() raises.
    """
    workflow = Workflow.objects.using(record_alias()).filter(id=id)
    running = workflow.filter(status=WorkflowStatus.RUNNING, n_steps__lte=MAX_STEPS - n_steps)
    columns = {"n_steps": F("n_steps") + n_steps, "lowest_join": F("lowest_join") - n_joins}
    if not running.update(**columns):
        check_room(id, n_steps)
    all_steps, lowest = workflow.values_list("n_steps", "lowest_join").get()
    return all_steps - n_steps, lowest


@with_retries
def add(addition: StoredWorkflow) -> None:
    """Store steps and joins that are added to a workflow that runs."""
    _insert_parts(addition)


def _row_of(workflow: StoredWorkflow) -> Workflow:
    is_over = not workflow.steps
    return Workflow(
        id=workflow.id,
        name=workflow.name,
        status=WorkflowStatus.SUCCESS if is_over else WorkflowStatus.RUNNING,
        created_at=Now(),
        ended_at=Now() if is_over else None,
        n_steps=len(workflow.steps),
        results=workflow.results,
        call_id=workflow.call_id,
    )


def _counts_of(workflow: StoredWorkflow) -> Iterator[WorkflowJoin]:
    for join in workflow.joins:
        terms, n_shards = join.terms.to_json(), len(join.shards)
        for shard, remaining in enumerate(join.shards):
            yield WorkflowJoin(
                workflow_id=workflow.id,
                number=join.number,
                shard=shard,
                remaining=remaining,
                failed=0,
                terms=terms if n_shards == 1 else None,
            )
        if n_shards > 1:
            yield WorkflowJoin(
                workflow_id=workflow.id,
                number=join.number,
                shard=HUB,
                remaining=n_shards,
                failed=0,
                terms=terms,
            )


def max_shards() -> int:
    """Return the most counts of a join that this database has a use for: SQLite has one writer."""
    return 1 if connections[record_alias()].vendor == "sqlite" else 64


@with_retries
def find(id: UUID) -> Workflow | None:
    """Return a workflow, or None before it is stored."""
    return Workflow.objects.using(record_alias()).filter(id=id).first()


class Progress(NamedTuple):
    """How far a workflow or a group is."""

    done: int
    total: int
    failed: int


@with_retries
def progress(id: UUID) -> Progress:
    """Return how many steps of a workflow have ended; those that failed are among these."""
    steps = all_records().filter(workflow_id=id, step__isnull=False).order_by()
    ended = Q(status__in=(Status.SUCCESS, Status.FAILED, Status.CANCELLED))
    failed = Q(status__in=(Status.FAILED, Status.CANCELLED))
    counted = steps.aggregate(
        done=Count("pk", filter=ended), total=Count("pk"), failed=Count("pk", filter=failed)
    )
    return Progress(**counted)


@with_retries
def failed_steps(id: UUID) -> list[UUID]:
    """Return the invocations of a workflow that have failed or were cancelled."""
    failed = all_records().filter(
        workflow_id=id, step__isnull=False, status__in=(Status.FAILED, Status.CANCELLED)
    )
    return list(failed.order_by("step").values_list("id", flat=True))


def refuse_retry(step: TaskRecord) -> str | None:
    """Return why a step can't start over, or None if it can."""
    given = (*step.kwargs.values(), *(step.args or ()))
    if step.secrets is None and (step.kwargs == DROPPED or REDACTED in given):
        return "its secret arguments were removed"
    return None


@with_retries
def errors(id: UUID, limit: int = 3) -> list[tuple[str, str]]:
    """Return the task and the traceback of the first steps of a workflow that have failed."""
    failed = all_records().filter(workflow_id=id, step__isnull=False, status=Status.FAILED)
    columns = failed.order_by("step").values_list("task_name", "traceback")
    return [(task_name, traceback or "") for task_name, traceback in columns[:limit]]


def cancel(id: UUID) -> bool:
    """Cancel a workflow and its steps; return False where it was over.

    What runs can't commit any more. Its joins decide nothing any more either, so the ends of its
    steps are not counted. Steps that others have locked are left out, as whoever ends a step may
    wait for one that is locked here; then this looks again.
    """
    if not _mark_cancelled(id):
        return False
    finish_cancelled(id)
    return True


@with_retries
def _mark_cancelled(id: UUID) -> bool:
    alias = record_alias()
    workflow = Workflow.objects.using(alias).filter(id=id, status=WorkflowStatus.RUNNING)
    with transaction.atomic(using=alias, savepoint=False):
        if not workflow.update(status=WorkflowStatus.CANCELLED):
            return False
        # The durable function that waits for it goes on.
        for terms, _ in read_terms(alias, [(id, ROOT)]).values():
            send_released(wake_waiting(terms))
    return True


def finish_cancelled(id: UUID) -> bool:
    """Cancel the steps of a cancelled workflow; return whether none is left. Then it has ended."""
    until = time.monotonic() + CANCEL_FOR_S
    while _cancel_steps(id):
        if time.monotonic() > until:
            return False
        time.sleep(PAUSE_S)
    return True


@with_retries
def finish_all_cancelled() -> None:
    """Cancel the steps that a cancel has left, as others had locked them or it was cut off."""
    cancelled = Workflow.objects.using(record_alias()).filter(
        status=WorkflowStatus.CANCELLED, ended_at=None
    )
    for id in cancelled.values_list("id", flat=True)[:MAX_CANCELS]:
        _cancel_steps(id)


@with_retries
def _cancel_steps(id: UUID) -> bool:
    """Cancel the steps that nobody has locked; return whether others are left.

    A step that is just ending is among these until its commit, and then what it has released or
    added. So nothing comes after the last one.
    """
    unfinished = all_records().filter(workflow_id=id, status__in=UNFINISHED).order_by()
    with transaction.atomic(using=record_alias()):
        ids = list(lock_unlocked(unfinished).values_list("id", flat=True))
        cancel_records(all_records().filter(id__in=ids), Cancelled(), is_counted=False)
    if unfinished.exists():
        return True
    Workflow.objects.using(record_alias()).filter(id=id).update(ended_at=Now())
    return False


def delete_ended(before: datetime, statuses: Collection[str]) -> Iterator[int]:
    """Delete workflows with these statuses that ended before a moment, each with all its records.

    Records go in chunks, each in a transaction of its own. Yields how many after each.
    """
    while (id := _find_ended(before, statuses)) is not None:
        while n_deleted := _delete_chunk(id):
            yield n_deleted


@with_retries
def _find_ended(before: datetime, statuses: Collection[str]) -> UUID | None:
    ended = Workflow.objects.using(record_alias()).filter(
        ended_at__lt=before, status__in=tuple(statuses)
    )
    ended = ended.exclude(are_kept_for())
    return ended.order_by("ended_at").values_list("id", flat=True).first()


@with_retries
def _delete_chunk(id: UUID) -> int:
    """Delete some records of a workflow that has ended; after the last ones, the workflow."""
    alias = record_alias()
    with transaction.atomic(using=alias):
        # Locked, so that none of its steps starts over meanwhile.
        workflow = Workflow.objects.using(alias).filter(id=id, ended_at__isnull=False)
        if not workflow.select_for_update().exists():
            return 0
        chunk = list(all_records().filter(workflow_id=id).values_list("id", flat=True)[:CHUNK_SIZE])
        all_records().filter(id__in=chunk).only("id").delete()
        if len(chunk) < CHUNK_SIZE:
            WorkflowJoin.objects.using(alias).filter(workflow_id=id).delete()
            workflow.delete()
    return len(chunk)


@with_retries
def read_step(id: UUID, step: int) -> tuple[str, Any]:
    """Return the task and the result of a step that has succeeded, as JSON values."""
    return _results(id, [step])[step]


def read_pages(id: UUID, values: Sequence[Sequence[int]]) -> Iterator[list[tuple[int, str, Any]]]:
    """Yield the results of steps that have succeeded: position, task and JSON value, in pages."""
    position = 0
    for first, stop in values:
        for start in range(first, stop, PAGE):
            numbers = range(start, min(start + PAGE, stop))
            found = _read_results(id, numbers)
            yield [
                (position + index, *found[number])
                for index, number in enumerate(numbers)
                if number in found
            ]
            position += len(numbers)


@with_retries
def count_succeeded(id: UUID, steps: Sequence[Sequence[int]]) -> int:
    """Return how many steps of these spans of numbers have succeeded."""
    succeeded = all_records().filter(workflow_id=id, status=Status.SUCCESS).order_by()
    spans = [succeeded.filter(step__gte=first, step__lt=stop) for first, stop in steps]
    return sum(each.count() for each in spans)


@with_retries
def _read_results(id: UUID, steps: Collection[int]) -> dict[int, tuple[str, Any]]:
    return _results(id, steps)


def _results(id: UUID, steps: Collection[int]) -> dict[int, tuple[str, Any]]:
    found = all_records().filter(workflow_id=id, status=Status.SUCCESS).order_by()
    if isinstance(steps, range):
        found = found.filter(step__gte=steps.start, step__lt=steps.stop)
    else:
        found = found.filter(step__in=steps)
    columns = found.values_list("id", "step", "task_name", "result")
    return {
        step: (task_name, decrypt_result(result, id=record_id))
        for record_id, step, task_name, result in columns
        if step is not None
    }


@with_retries
def read_group(id: UUID, number: int) -> Mapping[str, Any] | None:
    """Return what Results are made of: see core.graphs.Terms."""
    return groups_of([(id, number)]).get((id, number))


def groups_of(joins: Collection[tuple[UUID, int]]) -> dict[tuple[UUID, int], Mapping[str, Any]]:
    """Return for groups what their Results are made of, as JSON values."""
    return {
        (id, number): {
            "workflow_id": str(id),
            "values": terms.values,
            "total": terms.total,
            "failed": failed,
        }
        for (id, number), (terms, failed) in read_terms(record_alias(), joins).items()
    }
