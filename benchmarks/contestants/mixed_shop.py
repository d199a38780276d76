"""A web process whose orders ask for tasks of every kind, and the audit of what became of them."""

import json
import math
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from django.db import DatabaseError, IntegrityError, InterfaceError, connection, transaction
from django.db.models import Sum

from benchmarks.contestants.database import migrate
from benchmarks.contestants.work import logbook, mixed
from benchmarks.contestants.work.models import Order, Shipment
from lambda_tasks.errors import CompensationFailed, EnqueueError
from lambda_tasks.models import TaskRecord, Workflow
from lambda_tasks.workflows import WorkflowRun

__all__ = ["audit", "done_per_s", "migrate", "movement", "struck", "take_orders"]

T = TypeVar("T")

OPEN: Final = ("WAITING", "QUEUED", "RUNNING")

DIRECT: Final = ("send_directly", "asend_directly")

DOUBTFUL: Final = "doubtful"
"""A direct call of which nobody knows whether SQS has accepted it."""

SHELF: Final = "take_from_shelf"
"""A singleton for each of a few shelves."""

WEIGHTS: Final = {
    "send": 10,
    "asend": 10,
    "send_once": 5,
    "asend_once": 5,
    "pack": 2,
    "apack": 3,
    "send_at_the_retry": 4,
    "wrap": 2,
    "awrap": 3,
    "send_in_parcels": 3,
    SHELF: 3,
    "send_directly": 4,
    "asend_directly": 4,
    "refuse": 2,
    "chain": 2,
    "fan": 1,
    "nested": 2,
    "fulfil": 1,
}
"""How often an order is of each kind: the name of its task, or of what makes its workflow."""

WORKFLOWS: Final[Mapping[str, int]] = {"chain": 3, "fan": mixed.MEMBERS + 1, "nested": 4}
"""The kinds that are workflows, and their steps, each of which leaves a parcel."""

RETRY_EVERY: Final = 20
"""Orders between two looks for workflows that have failed."""

DELAYED: Final = 0.1
LONGEST_DELAY_S: Final = 8

EFFECTLESS: Final = ("refuse", DOUBTFUL)

SHOWN: Final = 10
"""Orders, of each thing that must not be."""

LEFT_S: Final = 30.0 + 60.0 + 10.0
"""What a web process that was killed has left is sent after its half a minute, by the relay's next
round, of which there is one a minute. That round, the delivery and the start take their time."""

AGAIN_S: Final = 0.2
"""After an error of the database."""


def take_orders(
    *,
    up_to: int,
    pause_s: float,
    queues: Sequence[str],
    seed: int,
    longest_delay_s: int = LONGEST_DELAY_S,
    kinds: Sequence[str] = tuple(WEIGHTS),
    until: float = math.inf,
) -> int:
    """Go on where the last process stopped; return the number of orders that there are.

    Each is stored with the call of its task, tried again until the database has taken it. The same
    seed makes the same orders. One comes in every `pause_s` seconds; those that were held up come
    at once. `until`, in seconds since the epoch, ends it sooner.
    """
    due_at = time.monotonic()
    for number in range(_insist(Order.objects.count), up_to):
        if time.time() > until:
            break
        wanted = random.Random(f"{seed} {number}")
        (kind,) = wanted.choices(kinds, [WEIGHTS[kind] for kind in kinds])
        queue = wanted.choice(queues)
        if kind in DIRECT:
            _take_directly(number, kind)
        elif kind in WORKFLOWS:
            _insist(partial(_take_workflow, number, kind, queue))
        else:
            delay_s = wanted.randint(1, longest_delay_s) if wanted.random() < DELAYED else 0
            _insist(partial(_take, number, kind, queue, delay_s))
        if number % RETRY_EVERY == 0:
            _insist(_retry_failed)
        due_at += pause_s
        time.sleep(max(0.0, due_at - time.monotonic()))
    return _insist(Order.objects.count)


def movement() -> dict[str, int]:
    """What changes as long as anything happens; what is `open` or `waiting` is not done yet.

    Workflows that have failed are retried, as an operator would.
    """
    connection.close()
    _retry_failed()
    shipped = Shipment.objects.order_by().values("number").distinct()
    promised = Order.objects.exclude(kind__in=EFFECTLESS)  # a doubtful one may be shipped, too
    return {
        "orders": Order.objects.count(),
        "shipped": shipped.count(),
        "waiting": promised.exclude(number__in=shipped).count(),
        "open": TaskRecord.objects.filter(status__in=OPEN).count(),
        "attempts": TaskRecord.objects.aggregate(sum=Sum("n_attempts"))["sum"] or 0,
    }


