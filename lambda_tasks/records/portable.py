"""The statements that differ between databases, written with Django's ORM for any database.

`postgres` has the same statements for PostgreSQL, and `database` chooses. Statements that run for
every task are composed only once (`statements`).
"""

import json
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
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
    Exists,
    F,
    FloatField,
    OuterRef,
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
from .encryption import UNAVAILABLE, secrets_retention
from .mapping import GRANTED_COLUMNS, Row, rows_of
from .statements import Composed, Placeholder, Rows, Statements, execute, insert, pad, update
from .tables import QueueState, RelayShift, RunProgress, RunState, TaskRecord

MAX_INSERT_CHARS: Final = 4 * 2**20
"""The most characters of arguments in one INSERT on MySQL, which by default refuses packets over
16 MiB (max_allowed_packet, MariaDB's system variables). Escaped characters take twice the space."""

EARLY_DELIVERY: Final = timedelta(seconds=1)
"""The tolerance for early deliveries: SQS delays by whole seconds, so a message may come early."""

IS_LOST: Final = Q(status=Status.RUNNING, lease_until__lt=Now())
"""The condition of a lost run: its lease has run out, because its worker died or hangs."""

MAY_BEGIN: Final = (
    Q(expires_at=None) | Q(expires_at__gt=Now()) | Q(n_attempts__gt=0) | Q(cut_off_s__isnull=False)
)
"""The condition of a record that has not expired: its time is not over, or it has begun before."""

HAS_EXPIRED: Final = Q(expires_at__lte=Now(), n_attempts=0, cut_off_s=None)
"""The opposite condition."""

IS_PAUSED: Final = Exists(QueueState.objects.filter(name=OuterRef("queue"), is_paused=True)) & ~Q(
    secrets=UNAVAILABLE
)
"""The condition of a record that waits as its queue is paused. See records.pauses."""

LONGEST_SHIFT: Final = timedelta(minutes=5)
"""More time than any shift of the relay lasts."""

RELAY_SHIFT: Final = "relay"
"""The name of the only row of RelayShift."""

SHIFT_COLUMNS: Final = ("token", "n_asked", "n_asked_before", "next_at", "now")
"""The columns that answer who asks for the relay's shift; `now` is the database's clock."""

HOLDER_COLUMNS: Final = (
    "id",
    "root_id",
    "unique_key",
    "status",
    "unique_until",
    "run_after",
    "expires_at",
    "n_attempts",
    "cut_off_s",
    "headers",
    "now",
)
"""The columns of a record that holds a unique key; `now` is the database's clock."""

REPLACED_COLUMNS: Final = (
    "args",
    "kwargs",
    "secrets",
    "priority",
    "headers",
    "run_after",
    "look_at",
    "expires_at",
)
"""The columns of a queued record that an equal call may replace."""

LEASE: Final = Placeholder("lease", DurationField())
RAN_FOR: Final = Placeholder("ran_for", DurationField())
SECRETS_FOR: Final = Placeholder("secrets_for", DurationField())


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimTerms:
    """The terms that records which are claimed together share."""

    token: UUID
    """Token of all the claims."""
    lease: timedelta
    worker_ids: str
    """This worker's id, as the column has it."""
    max_attempts: int
    """Number of attempts from which on a record can't be claimed any more."""
    may_rerun: frozenset[str] = frozenset()
    """Names of the tasks whose lost runs may be repeated."""
    waiting: frozenset[UUID] = frozenset()
    """Ids of the invocations that start later, each when its turn comes."""
    possible_poison_waits: bool = False
    """Whether every possible poison starts later, too."""
    from_table: bool = False
    """Whether the deliveries come from the table itself, whose workers also find lost runs."""


