"""What users do to records that are there: retry, make due, cancel and delete them, in chunks.

Each function changes one chunk in a transaction of its own, or in the caller's. So what is cut off
in the middle is half done, and never twice: each change is conditional on the status.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple
from uuid import UUID

from django.db import transaction
from django.db.models import Exists, OuterRef, Q

from ..core.graphs import Place, WorkflowStatus
from ..core.lifecycle import ACTIVE, UNFINISHED, LookTerms, Raised, Status
from ..core.message import UNDO_HEADER, Outgoing
from . import checkpoints
from .clock import Now
from .counts import is_stuck
from .database import all_records, record_alias
from .filters import Filters, filtered
from .finishes import reopened_columns
from .joins import take_back_ends
from .looks import lock_unlocked
from .mapping import MESSAGE_COLUMNS, outgoing_of, place_of, read_messages
from .retrying import with_retries
from .tables import RunProgress, RunState, TaskRecord, Workflow
from .undoing import call_of

OVER: Final = (WorkflowStatus.SUCCESS, WorkflowStatus.CANCELLED)
"""The statuses of workflows whose steps can't start over."""

RETRYABLE: Final = (Status.FAILED, Status.CANCELLED)
"""The statuses of invocations that can start over."""

FINISHED: Final = tuple(status for status in Status if status.is_finished)

SUPERSEDED: Final = "it was retried or replayed already: take the last of its records"
"""Why a record is left out that a later one follows."""

UNDONE: Final = (
    "its compensations have run, or run now: let it go on from a step, by DurableRun.retry_from(), "
    "or replay it"
)
"""Why a durable function does not go on that was undone."""

NOT_UNDONE: Final = "its function has gone on since, or was undone by another run"
"""Why compensations do not run."""

Refuse = Callable[[TaskRecord], str | None]
"""A function that returns why a record can't be changed, or None if it can."""


class Changed(NamedTuple):
    """The records of a chunk that were changed, and why others were not."""

    done: Sequence[UUID]
    skipped: Mapping[UUID, str]


@with_retries
def select(filters: Filters, statuses: Collection[Status]) -> list[UUID]:
    """Return the ids of the records with these filters and statuses, the oldest call first."""
    found = filtered(all_records(), filters).filter(status__in=statuses)
    return list(found.order_by("enqueued_at", "id").values_list("id", flat=True))


@with_retries
def statuses_of(ids: Collection[UUID]) -> dict[UUID, str]:
    """Return the status of each of these invocations that has a record."""
    return dict(all_records().filter(id__in=ids).order_by().values_list("id", "status"))


@with_retries
def find_finished(ids: Collection[UUID], *, lock: bool) -> list[TaskRecord]:
    """Return the finished records among these, the oldest call first; with `lock`, locked."""
    records = all_records().filter(id__in=ids, status__in=FINISHED).order_by("enqueued_at", "id")
    return list(records.select_for_update() if lock else records)


@with_retries
def find_superseded(ids: Collection[UUID]) -> set[UUID]:
    """Return those of these invocations that a later one follows: a retry, or a replay."""
    later = all_records().filter(
        root_id=OuterRef("root_id"), enqueued_at__gt=OuterRef("enqueued_at")
    )
    later = later.exclude(headers__has_key=UNDO_HEADER)  # It undoes the call, and repeats nothing.
    followed = all_records().filter(Exists(later), id__in=ids).order_by()
    return set(followed.values_list("id", flat=True))


@with_retries
def free_keys(keys: Collection[tuple[UUID, UUID | None]]) -> None:
    """Free unique keys that succeeded runs of the calls with these roots have kept (`unique_for`).

    Any record of a call may have its key: a retry or a replay takes it over.
    """
    wanted = {key for key, _ in keys}
    kept = all_records().filter(unique_key__in=wanted, status=Status.SUCCESS).order_by()
    found = kept.values_list("id", "unique_key", "root_id")
    own = [id for id, key, root in found if (key, root) in keys]
    if own:
        kept.filter(id__in=own).update(unique_key=None)


@with_retries
def kept_until(ids: Iterable[UUID]) -> dict[UUID, datetime]:
    """Return until when those of these calls hold their unique keys that have succeeded."""
    kept = all_records().filter(id__in=list(ids), status=Status.SUCCESS).order_by()
    found = kept.exclude(unique_key=None).values_list("id", "unique_until")
    return {id: until for id, until in found if until is not None}


