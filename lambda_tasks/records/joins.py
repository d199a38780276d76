"""Counts the ends of steps, and releases the steps that wait for them. See core.graphs.

All of it happens in the transaction that writes the end. The locks are taken in one order, so that
two that count can't deadlock: the record of the step, then the counts of the joins by number and
shard, each join's hub behind its shards, and its steps with it; last, the workflow.

A gate that is not satisfied counts all its steps as failed. One that is satisfied counts those that
were cancelled while they waited; nobody counts these before.
"""

import heapq
import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import Any, Final, NamedTuple
from uuid import UUID

from django.db import connections, transaction
from django.db.models import Exists, F, Q, QuerySet
from django.db.models.functions import Coalesce, Greatest

from ..core.graphs import (
    HUB,
    ROOT,
    Count,
    Counts,
    Feed,
    Place,
    Terms,
    When,
    WorkflowStatus,
    add_ends,
    read_feeds,
)
from ..core.graphs import lock_order as order_of
from ..core.lifecycle import UNFINISHED, Cancelled, Raised, Status
from ..database_errors import Contended
from ..ports import Released
from .clock import Now
from .encryption import secrets_retention
from .statements import execute
from .tables import DROPS_ARGUMENTS, TaskRecord, Workflow, WorkflowJoin

ANSWER: Final = ("remaining", "failed", "terms", "succeeded")
"""The columns of a count after its change."""

CHANGE: Final = (
    'UPDATE "lambda_tasks_workflowjoin" SET remaining = remaining - %s, failed = failed + %s'
    " WHERE workflow_id = %s AND number = %s AND shard = %s"
)


STOPPED: Final = Cancelled(
    Raised("lambda_tasks.errors.TaskCancelled", "Its group can't succeed any more (fail_fast).")
)
"""The end of a member of a group with `fail_fast`."""


SECRETS_OVER: Final = Cancelled(
    Raised("lambda_tasks.errors.TaskCancelled", "Its workflow has failed; its secrets are gone.")
)
"""The end of a step whose workflow has failed, and was not retried in time."""


class Row(NamedTuple):
    """A count after its change."""

    remaining: int
    failed: int
    terms: Terms | None
    succeeded: bool | None


def count_ends(alias: str, ends: Iterable[tuple[Place, bool]]) -> list[Released]:
    """Count the ends of steps, each with whether it succeeded; return the steps that are released.

    Call it in the transaction that writes the ends, and send what is released after the commit.
    """
    countings: dict[UUID, _Counting] = {}
    # Neighbours of a group have the same feeds: those that end together are counted together.
    alike = Counter((place.workflow_id, place.feeds, succeeded) for place, succeeded in ends)
    for (workflow_id, feeds, succeeded), n_ends in alike.items():
        if workflow_id not in countings:
            countings[workflow_id] = _Counting(alias, workflow_id)
        countings[workflow_id].end(feeds, succeeded=succeeded, n_ends=n_ends)
    released: list[Released] = []
    for workflow_id in sorted(countings):
        counting = countings[workflow_id]
        counting.run()
        released += counting.released
        for number in counting.failing_fast:
            stop = partial(stop_group, alias, workflow_id, number)
            transaction.on_commit(stop, using=alias, robust=True)
    return released


def stop_group(alias: str, workflow_id: UUID, number: int) -> None:
    """Cancel the members of a group that have not ended, if it can't be satisfied any more.

    If this is cut off, the group goes on to its end, or until the next failure. Members that others
    have locked are just ending.
    """
    from .cancelling import cancel  # above this module
    from .looks import lock_unlocked

    join = WorkflowJoin.objects.using(alias).filter(workflow_id=workflow_id, number=number)
    failed = sum(join.exclude(shard=HUB).values_list("failed", flat=True))
    (stored,) = join.filter(terms__isnull=False)
    terms = Terms.of(stored.terms or {})
    if terms.total - failed >= terms.need:
        return
    unfinished = _steps(alias, workflow_id).filter(status__in=UNFINISHED)
    for first, stop in terms.values:
        with transaction.atomic(using=alias):
            members = unfinished.filter(step__gte=first, step__lt=stop).order_by()
            ids = list(lock_unlocked(members).values_list("id", flat=True))
            cancel(TaskRecord.objects.using(alias).filter(id__in=ids), STOPPED)