class PortableStatements:
    """The statements on the database of one alias."""

    claim_returning = ""
    """The RETURNING clause of the claim's UPDATE, where the database has one."""
    shift_returning = ""
    """The RETURNING clause of take_shift(): SHIFT_COLUMNS."""

    def __init__(self, alias: str) -> None:
        self.alias = alias
        self._statements = Statements()

    @property
    def connection(self) -> BaseDatabaseWrapper:
        """The connection of this thread."""
        return connections[self.alias]

    def insert_queued(self, rows: Sequence[Row], *, is_sent: bool = False) -> None:
        """Insert rows as QUEUED records; skip those that exist already."""
        sent = {"sent_at": Now()} if is_sent else {}
        self._create([record_of(row, status=Status.QUEUED, **sent) for row in rows])

    def insert_waiting(self, rows: Sequence[Row]) -> None:
        """Insert rows as WAITING records, which nobody looks at; skip those that exist already."""
        self._create([record_of(row, status=Status.WAITING, look_at=None) for row in rows])

    def looks_before_insert(self) -> bool:
        """Return whether to look for the holder of a unique key before the INSERT.

        There, MySQL's INSERT locks the row that has the key already. If it runs, its end would have
        to wait for the caller's transaction. With other isolation, only the INSERT sees that row.
        """
        return self.connection.vendor == "mysql" and self._sees_all()

    def _sees_all(self) -> bool:
        """Return whether a SELECT sees what others have committed since the transaction began.

        MySQL's SELECT of other isolation levels does not, and its INSERT does.
        """
        connection: Any = self.connection
        is_mysql: bool = connection.vendor == "mysql"
        return not is_mysql or connection.isolation_level == "read committed"

    def insert_unique(self, rows: Sequence[Row]) -> set[UUID]:
        """Insert rows that have unique keys as QUEUED records, unless others hold their keys.

        Returns the ids of those that are stored now.
        """
        self._create([record_of(row, status=Status.QUEUED) for row in rows])
        stored = self._records.filter(id__in=[row["id"] for row in rows]).order_by()
        return set(stored.values_list("id", flat=True))

    def find_holders(self, rows: Sequence[Row], *, lock: bool) -> list[Row]:
        """Return HOLDER_COLUMNS of the records that hold the unique keys of these rows.

        With `lock`, no worker claims them before the end of the transaction.
        """
        keys = [row["unique_key"] for row in rows]
        holders = self._records.filter(unique_key__in=keys).order_by()
        if not self.connection.get_autocommit() and (lock or not self._sees_all()):
            if self._sees_all():
                # By the ids: a lock by the key locks its index first, and a claim locks that last,
                # so that MySQL would end one of the two.
                ids = list(holders.values_list("id", flat=True))
                holders = self._records.filter(id__in=ids).order_by()
            holders = holders.select_for_update()
        found = list(holders.annotate(now=Now()).values(*HOLDER_COLUMNS))
        return [holder for holder in found if holder["unique_key"] in keys]

    def free_key(self, holder: Row) -> None:
        """Free the key of a record that has succeeded, and has kept it for long enough."""
        over = Q(unique_until=None) | Q(unique_until__lte=Now())
        self._records.filter(over, id=holder["id"], status=Status.SUCCESS).update(unique_key=None)

    def replace_queued(self, row: Row, holder: Row, *, is_sent: bool) -> bool:
        """Write the arguments and times of a row into its record, while that holds the key.

        `holder` is the record as it was found. With `is_sent`, its message is not sent again.
        Returns False where it has changed meanwhile.
        """
        record = record_of(row)
        replaced = {name: getattr(record, name) for name in REPLACED_COLUMNS}
        # Its place in line and its moment were for the earlier arguments and times.
        replaced |= {"limit_key": None, "reserved_for": None}
        held = self._records.filter(
            id=holder["id"],
            unique_key=row["unique_key"],
            status=Status.QUEUED,
            run_after=holder["run_after"],
        )
        return bool(held.update(**replaced, **({} if is_sent else {"sent_at": None})))

    def insert_claimed(
        self, rows: Sequence[Row], terms: ClaimTerms, *, begin: bool = True
    ) -> dict[UUID, Claim]:
        """Insert rows as claimed records; skip those that exist already.

        With `begin` their runs start at once; otherwise they wait for their turn. Returns the
        claims, if the database can return them; the caller must read the others.
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
        """Claim stored records, and skip those that another transaction has locked.

        Returns GRANTED_COLUMNS of the claimed records, if the database can return them; the caller
        must read the others.
        """
        if not self.connection.features.has_select_for_update_skip_locked:
            return self.update_claimable(ids, terms)
        with transaction.atomic(using=self.alias):
            # The UPDATE alone would wait for locks, for ever if a frozen function holds one.
            locked = self._records.filter(id__in=ids).order_by().select_for_update(skip_locked=True)
            free = set(locked.values_list("id", flat=True))
            mine = [id for id in ids if id in free]
            return self.update_claimable(mine, terms) if mine else {}

    def update_claimable(self, ids: Sequence[UUID], terms: ClaimTerms) -> dict[UUID, Row]:
        """Execute the UPDATE of claim(), which here waits for records that others have locked."""
        claimable = {f"id{index}": id for index, id in enumerate(pad(ids))}
        names = pad(sorted(terms.may_rerun))
        reruns = {f"rerun{index}": name for index, name in enumerate(names)}
        waits = [id for id in ids if id in terms.waiting]
        waiting = {f"waits{index}": id for index, id in enumerate(pad(waits))}

        def compose() -> Composed:
            is_due = Q(run_after=None) | Q(run_after__lte=Now() + EARLY_DELIVERY)
            is_rerun = Q(task_name__in=[placeholder("task_name", name) for name in reruns])
            is_lost = IS_LOST & (is_rerun | Q(start_time=None))
            records = self._records.filter(
                Q(status=Status.QUEUED) & is_due | is_lost,
                MAY_BEGIN,
                ~IS_PAUSED,
                id__in=[placeholder("id", name) for name in claimable],
                n_attempts__lt=placeholder("n_attempts", "max_attempts"),
            ).exclude(claim_token=placeholder("claim_token"))
            claimed = {
                "status": Status.RUNNING,
                "claim_token": placeholder("claim_token"),
                "lease_until": Now() + LEASE,
                "look_at": _look_at_claimed(terms.from_table),
                "unique_key": Case(When(unique_while="queued", then=None), default=F("unique_key")),
                "limit_key": None,  # of a task that had a limit once
                **_start_columns(_starts_later(waiting, terms)),
            }
            return self._compose_claim(records, claimed)

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
        """Count the starts of claimed runs whose turn has come, and renew their leases.

        Returns the start time of each. Runs whose claim no longer holds are missing.
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
        """Count the starts that are not counted yet.

        Returns their start times, or nothing where an UPDATE can't return them.
        """
        padded_claims = list(enumerate(pad(claims)))
        ids = {f"id{index}": claim.invocation_id for index, claim in padded_claims}
        tokens = {f"token{index}": claim.token for index, claim in padded_claims}

        def compose() -> Composed:
            held = self._records.filter(
                MAY_BEGIN,
                id__in=[placeholder("id", name) for name in ids],
                claim_token__in=[placeholder("claim_token", name) for name in tokens],
                status=Status.RUNNING,
                start_time=None,
            )
            return update(held.order_by(), {"lease_until": Now() + LEASE, **_start_columns(None)})

        values = {**ids, **tokens, "lease": lease, "worker_ids": worker_ids}
        self._statements.execute(self.connection, ("begin", len(padded_claims)), compose, values)
        return {}

    def finish(self, end: End) -> bool:
        """Write the end of a claimed run; return False where the claim no longer holds."""
        columns = finishes.end_columns(end)
        secrets_for = secrets_retention()
        drops = end.drops_arguments

        def compose() -> Composed:
            common = finishes.common_columns(end.outcome, secrets_for and SECRETS_FOR, drops=drops)
            started = {} if end.ran_for is None else {"start_time": Now() - RAN_FOR}
            held = self._records.filter(
                id=placeholder("id"),
                claim_token=placeholder("claim_token"),
                status=Status.RUNNING,
            )
            ended = {name: placeholder(name) for name in columns}
            return update(held, {**ended, **started, **common})

        values = {
            **columns,
            "id": end.claim.invocation_id,
            "claim_token": end.claim.token,
            "ran_for": end.ran_for,
            "secrets_for": secrets_for,
        }
        outcome = type(end.outcome)
        key = ("finish", end.ran_for is None, drops, outcome, secrets_for is None, *columns)
        changed, _ = self._statements.execute(self.connection, key, compose, values)
        return bool(changed)

    def finish_many(self, ends: Sequence[End]) -> Collection[UUID]:
        """Write the ends of claimed runs; return the invocation ids of those whose claim held."""
        with transaction.atomic(using=self.alias, savepoint=False):
            return {end.claim.invocation_id for end in ends if self.finish(end)}

    def save_state(self, claim: Claim, state: Any) -> bool:
        """Store the state of a claimed run; return False where the claim no longer holds."""
        if not self._holds(claim):
            return False
        self._upsert_state(claim.invocation_id, claim.attempt, state)
        return True

    def save_initial_state(self, id: UUID, state: Any) -> None:
        """Store the state that the first run of an invocation starts with."""
        self._upsert_state(id, 0, state)

    def show_progress(self, claim: Claim, progress: Any) -> None:
        """Store the progress of a claimed run; do nothing where the claim no longer holds."""
        if not self._holds(claim):
            return
        shown = RunProgress(record_id=claim.invocation_id, progress=progress, shown_at=Now())
        rows = RunProgress.objects.using(self.alias)
        self._upsert(rows, shown, ["record"], ["progress", "shown_at"])

    def mark_sent(self, ids: Sequence[UUID], ahead: timedelta, *, only_new: bool = False) -> None:
        """Mark records as sent, because their queues accepted the messages.

        `ahead` is the time before a message is due from which on its queue accepts it. A record
        that is due later was parked in the meantime, and must be sent again, so it is skipped. So
        is one that a worker has refused in the meantime, and that waits in its row, and one of a
        paused queue, which may do so. `only_new` skips all records that somebody has claimed,
        refused or postponed.
        """
        is_due = Q(run_after=None) | Q(run_after__lte=Now() + ahead)
        waits_for_none = Q(refused_at=None) | Q(n_waits=0) | Q(look_at__lte=Now())
        waits_for_none &= Q(limit_key=None) & ~IS_PAUSED
        is_new = Q(n_attempts=0, n_waits=0, refused_at=None)
        with self.lock_idle(ids) as free:
            free.filter(is_due, is_new if only_new else waits_for_none).update(
                sent_at=Now(),
                # The message of a lost run is sent again. Its lease ends now, so that the relay
                # waits for the whole time `lost_for` before it sends the message once more.
                lease_until=Case(When(lease_until__lt=Now(), then=Now()), default=F("lease_until")),
            )

    def take_shift(
        self, token: UUID, *, lasts: timedelta, weight: float, always: bool
    ) -> tuple[Any, ...]:
        """Take the relay's shift if it is free, or `always`; count who asks.

        Returns SHIFT_COLUMNS of the row, whose token tells who has the shift.
        """
        values = {"token": token, "lasts": lasts, "weight": weight}
        changed, rows = self._statements.execute(
            self.connection,
            ("shift", always),
            lambda: update(self._shifts, _shift_taken(always)),
            values,
            returning=self.shift_returning,
        )
        if not changed:
            self._shifts.bulk_create(
                [RelayShift(name=RELAY_SHIFT, next_at=Now())], ignore_conflicts=True
            )
            return self.take_shift(token, lasts=lasts, weight=weight, always=always)
        return rows[0] if rows else self._shifts.annotate(now=Now()).values_list(*SHIFT_COLUMNS)[0]

    @property
    def _shifts(self) -> "QuerySet[RelayShift]":
        return RelayShift.objects.using(self.alias).filter(name=RELAY_SHIFT)

    def fetch(
        self,
        key: Hashable,
        compose: "Callable[[], QuerySet[Any, Any]]",
        values: Mapping[str, Any],
    ) -> Rows:
        """Return the rows of a query that is composed once. See Statements."""
        return self._statements.fetch(self.connection, key, compose, values)

    def levels(self, early: timedelta) -> list[tuple[str, int]]:
        """Return the queues and priorities with records to look at now, or within `early`."""
        return [level for level in self._levels() if self._has_due(*level, early)]

    def _levels(self) -> Iterator[tuple[str, int]]:
        """Yield the queues and priorities in the index by steps; DISTINCT would read all of it.

        Where the index has finished records, too, those of finished ones are included: excluding
        them would mean to read all finished records.
        """
        rows = self._first_level()
        while rows:
            ((queue, priority),) = rows
            yield queue, priority
            rows = self._first_level(queue=queue, priority__lt=priority) or self._first_level(
                queue__gt=queue
            )

    def _first_level(self, **beyond: Any) -> Rows:
        def compose() -> "QuerySet[TaskRecord, Any]":
            given = {each: placeholder(each.partition("__")[0], each) for each in beyond}
            records = self._records.filter(**given).order_by("queue", "-priority")
            if self.connection.features.supports_partial_indexes:
                records = records.filter(look_at__isnull=False)
            return records.values_list("queue", "priority")[:1]

        return self.fetch(("level", *beyond), compose, beyond)

    def _has_due(self, queue: str, priority: int, early: timedelta) -> bool:
        def compose() -> "QuerySet[TaskRecord, Any]":
            level = self._records.filter(
                queue=placeholder("queue"), priority=placeholder("priority")
            )
            due = level.filter(look_at__lte=Now() + Placeholder("early", DurationField()))
            return due.order_by().values_list("priority")[:1]

        values = {"queue": queue, "priority": priority, "early": early}
        return bool(self.fetch("has due", compose, values))

    @contextmanager
    def lock_idle(self, ids: Collection[UUID]) -> "Iterator[QuerySet[TaskRecord]]":
        """Lock and yield the records among these that nobody runs or has locked.

        Locked rows are skipped, so this never waits and can't deadlock. A database without SKIP
        LOCKED locks none.
        """
        runs = Q(status=Status.RUNNING, lease_until__gte=Now())
        records = self._records.filter(~runs, id__in=ids).order_by()
        if not self.connection.features.has_select_for_update_skip_locked:
            yield records
            return
        with transaction.atomic(using=self.alias):
            free = records.select_for_update(skip_locked=True).values_list("id", flat=True)
            yield self._records.filter(id__in=list(free))

    def _compose_claim(
        self, records: "QuerySet[TaskRecord]", values: Mapping[str, Any]
    ) -> Composed:
        """Compose the claim's UPDATE. claim() has locked the records already, where it can."""
        return update(records, values)

    @property
    def _records(self) -> "QuerySet[TaskRecord]":
        return TaskRecord.objects.using(self.alias)

    def _create(self, records: Sequence[TaskRecord]) -> None:
        """Insert records; skip those that exist already."""
        if self.connection.vendor != "mysql":
            self._records.bulk_create(records, ignore_conflicts=True)
            return
        parts = _split_for_mysql(records)
        with transaction.atomic(using=self.alias) if len(parts) > 1 else nullcontext():
            for part in parts:
                # Not INSERT IGNORE, which on MySQL also hides every other error of a row.
                sql, params = insert(part, self.alias)
                execute(self.connection, f"{sql} ON DUPLICATE KEY UPDATE id = id", params)

    def _holds(self, claim: Claim) -> bool:
        """Return whether a claim holds, without locking its record.

        If the claim is lost right after this, the run finds out at its end.
        """
        held = self._records.filter(
            id=claim.invocation_id, claim_token=claim.token, status=Status.RUNNING
        )
        return held.exists()

    def _upsert_state(self, id: UUID, attempt: int, state: Any) -> None:
        row = RunState(record_id=id, attempt=attempt, state=state)
        self._upsert(RunState.objects.using(self.alias), row, ["record", "attempt"], ["state"])

    def _upsert(
        self, rows: "QuerySet[Any]", row: Any, key: Sequence[str], values: Sequence[str]
    ) -> None:
        """Insert a row, or update these values where a row with this key exists."""
        names_its_key = self.connection.features.supports_update_conflicts_with_target
        rows.bulk_create(
            [row],
            update_conflicts=True,
            update_fields=values,
            unique_fields=key if names_its_key else None,
        )