@with_retries
def reopen(
    ids: Collection[UUID],
    refuse: Refuse,
    look_terms: Callable[[str], LookTerms],
    *,
    dry_run: bool,
    is_last: bool = False,
) -> Changed:
    """Let FAILED and CANCELLED invocations start over, as QUEUED ones, with the state they saved.

    Those that a later one follows are skipped, unless `is_last` says that none repeats them.

    Nobody is about to send their messages: the caller does so, or the relay after a while.
    """
    with transaction.atomic(using=record_alias()):
        found = all_records().filter(id__in=ids, status__in=RETRYABLE).order_by("enqueued_at", "id")
        records = list(found if dry_run else found.select_for_update())
        superseded = set() if is_last else find_superseded(ids)
        skipped: dict[UUID, str] = {}
        for record in records:
            reason = None if is_last else _refuse_repeated(record, superseded)
            reason = reason or refuse(record)
            if reason is not None:
                skipped[record.id] = reason
        skipped |= _parts_of_ended_workflows(records)
        done = [record for record in records if record.id not in skipped]
        if done and not dry_run:
            _keep_last_states([record.id for record in done])
            for queue in {record.queue for record in done}:
                of_queue = [record.id for record in done if record.queue == queue]
                columns = reopened_columns(Now() + look_terms(queue).grace)
                all_records().filter(id__in=of_queue).update(**columns)
            _take_back_ends(done)
    return Changed([record.id for record in done], skipped)


def _refuse_repeated(record: TaskRecord, superseded: Collection[UUID]) -> str | None:
    """Return why another record than this one goes on with its work; None where none does."""
    call_id = record.call_id
    if call_id is not None and call_of(record.headers) is None:
        return None if checkpoints.may_be_undone(call_id, record) else NOT_UNDONE
    if call_id is not None and checkpoints.is_undone(call_id):
        return UNDONE
    return SUPERSEDED if record.id in superseded else None


def _take_back_ends(records: Sequence[TaskRecord]) -> None:
    """Take back the ends of those records that are steps; let those wait that are not released."""
    begun: list[Place] = []
    unbegun: list[Place] = []
    for record in records:
        if (place := place_of(vars(record))) is not None:
            (begun if record.start_time else unbegun).append(place)
    for workflow_id, step in take_back_ends(record_alias(), begun, unbegun):
        waiting = all_records().filter(workflow_id=workflow_id, step=step)
        waiting.update(status=Status.WAITING, look_at=None)


@with_retries
def find_failed_steps(records: Sequence[TaskRecord]) -> list[TaskRecord]:
    """Return those of these records that are failed steps of workflows that can still go on."""
    failed = [each for each in records if each.step is not None and each.status in RETRYABLE]
    over = _parts_of_ended_workflows(failed)
    return [each for each in failed if each.id not in over]


@with_retries
def hand_places_on(steps: Sequence[TaskRecord]) -> dict[UUID, Place]:
    """Take back the ends of failed steps, whose places others take over; return these by id.

    Call it in the transaction that stores the others.
    """
    places = {each.id: place for each in steps if (place := place_of(vars(each))) is not None}
    take_back_ends(record_alias(), list(places.values()), [])
    all_records().filter(id__in=places).update(step=None, links=None)
    return places


def _parts_of_ended_workflows(records: Sequence[TaskRecord]) -> dict[UUID, str]:
    """Return why steps can't start over whose workflow is over for good."""
    ids = {record.workflow_id for record in records if record.workflow_id is not None}
    if not ids:
        return {}
    ended = Workflow.objects.using(record_alias()).filter(id__in=ids, status__in=OVER)
    status_of = dict(ended.values_list("id", "status"))
    return {
        record.id: f"its workflow is {status_of[record.workflow_id]}, and so it is over: replay it"
        for record in records
        if record.workflow_id in status_of
    }


@with_retries
def make_due(ids: Collection[UUID], *, older_than: timedelta) -> list[UUID]:
    """Make stuck records due now, as if no message had been sent; return their ids.

    See counts.is_stuck().
    """
    with transaction.atomic(using=record_alias()):
        stuck = all_records().filter(is_stuck(older_than), id__in=ids).order_by("id")
        found = list(stuck.select_for_update().values_list("id", flat=True))
        all_records().filter(id__in=found).update(look_at=Now(), sent_at=None, n_waits=0)
    return found


@with_retries
def select_stuck(filters: Filters, older_than: timedelta) -> list[UUID]:
    """Return the ids of stuck records with these filters, the oldest call first."""
    stuck = filtered(all_records(), filters).filter(is_stuck(older_than), look_at__isnull=False)
    return list(stuck.order_by("enqueued_at", "id").values_list("id", flat=True))


@with_retries
def stored_messages(
    ids: Collection[UUID], look_terms: Callable[[str], LookTerms]
) -> list[Outgoing]:
    """Return the messages of QUEUED and lost records that can be sent now, the oldest call first.

    What is due later than its queue can delay it is left to the relay, and so is what can't be
    decrypted: the relay logs and postpones it.
    """
    rows = (
        all_records()
        .filter(id__in=ids, status__in=ACTIVE)
        .order_by("enqueued_at", "id")
        .annotate(now=Now())
        .values("id", *MESSAGE_COLUMNS, "now")
    )
    unreadable: dict[UUID, Raised] = {}
    return [
        outgoing_of(message, due_in_s, look)
        for message, due_in_s in read_messages(rows, unreadable)
        if not (look := look_terms(message.queue or "")).waits(due_in_s)
    ]