def take_back_ends(
    alias: str, begun: Sequence[Place], unbegun: Sequence[Place]
) -> list[tuple[UUID, int]]:
    """Take back the ends of steps that have not succeeded and start over.

    Call it in the transaction that makes the steps QUEUED. Returns the workflow and number of those
    among `unbegun` whose gate is not satisfied: they wait as before, and were not counted. Raises
    Contended where a workflow has ended for good meanwhile: a new try leaves its steps out.
    """
    gates = _unsatisfied_gates(alias, unbegun)
    waiting: list[tuple[UUID, int]] = []
    changed: list[UUID] = []
    for workflow_id in sorted({place.workflow_id for place in (*begun, *unbegun)}):
        taking_back = _TakingBack(alias, workflow_id)
        for place in (*begun, *unbegun):
            if place.workflow_id == workflow_id:
                taking_back.start_over(place, gates.get((workflow_id, place.step)))
        taking_back.run()
        waiting += [(workflow_id, step) for step in taking_back.waiting]
        if taking_back.has_changed:
            changed.append(workflow_id)
    for workflow_id in sorted({place.workflow_id for place in (*begun, *unbegun)}):
        _resume(alias, workflow_id, is_changed=workflow_id in changed)
    return waiting


def _resume(alias: str, workflow_id: UUID, *, is_changed: bool) -> None:
    """Let a workflow run again if an end was taken back.

    Raises Contended where it has ended for good: what waits in it would wait for ever.
    """
    workflow = _workflow(alias, workflow_id).filter(
        status__in=(WorkflowStatus.RUNNING, WorkflowStatus.FAILED)
    )
    if not is_changed:
        goes_on = workflow.select_for_update().exists()
    elif goes_on := bool(workflow.update(status=WorkflowStatus.RUNNING, ended_at=None)):
        waiting = _steps(alias, workflow_id).filter(status=Status.WAITING)
        waiting.filter(look_at__isnull=False).update(look_at=None)
    if not goes_on:
        raise Contended(f"the workflow {workflow_id} has ended meanwhile; try again")


def _unsatisfied_gates(
    alias: str, places: Sequence[Place]
) -> dict[tuple[UUID, int], tuple[int, int]]:
    """Return for steps the number and shard of their gates, unless these are satisfied for good."""
    gates: dict[tuple[UUID, int], tuple[int, int]] = {}
    for workflow_id in {place.workflow_id for place in places}:
        joins = WorkflowJoin.objects.using(alias).filter(
            Q(succeeded=None) | Q(succeeded=False), workflow_id=workflow_id, terms__isnull=False
        )
        steps = [place.step for place in places if place.workflow_id == workflow_id]
        columns: Sequence[str] = ("number", "shard", "terms")
        for number, shard, stored in joins.values_list(*columns):
            terms = Terms.of(stored)
            for step in steps:
                if terms.first <= step < terms.stop:
                    gates[workflow_id, step] = number, shard
    return gates


class _Changes:
    """Changes of counts of one workflow, made in the order of their locks."""

    def __init__(self, alias: str, workflow_id: UUID) -> None:
        self._alias = alias
        self._workflow_id = workflow_id
        self._counts: Counts = {}
        self._order: list[tuple[tuple[int, float], tuple[int, int]]] = []

    def run(self) -> None:
        """Make the changes, and those that follow from them, in the order of the locks."""
        while self._order:
            _, key = heapq.heappop(self._order)
            change = self._counts.pop(key)
            self._changed(*key, change, self._change(*key, change))

    def _plan(self, counts: Mapping[tuple[int, int], Count]) -> None:
        for key, count in counts.items():
            if key not in self._counts:
                heapq.heappush(self._order, (order_of(*key), key))
                self._counts[key] = count
            else:
                self._counts[key] += count

    def _changed(self, number: int, shard: int, change: Count, row: Row) -> None:
        """Plan what follows from a change."""
        raise NotImplementedError

    def _change(self, number: int, shard: int, change: Count) -> Row:
        connection = connections[self._alias]
        if connection.vendor == "postgresql":
            params = [*change, self._workflow_id, number, shard]
            returning = f" RETURNING {', '.join(ANSWER)}"
            _, rows = execute(connection, CHANGE, params, returning=returning)
            ((remaining, failed, terms, succeeded),) = rows
            terms = terms if terms is None else json.loads(terms)
        else:
            count = self._join(number).filter(shard=shard)
            count.update(
                remaining=F("remaining") - change.ended, failed=F("failed") + change.failed
            )
            remaining, failed, terms, succeeded = count.values_list(*ANSWER).get()
        return Row(remaining, failed, None if terms is None else Terms.of(terms), succeeded)

    def _join(self, number: int) -> Any:
        joins = WorkflowJoin.objects.using(self._alias)
        return joins.filter(workflow_id=self._workflow_id, number=number)