def _split_for_mysql(records: Sequence[TaskRecord]) -> list[list[TaskRecord]]:
    """Split records into parts whose INSERT is small enough for MySQL."""
    parts: list[list[TaskRecord]] = [[]]
    size = 0
    for record in records:
        n_chars = len(json.dumps([record.args, record.kwargs, record.headers])) + len(
            record.secrets or ""
        )
        if parts[-1] and size + n_chars > MAX_INSERT_CHARS:
            parts.append([])
            size = 0
        parts[-1].append(record)
        size += n_chars
    return parts


def record_of(row: Row, **rest: Any) -> TaskRecord:
    """Return an unsaved record with the values of a row."""
    fields = dict(row)
    delay_s, grace_s, ahead_s = (fields.pop(name) for name in ("delay_s", "grace_s", "ahead_s"))
    age_s = fields.pop("age_s")
    if fields["enqueued_at"] is None:
        fields["enqueued_at"] = Now() - timedelta(seconds=age_s) if age_s else Now()
    if fields["run_after"] is None and delay_s is not None:
        fields["run_after"] = Now() + timedelta(seconds=delay_s - age_s)
    fields["look_at"] = _first_look_at(fields["run_after"], grace_s - age_s, ahead_s)
    return TaskRecord(**{**fields, **rest})


