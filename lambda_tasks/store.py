"""Every statement about records: one method, one transaction, one thread hop.

State changes are conditional on the state that the caller believes in, and all times are the
database's own, so that no worker's clock decides who owns a record.
"""

import logging
import math
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from django.db import connections, router, transaction
from django.db.models import BooleanField, Case, Count, F, Q, QuerySet, Value, When
from django.db.models.functions import Now

from . import wakeups
from .core.lifecycle import (
    LONGEST_WAIT,
    Claim,
    Continued,
    Failed,
    Outcome,
    Refusal,
    Refused,
    Status,
    Succeeded,
    outcome_status,
)
from .core.message import Message, Outgoing
from .core.retries import continuation_id, retry_id
from .errors import LeaseLost
from .models import SingletonLock, TaskRecord
from .ports import ClaimRequest
from .sealing import NOT_KEPT, seal, unseal

logger = logging.getLogger("lambda_tasks")

EARLY_DELIVERY: Final = timedelta(seconds=1)
"""SQS delays in whole seconds, so a message may come a little before its time."""


class RecordStore:
    """The records of this project, in the database that the router names for TaskRecord.

    `table_queues` gives the names of the queues whose messages are worked off from here.
    """

    def __init__(self, table_queues: Callable[[], Collection[str]] = frozenset) -> None:
        self._table_queues = table_queues

    @property
    def alias(self) -> str:
        """The database that holds the records."""
        return router.db_for_write(TaskRecord)

    def insert_queued(self, messages: Iterable[Outgoing]) -> None:
        """Store messages as QUEUED, with one INSERT.

        A message whose invocation is there already changes nothing.
        """
        records = [_queued_record(outgoing) for outgoing in messages]
        self._records.bulk_create(records, ignore_conflicts=True)

    def mark_sent(self, messages: Sequence[Outgoing]) -> None:
        """Note that their queues have accepted these messages; or, where the queue is this table,
        wake who waits for them."""
        tables = self._table_queues()
        sent = [each.message.invocation_id for each in messages if each.queue not in tables]
        if sent:
            self._records.filter(id__in=sent).update(
                sent_at=Now(),
                # A lost run's message is on its way again: for the next one it is as if lost now.
                lease_until=Case(When(lease_until__lt=Now(), then=Now()), default=F("lease_until")),
            )
        if len(sent) < len(messages):
            wakeups.announce(self.alias)

    def listen(self) -> wakeups.PostgresListener | None:
        """Begin to hear of new records; None where the database can't tell."""
        return wakeups.listen(self.alias)

    def claim(
        self, requests: Sequence[ClaimRequest], *, lease: timedelta, max_attempts: int
    ) -> Mapping[UUID, Claim | Refused]:
        """Claim all that can be claimed, in a number of statements that does not grow.

        Direct messages get their record here. What a worker that died has left is taken over
        once its lease has run out; what was started `max_attempts` times without an outcome is
        FAILED instead.
        """
        token = uuid.uuid4()
        # In one order everywhere, so that two workers with the same messages can't deadlock.
        ordered = sorted(requests, key=lambda request: request.message.invocation_id)
        by_id = {request.message.invocation_id: request for request in ordered}
        direct = [request for request in by_id.values() if not request.message.durable]
        if direct:
            self._records.bulk_create(
                [_direct_record(request, token, lease) for request in direct],
                ignore_conflicts=True,
            )
        self._take(by_id, token, lease, max_attempts)
        rows = self._read(by_id)
        verdicts = {
            id: _verdict(rows.get(id), request, token, max_attempts)
            for id, request in by_id.items()
        }
        self._fail_exhausted(verdicts, max_attempts)
        self._leave_to_relay(verdicts)
        return verdicts

    def close(
        self,
        claim: Claim,
        outcome: Outcome,
        *,
        ran_for: timedelta | None = None,
        following: Outgoing | None = None,
    ) -> None:
        """Write what an attempt ended in, and the QUEUED record of what follows it.

        `ran_for` sets the start to when the task itself began, after the claim and the wait for
        a free lane or process.
        Raises LeaseLost, and changes nothing, where the claim's token is no longer the record's.
        """
        with transaction.atomic(using=self.alias, savepoint=False):
            if not self._held(claim).update(**_closing(outcome, ran_for)):
                raise LeaseLost(f"{claim.invocation_id} is no longer held by this worker.")
            if following is not None:
                self._records.bulk_create(
                    [_queued_record(following, state=self._handed_on(claim, outcome))],
                    ignore_conflicts=True,
                )

    def release(self, claim: Claim, *, started: bool, comes_back: bool = True) -> None:
        """Give back what this claim holds, for another delivery to run; nothing where it is lost.

        What has not been `started` counts as no attempt. Where its delivery does not come back by
        itself, it is left to the relay.
        """
        self._held(claim).update(
            status=Status.QUEUED,
            claim_token=None,
            lease_until=None,
            start_time=None,
            n_attempts=F("n_attempts") - (0 if started else 1),
            sent_at=Now() if comes_back else None,
        )

    def save_state(self, claim: Claim, state: object) -> None:
        """Keep what the run has saved. Raises LeaseLost where the claim no longer holds."""
        if not self._held(claim).update(state=state):
            raise LeaseLost(f"{claim.invocation_id} is no longer held by this worker.")

    def show_progress(self, claim: Claim, progress: object) -> None:
        """Show how far the run is; nothing where the claim no longer holds."""
        self._held(claim).update(progress=progress)

    def lost(self, claims: Sequence[Claim]) -> list[Claim]:
        """Those that no longer hold: cancelled, or taken over."""
        tokens = {claim.token for claim in claims}
        held = set(
            self._records.filter(
                id__in=[claim.invocation_id for claim in claims],
                claim_token__in=tokens,
                status=Status.RUNNING,
            )
            .order_by()
            .values_list("id", flat=True)
        )
        return [claim for claim in claims if claim.invocation_id not in held]

    def cancel(self, invocation_id: UUID) -> bool:
        """Make a QUEUED or RUNNING record CANCELLED; False where it is finished."""
        unfinished = self._records.filter(
            id=invocation_id, status__in=[Status.QUEUED, Status.RUNNING]
        )
        return bool(unfinished.update(status=Status.CANCELLED, end_time=Now(), secrets=None))

    def unsent(
        self,
        *,
        older_than: timedelta,
        due_within: timedelta,
        lost_for: timedelta,
        waiting_for: timedelta,
        limit: int,
    ) -> list[Outgoing]:
        """Messages that are to be sent, oldest first.

        Those that no queue has accepted in the time `older_than`; and, as they may have ended
        among the dead letters, those of runs whose lease is over for `lost_for`, and those that
        were sent, and due, and not run in the time `waiting_for`.
        """
        is_due = Q(run_after=None) | Q(run_after__lte=Now() + due_within)
        waits_since = Q(run_after=None) | Q(run_after__lt=Now() - waiting_for)
        queued, running = Q(status=Status.QUEUED), Q(status=Status.RUNNING)
        records = (
            self._records.filter(
                queued & is_due & Q(sent_at=None, enqueued_at__lt=Now() - older_than)
                | queued & waits_since & Q(sent_at__lt=Now() - waiting_for)
                | running & Q(lease_until__lt=Now() - lost_for)
            )
            .annotate(now=Now())
            .exclude(secrets=NOT_KEPT)
            .exclude(queue__in=self._table_queues())
            .order_by("enqueued_at")[:limit]
        )
        return list(_readable(records))

    @contextmanager
    def due(self, queues: Collection[str], *, limit: int) -> Iterator[list[Outgoing]]:
        """What is to run now in queues that are this table, by priority, then oldest first.

        Locked in the body, where the database can skip what others have locked: so no two workers
        try to claim the same. What a worker that died has left is due when its lease is over.
        """
        records = self._records.filter(queue__in=queues).annotate(now=Now())
        records = records.exclude(secrets=NOT_KEPT)
        if connections[self.alias].features.has_select_for_update_skip_locked:
            records = records.select_for_update(skip_locked=True)
        # Two queries, so that each follows an index however long the queue is.
        lost = records.filter(status=Status.RUNNING, lease_until__lt=Now()).order_by()
        is_due = Q(run_after=None) | Q(run_after__lte=Now())
        queued = records.filter(is_due, status=Status.QUEUED).order_by("-priority", "enqueued_at")
        with transaction.atomic(using=self.alias):
            due = list(lost[:limit])
            due += queued[: limit - len(due)]
            yield list(_readable(due))

    def postpone(self, invocation_id: UUID, delay: timedelta) -> None:
        """Make a QUEUED record due after this time."""
        queued = self._records.filter(id=invocation_id, status=Status.QUEUED)
        queued.update(run_after=Now() + delay)

    def extend(self, claims: Sequence[Claim], lease: timedelta) -> None:
        """Begin the leases anew of those that still hold."""
        self._records.filter(
            id__in=[claim.invocation_id for claim in claims],
            claim_token__in={claim.token for claim in claims},
            status=Status.RUNNING,
        ).update(lease_until=Now() + lease)

    def find(self, invocation_id: UUID) -> TaskRecord | None:
        """The record of an invocation, or None before there is one."""
        return self._records.filter(id=invocation_id).first()

    def find_last(self, invocation_id: UUID) -> TaskRecord | None:
        """The same, or the record of the last invocation so far that has followed from it."""
        record = following = self.find(invocation_id)
        while following is not None:
            record = following
            following = self._find_following(record)
        return record

    def finished_since(self, moment: datetime) -> list[TaskRecord]:
        """What has come to its end since then, in that order."""
        return list(self._records.filter(end_time__gt=moment).order_by("end_time"))

    def count_by_status(self) -> dict[str, int]:
        """How many records are in each status."""
        counts = self._records.order_by().values_list("status").annotate(Count("id"))
        return dict(counts)

    def forget_sent(self) -> int:
        """Let the relay send all that is QUEUED once more, as its queues are gone; how many."""
        return self._records.filter(status=Status.QUEUED).update(sent_at=None)

    def delete_finished(self, *, before: datetime, limit: int) -> int:
        """Delete up to `limit` records that were finished before then; return how many."""
        finished = [status.value for status in Status if status.is_finished]
        chunk = list(
            self._records.filter(end_time__lt=before, status__in=finished)
            .order_by()
            .values_list("id", flat=True)[:limit]
        )
        return self._records.filter(id__in=chunk).delete()[0] if chunk else 0

    def acquire_lock(self, key: str, token: UUID, *, timeout: timedelta) -> bool:
        """Take a singleton's lock, unless another holds it and its time is not over."""
        locks = SingletonLock.objects.using(self.alias)
        locks.filter(key=key, held_until__lt=Now()).delete()
        locks.bulk_create(
            [SingletonLock(key=key, token=token, held_until=Now() + timeout)], ignore_conflicts=True
        )
        return locks.filter(key=key, token=token).exists()

    def release_lock(self, key: str, token: UUID) -> None:
        """Let go of a lock, if it is still this owner's."""
        SingletonLock.objects.using(self.alias).filter(key=key, token=token).delete()

    @property
    def _records(self) -> "QuerySet[TaskRecord]":
        return TaskRecord.objects.using(self.alias)

    def _find_following(self, record: TaskRecord) -> TaskRecord | None:
        if record.status == Status.RETRYING:
            return self.find(retry_id(record.id))
        if record.status == Status.SUCCESS and record.state is not None:
            return self.find(continuation_id(record.id))
        return None

    def _held(self, claim: Claim) -> "QuerySet[TaskRecord]":
        return self._records.filter(
            id=claim.invocation_id, claim_token=claim.token, status=Status.RUNNING
        )

    def _handed_on(self, claim: Claim, outcome: Outcome) -> Any:
        """The state of the run that follows: given, or what this one has saved for good."""
        if isinstance(outcome, Continued):
            return outcome.state
        return self._records.values_list("state", flat=True).get(id=claim.invocation_id)

    def _take(
        self,
        by_id: Mapping[UUID, ClaimRequest],
        token: UUID,
        lease: timedelta,
        max_attempts: int,
    ) -> None:
        rerun = [id for id, request in by_id.items() if request.rerun_when_lost]
        is_due = Q(run_after=None) | Q(run_after__lte=Now() + EARLY_DELIVERY)
        is_lost = Q(status=Status.RUNNING, lease_until__lt=Now(), id__in=rerun)
        self._records.filter(
            Q(status=Status.QUEUED) & is_due | is_lost,
            id__in=list(by_id),
            n_attempts__lt=max_attempts,
        ).exclude(claim_token=token).update(
            status=Status.RUNNING,
            claim_token=token,
            lease_until=Now() + lease,
            start_time=Now(),
            n_attempts=F("n_attempts") + 1,
        )

    def _read(self, ids: Iterable[UUID]) -> dict[UUID, dict[str, Any]]:
        expired = Case(
            When(lease_until__lt=Now(), then=Value(True)),
            default=Value(False),
            output_field=BooleanField(),
        )
        rows = (
            self._records.filter(id__in=list(ids))
            .order_by()
            .annotate(expired=expired, now=Now())
            .values(
                "id", "status", "claim_token", "n_attempts",
                "lease_until", "run_after", "state", "expired", "now",
            )
        )  # fmt: skip
        return {row["id"]: dict(row) for row in rows}

    def _leave_to_relay(self, verdicts: Mapping[UUID, Claim | Refused]) -> None:
        later = [
            id
            for id, verdict in verdicts.items()
            if isinstance(verdict, Refused) and verdict.refusal is Refusal.LATER
        ]
        if later:
            self._records.filter(id__in=later, status=Status.QUEUED).update(sent_at=None)

    def _fail_exhausted(self, verdicts: Mapping[UUID, Claim | Refused], max_attempts: int) -> None:
        exhausted = [
            id
            for id, verdict in verdicts.items()
            if isinstance(verdict, Refused) and verdict.refusal is Refusal.EXHAUSTED
        ]
        if exhausted:
            is_lost = Q(status=Status.RUNNING, lease_until__lt=Now())
            is_given_back = Q(status=Status.QUEUED, n_attempts__gte=max_attempts)
            self._records.filter(is_lost | is_given_back, id__in=exhausted).update(
                **_closing(Failed("Its worker died before the task ended."))
            )


