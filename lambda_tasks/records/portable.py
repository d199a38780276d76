"""The statements that differ from one database to another, for any database: by Django's ORM.

`postgres` has the same for PostgreSQL, and `database` chooses. What many tasks pay for is composed
once (`statements`).
"""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import (
    Case,
    DateTimeField,
    DurationField,
    F,
    Q,
    QuerySet,
    TextField,
    Value,
    When,
)
from django.db.models.functions import Concat, Greatest

from ..core.lifecycle import Claim, End, Status
from . import finishes
from .clock import Now
from .encryption import kept_for
from .mapping import GRANTED_COLUMNS, Row, rows_of
from .statements import Composed, Slot, Statements, execute, insert, padded, update
from .tables import RunProgress, RunState, TaskRecord

MAX_STATEMENT: Final = 4 * 2**20
"""Characters of arguments in one INSERT on MySQL, which refuses a packet of more than 16 MiB by
default (max_allowed_packet, MariaDB's system variables). What is escaped takes twice as many."""

EARLY_DELIVERY: Final = timedelta(seconds=1)
"""SQS delays in whole seconds, so a message may come a little before its time."""

IS_LOST: Final = Q(status=Status.RUNNING, lease_until__lt=Now())
"""The worker of such a record has died, or hangs."""

LEASE: Final = Slot("lease", DurationField())
RAN_FOR: Final = Slot("ran_for", DurationField())
SECRETS_FOR: Final = Slot("secrets_for", DurationField())


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimTerms:
    """What is the same for all records that are claimed together."""

    token: UUID
    lease: timedelta
    worker_ids: str
    """The one who claims, as the column has it."""
    max_attempts: int
    may_rerun: frozenset[str] = frozenset()
    """The names of tasks whose lost runs may be repeated."""
    waiting: frozenset[UUID] = frozenset()
    """The invocations that begin later, each when its turn comes."""
    possible_poison_waits: bool = False
    """Suspects are among those, whichever they are."""
    from_table: bool = False
    """The deliveries come from the table itself, where lost runs are looked for as well."""