def _starts_later(waiting: Iterable[str], terms: ClaimTerms) -> Q | None:
    """Return the condition of the claimed records that wait for their turn; None for none.

    `waiting` are the names of the placeholders of their ids.
    """
    waits = Q(id__in=[placeholder("id", name) for name in waiting]) if waiting else None
    if not terms.possible_poison_waits:
        return waits
    may_be_poison = Q(n_attempts__gt=0)
    return may_be_poison if waits is None else waits | may_be_poison


def _start_columns(waits: Q | None) -> dict[str, Any]:
    """Return the columns that count a start, unchanged for the records that wait."""
    worker_ids = Concat("worker_ids", placeholder("worker_ids"), output_field=TextField())
    if waits is None:
        started = {"start_time": Now(), "worker_ids": worker_ids}
        return {**started, "n_attempts": F("n_attempts") + 1}
    return {
        "start_time": Case(When(waits, then=None), default=Now(), output_field=DateTimeField()),
        "worker_ids": Case(When(waits, then=F("worker_ids")), default=worker_ids),
        # Last, because the others read it: MySQL assigns columns from left to right, and each
        # expression sees the values that were assigned before it.
        "n_attempts": Case(When(waits, then=F("n_attempts")), default=F("n_attempts") + 1),
    }


def _first_look_at(run_after: Any, grace_s: float, ahead_s: float) -> Any:
    soon = Now() + timedelta(seconds=grace_s)
    if run_after is None:
        return soon
    due = run_after - timedelta(seconds=ahead_s)
    return Greatest(
        soon, due if hasattr(due, "resolve_expression") else Value(due, DateTimeField())
    )


