"""Claims of records, their leases, and the writes of a claim's holder."""

import logging
import sys
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from operator import attrgetter
from typing import Any, Final
from uuid import UUID

from django.db import DatabaseError, connections, transaction
from django.db.models import BooleanField, Case, ExpressionWrapper, F, Q, When
from django.db.models.functions import Coalesce

from .. import interrupts
from ..core.durable import Checkpoint
from ..core.grace import RefusedRecord
from ..core.graphs import Place
from ..core.lifecycle import (
    LOCKED,
    WORKER_DIED,
    Claim,
    Continued,
    End,
    Failed,
    Raised,
    Refusal,
    Refused,
    Release,
    Skipped,
    Status,
    Succeeded,
    judge_claim,
)
from ..core.message import Message, Outgoing
from ..errors import LeaseLost
from ..ports import (
    Finished,
    FoundLost,
    Granted,
    Released,
    ResolvedDelivery,
    UnrunnableDelivery,
)
from . import checkpoints, expiry, inputs, limits, postponing, refusals, signals, undoing
from .clock import Now
from .database import all_records, record_alias, statements
from .encryption import UNAVAILABLE, is_available
from .finishes import finish
from .joins import count_ends
from .mapping import (
    STATE_COLUMNS,
    Row,
    claim_of,
    join_worker_ids,
    message_of,
    queued_row,
    row_of,
    state_of,
)
from .portable import EARLY_DELIVERY, IS_LOST, IS_PAUSED, ClaimTerms
from .releasing import send_released
from .retrying import with_retries
from .tables import RecordQuerySet, ScheduleState, latest_state

logger = logging.getLogger("lambda_tasks")

Verdicts = dict[UUID, Granted | Refused]

Wanted = Mapping[UUID, Sequence[ResolvedDelivery]]
"""The deliveries by invocation id. Forged ones among them must not affect the others."""

LOCKED_PAUSES_S: Final = (0.02, 0.1, 0.3)
"""Seconds before each new try to claim locked records: most are just being marked as sent."""

INSERT_LIMIT_S: Final = 2.0
"""Seconds for the INSERT of several rows. If it takes longer, it waits for another transaction."""

NO_SECRETS: Final = Raised(
    "ValueError", "its secret arguments were not stored, and its message has none"
)
"""Why a record can't be run whose message alone had its secrets."""

SINGLE_INSERT_LIMIT_S: Final = 1.0
"""The same for the INSERT of a single row."""