class PortableStatements:
    """The statements on the database of one alias."""

    claim_returning = ""
    """What follows this UPDATE, where the database can return what it has changed."""

    def __init__(self, alias: str) -> None:
        self.alias = alias
        self._statements = Statements()

    @property
    def connection(self) -> BaseDatabaseWrapper:
        """This thread's."""
        return connections[self.alias]

    def insert_queued(self, rows: Sequence[Row], *, is_sent: bool = False) -> None:
        """Insert rows as QUEUED records, but for those that are there already."""
        sent = {"sent_at": Now()} if is_sent else {}
        self._create([record_of(row, status=Status.QUEUED, **sent) for row in rows])

    def insert_claimed(
        self, rows: Sequence[Row], terms: ClaimTerms, *, begin: bool = True
    ) -> dict[UUID, Claim]:
        """Insert rows as claimed records, but for those that are there already.

        They `begin` at once, or wait for their turn. Returns the claims, as far as the database
        tells; the others have to be read.
        """
        claimed = {
            "status": Status.RUNNING,
            "claim_token": terms.token,
            "lease_until": Now() + terms.lease,
        }
        if begin:
            claimed |= {"start_time": Now(), "n_attempts": 1, "worker_ids": terms.worker_ids}
        self._create([record_of(row, **claimed) for row in rows])
        return {}

    def claim(self, ids: Sequence[UUID], terms: ClaimTerms) -> dict[UUID, Row]:
        """Claim records that are there. Returns GRANTED_COLUMNS of the claimed, as far as the
        database tells; the others have to be read.

        Those that another transaction has locked are passed over.
        """
        if not self.connection.features.has_select_for_update_skip_locked:
            return self.claim_waiting(ids, terms)
        with transaction.atomic(using=self.alias):
            locked = self._records.filter(id__in=ids).order_by().select_for_update(skip_locked=True)
            free = set(locked.values_list("id", flat=True))
            mine = [id for id in ids if id in free]
            return self.claim_waiting(mine, terms) if mine else {}

    def claim_waiting(self, ids: Sequence[UUID], terms: ClaimTerms) -> dict[UUID, Row]:
        """See claim(); for records that nobody has locked, or where who has is waited for."""
        claimable = {f"id{index}": id for index, id in enumerate(padded(ids))}
        names = padded(sorted(terms.may_rerun))
        reruns = {f"rerun{index}": name for index, name in enumerate(names)}
        waits = [id for id in ids if id in terms.waiting]
        waiting = {f"waits{index}": id for index, id in enumerate(padded(waits))}

        def compose() -> Composed:
            is_due = Q(run_after=None) | Q(run_after__lte=Now() + EARLY_DELIVERY)
            is_rerun = Q(task_name__in=[_slot("task_name", name) for name in reruns])
            is_lost = IS_LOST & (is_rerun | Q(start_time=None))
            records = self._records.filter(
                Q(status=Status.QUEUED) & is_due | is_lost,
                id__in=[_slot("id", name) for name in claimable],
                n_attempts__lt=_slot("n_attempts", "max_attempts"),
            ).exclude(claim_token=_slot("claim_token"))
            claimed = {
                "status": Status.RUNNING,
                "claim_token": _slot("claim_token"),
                "lease_until": Now() + LEASE,
                "look_at": _look_at_claimed(terms.from_table),
                **_start(_waits(waiting, terms)),
            }
            return self._update_free(records, claimed)

        values = {
            **claimable,
            **reruns,
            **waiting,
            "claim_token": terms.token,
            "max_attempts": terms.max_attempts,
            "lease": terms.lease,
            "worker_ids": terms.worker_ids,
        }
        _, rows = self._statements.execute(
            self.connection,
            (
                "claim",
                terms.from_table,
                terms.possible_poison_waits,
                len(claimable),
                len(reruns),
                len(waiting),
            ),
            compose,
            values,
            returning=self.claim_returning,
        )
        return rows_of(rows, GRANTED_COLUMNS)

    def begin(
        self, claims: Sequence[Claim], *, lease: timedelta, worker_ids: str
    ) -> dict[UUID, datetime]:
        """Count the starts of claimed runs whose turn has come, and begin their leases anew.

        Returns when each has started; those that are missing are no longer held.
        """
        started = self._begin(claims, lease, worker_ids)
        if len(started) == len(claims):
            return started
        begun = self._records.filter(
            id__in=[claim.invocation_id for claim in claims],
            claim_token__in=[claim.token for claim in claims],
            status=Status.RUNNING,
        )
        return {id: at for id, at in begun.order_by().values_list("id", "start_time") if at}

    def _begin(
        self, claims: Sequence[Claim], lease: timedelta, worker_ids: str
    ) -> dict[UUID, datetime]:
        """Count the starts that are not counted yet. Returns when those have started, or nothing
        where the database can't tell at once."""
        slots = list(enumerate(padded(claims)))
        ids = {f"id{index}": claim.invocation_id for index, claim in slots}
        tokens = {f"token{index}": claim.token for index, claim in slots}

        def compose() -> Composed:
            held = self._records.filter(
                id__in=[_slot("id", name) for name in ids],
                claim_token__in=[_slot("claim_token", name) for name in tokens],
                status=Status.RUNNING,
                start_time=None,
            )
            return update(held.order_by(), {"lease_until": Now() + LEASE, **_start(None)})

        values = {**ids, **tokens, "lease": lease, "worker_ids": worker_ids}
        self._statements.execute(self.connection, ("begin", len(slots)), compose, values)
        return {}

    def finish(self, end: End) -> bool:
        """Write the end of a claimed run; False where the claim no longer holds."""
        columns = finishes.end_columns(end)
        secrets_for = kept_for()
        common = finishes.common_columns(end.outcome, secrets_for and SECRETS_FOR)

        def compose() -> Composed:
            started = {} if end.ran_for is None else {"start_time": Now() - RAN_FOR}
            held = self._records.filter(
                id=_slot("id"), claim_token=_slot("claim_token"), status=Status.RUNNING
            )
            ended = {name: _slot(name) for name in columns}
            return update(held, {**ended, **started, **common})

        values = {
            **columns,
            "id": end.claim.invocation_id,
            "claim_token": end.claim.token,
            "ran_for": end.ran_for,
            "secrets_for": secrets_for,
        }
        key = ("finish", end.ran_for is None, *columns, *common)
        changed, _ = self._statements.execute(self.connection, key, compose, values)
        return bool(changed)

    def finish_many(self, ends: Sequence[End]) -> Collection[UUID]:
        """Write the ends of claimed runs; the invocation ids of those whose claim has held."""
        with transaction.atomic(using=self.alias):
            return {end.claim.invocation_id for end in ends if self.finish(end)}

    def save_state(self, claim: Claim, state: Any) -> bool:
        """Keep what a claimed run has saved; False where the claim no longer holds."""
        if not self._holds(claim):
            return False
        self._put_state(claim.invocation_id, claim.attempt, state)
        return True

    def hand_on(self, id: UUID, state: Any) -> None:
        """Keep what the first run of an invocation is to begin with."""
        self._put_state(id, 0, state)

    def show_progress(self, claim: Claim, progress: Any) -> None:
        """Show how far a claimed run is; nothing where the claim no longer holds."""
        if not self._holds(claim):
            return
        shown = RunProgress(record_id=claim.invocation_id, progress=progress, shown_at=Now())
        rows = RunProgress.objects.using(self.alias)
        self._put(rows, shown, ["record"], ["progress", "shown_at"])

    def mark_sent(self, ids: Sequence[UUID], ahead: timedelta) -> None:
        """Note that their queues, which take messages so long before their time, have accepted
        the messages of these records.

        What is due later was parked meanwhile, to be sent again in time.
        """
        with self.unlocked(ids) as free:
            free.filter(Q(run_after=None) | Q(run_after__lte=Now() + ahead)).update(
                sent_at=Now(),
                # A lost run's message is on its way again: for the next one it is as if lost now.
                lease_until=Case(When(lease_until__lt=Now(), then=Now()), default=F("lease_until")),
            )

    def levels(self) -> list[tuple[str, int]]:
        """The queues and priorities of the records that somebody must look at.

        Where the index has finished ones, too, these are among them: to pass over them would take
        their number.
        """
        records = self._records.order_by()
        if self.connection.features.supports_partial_indexes:
            records = records.filter(look_at__isnull=False)
        return [
            (queue, priority)
            for queue in _values(records, "queue")
            for priority in _values(records.filter(queue=queue), "priority")
        ]

    @contextmanager
    def unlocked(self, ids: Collection[UUID]) -> "Iterator[QuerySet[TaskRecord]]":
        """The records among these that nobody runs, or has locked.

        Locked rows are skipped, so this never waits and cannot deadlock.
        """
        runs = Q(status=Status.RUNNING, lease_until__gte=Now())
        records = self._records.filter(~runs, id__in=ids).order_by()
        if not self.connection.features.has_select_for_update_skip_locked:
            yield records
            return
        with transaction.atomic(using=self.alias):
            free = records.select_for_update(skip_locked=True).values_list("id", flat=True)
            yield self._records.filter(id__in=list(free))

    def _update_free(self, records: "QuerySet[TaskRecord]", values: Mapping[str, Any]) -> Composed:
        """The update of those that nobody has locked, which here is known by now."""
        return update(records, values)

    @property
    def _records(self) -> "QuerySet[TaskRecord]":
        return TaskRecord.objects.using(self.alias)

    def _create(self, records: Sequence[TaskRecord]) -> None:
        """Insert records, but for those that are there already."""
        if self.connection.vendor != "mysql":
            self._records.bulk_create(records, ignore_conflicts=True)
            return
        parts = _parts(records)
        with transaction.atomic(using=self.alias) if len(parts) > 1 else nullcontext():
            for part in parts:
                # MySQL's INSERT IGNORE also passes over whatever it refuses.
                sql, params = insert(part, self.alias)
                execute(self.connection, f"{sql} ON DUPLICATE KEY UPDATE id = id", params)

    def _holds(self, claim: Claim) -> bool:
        """Read, and not locked: what happens next the end of the run will tell."""
        held = self._records.filter(
            id=claim.invocation_id, claim_token=claim.token, status=Status.RUNNING
        )
        return held.exists()

    def _put_state(self, id: UUID, attempt: int, state: Any) -> None:
        row = RunState(record_id=id, attempt=attempt, state=state)
        self._put(RunState.objects.using(self.alias), row, ["record", "attempt"], ["state"])

    def _put(
        self, rows: "QuerySet[Any]", row: Any, key: Sequence[str], values: Sequence[str]
    ) -> None:
        """Insert a row, or write these values of it where there is one with this key."""
        names_its_key = self.connection.features.supports_update_conflicts_with_target
        rows.bulk_create(
            [row],
            update_conflicts=True,
            update_fields=values,
            unique_fields=key if names_its_key else None,
        )