def _queued_record(outgoing: Outgoing, *, state: Any = None) -> TaskRecord:
    run_after: Any = outgoing.message.run_after
    if run_after is None and outgoing.delay_s:
        run_after = Now() + timedelta(seconds=outgoing.delay_s)
    return TaskRecord(
        **_asked_for(outgoing.message, outgoing.queue),
        status=Status.QUEUED,
        enqueued_at=Now(),
        run_after=run_after,
        state=state,
    )


def _readable(records: Iterable[TaskRecord]) -> Iterator[Outgoing]:
    """One whose secrets can't be read holds up no other."""
    for record in records:
        try:
            yield _outgoing(record, getattr(record, "now"))  # noqa: B009 - annotated
        except ValueError as error:
            logger.error("%s can't be sent: %s", record.id, error)


def _outgoing(record: TaskRecord, now: datetime) -> Outgoing:
    """The message that a QUEUED record stands for, with what is left of its delay."""
    secrets = unseal(record.secrets)
    message = Message(
        task_name=record.task_name,
        kwargs=record.kwargs | secrets,
        invocation_id=record.id,
        n_retries=record.n_retries,
        queue=record.queue,
        durable=True,
        run_after=record.run_after,
        group_key=record.group_key,
        priority=record.priority,
        root_id=record.root_id,
        retry_of=record.retry_of,
        secret=frozenset(secrets),
    )
    wait = record.run_after - now if record.run_after else timedelta(0)
    delay_s = max(0, math.ceil(wait.total_seconds()))
    return Outgoing(message=message, body=message.encode(), queue=record.queue, delay_s=delay_s)


