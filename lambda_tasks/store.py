"""Every statement about records: one method, one transaction, one thread hop.

State changes are conditional on the state that the caller believes in, and all times are the
database's own, so that no worker's clock decides who owns a record.
"""

import logging
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from django.db import connections, router, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import (
    BooleanField,
    Case,
    Count,
    DurationField,
    F,
    Q,
    QuerySet,
    TextField,
    Value,
    When,
)
from django.db.models.functions import Concat

from . import bulk, table_rows, wakeups
from .core.lifecycle import (
    Claim,
    Continued,
    Failed,
    Outcome,
    Raised,
    Refusal,
    Refused,
    Status,
)
from .core.message import Message, Outgoing
from .core.retries import continuation_id, retry_id
from .database_clock import Now
from .errors import LeaseLost, WorkerProcessDied
from .models import SingletonLock, TaskRecord
from .ports import ClaimRequest
from .sealing import NOT_KEPT
from .statements import Composed, Slot, Statements, update

logger = logging.getLogger("lambda_tasks")

EARLY_DELIVERY: Final = timedelta(seconds=1)
"""SQS delays in whole seconds, so a message may come a little before its time."""


LOST: Final = Raised.by(WorkerProcessDied(), "Its worker died before the task ended.")

RETURNING: Final = f" RETURNING {', '.join(table_rows.CLAIMED)}"
"""Of what has been claimed, where the database tells it with the claim itself."""

LEASE: Final = Slot("lease", DurationField())
RAN_FOR: Final = Slot("ran_for", DurationField())