class RecordClaims:
    """See ports.Claims. `worker_id` names this worker in the records that it claims."""

    def __init__(self, worker_id: str = "unknown") -> None:
        self._worker_ids = join_worker_ids([worker_id])

    @property
    def alias(self) -> str:
        """See ports.Claims."""
        return record_alias()

    @with_retries
    def check(self) -> None:
        """See ports.Claims."""
        all_records().order_by().values_list("id")[:1].exists()

    @with_retries
    def task_names(self, ids: Collection[UUID]) -> Mapping[UUID, str]:
        """See ports.Claims."""
        return dict(all_records().filter(id__in=ids).order_by().values_list("id", "task_name"))

    def claim(
        self,
        deliveries: Sequence[ResolvedDelivery],
        *,
        lease: timedelta,
        max_attempts: int,
        waiting: Collection[UUID] = (),
        possible_poison_waits: bool = False,
    ) -> Mapping[UUID, Granted | Refused]:
        """See ports.Claims.

        Direct messages get their record here. A lost run is taken over once its lease has run out;
        a run that started `max_attempts` times without an outcome is FAILED instead. Only the
        record decides about that, not the message.
        """
        terms = ClaimTerms(
            token=uuid.uuid4(),
            lease=lease,
            worker_ids=self._worker_ids,
            max_attempts=max_attempts,
            may_rerun=frozenset(each.message.task_name for each in deliveries if each.may_rerun),
            waiting=frozenset(waiting),
            possible_poison_waits=possible_poison_waits,
            from_table=not any(each.look.is_sent for each in deliveries),
        )
        # Sorted by id: if all workers lock in one order, two with the same messages can't deadlock.
        wanted: dict[UUID, list[ResolvedDelivery]] = {}
        for each in sorted(deliveries, key=attrgetter("message.invocation_id.int")):
            wanted.setdefault(each.message.invocation_id, []).append(each)
        return _read_inputs(_claim_in_places(wanted, terms), terms)

    @with_retries
    def begin(self, claims: Sequence[Claim], lease: timedelta) -> Mapping[UUID, Claim]:
        """See ports.Claims."""
        started = statements().begin(claims, lease=lease, worker_ids=self._worker_ids)
        limits.renew(claims, lease)
        if len(started) < len(claims):
            missing = [each for each in claims if each.invocation_id not in started]
            expiry.cancel_expired(_held_records(missing).filter(start_time=None))
        ours = self._worker_ids.splitlines()
        return {
            claim.invocation_id: claim.begun(started_at, ours)
            for claim in claims
            if (started_at := started.get(claim.invocation_id)) is not None
        }

    @with_retries
    def finish(self, end: End, following: Outgoing | None = None) -> Sequence[Released]:
        """See ports.Claims."""
        is_counted = end.place is not None and not end.moves_on
        is_alone = following is None and not is_counted and not _is_undone(end)
        if is_alone and not isinstance(end.outcome, Skipped):
            _finish_held(end)
            return ()
        # One transaction: otherwise a crash in between would lose what follows.
        with transaction.atomic(using=self.alias, savepoint=False):
            _finish_held(end)
            if isinstance(end.outcome, Skipped):
                schedule = ScheduleState.objects.using(self.alias).filter(name=end.outcome.schedule)
                schedule.update(n_skipped=F("n_skipped") + 1)
            if following is not None:
                statements().insert_queued([queued_row(following)])
                state = _next_state(end) if end.moves_on else None
                if state is not None:
                    statements().save_initial_state(following.message.invocation_id, state)
            counted = count_ends(self.alias, [_place_and_success(end)]) if is_counted else []
            return [*counted, *_undo([end])]

    @with_retries
    def finish_many(self, ends: Sequence[End]) -> Finished:
        """See ports.Claims."""
        if not any(end.place is not None or _is_undone(end) for end in ends):
            return Finished(_finish_all(ends))
        with transaction.atomic(using=self.alias, savepoint=False):
            ids = _finish_all(ends)
            held = [end for end in ends if end.claim.invocation_id in ids]
            steps = [_place_and_success(end) for end in held if end.place]
            return Finished(ids, [*count_ends(self.alias, steps), *_undo(held)])

    def send_released(self, released: Sequence[Released]) -> None:
        """See ports.Claims."""
        send_released(released)

    @with_retries
    def release(self, claims: Sequence[Claim], release: Release) -> None:
        """See ports.Claims."""
        due_at = Now() + timedelta(seconds=release.wait_s)
        released: dict[str, Any] = {
            # First, because it reads start_time: MySQL assigns columns from left to right, and each
            # expression sees the values that were assigned before it.
            "n_attempts": F("n_attempts") if release.counts else _attempts_without_this_one(),
            "status": Status.QUEUED,
            "claim_token": None,
            "lease_until": None,
            "start_time": None,
            "sent_at": Now() if release.is_redelivered else None,
            "look_at": F("look_at") if release.is_redelivered else due_at,
        }
        if not (release.counts or release.is_refused):
            released["n_waits"] = postponing.count_wait()
        if release.counts or release.ran_s:
            released["refused_at"] = None
        if release.ran_s:
            released["cut_off_s"] = Coalesce(F("cut_off_s"), 0.0) + release.ran_s
        for worker_ids, group in _group_by_earlier_workers(claims, release):
            _held_records(group).update(**released, worker_ids=worker_ids)

    @with_retries
    def refuse(self, deliveries: Sequence[UnrunnableDelivery]) -> list[Refused | RefusedRecord]:
        """See ports.Claims."""
        found = _read_rows({each.message.invocation_id for each in deliveries})
        verdicts = [_judge_unrunnable(each, found) for each in deliveries]
        if parked := [
            each.message.invocation_id
            for each, verdict in zip(deliveries, verdicts, strict=True)
            if verdict.refusal is Refusal.PARKED
        ]:
            _park(parked)
        refusable = {
            each.message.invocation_id: each
            for each, verdict in zip(deliveries, verdicts, strict=True)
            if verdict is LOCKED
        }
        if not refusable:
            return list(verdicts)
        refused = refusals.refuse(
            {id: each.reason for id, each in refusable.items()},
            [id for id, each in refusable.items() if each.waits_in_row],
        )
        return [
            refused.get(each.message.invocation_id, LOCKED) if verdict is LOCKED else verdict
            for each, verdict in zip(deliveries, verdicts, strict=True)
        ]

    @with_retries
    def fail_direct(self, delivery: UnrunnableDelivery, reason: Raised) -> bool:
        """See ports.Claims."""
        message = delivery.message
        if message.secret_kwargs and not is_available():
            return False
        row = row_of(message, delivery.queue, delivery.look, enqueued_at=delivery.enqueued_at)
        with transaction.atomic(using=self.alias, savepoint=False):
            statements().insert_queued([row], is_sent=True)
            stored = all_records().filter(id=message.invocation_id, status=Status.QUEUED)
            return bool(finish(stored.order_by(), Failed(reason)))

    @with_retries
    def extend(self, claims: Sequence[Claim], lease: timedelta) -> None:
        """See ports.Claims."""
        _held_records(claims).update(lease_until=Now() + lease)
        limits.renew(claims, lease)

    @with_retries
    def find_lost(self, claims: Sequence[Claim]) -> list[Claim]:
        """See ports.Claims."""
        held = set(_held_records(claims).values_list("id", flat=True))
        return [claim for claim in claims if claim.invocation_id not in held]

    @with_retries
    def save_state(self, claim: Claim, state: object) -> None:
        """See ports.Claims."""
        if not statements().save_state(claim, state):
            raise _lease_lost(claim)

    @with_retries
    def show_progress(self, claim: Claim, progress: object) -> None:
        """See ports.Claims."""
        statements().show_progress(claim, progress)

    def read_steps(self, call_id: UUID) -> Sequence[Checkpoint]:
        """See ports.Claims."""
        return checkpoints.read(call_id)

    def write_steps(
        self, claim: Claim, call_id: UUID, steps: Sequence[Checkpoint], *, is_secret: bool
    ) -> None:
        """See ports.Claims."""
        if not checkpoints.holds(claim):
            raise _lease_lost(claim)
        checkpoints.write(call_id, steps, is_secret=is_secret)

    def receive_signal(self, call_id: UUID, name: str, *, ends: bool) -> tuple[bool, Any]:
        """See ports.Claims."""
        return signals.receive(call_id, name, ends=ends)

    def wait_for_signal(
        self, call_id: UUID, name: str, run_id: UUID, type: str, *, drops: bool
    ) -> bool:
        """See ports.Claims."""
        return signals.wait(call_id, name, run_id, type, drops=drops)


