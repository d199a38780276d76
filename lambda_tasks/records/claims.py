"""Who runs what: claims, their leases, and what a claim's holder writes."""

import logging
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
from django.db.models import Case, F, Q, When
from django.db.models.functions import Coalesce, Least

from .. import interrupts
from ..core.lifecycle import (
    LOCKED,
    WORKER_DIED,
    Claim,
    Continued,
    End,
    Failed,
    Refusal,
    Refused,
    Release,
    Status,
    judge_claim,
)
from ..core.message import Message, Outgoing
from ..errors import LeaseLost
from ..ports import FoundLost, Granted, ResolvedDelivery
from . import waiting
from .clock import Now
from .database import all_records, record_alias, statements
from .encryption import UNAVAILABLE, is_available
from .finishes import finish
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
from .portable import IS_LOST, ClaimTerms
from .retrying import tried_again
from .tables import RecordQuerySet, latest_state

logger = logging.getLogger("lambda_tasks")

Verdicts = dict[UUID, Granted | Refused]

Wanted = Mapping[UUID, Sequence[ResolvedDelivery]]
"""What has come of each invocation: of several deliveries some may not be the project's own, and
must take none of the others along."""

PAUSES_S: Final = (0.02, 0.1, 0.3)
"""Before another look at what was locked: most likely it is just being marked as sent."""

INSERT_S: Final = 2.0
ONE_INSERT_S: Final = 1.0
"""Then an INSERT waits for another transaction: the whole, and a row alone."""


class RecordClaims:
    """See ports.Claims. `worker_id` is what a record tells of who has claimed it."""

    def __init__(self, worker_id: str = "unknown") -> None:
        self._worker_ids = join_worker_ids([worker_id])

    @property
    def alias(self) -> str:
        """See ports.Claims."""
        return record_alias()

    def check(self) -> None:
        """See ports.Claims."""
        all_records().order_by().values_list("id")[:1].exists()

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

        Direct messages get their record here. What a worker that died has left is taken over
        once its lease has run out; what was started `max_attempts` times without an outcome is
        FAILED instead. All of that is decided by what the record says, whatever the message does.
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
        # In one order everywhere, so that two workers with the same messages can't deadlock.
        wanted: defaultdict[UUID, list[ResolvedDelivery]] = defaultdict(list)
        for each in sorted(deliveries, key=attrgetter("message.invocation_id")):
            wanted[each.message.invocation_id].append(each)
        return _claim(wanted, terms)

    @tried_again
    def begin(self, claims: Sequence[Claim], lease: timedelta) -> Mapping[UUID, Claim]:
        """See ports.Claims."""
        own = self._worker_ids
        started = statements().begin(claims, lease=lease, worker_ids=own)
        return {
            claim.invocation_id: replace(
                claim,
                has_begun=True,
                started_at=started[claim.invocation_id],
                worker_ids=(*claim.worker_ids, *own.splitlines()),
            )
            for claim in claims
            if claim.invocation_id in started
        }

    @tried_again
    def finish(self, end: End, following: Outgoing | None = None) -> None:
        """See ports.Claims."""
        if following is None:
            _finish_held(end)
            return
        with transaction.atomic(using=self.alias, savepoint=False):
            _finish_held(end)
            statements().insert_queued([queued_row(following)])
            state = _handed_on(end)
            if state is not None:
                statements().hand_on(following.message.invocation_id, state)

    @tried_again
    def finish_many(self, ends: Sequence[End]) -> Collection[UUID]:
        """See ports.Claims."""
        if len(ends) > 1:
            return statements().finish_many(ends)
        return {end.claim.invocation_id for end in ends if statements().finish(end)}

    @tried_again
    def release(self, claims: Sequence[Claim], release: Release) -> None:
        """See ports.Claims."""
        due_at = Now() + timedelta(seconds=release.wait_s)
        released: dict[str, Any] = {
            # First: MySQL reads in each column what those before it have set.
            "n_attempts": F("n_attempts") if release.counts else _attempts_without_this_one(),
            "status": Status.QUEUED,
            "claim_token": None,
            "lease_until": None,
            "start_time": None,
            "sent_at": Now() if release.is_redelivered else None,
            "look_at": F("look_at") if release.is_redelivered else due_at,
        }
        if not release.counts:
            released["n_waits"] = Least(F("n_waits") + 1, waiting.MAX_COUNT)
        if release.ran_s:
            released["cut_off_s"] = Coalesce(F("cut_off_s"), 0.0) + release.ran_s
        for worker_ids, group in _by_earlier_workers(claims, release):
            _held(group).update(**released, worker_ids=worker_ids)

    @tried_again
    def extend(self, claims: Sequence[Claim], lease: timedelta) -> None:
        """See ports.Claims."""
        _held(claims).update(lease_until=Now() + lease)

    @tried_again
    def find_lost(self, claims: Sequence[Claim]) -> list[Claim]:
        """See ports.Claims."""
        held = set(_held(claims).values_list("id", flat=True))
        return [claim for claim in claims if claim.invocation_id not in held]

    @tried_again
    def save_state(self, claim: Claim, state: object) -> None:
        """See ports.Claims."""
        if not statements().save_state(claim, state):
            raise _lease_lost(claim)

    @tried_again
    def show_progress(self, claim: Claim, progress: object) -> None:
        """See ports.Claims."""
        statements().show_progress(claim, progress)