class RecordStore:
    """The records of this project, in the database that the router names for TaskRecord.

    `table_queues` gives the names of the queues whose messages are worked off from here.
    `worker_id` is what a record tells of who has claimed it.
    """

    def __init__(
        self, table_queues: Callable[[], Collection[str]] = frozenset, *, worker_id: str = "unknown"
    ) -> None:
        self._table_queues = table_queues
        self._worker_id = worker_id
        self._statements = Statements()

    @property
    def alias(self) -> str:
        """The database that holds the records."""
        return router.db_for_write(TaskRecord)

    def insert_queued(self, messages: Iterable[Outgoing]) -> None:
        """Store messages as QUEUED, with one INSERT.

        A message whose invocation is there already changes nothing.
        """
        self._insert_queued([table_rows.queued(outgoing) for outgoing in messages])

    def mark_sent(self, messages: Sequence[Outgoing]) -> None:
        """Note that their queues have accepted these messages; or, where the queue is this table,
        wake who waits for them."""
        tables = self._table_queues()
        sent = [each.message.invocation_id for each in messages if each.queue not in tables]
        if sent and bulk.is_possible(self._connection):
            bulk.mark_sent(self._connection, sent)
        elif sent:
            with self._unlocked(sent) as free:
                free.update(
                    sent_at=Now(),
                    # A lost run's message is on its way again: for the next one it is as if lost
                    # now.
                    lease_until=Case(
                        When(lease_until__lt=Now(), then=Now()), default=F("lease_until")
                    ),
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
        granted = self._insert_direct(direct, token, lease)
        if rest := {id: request for id, request in by_id.items() if id not in granted}:
            granted |= self._take(rest, token, lease, max_attempts)
        rest = {id: request for id, request in by_id.items() if id not in granted}
        rows = self._read(rest) if rest else {}
        verdicts: dict[UUID, Claim | Refused] = {
            id: granted.get(id) or table_rows.verdict(rows.get(id), request, token, max_attempts)
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
        if following is None:
            self._close(claim, outcome, ran_for)
            return
        with transaction.atomic(using=self.alias, savepoint=False):
            self._close(claim, outcome, ran_for)
            self._insert_queued(
                [table_rows.queued(following, state=self._handed_on(claim, outcome))]
            )

    def close_many(
        self, ends: Sequence[tuple[Claim, Outcome, timedelta | None]]
    ) -> Collection[UUID]:
        """Write what attempts that nothing follows ended in, and for how long each ran; the
        invocation ids of those whose claim has held."""
        if len(ends) > 1 and bulk.is_possible(self._connection):
            return bulk.close(
                self._connection,
                [
                    {
                        "id": claim.invocation_id,
                        "claim_token": claim.token,
                        "ran_for_s": None if ran_for is None else ran_for.total_seconds(),
                        **table_rows.closing(outcome),
                    }
                    for claim, outcome, ran_for in ends
                ],
            )
        held = set()
        with transaction.atomic(using=self.alias):
            for claim, outcome, ran_for in ends:
                with suppress(LeaseLost):
                    self._close(claim, outcome, ran_for)
                    held.add(claim.invocation_id)
        return held

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
            worker_ids=table_rows.lines(claim.worker_ids if started else claim.worker_ids[:-1]),
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
        return list(table_rows.readable(records))

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
            yield list(table_rows.readable(due))

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

    def claimed(self, message: Message, claim: Claim) -> TaskRecord:
        """The record of a claimed message as it is now, without asking for it."""
        return TaskRecord(
            **table_rows.asked_for(message, message.queue or ""),
            status=Status.RUNNING,
            run_after=message.run_after,
            enqueued_at=claim.enqueued_at,
            start_time=claim.started_at,
            n_attempts=claim.attempt,
            worker_ids=table_rows.lines(claim.worker_ids),
        )

    def chain(self, root_id: UUID) -> list[TaskRecord]:
        """The records of an invocation and of all that has followed from it, in that order."""
        records = list(self._records.filter(root_id=root_id).order_by("enqueued_at"))
        ids = {record.id for record in records}
        following = {record.retry_of: record for record in records if record.retry_of}
        chain = [record for record in records if record.id == root_id]
        # A cleanup takes the oldest first, so the chain may begin later.
        chain = chain or [each for earlier, each in following.items() if earlier not in ids][:1]
        while chain and (after := following.pop(chain[-1].id, None)) is not None:
            chain.append(after)
        return chain

    def finished_since(self, moment: datetime) -> list[TaskRecord]:
        """What has come to its end since then, in that order."""
        return list(self._records.filter(end_time__gt=moment).order_by("end_time"))

    def count_by_status(self) -> dict[str, int]:
        """How many records are in each status."""
        counts = self._records.order_by().values_list("status").annotate(Count("id"))
        return dict(counts)

    def forget_sent(self) -> None:
        """Let the relay send all that is QUEUED once more, as its queues are gone."""
        self._records.filter(status=Status.QUEUED).update(sent_at=None)

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
    def _connection(self) -> BaseDatabaseWrapper:
        return connections[self.alias]

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

    def _insert_queued(self, rows: Sequence[table_rows.Row]) -> None:
        if bulk.is_possible(self._connection):
            bulk.insert(self._connection, rows, bulk.queued())
        else:
            self._create([_record(row, status=Status.QUEUED) for row in rows])

    def _create(self, records: Sequence[TaskRecord]) -> None:
        """Insert records, but for those that are there already."""
        if self._connection.vendor == "mysql":
            # Whose way to ignore conflicts also passes over whatever it refuses.
            self._records.bulk_create(records, update_conflicts=True, update_fields=["task_name"])
        else:
            self._records.bulk_create(records, ignore_conflicts=True)

    @contextmanager
    def _unlocked(self, ids: Collection[UUID]) -> "Iterator[QuerySet[TaskRecord]]":
        """Those of these records that nobody else has locked: who waits for no lock is part of no
        deadlock."""
        records = self._records.filter(id__in=ids).order_by()
        if not self._connection.features.has_select_for_update_skip_locked:
            yield records
            return
        with transaction.atomic(using=self.alias):
            free = records.select_for_update(skip_locked=True).values_list("id", flat=True)
            yield self._records.filter(id__in=list(free))

    def _insert_direct(
        self, requests: Sequence[ClaimRequest], token: UUID, lease: timedelta
    ) -> dict[UUID, Claim]:
        """Records of messages that come without one, claimed where they are due; what is known to
        be claimed by that. Whether one is due the database's clock decides, in _take()."""
        rows = [table_rows.direct(request) for request in requests]
        due = [row for row in rows if row["run_after"] is None]
        later = [row for row in rows if row["run_after"] is not None]
        if later:
            self._create([_record(row, status=Status.QUEUED, sent_at=Now()) for row in later])
        worker_ids = table_rows.lines([self._worker_id])
        if due and bulk.is_possible(self._connection):
            running = bulk.running(token, lease, worker_ids)
            granted = bulk.insert(self._connection, due, running, returning=RETURNING)
            return table_rows.claims(granted, token)
        if due:
            claimed = {
                "status": Status.RUNNING,
                "start_time": Now(),
                "n_attempts": 1,
                "worker_ids": worker_ids,
                "claim_token": token,
                "lease_until": Now() + lease,
            }
            self._create([_record(row, **claimed) for row in due])
        return {}

    def _take(
        self,
        by_id: Mapping[UUID, ClaimRequest],
        token: UUID,
        lease: timedelta,
        max_attempts: int,
    ) -> dict[UUID, Claim]:
        """Claim records that are there; what is known to be claimed by that."""
        rerun = [id for id, request in by_id.items() if request.rerun_when_lost]
        ids = {f"id{index}": id for index, id in enumerate(by_id)}
        reruns = {f"rerun{index}": id for index, id in enumerate(rerun)}

        def compose() -> Composed:
            is_due = Q(run_after=None) | Q(run_after__lte=Now() + EARLY_DELIVERY)
            may_rerun = Q(id__in=[_slot("id", name) for name in reruns])
            is_lost = Q(status=Status.RUNNING, lease_until__lt=Now()) & may_rerun
            records = self._records.filter(
                Q(status=Status.QUEUED) & is_due | is_lost,
                id__in=[_slot("id", name) for name in ids],
                n_attempts__lt=_slot("n_attempts", "max_attempts"),
            ).exclude(claim_token=_slot("claim_token"))
            claimed = {
                "status": Status.RUNNING,
                "claim_token": _slot("claim_token"),
                "lease_until": Now() + LEASE,
                "start_time": Now(),
                "n_attempts": F("n_attempts") + 1,
                "worker_ids": Concat("worker_ids", _slot("worker_ids"), output_field=TextField()),
            }
            return update(records, claimed)

        own = {
            "claim_token": token,
            "max_attempts": max_attempts,
            "lease": lease,
            "worker_ids": table_rows.lines([self._worker_id]),
        }
        _, rows = self._statements.execute(
            self._connection,
            ("take", len(ids), len(reruns)),
            compose,
            {**ids, **reruns, **own},
            returning=RETURNING if bulk.is_possible(self._connection) else "",
        )
        return table_rows.claims(rows, token)

    def _close(self, claim: Claim, outcome: Outcome, ran_for: timedelta | None) -> None:
        fields = table_rows.closing(outcome)

        def compose() -> Composed:
            started = {} if ran_for is None else {"start_time": Now() - RAN_FOR}
            held = self._records.filter(
                id=_slot("id"), claim_token=_slot("claim_token"), status=Status.RUNNING
            )
            ended = {name: _slot(name) for name in fields}
            return update(held, {**ended, **started, "end_time": Now(), "secrets": None})

        changed, _ = self._statements.execute(
            self._connection,
            ("close", ran_for is None, *fields),
            compose,
            {**fields, "id": claim.invocation_id, "claim_token": claim.token, "ran_for": ran_for},
        )
        if not changed:
            raise LeaseLost(f"{claim.invocation_id} is no longer held by this worker.")

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
                "enqueued_at", "start_time", "worker_ids",
            )
        )  # fmt: skip
        return {row["id"]: dict(row) for row in rows}

    def _leave_to_relay(self, verdicts: Mapping[UUID, Claim | Refused]) -> None:
        if later := _refused(verdicts, Refusal.LATER):
            self._records.filter(id__in=later, status=Status.QUEUED).update(sent_at=None)

    def _fail_exhausted(self, verdicts: Mapping[UUID, Claim | Refused], max_attempts: int) -> None:
        if exhausted := _refused(verdicts, Refusal.EXHAUSTED):
            is_lost = Q(status=Status.RUNNING, lease_until__lt=Now())
            is_given_back = Q(status=Status.QUEUED, n_attempts__gte=max_attempts)
            self._records.filter(is_lost | is_given_back, id__in=exhausted).update(
                **table_rows.closing(Failed(LOST)), end_time=Now(), secrets=None
            )


def _refused(verdicts: Mapping[UUID, Claim | Refused], refusal: Refusal) -> list[UUID]:
    return [
        id
        for id, verdict in verdicts.items()
        if isinstance(verdict, Refused) and verdict.refusal is refusal
    ]


def _record(row: table_rows.Row, **rest: Any) -> TaskRecord:
    """For a database that takes no bulk."""
    fields = dict(row)
    delay_s = fields.pop("delay_s")
    if fields["run_after"] is None and delay_s is not None:
        fields["run_after"] = Now() + timedelta(seconds=delay_s)
    return TaskRecord(**{**fields, "enqueued_at": row["enqueued_at"] or Now(), **rest})


def _slot(column: str, name: str = "") -> Slot:
    return Slot(name or column, TaskRecord._meta.get_field(column))
