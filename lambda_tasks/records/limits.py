"""The places of keys that limit how many runs there are, the paces of rates, and who waits.

Who finds all places of its key taken waits in its row, with a digest of the key. The end of a run
hands its place to the first of these. Both lock the rows of the key's places first, so that nobody
begins to wait while the last place is given back. All lock them in one order, and a place that
passes from one to the next keeps its row, so that two who lock the same ones can't deadlock. A
place that was handed over, or that a look has found, is kept for KEPT_FOR until a claim confirms
it. So whatever gets lost on the way is found by the time of its place.
"""

import hashlib
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from django.db import DatabaseError, connections, transaction
from django.db.models import Exists, F, OuterRef, Q, QuerySet
from django.db.models.functions import Greatest

from .. import interrupts
from ..core.lifecycle import (
    EXPIRED,
    GRACE,
    MAX_DELAY,
    NO_START_IN_TIME,
    Cancelled,
    Claim,
    LookTerms,
    Refusal,
    Refused,
    Status,
)
from ..core.limits import (
    LOOK_AGAIN_S,
    Asking,
    Held,
    Needs,
    Pace,
    Places,
    assign,
    free_numbers,
    moments,
    wait_words,
)
from ..core.message import Outgoing
from ..database_errors import Contended
from ..logging import run_attributes
from ..ports import Admitted, ResolvedDelivery
from . import notify
from .cancelling import cancel
from .clock import Now
from .database import all_records, record_alias, statements
from .encryption import UNAVAILABLE
from .expiry import not_after_expiry
from .looks import PUT_FIRST, lock_unlocked
from .mapping import (
    MESSAGE_COLUMNS,
    Row,
    expires_in_s,
    is_expired,
    message_of,
    outgoing_of,
    read_messages,
    row_of,
)
from .portable import EARLY_DELIVERY, IS_LOST, MAY_BEGIN
from .postponing import count_wait
from .retrying import run_with_retries, with_retries
from .tables import LimitPace, LimitPlace, TaskRecord

logger = logging.getLogger("lambda_tasks")

KEPT_FOR: Final = timedelta(seconds=5)
"""The time for which a place is kept for a record: a claim of it may need a message to arrive."""

LOOK_AGAIN: Final = timedelta(seconds=LOOK_AGAIN_S)

ADMIT_LIMIT_S: Final = 2.0
"""Seconds to find places. If it takes longer, another transaction holds them."""

BUSY: Final = timedelta(seconds=2)
"""The time after which somebody looks again at a record whose key's places were locked."""

LOST_RACE: Final = Refused(Refusal.HELD, 1.0)
"""The verdict on an invocation whose place is not known yet, or was lost before its claim."""

FULL: Final = Refused(Refusal.FULL)
"""The verdict on an invocation that waits in its row for a place."""

BUSY_IN_QUEUE: Final = Refused(Refusal.HELD, 5.0)
"""The verdict on an invocation that waits in its queue for a place, as its group waits with it."""

MAX_RACES: Final = 3
"""The most tries to find a place while others take those of the same key."""

MAX_RESCUED: Final = 1000
"""The most keys of one rescue."""

IDLE_PACE: Final = timedelta(days=1)
"""The time after which a pace that nobody has asked for is deleted."""

FINISHED: Final = (Status.SUCCESS, Status.FAILED, Status.RETRYING)
"""The statuses of records whose run is over."""

NOBODY: Final = UUID(int=0)
"""The record of a place that is left free."""

WAITING_COLUMNS: Final = ("id", *MESSAGE_COLUMNS, "now")