def _direct_record(request: ClaimRequest, token: UUID, lease: timedelta) -> TaskRecord:
    """Of a message that comes without one. Whether it is due the database's clock decides."""
    if request.message.run_after is None:
        return _running_record(request, token, lease)
    return TaskRecord(
        **_asked_for(request.message, request.queue),
        status=Status.QUEUED,
        enqueued_at=request.enqueued_at or Now(),
        sent_at=Now(),
        run_after=request.message.run_after,
    )


def _running_record(request: ClaimRequest, token: UUID, lease: timedelta) -> TaskRecord:
    return TaskRecord(
        **_asked_for(request.message, request.queue),
        status=Status.RUNNING,
        enqueued_at=request.enqueued_at or Now(),
        start_time=Now(),
        n_attempts=1,
        claim_token=token,
        lease_until=Now() + lease,
    )


def _asked_for(message: Message, queue: str) -> dict[str, Any]:
    return {
        "id": message.invocation_id,
        "task_name": message.task_name,
        "kwargs": message.shown_kwargs,
        "secrets": seal(message.secret_kwargs),
        "n_retries": message.n_retries,
        "queue": queue,
        "group_key": message.group_key,
        "priority": message.priority,
        "root_id": message.root_id or message.invocation_id,
        "retry_of": message.retry_of,
    }