@with_retries
def knows(**names: str) -> bool:
    """Return whether any record has this task or queue."""
    return all_records().filter(**names).order_by().exists()


@with_retries
def cancel(ids: Collection[UUID]) -> int:
    """Cancel the unfinished records among these, all of them or none; return how many."""
    return all_records().filter(id__in=ids).cancel()


def cancel_many(ids: Collection[UUID]) -> None:
    """Cancel the unfinished records among these, whatever others do to them.

    Those that nobody has locked are cancelled together, and then each other one alone: whoever ends
    several runs, or releases steps, may hold one and wait for another.
    """
    # The waiting ones first: one that is released meanwhile is then found among the others.
    for statuses in ((Status.WAITING,), ACTIVE):
        _cancel_unlocked(ids, statuses)
    for id in _find_unfinished(ids):
        cancel([id])


@with_retries
def _cancel_unlocked(ids: Collection[UUID], statuses: Collection[Status]) -> None:
    with transaction.atomic(using=record_alias()):
        records = all_records().filter(id__in=ids, status__in=statuses).order_by()
        if locked := list(lock_unlocked(records).values_list("id", flat=True)):
            cancel(locked)


@with_retries
def _find_unfinished(ids: Collection[UUID]) -> list[UUID]:
    unfinished = all_records().filter(id__in=ids, status__in=UNFINISHED).order_by()
    return list(unfinished.values_list("id", flat=True))


class Chunk(NamedTuple):
    """Finished records that can be deleted, and the end of the last one, for the next chunk."""

    ids: Sequence[UUID]
    last_end: datetime | None


@with_retries
def find_deletable(
    filters: Filters, *, before: datetime, since: datetime | None, limit: int
) -> Chunk:
    """Return up to `limit` finished records that ended before a moment, the earliest end first.

    `since` is the end of the last chunk: nothing that ended earlier is left.
    """
    finished = filtered(all_records(), filters).filter(end_time__lt=before, status__in=FINISHED)
    finished = finished.exclude(_is_needed())
    if since is not None:
        finished = finished.filter(end_time__gte=since)
    rows = list(finished.order_by("end_time").values_list("id", "end_time")[:limit])
    return Chunk([id for id, _ in rows], rows[-1][1] if rows else None)


@with_retries
def delete(ids: Collection[UUID]) -> int:
    """Delete the finished records among these, with all that belongs to them; return how many.

    Those of a workflow that runs stay: other steps may take their results.
    """
    with transaction.atomic(using=record_alias()):
        # Locked, so that none starts over meanwhile: the DELETE itself does not ask for the status.
        finished = all_records().filter(id__in=ids, status__in=FINISHED).order_by("id")
        finished = finished.exclude(_is_needed())
        columns: Sequence[str] = ("id", "root_id", "headers")
        locked = list(finished.select_for_update().values_list(*columns))
        _, deleted = all_records().filter(id__in=[id for id, *_ in locked]).only("id").delete()
        checkpoints.forget_deleted((root_id, headers) for _, root_id, headers in locked)
    return deleted.get(TaskRecord._meta.label, 0)


def _is_needed() -> Q:
    """Return the condition of records whose workflow, or durable function, runs, or reads them."""
    workflows = Workflow.objects.using(record_alias()).filter(id=OuterRef("workflow_id"))
    read = workflows.filter(Q(status=WorkflowStatus.RUNNING) | checkpoints.are_kept_for())
    return Q(Exists(read)) | checkpoints.is_unfinished()


@with_retries
def count_finished(filters: Filters, *, before: datetime) -> int:
    """Return the number of finished records that ended before a moment."""
    finished = filtered(all_records(), filters).filter(end_time__lt=before, status__in=FINISHED)
    return finished.count()


@with_retries
def count_others(filters: Filters, *, before: datetime) -> int:
    """Return the number of records with these filters that are unfinished, or ended later."""
    others = filtered(all_records(), filters).filter(
        Q(status__in=UNFINISHED) | Q(end_time__gte=before)
    )
    return others.count()


def _keep_last_states(ids: Sequence[UUID]) -> None:
    """Make the last saved state of each invocation the one that its next attempt 1 starts with.

    A state of a higher attempt would hide those that the new attempts save.
    """
    states = RunState.objects.using(record_alias()).filter(record_id__in=ids)
    last: dict[Any, Any] = {}
    for id, state in states.order_by("attempt").values_list("record_id", "state"):
        last[id] = state
    if last:
        states.delete()
        RunState.objects.using(record_alias()).bulk_create(
            [RunState(record_id=id, attempt=0, state=state) for id, state in last.items()]
        )
    RunProgress.objects.using(record_alias()).filter(record_id__in=ids).delete()