CANDIDATE_COLUMNS: Final = (
    *WAITING_COLUMNS, "status", "start_time", "look_at", "sent_at", "limit_key", "reserved_for",
    "n_attempts", "cut_off_s", "enqueued_at",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Candidate:
    """An invocation that asks for a place or a moment, with its record."""

    delivery: ResolvedDelivery
    row: Row
    needs: Needs

    @property
    def id(self) -> UUID:
        return self.delivery.message.invocation_id

    @property
    def may_wait_in_row(self) -> bool:
        """Whether its message can be sent again from its row.

        On a FIFO queue it goes back by its visibility, so that its group waits with it.
        """
        keeps_secrets = self.row["secrets"] != UNAVAILABLE
        return keeps_secrets and self.delivery.delivery.order_key is None

    @property
    def rank(self) -> tuple[int, datetime]:
        """Where it stands in the line for a place: the least is the first."""
        return -self.row["priority"], self.row["enqueued_at"]


class RecordLimits:
    """See ports.Limits. `look_terms` returns the look terms of a queue by its name."""

    def __init__(self, look_terms: Callable[[str], LookTerms]) -> None:
        self._look_terms = look_terms
        self.is_used = False
        """Whether this process has met invocations with limits."""

    def admit(self, deliveries: Sequence[ResolvedDelivery]) -> Mapping[UUID, Admitted | Refused]:
        """See ports.Limits.

        It waits for a short time only for others who hold the same rows. What can't be decided
        then is left for BUSY, so that it holds up no other.
        """
        self.is_used = True
        alias = record_alias()
        with interrupts.interrupt_after(ADMIT_LIMIT_S) as work:
            try:
                return run_with_retries(alias, lambda: _admit(alias, deliveries))
            except DatabaseError:
                if not work.was_interrupted:
                    raise
        ids = [each.message.invocation_id for each in deliveries]
        with statements().lock_idle(ids) as free:
            free.filter(status=Status.QUEUED).update(look_at=Now() + BUSY)
        return dict.fromkeys(ids, LOST_RACE)

    @with_retries
    def free(self, claims: Sequence[Claim]) -> Sequence[Outgoing]:
        """See ports.Limits."""
        holders = {(claim.invocation_id, claim.token) for claim in claims if claim.places}
        limits = {digest(each.places.key): each.places.limit for each in claims if each.places}
        return self._hand_over(limits, holders)

    @with_retries
    def rescue(self, *, thorough: bool) -> Sequence[Outgoing]:
        """See ports.Limits. The end of the next run of a key fills its other places, too."""
        alias = record_alias()
        lost = _places(alias).filter(Q(held_until__lt=Now()) | _is_over())
        keys = set(lost.values_list("key", flat=True).distinct()[:MAX_RESCUED])
        if thorough:
            keys |= _idle_keys(alias)
            LimitPace.objects.using(alias).filter(next_at__lt=Now() - IDLE_PACE).delete()
        return self._hand_over(dict.fromkeys(keys)) if keys else []

    def _hand_over(
        self, limits: Mapping[str, int | None], ended: Collection[tuple[UUID, UUID]] = ()
    ) -> list[Outgoing]:
        """Give the free places of these keys away; return the messages that must be sent."""
        rows = hand_over(limits, ended, sends=lambda queue: self._look_terms(queue).is_sent)
        if not rows:
            return []
        woken = [
            outgoing_of(message, 0.0, self._look_terms(message.queue or ""))
            # The relay notes what can't be read.
            for message, _ in read_messages(rows, {})
        ]
        if not all(each.look.is_sent for each in woken):
            notify.notify(record_alias())
        return [each for each in woken if each.look.is_sent]


def digest(key: str) -> str:
    """Return a key as its columns have it, whatever its length; nobody can read it there."""
    return hashlib.sha256(key.encode()).hexdigest()


def hand_over(
    limits: Mapping[str, int | None],
    ended: Collection[tuple[UUID, UUID]] = (),
    *,
    sends: Callable[[str], bool] = lambda queue: True,
) -> list[Row]:
    """Give the free places of these keys, by digest, to the first who wait for them.

    Free are the places of `ended` (record and token), those of lost and finished runs, and those
    that nobody has. Where a limit is not known, the latter are left to the next end of a run. For a
    record that waits, and that another transaction has locked, a free place stays as a row whose
    time is over, so that the next rescue finds it.
    Returns the rows of the records that wait no more. `sends` tells whether the caller sends the
    messages of a queue.
    """
    alias = record_alias()
    with transaction.atomic(using=alias):
        held = _lock_places(alias, limits)
        over = [
            each
            for each in held
            if not each.is_live or each.is_over or (each.record_id, each.token) in ended
        ]
        left = [each for each in held if each not in over]
        rows: list[Row] = []
        kept: list[LimitPlace] = []
        for key, limit in limits.items():
            if limit is None:
                free = [each.number for each in over if each.key == key]
                free = free or [0] * (key not in {each.key for each in left})
            else:
                free = free_numbers({each.number for each in left if each.key == key}, limit)
            waiting, n_locked = _first_waiting(alias, key, len(free))
            rows += waiting
            kept += [
                _kept(key, number, row["id"]) for number, row in zip(free, waiting, strict=False)
            ]
            left_free = free[len(waiting) : len(waiting) + n_locked]
            kept += [_kept(key, number, NOBODY, keep_for=timedelta(0)) for number in left_free]
        _replace(alias, over, kept)
        _wake(rows, sends)
    return rows


def confirm(
    places: Mapping[UUID, Places], token: UUID, lease: timedelta, *, are_locked: bool
) -> set[UUID]:
    """Let claimed records hold the places that are kept for them; return who lacks one.

    `are_locked` says that this transaction has admitted the records, too.
    """
    mine = _places_of(places)
    held = {"token": token, "held_until": Now() + lease}
    n_held = mine.update(**held) if are_locked else _update_in_order(mine, len(places), held)
    if n_held == len(places):
        return set()
    return set(places) - set(mine.filter(token=token).values_list("record_id", flat=True))


def renew(claims: Sequence[Claim], lease: timedelta) -> None:
    """Renew the time of the places of claims, with their leases."""
    if held := {each.invocation_id: each.places for each in claims if each.places}:
        mine = _places_of(held).filter(token__in={each.token for each in claims})
        _update_in_order(mine, len(held), {"held_until": Now() + lease})


def _admit(alias: str, deliveries: Sequence[ResolvedDelivery]) -> Mapping[UUID, Admitted | Refused]:
    with transaction.atomic(using=alias):
        _store_direct(deliveries)
        found = _candidates(alias, deliveries)
        verdicts = _cancel([each for each in found if is_expired(each.row)], EXPIRED)
        candidates = [each for each in found if each.id not in verdicts]
        verdicts |= _give_places(alias, [each for each in candidates if each.needs.places])
        left = [
            each for each in candidates if isinstance(verdicts.get(each.id, Admitted()), Admitted)
        ]
        for each in left:
            verdicts[each.id] = Admitted(each.needs.places)
        verdicts |= _give_moments(alias, left)
        if waited := [each.id for each in left if each.row["limit_key"]]:
            all_records().filter(id__in=waited).update(limit_key=None)
    return verdicts


def _store_direct(deliveries: Sequence[ResolvedDelivery]) -> None:
    """Store direct messages, so that they can wait in their rows."""
    rows = [
        row_of(each.message, each.queue, each.look, enqueued_at=each.enqueued_at)
        for each in deliveries
        if not each.message.durable
    ]
    if rows:
        statements().insert_queued(rows, is_sent=True)


def _candidates(alias: str, deliveries: Sequence[ResolvedDelivery]) -> list[_Candidate]:
    """Return the deliveries that could be claimed now, with their records, in their order."""
    firsts: dict[UUID, ResolvedDelivery] = {}
    for each in deliveries:
        firsts.setdefault(each.message.invocation_id, each)
    is_due = Q(run_after=None) | Q(run_after__lte=Now() + EARLY_DELIVERY)
    records = all_records().filter(Q(status=Status.QUEUED) & is_due | IS_LOST, id__in=firsts)
    records = records.annotate(now=Now()).order_by()
    if connections[alias].features.has_select_for_update_skip_locked:
        records = records.select_for_update(skip_locked=True)
    found = {row["id"]: row for row in records.values(*CANDIDATE_COLUMNS)}
    candidates: list[_Candidate] = []
    for id, delivery in firsts.items():
        row = found.get(id)
        message = delivery.message
        if row is None or (message.task_name, message.backend) != (
            row["task_name"],
            row["backend"],
        ):
            continue  # the claim says why
        is_lost = row["status"] == Status.RUNNING
        if is_lost and row["start_time"] is not None and not delivery.may_rerun:
            continue  # the claim fails it
        assert delivery.needs_of is not None
        try:
            call = message if message.has_arguments else message_of(row)
        except ValueError:
            continue
        candidates.append(_Candidate(delivery, row, delivery.needs_of(call)))
    return candidates


def _cancel(late: Sequence[_Candidate], end: Cancelled) -> dict[UUID, Admitted | Refused]:
    """Cancel who does not begin in time. The next rescue hands over the places kept for them."""
    if late:
        cancel(all_records().filter(id__in=[each.id for each in late]), end)
    return dict.fromkeys([each.id for each in late], Refused(Refusal.EXPIRED))


def _give_places(alias: str, candidates: Sequence[_Candidate]) -> dict[UUID, Admitted | Refused]:
    """Keep the free places for the first candidates of each key; the others begin to wait."""
    by_key: defaultdict[str, list[_Candidate]] = defaultdict(list)
    limits: dict[str, int] = {}
    for each in candidates:
        assert each.needs.places is not None
        key = digest(each.needs.places.key)
        by_key[key].append(each)
        limits[key] = each.needs.places.limit
    given: dict[UUID, Admitted | Refused] = {}
    if not by_key:
        return given
    held: list[Any] = []
    for n_races in range(MAX_RACES):
        held = _lock_places(alias, limits, may_wait=not n_races)
        kept: list[LimitPlace] = []
        given = {}
        for key, wanting in by_key.items():
            places = [_held(each) for each in held if each.key == key]
            numbers = assign([each.id for each in wanting], places, limits[key])
            mine = {each.by for each in places if each.is_live}
            kept += [_kept(key, number, id) for id, number in numbers.items() if id not in mine]
            given |= {
                each.id: Admitted(each.needs.places) for each in wanting if each.id in numbers
            }
        if _replace(alias, [each for each in held if not each.is_live], kept):
            break
    for key, wanting in by_key.items():
        full = [each for each in wanting if each.id not in given]
        kept_places = [
            each
            for each in held
            if each.key == key and each.number < limits[key] and each.is_live and not each.token
        ]
        for each, other in _take_over(alias, full, kept_places):
            given[each.id] = Admitted(each.needs.places)
            given.pop(other, None)
        full = [each for each in wanting if each.id not in given]
        _let_wait([each for each in full if each.may_wait_in_row], key)
        given |= {each.id: FULL if each.may_wait_in_row else BUSY_IN_QUEUE for each in full}
    return given


def _take_over(
    alias: str, full: Sequence[_Candidate], places: Sequence[Any]
) -> list[tuple[_Candidate, UUID]]:
    """Let candidates have places that are kept for others who stand behind them in the line.

    Returns each with the record that had its place. Without this, nobody would run while messages
    take longer to arrive than a place is kept: each would find that its place was handed on. A lost
    run may be poison, and takes nobody's place.
    """
    if not (full and places):
        return []
    # Who has a moment needs its place then.
    records = all_records().filter(id__in=[each.record_id for each in places], reserved_for=None)
    ranks = {
        id: (-priority, at)
        for id, priority, at in records.order_by().values_list("id", "priority", "enqueued_at")
        if at is not None
    }
    last_first = sorted(
        (each for each in places if each.record_id in ranks),
        key=lambda each: ranks[each.record_id],
        reverse=True,
    )
    first_first = sorted(
        (each for each in full if each.row["status"] == Status.QUEUED and each.row["enqueued_at"]),
        key=lambda each: each.rank,
    )
    taken = [
        (each, place)
        for each, place in zip(first_first, last_first, strict=False)
        if each.rank < ranks[place.record_id]
    ]
    for each, place in taken:
        held = _places(alias).filter(key=place.key, number=place.number)
        held.update(record_id=each.id, held_until=Now() + KEPT_FOR)
    return [(each, place.record_id) for each, place in taken]


def _replace(alias: str, over: Sequence[Any], kept: Sequence[LimitPlace]) -> bool:
    """Remove places that are over, and keep others; return False where somebody took one of these.

    Whoever waits for the lock of a place's row gets it as soon as the place is someone else's.
    """
    rows, wanted = {each.pk for each in over}, {each.pk for each in kept}
    _delete(alias, [each for each in over if each.pk not in wanted])
    kept = sorted(kept, key=lambda each: each.pk)
    passed_on = [each for each in kept if each.pk in rows]
    new = [each for each in kept if each.pk not in rows]
    if passed_on:
        has_target = connections[alias].features.supports_update_conflicts_with_target
        _places(alias).bulk_create(
            passed_on,
            update_conflicts=True,
            unique_fields=["key", "number"] if has_target else None,
            update_fields=["record_id", "token", "held_until"],
        )
    if not new:
        return True
    _places(alias).bulk_create(new, ignore_conflicts=True)
    ours = Q()
    for each in new:
        ours |= Q(key=each.key, number=each.number, record_id=each.record_id)
    return _places(alias).filter(ours).count() == len(new)


def _let_wait(full: Sequence[_Candidate], key: str) -> None:
    """Let records wait for a place of a key, with no look for LOOK_AGAIN or until they expire."""
    if not full:
        return
    all_records().filter(id__in=[each.id for each in full]).update(
        # A lost run has to wait, too. What its attempts count stays.
        status=Status.QUEUED,
        claim_token=None,
        lease_until=None,
        start_time=None,
        limit_key=key,
        look_at=not_after_expiry(Now() + LOOK_AGAIN),
        sent_at=None,
        n_waits=count_wait(),
    )
    for each in full:
        assert each.needs.places is not None
        logger.info(
            "[%s] %s waits in its row: all %d places of %s are taken",
            each.id, each.delivery.task.name, each.needs.places.limit, each.needs.places.key,
            extra=run_attributes(each.delivery.message, None, each.delivery.queue),
        )  # fmt: skip


def _give_moments(alias: str, candidates: Sequence[_Candidate]) -> dict[UUID, Admitted | Refused]:
    """Reserve a moment for each candidate that has none; return who has to wait for its moment.

    Who would have expired by then is cancelled.
    """
    paced = [each for each in candidates if each.needs.paces]
    asking = [each for each in paced if each.row["reserved_for"] is None]
    given, now = _reserve_moments(alias, asking)
    verdicts = _cancel([each for each in asking if each.id not in given], NO_START_IN_TIME)
    _note_moments(alias, [each for each in asking if each.id in given], given, now)
    paced = [each for each in paced if each.id not in verdicts]
    wait_s = given | {
        each.id: _seconds_until(each.row["reserved_for"], each.row["now"])
        for each in paced
        if each.id not in given
    }
    if early := [
        each.id for each in paced if wait_s[each.id] > 0 and not each.delivery.look.is_sent
    ]:
        # Made due meanwhile, for example by an operator: its moment stays what it was.
        all_records().filter(id__in=early).update(
            run_after=F("reserved_for"), look_at=F("reserved_for")
        )
    waits = {each.id: _wait(each, wait_s[each.id]) for each in paced if wait_s[each.id] > 0}
    return verdicts | waits


def _wait(candidate: _Candidate, wait_s: float) -> Refused:
    """Return the verdict on a record that has to wait for its moment, and log it."""
    logger.info(
        "[%s] %s waits %s for its turn, as its rate allows",
        candidate.id, candidate.delivery.task.name, wait_words(wait_s),
        extra=run_attributes(candidate.delivery.message, None, candidate.delivery.queue),
    )  # fmt: skip
    is_parked = candidate.may_wait_in_row and wait_s > MAX_DELAY.total_seconds()
    return Refused(Refusal.PARKED if is_parked else Refusal.PACED, wait_s)


def _reserve_moments(
    alias: str, asking: Sequence[_Candidate]
) -> tuple[dict[UUID, float], datetime]:
    """Reserve a moment for each that begins in time; return the seconds until each, and now."""
    counts = Counter(pace for each in asking for pace in each.needs.paces)
    now = asking[0].row["now"] if asking else datetime.min
    free_s: dict[Pace, float] = {}
    # In one order, so that two who ask for the same ones can't deadlock.
    for pace in sorted(counts, key=lambda pace: pace.key):
        next_s, now = _reserve(alias, pace, counts[pace])
        free_s[pace] = next_s - pace.rate.interval_s * counts[pace]
    given = moments(
        (Asking(each.id, each.needs.paces, expires_in_s(each.row)) for each in asking), free_s
    )
    left = Counter(pace for each in asking if each.id not in given for pace in each.needs.paces)
    for pace, count in left.items():
        _give_back(alias, pace, count)
    return given, now


def _give_back(alias: str, pace: Pace, count: int) -> None:
    """Move the next free moment of a pace back by `count`, in the transaction of _reserve()."""
    step = timedelta(seconds=pace.rate.interval_s * count)
    LimitPace.objects.using(alias).filter(key=digest(pace.key)).update(next_at=F("next_at") - step)


def _reserve(alias: str, pace: Pace, count: int) -> tuple[float, datetime]:
    """Move the next free moment of a pace by `count`; return it in seconds from now, and now."""
    key, step = digest(pace.key), timedelta(seconds=pace.rate.interval_s * count)
    paces = LimitPace.objects.using(alias).filter(key=key)
    # The row stays locked until the caller's transaction ends, so nobody changes it in between.
    if not paces.update(next_at=Greatest(F("next_at"), Now()) + step):
        LimitPace.objects.using(alias).bulk_create(
            [LimitPace(key=key, next_at=Now())], ignore_conflicts=True
        )
        paces.update(next_at=Greatest(F("next_at"), Now()) + step)
    next_at, now = paces.annotate(now=Now()).values_list("next_at", "now").get()
    return (next_at - now).total_seconds(), now


def _note_moments(
    alias: str, asking: Sequence[_Candidate], wait_s: Mapping[UUID, float], now: datetime
) -> None:
    """Write the moments of records, and when somebody must look at those that have to wait."""
    records: list[TaskRecord] = []
    for each in asking:
        moment = now + timedelta(seconds=wait_s[each.id])
        record = TaskRecord(
            id=each.id,
            reserved_for=moment,
            run_after=each.row["run_after"],
            look_at=each.row["look_at"],
            sent_at=each.row["sent_at"],
        )
        if moment > now:
            record.run_after = moment
            look = each.delivery.look
            is_parked = each.may_wait_in_row and moment - now > MAX_DELAY
            if is_parked or not look.is_sent:
                record.look_at, record.sent_at = moment - look.ahead, None
        records.append(record)
    if records:
        columns = ["reserved_for", "run_after", "look_at", "sent_at"]
        TaskRecord.objects.using(alias).bulk_update(records, columns)
    for each in asking:
        if each.needs.places and wait_s[each.id] > 0:
            # Its place is kept until then. It has few others in front of it: those with a place.
            kept_until = now + timedelta(seconds=wait_s[each.id]) + KEPT_FOR
            _places_of({each.id: each.needs.places}).update(held_until=kept_until)


def _lock_places(alias: str, keys: Iterable[str], *, may_wait: bool = True) -> list[Any]:
    """Return the places of these keys that somebody has, or had until its time was over.

    They are locked, in one order, so that two who lock the same ones can't deadlock. Who has made
    new ones already may not wait for the others. Raises Contended where others hold some of them,
    which they have just made.
    """
    places = _places(alias).filter(key__in=sorted(keys)).order_by("key", "number")
    now = places.annotate(is_live=Q(held_until__gte=Now()), is_over=_is_over())
    features = connections[alias].features
    if not features.has_select_for_update:
        return list(now)
    free = places.select_for_update(skip_locked=features.has_select_for_update_skip_locked)
    first = places.select_for_update() if may_wait else free
    locked = set(first.values_list("key", "number"))
    for _ in range(MAX_RACES):
        found = list(now.all())
        if locked.issuperset(each.pk for each in found):
            return found
        # New ones may stand before those that are locked, so this must not wait for them.
        locked |= set(free.values_list("key", "number"))
    raise Contended("Others take places of the same keys.")


def _update_in_order(places: QuerySet[LimitPlace], count: int, columns: Mapping[str, Any]) -> int:
    """Update about so many places, and return how many; an update alone locks them in any order."""
    if count == 1 or not connections[places.db].features.has_select_for_update:
        return places.update(**columns)
    with transaction.atomic(using=places.db, savepoint=False):
        list(places.select_for_update().order_by("key", "number").values_list("number"))
        return places.update(**columns)


def _is_over() -> Q:
    """Return the condition of places whose record is finished, and will not run any more.

    A run that was cancelled goes on for a while, so its place is its own until its lease is over.
    """
    record = TaskRecord.objects.filter(id=OuterRef("record_id"))
    was_cancelled = record.filter(status=Status.CANCELLED)
    return Q(Exists(record.filter(status__in=FINISHED))) | Q(Exists(was_cancelled), token=None)


def _held(place: Any) -> Held:
    return Held(place.number, place.record_id, place.is_live)


def _kept(key: str, number: int, record_id: UUID, *, keep_for: timedelta = KEPT_FOR) -> LimitPlace:
    """Return a place that is kept for a record until its claim."""
    return LimitPlace(key=key, number=number, record_id=record_id, held_until=Now() + keep_for)


def _delete(alias: str, places: Sequence[Any]) -> None:
    for key in sorted({each.key for each in places}):
        numbers = [each.number for each in places if each.key == key]
        _places(alias).filter(key=key, number__in=numbers).delete()


def _first_waiting(alias: str, key: str, count: int) -> tuple[list[Row], int]:
    """Lock the first records that wait for a key, by priority, then the oldest first.

    Those that have expired are left to the look at their expiry, which cancels them. Those that
    another transaction has locked are skipped: a call may have joined them, for example. Returns
    how many were skipped for which there are places, too.
    """
    if not count:
        return [], 0
    waiting = all_records().filter(MAY_BEGIN, limit_key=key, status=Status.QUEUED)
    waiting = waiting.annotate(now=Now()).order_by("-priority", "enqueued_at")
    n_waiting = len(waiting.values_list("id")[:count])
    rows: list[Row] = []
    if n_waiting:
        rows += lock_unlocked(waiting).values(*WAITING_COLUMNS)[:count]
    return rows, max(0, n_waiting - len(rows))


def _wake(rows: Sequence[Row], sends: Callable[[str], bool]) -> None:
    """Make records due that waited; the relay need not look at those that the caller sends."""
    for is_sent in (True, False):
        ids = [row["id"] for row in rows if sends(row["queue"]) is is_sent]
        if ids:
            # In a table they are the next ones, as their places are kept for a short time only.
            look_at = Now() + GRACE if is_sent else Now() - PUT_FIRST
            all_records().filter(id__in=ids).update(limit_key=None, look_at=look_at, sent_at=None)


def _idle_keys(alias: str) -> set[str]:
    """Return keys for which records wait although nobody has a place."""
    held = _places(alias).filter(key=OuterRef("limit_key"))
    waiting = all_records().filter(limit_key__isnull=False, status=Status.QUEUED)
    idle = waiting.exclude(Exists(held)).order_by()
    keys = idle.values_list("limit_key", flat=True).distinct()[:MAX_RESCUED]
    return {key for key in keys if key}


def _places(alias: str) -> QuerySet[LimitPlace]:
    return LimitPlace.objects.using(alias)


def _places_of(places: Mapping[UUID, Places]) -> QuerySet[LimitPlace]:
    """Return the places of these records."""
    keys = {digest(each.key) for each in places.values()}
    return _places(record_alias()).filter(key__in=keys, record_id__in=list(places))


def _seconds_until(moment: datetime | None, now: datetime) -> float:
    return 0.0 if moment is None else (moment - now).total_seconds()