class _Counting(_Changes):
    """The counting of ends."""

    def __init__(self, alias: str, workflow_id: UUID) -> None:
        super().__init__(alias, workflow_id)
        self.released: list[Released] = []
        self.failing_fast: set[int] = set()
        """The groups with `fail_fast` of which a member has failed."""

    def end(self, feeds: Iterable[Feed], *, succeeded: bool, n_ends: int = 1) -> None:
        """Plan the counts of ends with the same feeds."""
        counts: Counts = {}
        add_ends(counts, feeds, succeeded=succeeded, n_ends=n_ends)
        self._plan(counts)
        if not succeeded:
            fast = (feed.number for feed in feeds if feed.when == When.FAST_SUCCESS)
            self.failing_fast.update(fast)

    def _changed(self, number: int, shard: int, change: Count, row: Row) -> None:
        if row.remaining:
            return
        if row.terms is None:
            self._plan({(number, HUB): Count(1, row.failed)})
        elif row.succeeded is None:
            self._decide(number, shard, row.terms, row.failed)

    def _decide(self, number: int, shard: int, terms: Terms, failed: int) -> None:
        succeeded = terms.total - failed >= terms.need
        self._join(number).filter(shard=shard).update(succeeded=succeeded)
        if number == ROOT:
            _end_workflow(self._alias, self._workflow_id, succeeded=succeeded)
            self._wake(terms)
        elif terms.is_gate and succeeded:
            self._release(terms)
        else:
            self.end(terms.feeds, succeeded=succeeded)

    def _wake(self, terms: Terms) -> None:
        """Wake the run of the durable function that waits for the workflow."""
        self.released += wake_waiting(terms)

    def _release(self, terms: Terms) -> None:
        """Release the steps of a gate; count those that were cancelled while they waited."""
        n = _release(self._alias, self._workflow_id, terms)
        self.released.append(Released(self._workflow_id, terms.first, terms.stop))
        if n == terms.stop - terms.first:
            return
        cancelled = _steps(self._alias, self._workflow_id).filter(
            step__gte=terms.first, step__lt=terms.stop, status=Status.CANCELLED
        )
        # Locked, as MySQL would else show them as they were when the transaction began.
        for links in cancelled.order_by().select_for_update().values_list("links", flat=True):
            self.end(read_feeds(links["feeds"]), succeeded=False)


class _TakingBack(_Changes):
    """The taking back of ends. Their changes are negative.

    A join that was satisfied stays so: what it has released is not released again. The exception is
    the gate of a handler that starts over together with what it handles: it waits for its end.
    """

    def __init__(self, alias: str, workflow_id: UUID) -> None:
        super().__init__(alias, workflow_id)
        self.waiting: list[int] = []
        """The steps whose gates are not satisfied."""
        self.has_changed = False
        self._held: dict[tuple[int, int], list[Place]] = {}
        """Steps by the number and shard of their gates, which say whether they were counted."""
        self._let_begin: set[int] = set()
        """The steps that start over, and that their gates had let begin."""
        self._handlers: set[int] = set()
        """The numbers of the joins that wait for a failure or an end which is taken back."""

    def start_over(self, place: Place, gate: tuple[int, int] | None) -> None:
        """Take back the end of a step, unless its gate has not let it begin."""
        if gate is None:
            self._let_begin.add(place.step)
            self._take_back(place.feeds)
        else:
            self._held.setdefault(gate, []).append(place)
            self._plan({gate: Count(0, 0)})

    def _take_back(self, feeds: Sequence[Feed]) -> None:
        self.has_changed = True
        self._handlers.update(
            feed.number for feed in feeds if feed.when in (When.FAILURE, When.END)
        )
        counts: Counts = {}
        add_ends(counts, feeds, succeeded=False)
        self._plan({key: -count for key, count in counts.items()})

    def _changed(self, number: int, shard: int, change: Count, row: Row) -> None:
        for place in self._held.pop((number, shard), ()):
            if row.succeeded:
                self._take_back(place.feeds)
            else:
                self.waiting.append(place.step)
        if not change.ended or row.remaining + change.ended:
            return  # It had not reached zero.
        if row.terms is None:
            self._plan({(number, HUB): Count(-1, change.failed - row.failed)})
        elif row.succeeded is False:
            self._join(number).filter(shard=shard).update(succeeded=None)
            self._take_back(row.terms.feeds)
        elif number in self._handlers and row.terms.is_gate:
            steps = range(row.terms.first, row.terms.stop)
            if self._let_begin.issuperset(steps):
                self._join(number).filter(shard=shard).update(succeeded=None)
                self.waiting += steps