def _read_inputs(verdicts: Verdicts, terms: ClaimTerms) -> Verdicts:
    """Give granted steps of workflows the results that they take from others."""
    steps = {
        id: verdict
        for id, verdict in verdicts.items()
        if isinstance(verdict, Granted) and verdict.message.place and verdict.message.place.inputs
    }
    if not steps:
        return verdicts
    verdicts |= inputs.read({id: granted.message for id, granted in steps.items()}, steps)
    _release_refused(verdicts, terms)
    return verdicts


@with_retries
def _claim_in_places(wanted: Wanted, terms: ClaimTerms) -> Verdicts:
    """Claim invocations, and let those with a limit hold the places that are kept for them.

    Who was not admitted, or has lost its place since then, is released, to be admitted again.
    """
    verdicts = _claim(wanted, terms)
    with_limits = [first for first, *_ in wanted.values() if first.places or first.needs_of]
    granted_first = {
        first.message.invocation_id: first
        for first in with_limits
        if isinstance(verdicts[first.message.invocation_id], Granted)
    }
    lacking = {id for id, each in granted_first.items() if each.needs_of is not None}
    held = {id: each.places for id, each in granted_first.items() if each.places is not None}
    if held:
        lacking |= limits.confirm(held, terms.token, terms.lease, are_locked=terms.from_table)
    if lacking:
        _release(list(lacking), terms)
        if terms.from_table:
            all_records().filter(id__in=lacking, status=Status.QUEUED).update(look_at=Now())
        verdicts |= dict.fromkeys(lacking, limits.LOST_RACE)
    for id in held.keys() - lacking:
        granted = verdicts[id]
        assert isinstance(granted, Granted)
        verdicts[id] = replace(granted, claim=replace(granted.claim, places=held[id]))
    return verdicts


def _claim(wanted: Wanted, terms: ClaimTerms) -> Verdicts:
    """Claim the invocations that can be claimed, and return a verdict for each.

    A retry after a conflict finds the records that already have its token.
    """
    verdicts: Verdicts = {}
    firsts = [deliveries[0] for deliveries in wanted.values()]
    if direct := [first for first in firsts if not first.message.durable]:
        verdicts |= _claim_direct(direct, terms)
    rest = [id for id in wanted if id not in verdicts] if len(verdicts) < len(wanted) else []
    if rest:
        verdicts |= _claim_stored(wanted, rest, terms)
    # A short retry spares most locked records a wait of LOCKED.retry_after_s in their queue.
    for pause_s in LOCKED_PAUSES_S:
        locked = [id for id, verdict in verdicts.items() if verdict is LOCKED and id in rest]
        if not locked:
            break
        time.sleep(pause_s)
        verdicts |= _claim_stored(wanted, locked, terms)
    return verdicts