def _parts(records: Sequence[TaskRecord]) -> list[list[TaskRecord]]:
    """The records in parts whose statements MySQL takes."""
    parts: list[list[TaskRecord]] = [[]]
    size = 0
    for record in records:
        own = len(json.dumps([record.args, record.kwargs])) + len(record.secrets or "")
        if parts[-1] and size + own > MAX_STATEMENT:
            parts.append([])
            size = 0
        parts[-1].append(record)
        size += own
    return parts


def record_of(row: Row, **rest: Any) -> TaskRecord:
    """The record that a row describes."""
    fields = dict(row)
    delay_s, grace_s, ahead_s = (fields.pop(name) for name in ("delay_s", "grace_s", "ahead_s"))
    number = fields.pop("number")
    if fields["enqueued_at"] is None:
        fields["enqueued_at"] = Now() + timedelta(microseconds=number) if number else Now()
    if fields["run_after"] is None and delay_s is not None:
        fields["run_after"] = Now() + timedelta(seconds=delay_s)
    fields["look_at"] = _first_look(fields["run_after"], grace_s, ahead_s)
    return TaskRecord(**{**fields, **rest})


def _waits(waiting: Iterable[str], terms: ClaimTerms) -> Q | None:
    """Which of the claimed wait for their turn, by the slots of their ids; None for none."""
    waits = Q(id__in=[_slot("id", name) for name in waiting]) if waiting else None
    if not terms.possible_poison_waits:
        return waits
    is_suspect = Q(n_attempts__gt=0)
    return is_suspect if waits is None else waits | is_suspect