def _release(alias: str, workflow_id: UUID, terms: Terms) -> int:
    """Make the steps that a gate holds QUEUED, each to be looked at as its queue wants it.

    They wait from now on, as ones that are called now. Returns how many were WAITING. Those of a
    cancelled workflow stay so until its cancel reaches them.
    """
    n_released = 0
    due = Greatest(Coalesce(F("run_after"), Now()), Now())
    goes_on = _workflow(alias, workflow_id).exclude(status=WorkflowStatus.CANCELLED)
    waiting = _steps(alias, workflow_id).filter(
        Exists(goes_on), step__gte=terms.first, step__lt=terms.stop
    )
    for queue, (grace_s, ahead_s) in terms.queues.items():
        of_queue = waiting if len(terms.queues) == 1 else waiting.filter(queue=queue)
        soon = Now() + timedelta(seconds=grace_s)
        n_released += of_queue.filter(status=Status.WAITING).update(
            # First, as it reads run_after: MySQL assigns columns from left to right.
            look_at=Greatest(soon, Coalesce(F("run_after"), Now()) - timedelta(seconds=ahead_s)),
            status=Status.QUEUED,
            run_after=due,
        )
    return n_released


def _end_workflow(alias: str, workflow_id: UUID, *, succeeded: bool) -> None:
    """End a workflow. After a success, steps that still wait were not needed.

    After a failure they wait for a retry, those with secrets for as long as failed records keep
    theirs. Then they are cancelled: see forget_waiting().
    """
    from .cancelling import cancel  # above this module

    status = WorkflowStatus.SUCCESS if succeeded else WorkflowStatus.FAILED
    running = _workflow(alias, workflow_id).filter(status=WorkflowStatus.RUNNING)
    if not running.update(status=status, ended_at=Now()):
        return
    waiting = _steps(alias, workflow_id).filter(status=Status.WAITING)
    if succeeded:
        cancel(waiting, Cancelled(), is_counted=False)
        return
    confidential = waiting.filter(Q(secrets__isnull=False) | DROPS_ARGUMENTS)
    if secrets_for := secrets_retention():
        confidential.update(look_at=Now() + secrets_for)
    else:
        forget_waiting(confidential)


def forget_waiting(waiting: "QuerySet[TaskRecord]") -> None:
    """Cancel steps that have waited in a failed workflow for as long as secrets are kept.

    They are counted with their gates, if a retry of the workflow comes to these.
    """
    from .cancelling import cancel  # above this module

    cancel(waiting, SECRETS_OVER, is_counted=False)


def wake_waiting(terms: Terms) -> list[Released]:
    """Wake the run that waits for the end of a workflow; return what is to be sent."""
    from .checkpoints import wake  # above this module

    if not terms.wakes:
        return []
    run_id, grace_s = UUID(terms.wakes[0]), terms.wakes[1]
    return [Released(None, run_id=run_id)] if wake(run_id, grace_s=grace_s) else []


def _workflow(alias: str, workflow_id: UUID) -> Any:
    return Workflow.objects.using(alias).filter(id=workflow_id)


def _steps(alias: str, workflow_id: UUID) -> Any:
    return TaskRecord.objects.using(alias).filter(workflow_id=workflow_id)


def read_terms(alias: str, joins: Collection[tuple[UUID, int]]) -> dict[tuple[UUID, int], Any]:
    """Return the terms of joins, and how many of their inputs have failed."""
    ids = {workflow_id for workflow_id, _ in joins}
    numbers = {number for _, number in joins}
    found = WorkflowJoin.objects.using(alias).filter(
        workflow_id__in=ids, number__in=numbers, terms__isnull=False
    )
    columns: Sequence[str] = ("workflow_id", "number", "terms", "failed")
    return {
        (workflow_id, number): (Terms.of(terms), failed)
        for workflow_id, number, terms, failed in found.values_list(*columns)
    }