def _claim_direct(direct: Sequence[ResolvedDelivery], terms: ClaimTerms) -> Verdicts:
    """Insert records for messages without one, as claimed ones unless they have times.

    The next statement claims those that are due, and have not expired: only the database's clock
    decides about that.
    """
    rows = [
        row_of(each.message, each.queue, each.look, enqueued_at=each.enqueued_at) for each in direct
    ]
    messages = {each.message.invocation_id: each.message for each in direct}
    verdicts: Verdicts = {}
    if later := [row for row in rows if _has_times(row)]:
        verdicts |= _insert(later, lambda some: statements().insert_queued(some, is_sent=True))
        rows = [row for row in rows if not _has_times(row)]
    waiting = [row for row in rows if row["id"] in terms.waiting] if terms.waiting else []
    starting = [row for row in rows if row["id"] not in terms.waiting] if waiting else rows
    for begin, at_once in ((True, starting), (False, waiting)):
        if at_once:
            verdicts |= _insert(at_once, partial(_insert_claimed, messages, terms, begin))
    return verdicts


def _has_times(row: Row) -> bool:
    """Return whether a record may be due later, or have expired."""
    return bool(row["run_after"] or row["expires_at"])


def _insert_claimed(
    messages: Mapping[UUID, Message], terms: ClaimTerms, begin: bool, rows: Sequence[Row]
) -> Verdicts:
    claims = statements().insert_claimed(rows, terms, begin=begin)
    keeps_secrets = is_available()
    return {
        id: Granted(claim, messages[id] if keeps_secrets else _carrying_secrets(messages[id]))
        for id, claim in claims.items()
    }


def _carrying_secrets(message: Message) -> Message:
    """Mark a message so that its follow-ups carry the secrets that no record can keep."""
    return replace(message, keeps_arguments=bool(message.secret_kwargs))


def _insert(
    rows: Sequence[Row],
    insert: Callable[[Sequence[Row]], Verdicts | None],
    limit_s: float = INSERT_LIMIT_S,
) -> Verdicts:
    """Insert rows; give the verdict LOCKED to a row that another transaction is inserting, too.

    Without the time limit, the database would wait for the end of that transaction, and so would
    all other rows.
    """
    may_fail = not connections[record_alias()].in_atomic_block
    with interrupts.interrupt_after(limit_s) as work:
        try:
            return insert(rows) or {}
        except DatabaseError:
            if not work.was_interrupted or not may_fail:
                raise
    if len(rows) == 1:
        return {rows[0]["id"]: LOCKED}
    alone = [_insert([row], insert, SINGLE_INSERT_LIMIT_S) for row in rows]
    return {id: verdict for each in alone for id, verdict in each.items()}


def _claim_stored(wanted: Wanted, ids: Sequence[UUID], terms: ClaimTerms) -> Verdicts:
    """Claim stored records, and return a verdict for each, claimed or not."""
    claimed = statements().claim(ids, terms)
    verdicts: Verdicts = {id: _judge_claimed(wanted[id], row, terms) for id, row in claimed.items()}
    if rest := [id for id in ids if id not in verdicts]:
        verdicts |= _judge_unclaimed(wanted, rest, terms)
    _release_refused(verdicts, terms)
    return verdicts


def _judge_claimed(
    wanted: Sequence[ResolvedDelivery], row: Row, terms: ClaimTerms
) -> Granted | Refused:
    """Return the verdict on a claimed record: granted if a delivery asks for what it says."""
    try:
        message = message_of(row)
    except ValueError as error:
        return Refused(Refusal.UNREADABLE, reason=Raised.from_error(error, str(error)))
    lacks_secrets = row["secrets"] == UNAVAILABLE
    asking = [each for each in wanted if each.message.has_arguments or not lacks_secrets]
    if not asking:
        return Refused(Refusal.UNREADABLE, reason=NO_SECRETS)
    for each in asking:
        asked_for = _complete(message, row, each.message)
        if each.message.matches_record(asked_for):
            return Granted(claim_of(row, terms.token), asked_for)
    return Refused(Refusal.FOREIGN)