@tried_again
def _claim(wanted: Wanted, terms: ClaimTerms) -> Verdicts:
    """Tried again, it finds what bears its token already."""
    verdicts: Verdicts = {}
    firsts = [deliveries[0] for deliveries in wanted.values()]
    if direct := [first for first in firsts if not first.message.durable]:
        verdicts |= _claim_direct(direct, terms)
    if rest := [id for id in wanted if id not in verdicts]:
        verdicts |= _claim_stored(wanted, rest, terms)
    for pause_s in PAUSES_S:
        locked = [id for id, verdict in verdicts.items() if verdict is LOCKED and id in rest]
        if not locked:
            break
        time.sleep(pause_s)
        verdicts |= _claim_stored(wanted, locked, terms)
    return verdicts


def _claim_direct(direct: Sequence[ResolvedDelivery], terms: ClaimTerms) -> Verdicts:
    """Insert records of messages that come without one, claimed where they have no time to wait
    for. Whether a time has come is for the database's clock to say, in the next statement."""
    rows = [
        row_of(each.message, each.queue, each.look, enqueued_at=each.enqueued_at) for each in direct
    ]
    messages = {each.message.invocation_id: each.message for each in direct}
    verdicts: Verdicts = {}
    if later := [row for row in rows if row["run_after"] is not None]:
        verdicts |= _insert(later, lambda some: statements().insert_queued(some, is_sent=True))
    for begin in (True, False):
        at_once = [
            row
            for row in rows
            if row["run_after"] is None and (row["id"] not in terms.waiting) is begin
        ]
        if at_once:
            verdicts |= _insert(at_once, partial(_insert_claimed, messages, terms, begin))
    return verdicts


def _insert_claimed(
    messages: Mapping[UUID, Message], terms: ClaimTerms, begin: bool, rows: Sequence[Row]
) -> Verdicts:
    claims = statements().insert_claimed(rows, terms, begin=begin)
    keeps_secrets = is_available()
    return {
        id: Granted(claim, messages[id] if keeps_secrets else _whole(messages[id]))
        for id, claim in claims.items()
    }


def _whole(message: Message) -> Message:
    """A message whose record can't keep its secrets, if it has any: what follows carries them."""
    return replace(message, keeps_arguments=bool(message.secret_kwargs))


def _insert(
    rows: Sequence[Row],
    insert: Callable[[Sequence[Row]], Verdicts | None],
    limit_s: float = INSERT_S,
) -> Verdicts:
    """Insert rows; one that another transaction is about to insert, too, is LOCKED and holds up no
    other. The database itself would wait for what becomes of that transaction."""
    may_fail = not connections[record_alias()].in_atomic_block
    with interrupts.interrupt_after(limit_s) as work:
        try:
            return insert(rows) or {}
        except DatabaseError:
            if not work.was_interrupted or not may_fail:
                raise
    if len(rows) == 1:
        return {rows[0]["id"]: LOCKED}
    alone = [_insert([row], insert, ONE_INSERT_S) for row in rows]
    return {id: verdict for each in alone for id, verdict in each.items()}


def _claim_stored(wanted: Wanted, ids: Sequence[UUID], terms: ClaimTerms) -> Verdicts:
    """Claim records that are there, and tell what has become of the others."""
    claimed = statements().claim(ids, terms)
    verdicts: Verdicts = {id: _verdict(wanted[id], row, terms) for id, row in claimed.items()}
    if rest := [id for id in ids if id not in verdicts]:
        verdicts |= _judge(wanted, rest, terms)
    _let_go_refused(verdicts, terms)
    return verdicts


def _verdict(wanted: Sequence[ResolvedDelivery], row: Row, terms: ClaimTerms) -> Granted | Refused:
    """The verdict on a claimed record: what it stands for runs, if a message asks for that."""
    try:
        message = message_of(row)
    except ValueError as error:
        logger.error("%s can't be run: %s", row["id"], error)
        return Refused(Refusal.UNREADABLE)
    brings_secrets = row["secrets"] == UNAVAILABLE
    asking = [each for each in wanted if each.message.has_arguments or not brings_secrets]
    if not asking:
        logger.error("%s can't be run: its secrets were not stored", row["id"])
        return Refused(Refusal.UNREADABLE)
    for each in asking:
        asked_for = _completed(message, row, each.message)
        if each.message.is_of(asked_for):
            return Granted(claim_of(row, terms.token), asked_for)
    return Refused(Refusal.FOREIGN)


def _completed(message: Message, row: Row, arrived: Message) -> Message:
    """What a row stands for, with what is known of it by a message that has arrived, which brings
    its secrets itself where there was nothing to encrypt them with."""
    if row["secrets"] == UNAVAILABLE:
        message = replace(
            message, kwargs=message.kwargs | arrived.secret_kwargs, keeps_arguments=True
        )
    return replace(message, secret=message.secret | arrived.secret)