def _verdict(
    row: Mapping[str, Any] | None, request: ClaimRequest, token: UUID, max_attempts: int
) -> Claim | Refused:
    if row is None:
        return Refused(Refusal.UNKNOWN)
    status = Status(row["status"])
    if status is Status.CANCELLED:
        return Refused(Refusal.CANCELLED)
    if status.is_finished:
        return Refused(Refusal.FINISHED)
    if row["claim_token"] == token:
        return Claim(
            invocation_id=row["id"], token=token, attempt=row["n_attempts"], state=row["state"]
        )
    if status is Status.QUEUED and row["n_attempts"] >= max_attempts:
        return Refused(Refusal.EXHAUSTED)
    if status is Status.QUEUED:
        wait = row["run_after"] - row["now"] if row["run_after"] else timedelta(0)
        refusal = Refusal.LATER if wait > LONGEST_WAIT else Refusal.NOT_DUE
        return Refused(refusal, again_in_s=wait.total_seconds())
    may_run_again = request.rerun_when_lost and row["n_attempts"] < max_attempts
    if row["expired"] and not may_run_again:
        return Refused(Refusal.EXHAUSTED)
    left = (row["lease_until"] - row["now"]).total_seconds()
    return Refused(Refusal.HELD, again_in_s=max(left, 0.0))


def _closing(outcome: Outcome, ran_for: timedelta | None = None) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "status": outcome_status(outcome),
        "end_time": Now(),
        "traceback": outcome.traceback,
        "secrets": None,
    }
    if ran_for is not None:
        fields["start_time"] = Now() - ran_for
    if isinstance(outcome, Succeeded):
        fields["result"] = outcome.result
    if isinstance(outcome, Continued):
        fields["state"] = outcome.state
    return fields