def audit(
    *,
    lease_s: float,
    lapsed: Mapping[str, int],
    max_receives: int,
    dead_letters: Sequence[str],
    since: int = 0,
) -> dict[str, dict[str, Any]]:
    """What must not be, by its name: how often it is, and some of the orders that show it.

    Orders before the number `since` are not asked for. `dead_letters` are the bodies of the
    messages that SQS has given up. `lease_s` is how long a claim is held after the death of who has
    made it, and `lapsed` tells of how many claims that was so, by the ids of their records.
    """
    connection.close()
    ledger = _Ledger(lapsed, since)
    found = {
        "lost": ledger.lost(),
        "twice": ledger.twice(),
        "stuck": ledger.stuck(),
        "failed": ledger.failed(),
        "disordered": ledger.disordered(),
        "dead_lettered": ledger.dead_lettered(dead_letters, max_receives),
        "late": ledger.late(lease_s),
    }
    return {name: {"count": len(each), "shown": each[:SHOWN]} for name, each in found.items()}


def struck() -> int:
    """How many processes have struck themselves down."""
    return sum(entry.what == logbook.STRUCK for entry in _logbook())


def done_per_s(*, since: float, until: float, parts: int) -> list[float]:
    """Tasks that were done in a second, in each of so many equal parts of the time.

    Times are in seconds since the epoch.
    """
    part_s = (until - since) / parts
    times = (entry.at for entry in _logbook() if entry.what == logbook.DONE)
    counts = Counter(int((at - since) // part_s) for at in times)
    return [counts[part] / part_s for part in range(parts)]


class _Ledger:
    """Orders, their effects, their records and the logbook, put side by side by the order's number.

    Each question is answered with the numbers of the orders that it is about, and why.
    """

    def __init__(self, lapsed: Mapping[str, int], since: int) -> None:
        self._lapsed = lapsed
        self._orders = {order.number: order for order in Order.objects.filter(number__gte=since)}
        shipments = Shipment.objects.filter(number__gte=since).order_by("pk")
        self._shipped = list(shipments.values_list("number", "parcel"))
        self._parcels = Counter(self._shipped)
        records = TaskRecord.objects.defer("result", "args", "secrets")
        self._records = [record for record in records if _number(record) >= since]
        self._begun: dict[int, float] = {}
        for entry in _logbook():
            if entry.what == logbook.BEGUN:
                self._begun.setdefault(entry.number, entry.at)

    def lost(self) -> list[str]:
        gone = {_number(record) for record in self._records if _was_cut_short(record)}
        return [
            f"{number} ({order.kind})"
            for number, order in self._orders.items()
            if any(not self._parcels[number, parcel] for parcel in _promised(number, order.kind))
            and number not in gone
        ]

    def twice(self) -> list[str]:
        return [
            f"{number} ({self._kind(number)}), parcel {parcel}: {times} times"
            for (number, parcel), times in self._parcels.items()
            if times > (0 if self._kind(number) == "refuse" else 1)
        ]

    def disordered(self) -> list[str]:
        """Orders whose parcels were taken back in another order than the last one first."""
        taken_back: dict[int, list[int]] = {}
        for number, parcel in self._shipped:
            if parcel < 0:
                taken_back.setdefault(number, []).append(parcel)
        return [
            f"{number} ({self._kind(number)}): {parcels}"
            for number, parcels in taken_back.items()
            if parcels != sorted(parcels)
        ]

    def stuck(self) -> list[str]:
        return [
            f"{_number(record)} ({record.task_name}): {record.status}, {record.n_attempts} attempts"
            for record in self._records
            if record.status in OPEN
        ]

    def failed(self) -> list[str]:
        own = f"{mixed.__name__}.{mixed.OutOfStock.__name__}"
        return [
            f"{_number(record)} ({record.task_name}): {_last_line(record.traceback)}"
            for record in self._records
            if record.status == "FAILED"
            and record.exception_class != own
            and not (_is_of_compensations(record) and mixed.is_kept(_number(record)))
            and not _was_cut_short(record)
        ]

    def dead_lettered(self, bodies: Sequence[str], max_receives: int) -> list[str]:
        """Before they began, although fewer of their deliveries died than their queue allows."""
        numbers = {str(record.id): _number(record) for record in self._records}
        found = []
        for message in map(json.loads, bodies):
            id = message["invocation_id"]
            # A durable message says no more than its record's id; a direct one may have no record.
            number: int = numbers[id] if id in numbers else message.get("kwargs", {}).get("number")
            deaths = self._lapsed.get(id, 0)
            order = self._orders.get(number)
            if order is not None and number not in self._begun and deaths < max_receives:
                found.append(f"{number} ({order.kind}): {deaths} deaths")
        return found

    def late(self, lease_s: float) -> list[str]:
        """Begun more than a lease after they were due, or than the relay takes to send what its
        sender has left; a lease more for each worker that died with them, or with one that had
        the shelf."""
        ids = {_number(each): str(each.id) for each in self._records if _is_first(each)}
        found = []
        for number, order in self._orders.items():
            if order.due_at is None or number not in self._begun:
                continue
            late_s = self._begun[number] - order.due_at
            deaths = sum(
                self._lapsed.get(ids.get(each, ""), 0) for each in self._of_same_shelf(number)
            )
            if late_s > max(lease_s, LEFT_S) + lease_s * deaths:
                found.append(f"{number} ({order.kind}): {late_s:.0f} s, {deaths} deaths")
        return found

    def _of_same_shelf(self, number: int) -> list[int]:
        """Return the numbers of the orders of which one at a time runs, or of this one alone."""
        if self._orders[number].kind != SHELF:
            return [number]
        shelf = number % mixed.SHELVES
        return [
            each
            for each, order in self._orders.items()
            if order.kind == SHELF and each % mixed.SHELVES == shelf
        ]

    def _kind(self, number: int) -> str:
        order = self._orders.get(number)
        return "unknown" if order is None else order.kind


def _is_of_compensations(record: TaskRecord) -> bool:
    failed = f"{CompensationFailed.__module__}.{CompensationFailed.__name__}"
    return record.exception_class == failed


def _was_cut_short(record: TaskRecord) -> bool:
    """The task's own statement took longer than the project's statement_timeout allows, on a busy
    machine, say: that is its failure, unlike where it was one of ours."""
    traceback = record.traceback or ""
    return (
        record.status == "FAILED"
        and "statement timeout" in _last_line(traceback)
        and "Shipment.objects" in traceback
    )


def _take(number: int, kind: str, queue: str, delay_s: int) -> None:
    task = getattr(mixed, kind).using(queue=queue, delay=delay_s)
    shelf = {"shelf": number % mixed.SHELVES} if kind == SHELF else {}
    with suppress(IntegrityError), transaction.atomic():  # stored by a try whose answer was lost
        Order.objects.create(number=number, kind=kind, due_at=time.time() + delay_s)
        task.execute_on_commit(number=number, **shelf)


def _take_directly(number: int, kind: str) -> None:
    """Promise the order only once SQS has accepted its message."""
    _insist(partial(_store_doubtful, number))
    try:
        getattr(mixed, kind).execute_on_commit(number=number)
    except EnqueueError:
        return
    _insist(Order.objects.filter(number=number).update, kind=kind, due_at=time.time())


def _store_doubtful(number: int) -> None:
    with suppress(IntegrityError):
        Order.objects.create(number=number, kind=DOUBTFUL)


def _take_workflow(number: int, kind: str, queue: str) -> None:
    with suppress(IntegrityError), transaction.atomic():
        Order.objects.create(number=number, kind=kind, due_at=time.time())
        getattr(mixed, kind)(number=number, queue=queue).execute_on_commit()


def _retry_failed() -> None:
    failed = Workflow.objects.filter(status="FAILED", call_id=None)
    for id in failed.values_list("pk", flat=True):
        WorkflowRun(id).retry_failed()


def _insist(ask: Callable[..., T], **kwargs: Any) -> T:
    """Ask the database until it answers."""
    while True:
        try:
            return ask(**kwargs)
        except (DatabaseError, InterfaceError):
            connection.close()
            time.sleep(AGAIN_S)


def _promised(number: int, kind: str) -> Sequence[int]:
    """The parcels that an order of this kind must have; negative ones are taken back."""
    if kind in EFFECTLESS:
        return range(0)
    if kind in WORKFLOWS:
        return range(WORKFLOWS[kind])
    if kind == "fulfil" and not mixed.is_refused(number):
        return range(mixed.STAGES)
    if kind == "fulfil":
        undone = [each for each in mixed.UNDONE if each != mixed.KEPT or not mixed.is_kept(number)]
        return [*range(mixed.STAGES - 1), *map(mixed.taken_back, undone)]
    return range(mixed.PARCELS if kind == "send_in_parcels" else 1)


def _logbook() -> Iterable[logbook.Entry]:
    return logbook.read(Path(os.environ["BENCHMARK_LOGBOOK"]))


def _number(record: TaskRecord) -> int:
    number: int = record.kwargs["number"]
    return number


def _is_first(record: TaskRecord) -> bool:
    """Not a retry, a continuation, or a step of a workflow behind its first one."""
    return record.root_id in (None, record.id) and not record.kwargs.get("parcel")


def _last_line(traceback: str | None) -> str:
    return (traceback or "").strip().rpartition("\n")[2]