def _complete(message: Message, row: Row, arrived: Message) -> Message:
    """Return the message of a record, completed from the message that arrived.

    The arrived one has the secrets where the record could not encrypt them.
    """
    if row["secrets"] == UNAVAILABLE:
        message = replace(
            message, kwargs=message.kwargs | arrived.secret_kwargs, keeps_arguments=True
        )
    secret = message.secret | arrived.secret
    return message if secret == message.secret else replace(message, secret=secret)


def _release_refused(verdicts: Verdicts, terms: ClaimTerms) -> None:
    """Release records that turned out to be unreadable or foreign after their claim."""
    if unreadable := {
        id: verdict.reason
        for id, verdict in verdicts.items()
        if isinstance(verdict, Refused) and verdict.reason is not None
    }:
        _release(list(unreadable), terms)
        refusals.refuse_unreadable(unreadable)
    if foreign := _ids_refused(verdicts, Refusal.FOREIGN):
        _release(foreign, terms)


def _release(ids: Sequence[UUID], terms: ClaimTerms) -> None:
    claimed = all_records().filter(id__in=ids, claim_token=terms.token, status=Status.RUNNING)
    for record in claimed.order_by():
        has_started = record.start_time is not None
        worker_ids = (record.worker_ids or "").splitlines()
        claimed.filter(id=record.id).update(
            status=Status.QUEUED,
            claim_token=None,
            lease_until=None,
            start_time=None,
            n_attempts=F("n_attempts") - int(has_started),
            worker_ids=join_worker_ids(worker_ids[:-1] if has_started else worker_ids),
        )


def _judge_unclaimed(wanted: Wanted, ids: Sequence[UUID], terms: ClaimTerms) -> Verdicts:
    """Read records that were not claimed, return a verdict for each, and write what follows."""
    found = _read_rows(ids)
    verdicts: Verdicts = {}
    for id in ids:
        row = found.get(id)
        # The others are forged. They get no say in `may_rerun`, and their ids are reported.
        for_its_task = (
            wanted[id]
            if row is None
            else [each for each in wanted[id] if _is_for_task_of(each, row)]
        )
        if not for_its_task:
            verdicts[id] = Refused(Refusal.FOREIGN)
            continue
        refused = judge_claim(
            None if row is None else state_of(row, terms.token),
            may_rerun=for_its_task[0].may_rerun,
            max_attempts=terms.max_attempts,
        )
        if refused is not None:
            others = frozenset(each.delivery.id for each in wanted[id] if each not in for_its_task)
            verdicts[id] = replace(refused, foreign=others) if others else refused
        elif row is not None:
            verdicts[id] = _judge_claimed(wanted[id], row, terms)
    _write_refused(wanted, found, terms, verdicts)
    return verdicts


def _write_refused(
    wanted: Wanted, found: Mapping[UUID, Row], terms: ClaimTerms, verdicts: Verdicts
) -> None:
    """Write what follows from verdicts; those of lost runs tell of these."""
    if exhausted := _ids_refused(verdicts, Refusal.EXHAUSTED):
        for id in _fail_exhausted(exhausted, terms.max_attempts):
            last = _judge_claimed(wanted[id], found[id], terms)
            run = last if isinstance(last, Granted) else None
            verdicts[id] = FoundLost(Refusal.EXHAUSTED, run=run)
    if parked := _ids_refused(verdicts, Refusal.PARKED):
        _park(parked)
    if expired := _ids_refused(verdicts, Refusal.EXPIRED):
        expiry.expire(expired)


def _judge_unrunnable(delivery: UnrunnableDelivery, found: Mapping[UUID, Row]) -> Refused:
    """Return the verdict on a delivery that can't run here; LOCKED if else it could run now."""
    row = found.get(delivery.message.invocation_id)
    if row is None:
        return Refused(Refusal.UNKNOWN)
    if not _is_for_task_of(delivery, row):
        return Refused(Refusal.FOREIGN)
    state = state_of(row, token=uuid.uuid4())
    # Only its task says whether it may run again, and how often.
    verdict = judge_claim(state, may_rerun=True, max_attempts=sys.maxsize)
    assert verdict is not None
    return verdict