def _shift_taken(always: bool) -> dict[str, Any]:
    """Return the columns of a shift that somebody asks for, and gets if it is free or `always`."""
    weight = Placeholder("weight", FloatField())
    token = Placeholder("token", RelayShift._meta.get_field("token"))
    lasts = Placeholder("lasts", DurationField())

    # In this order: MySQL assigns columns from left to right, and each expression sees the values
    # that were assigned before it.
    taken = {
        "n_asked_before": F("n_asked"), "n_asked": weight, "token": token, "next_at": Now() + lasts,
    }  # fmt: skip
    if always:
        return taken
    left = {name: F(name) for name in taken} | {"n_asked": F("n_asked") + weight}
    # No shift ends so late, unless the database's clock was set back after it had begun.
    is_free = Q(next_at__lte=Now()) | Q(next_at__gt=Now() + LONGEST_SHIFT)
    return {
        name: Case(When(is_free, then=taken[name]), default=otherwise)
        for name, otherwise in left.items()
    }


def _look_at_claimed(from_table: bool) -> Any:
    """Return the time to look of a claimed record: the end of its lease, or earlier.

    For the relay, the column mostly stays unchanged: an UPDATE is cheaper that changes no indexed
    column.
    """
    lease_until = Now() + LEASE
    if from_table:
        return lease_until
    return Case(When(look_at__gt=lease_until, then=lease_until), default=F("look_at"))


def placeholder(column: str, name: str = "") -> Placeholder:
    """Return a placeholder for a value of a column; its name defaults to the column's."""
    return Placeholder(name or column, TaskRecord._meta.get_field(column))