def _start(waits: Q | None) -> dict[str, Any]:
    """What counts a start, of all but those that wait."""
    worker_ids = Concat("worker_ids", _slot("worker_ids"), output_field=TextField())
    if waits is None:
        started = {"start_time": Now(), "worker_ids": worker_ids}
        return {**started, "n_attempts": F("n_attempts") + 1}
    return {
        "start_time": Case(When(waits, then=None), default=Now(), output_field=DateTimeField()),
        "worker_ids": Case(When(waits, then=F("worker_ids")), default=worker_ids),
        # The last one: MySQL reads in each what those before it have set.
        "n_attempts": Case(When(waits, then=F("n_attempts")), default=F("n_attempts") + 1),
    }


def _first_look(run_after: Any, grace_s: float, ahead_s: float) -> Any:
    soon = Now() + timedelta(seconds=grace_s)
    if run_after is None:
        return soon
    due = run_after - timedelta(seconds=ahead_s)
    return Greatest(
        soon, due if hasattr(due, "resolve_expression") else Value(due, DateTimeField())
    )


def _values(records: "QuerySet[TaskRecord]", column: str) -> Iterator[Any]:
    """The different values of a column, one after the other: DISTINCT would read all records."""
    values = records.order_by(column).values_list(column, flat=True)
    value = values.first()
    while value is not None:
        yield value
        value = values.filter(**{f"{column}__gt": value}).first()


def _look_at_claimed(from_table: bool) -> Any:
    """When somebody must look at what is claimed now: when its lease is over, at the latest.

    As it is, mostly, where the relay looks: a write that changes no indexed column is cheaper.
    """
    lease_until = Now() + LEASE
    if from_table:
        return lease_until
    return Case(When(look_at__gt=lease_until, then=lease_until), default=F("look_at"))


def _slot(column: str, name: str = "") -> Slot:
    return Slot(name or column, TaskRecord._meta.get_field(column))