def _park(ids: Sequence[UUID]) -> None:
    """Leave records to the relay, which computes their time to look, and sends them in time.

    A wait is counted for those of a paused queue: whoever has sent one and marks it only now sees
    by this that its message is gone. One that is far off shows that by its time.
    """
    is_far_off = Q(run_after__gt=Now() + EARLY_DELIVERY)
    n_waits = Case(When(is_far_off, then=F("n_waits")), default=postponing.count_wait())
    with statements().lock_idle(ids) as free:
        free.filter(status=Status.QUEUED).update(sent_at=None, look_at=Now(), n_waits=n_waits)


def _is_for_task_of(delivery: ResolvedDelivery | UnrunnableDelivery, row: Row) -> bool:
    """Return whether a delivery names the task of this record."""
    message = delivery.message
    return (message.task_name, message.backend) == (row["task_name"], row["backend"])


def _read_rows(ids: Collection[UUID]) -> dict[UUID, Row]:
    records = all_records().filter(id__in=ids).order_by()
    is_paused = ExpressionWrapper(IS_PAUSED, output_field=BooleanField())
    rows = records.annotate(now=Now(), saved=latest_state(), is_paused=is_paused)
    rows = rows.values(*STATE_COLUMNS)
    return {row["id"]: row for row in rows}


def _ids_refused(verdicts: Verdicts, refusal: Refusal) -> list[UUID]:
    return [
        id
        for id, verdict in verdicts.items()
        if isinstance(verdict, Refused) and verdict.refusal is refusal
    ]


def _fail_exhausted(ids: Sequence[UUID], max_attempts: int) -> list[UUID]:
    """Mark exhausted records as FAILED; return the ids of those that this call changed."""
    is_released = Q(status=Status.QUEUED, n_attempts__gte=max_attempts)
    with transaction.atomic(using=record_alias()), statements().lock_idle(ids) as free:
        exhausted = free.filter(IS_LOST | is_released)
        ended = list(exhausted.values_list("id", flat=True))
        finish(exhausted, Failed(WORKER_DIED))
    return ended


def _held_records(claims: Sequence[Claim]) -> RecordQuerySet:
    """Return the records of those claims that still hold."""
    return (
        all_records()
        .filter(
            id__in=[claim.invocation_id for claim in claims],
            claim_token__in={claim.token for claim in claims},
            status=Status.RUNNING,
        )
        .order_by()
    )


def _attempts_without_this_one() -> Case:
    """Return the number of attempts without this one, if its start was counted.

    The record decides, because the holder of the claim may have missed the answer to its begin().
    """
    return Case(When(start_time=None, then=F("n_attempts")), default=F("n_attempts") - 1)


def _group_by_earlier_workers(
    claims: Sequence[Claim], release: Release
) -> Iterable[tuple[str, list[Claim]]]:
    """Group the claims by the worker ids that their records keep.

    The last worker is left out where its attempt started, but does not count.
    """
    groups: defaultdict[str, list[Claim]] = defaultdict(list)
    for claim in claims:
        takes_back = claim.has_started and not release.counts
        earlier = claim.worker_ids[:-1] if takes_back else claim.worker_ids
        groups[join_worker_ids(earlier)].append(claim)
    return groups.items()


def _finish_all(ends: Sequence[End]) -> Collection[UUID]:
    if len(ends) > 1:
        return statements().finish_many(ends)
    return {end.claim.invocation_id for end in ends if statements().finish(end)}


def _place_and_success(end: End) -> tuple[Place, bool]:
    assert end.place is not None
    return end.place, isinstance(end.outcome, Succeeded)


def _is_undone(end: End) -> bool:
    """Return whether the compensations of a durable function follow an end."""
    return end.call_id is not None and isinstance(end.outcome, Failed)


def _undo(ends: Iterable[End]) -> list[Released]:
    """Store the runs of the compensations that follow ends, to be sent."""
    calls = [
        undoing.EndedCall(end.claim.invocation_id, end.call_id, knows_undos=end.knows_undos)
        for end in ends
        if end.call_id is not None and _is_undone(end)
    ]
    return [Released(None, run_id=id) for id in undoing.follow(calls)] if calls else []


def _finish_held(end: End) -> None:
    if not statements().finish(end):
        raise _lease_lost(end.claim)


def _next_state(end: End) -> Any:
    """Return the state of the run that follows: from Continue, or the last one that was saved."""
    if isinstance(end.outcome, Continued):
        return end.outcome.state
    record = all_records().filter(id=end.claim.invocation_id).annotate(saved=latest_state())
    return record.values_list("saved", flat=True).get()


def _lease_lost(claim: Claim) -> LeaseLost:
    return LeaseLost(f"This worker no longer holds the claim of {claim.invocation_id}.")