def _let_go_refused(verdicts: Verdicts, terms: ClaimTerms) -> None:
    """Leave records as they were that were claimed before it was seen that they can't be run."""
    if unreadable := _refused(verdicts, Refusal.UNREADABLE):
        _let_go(unreadable, terms)
        waiting.postpone(unreadable)
    if foreign := _refused(verdicts, Refusal.FOREIGN):
        _let_go(foreign, terms)


def _let_go(ids: Sequence[UUID], terms: ClaimTerms) -> None:
    claimed = all_records().filter(id__in=ids, claim_token=terms.token, status=Status.RUNNING)
    for record in claimed.order_by():
        has_begun = record.start_time is not None
        worker_ids = (record.worker_ids or "").splitlines()
        claimed.filter(id=record.id).update(
            status=Status.QUEUED,
            claim_token=None,
            lease_until=None,
            start_time=None,
            n_attempts=F("n_attempts") - int(has_begun),
            worker_ids=join_worker_ids(worker_ids[:-1] if has_begun else worker_ids),
        )


def _judge(wanted: Wanted, ids: Sequence[UUID], terms: ClaimTerms) -> Verdicts:
    """Read these records, tell what has become of the claims, and do what follows from that."""
    found = _read(ids)
    verdicts: Verdicts = {}
    for id in ids:
        row = found.get(id)
        own = wanted[id] if row is None else [each for each in wanted[id] if _names(each, row)]
        if not own:
            verdicts[id] = Refused(Refusal.FOREIGN)
            continue
        refused = judge_claim(
            None if row is None else state_of(row, terms.token),
            may_rerun=own[0].may_rerun,
            max_attempts=terms.max_attempts,
        )
        if refused is not None:
            others = frozenset(each.delivery.id for each in wanted[id] if each not in own)
            verdicts[id] = replace(refused, foreign=others) if others else refused
        elif row is not None:
            verdicts[id] = _verdict(wanted[id], row, terms)
    if exhausted := _refused(verdicts, Refusal.EXHAUSTED):
        for id in _fail_exhausted(exhausted, terms.max_attempts):
            last = _verdict(wanted[id], found[id], terms)
            run = last if isinstance(last, Granted) else None
            verdicts[id] = FoundLost(Refusal.EXHAUSTED, run=run)
    if parked := _refused(verdicts, Refusal.PARKED):
        # The relay looks when they are to be sent, and sends them in time.
        with statements().unlocked(parked) as free:
            free.filter(status=Status.QUEUED).update(sent_at=None, look_at=Now())
    return verdicts


def _names(delivery: ResolvedDelivery, row: Row) -> bool:
    """Whether a message asks for the task of this record."""
    message = delivery.message
    return (message.task_name, message.backend) == (row["task_name"], row["backend"])


def _read(ids: Sequence[UUID]) -> dict[UUID, Row]:
    records = all_records().filter(id__in=ids).order_by()
    rows = records.annotate(now=Now(), saved=latest_state()).values(*STATE_COLUMNS)
    return {row["id"]: row for row in rows}


def _refused(verdicts: Verdicts, refusal: Refusal) -> list[UUID]:
    return [
        id
        for id, verdict in verdicts.items()
        if isinstance(verdict, Refused) and verdict.refusal is refusal
    ]


def _fail_exhausted(ids: Sequence[UUID], max_attempts: int) -> list[UUID]:
    """The ids of those that came to their end here, and not with another."""
    is_given_back = Q(status=Status.QUEUED, n_attempts__gte=max_attempts)
    with transaction.atomic(using=record_alias()), statements().unlocked(ids) as free:
        left = free.filter(IS_LOST | is_given_back)
        ended = list(left.values_list("id", flat=True))
        finish(left, Failed(WORKER_DIED))
    return ended


def _held(claims: Sequence[Claim]) -> RecordQuerySet:
    """The records of these claims, as far as they still hold."""
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
    """Its start is counted where the record has one: who has claimed it may not know it yet."""
    return Case(When(start_time=None, then=F("n_attempts")), default=F("n_attempts") - 1)


def _by_earlier_workers(
    claims: Sequence[Claim], release: Release
) -> Iterable[tuple[str, list[Claim]]]:
    """The claims by the workers that are to be known as those that have tried: without the last
    one, where it has begun and that does not count."""
    groups: defaultdict[str, list[Claim]] = defaultdict(list)
    for claim in claims:
        takes_back = claim.has_begun and not release.counts
        earlier = claim.worker_ids[:-1] if takes_back else claim.worker_ids
        groups[join_worker_ids(earlier)].append(claim)
    return groups.items()


def _finish_held(end: End) -> None:
    if not statements().finish(end):
        raise _lease_lost(end.claim)


def _handed_on(end: End) -> Any:
    """The state of the run that follows: given, or what this one has saved for good."""
    if isinstance(end.outcome, Continued):
        return end.outcome.state
    record = all_records().filter(id=end.claim.invocation_id).annotate(saved=latest_state())
    return record.values_list("saved", flat=True).get()


def _lease_lost(claim: Claim) -> LeaseLost:
    return LeaseLost(f"{claim.invocation_id} is no longer held by this worker.")
