"""One executor for every place a task runs: from deliveries to what becomes of each.

Read `Executor.run` like a sentence: claim the batch, run the batch.
"""

import asyncio
import contextvars
import logging
import math
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, Final
from uuid import UUID

from django.db import Error as DatabaseErrors
from django.db import connections as django_connections

from ..conf import Settings
from ..core.lifecycle import End
from ..database_calls import call_database
from ..database_errors import Meaning, meaning_of
from ..errors import HardTimeLimitExceeded, WorkerProcessDied
from ..interrupts import LIBRARY_STATEMENT_LIMIT_S
from ..logging import task_logger
from ..ports import (
    DONE,
    RETURNED,
    ClaimedDelivery,
    Claims,
    Delivery,
    ReceivedBatch,
    Resolve,
    Settlement,
    Task,
)
from ..threads import in_reserved_thread
from . import progress
from .attempt import Attempt, MakeAttempt
from .batch import Begun, Chain, ClaimedBatch, schedule
from .connections import refresh
from .finishing import Finisher, described, give_back, give_back_unbegun
from .intake import Intake
from .lanes import LaneLost, Lanes
from .leases import Leases
from .process_pool import ProcessPool
from .process_start import ProcessNotStarted
from .run import Ended, Run
from .sending_again import Back, SendingAgain, SendStored
from .starts import Starts, as_counted, line_of
from .time_budget import MARGINS_S, NoTimeLeft, TimeBudget, limits_s
from .turns import Durations, Turns
from .watchdog import watchdog
from .write_batcher import WriteBatcher

logger = logging.getLogger("lambda_tasks")

CUT_OFF_S: Final = 0.3
"""Seconds for what is cancelled at the deadline to end; what does not is left behind."""

Settled = Callable[[str, Settlement], None]
"""Hears of each delivery, by its id, as soon as its outcome is durable."""


class Executor:
    """Runs tasks in lanes and worker processes, and keeps their records."""

    def __init__(
        self,
        *,
        finisher: Finisher,
        settings: Callable[[], Settings],
        resolve: Resolve,
        make_attempt: MakeAttempt,
        send_stored: SendStored,
        lanes: Lanes,
        processes: ProcessPool,
    ) -> None:
        self._claims: Claims = finisher.claims
        self._finisher = finisher
        self._ends = WriteBatcher(self._finish_many)
        self._suspects = asyncio.Lock()
        """One at a time runs here, so that none takes another along."""
        self._durations = Durations()
        self._turns = Turns(self._durations, lanes=lanes.count, processes=processes.count)
        self._starts = Starts(self._claims, self._turns)
        self._told: set[str] = set()
        self._settings = settings
        self._intake = Intake(self._claims, settings, resolve, self._turns)
        self._leases = Leases(self._claims, settings, lanes)
        self._make_attempt = make_attempt
        self._send_stored = send_stored
        self._sending_again = SendingAgain(send_stored)
        self._lanes = lanes
        self._processes = processes

    async def run(
        self,
        deliveries: Sequence[Delivery],
        *,
        deadline: float | None,
        metadata: Mapping[str, Any],
        settled: Settled,
    ) -> dict[str, Settlement]:
        """Run what can be run and return what becomes of each delivery, by its id.

        `deadline`, in monotonic seconds, is when all must be told. `metadata` is for the tasks'
        context. Raises nothing for a task's sake.
        """
        batch = await self.claim_batch(nullcontext(deliveries), deadline=deadline)
        return await self.run_batch(batch, metadata=metadata, settled=settled)

    async def claim_batch(
        self, arriving: ReceivedBatch, *, deadline: float | None = None
    ) -> ClaimedBatch:
        """The first half of run(): claim what can be claimed."""
        budget = TimeBudget(time.monotonic(), deadline)
        # In a thread: importing a task's module may block, or use the database.
        limit_s = (
            LIBRARY_STATEMENT_LIMIT_S
            if deadline is None
            else min(LIBRARY_STATEMENT_LIMIT_S, deadline - time.monotonic())
        )
        return await call_database(self._intake.claim_batch, arriving, budget, limit_s=limit_s)

    async def can_claim(self) -> bool:
        """Whether the database answers."""
        try:
            await call_database(self._check)
        except Exception as error:
            logger.warning("Nothing can be claimed: %s", error)
            return False
        return True

    def _check(self) -> None:
        refresh()
        self._claims.check()

    async def run_batch(
        self,
        batch: ClaimedBatch,
        *,
        metadata: Mapping[str, Any],
        settled: Settled,
        end: "asyncio.Future[None] | None" = None,
    ) -> dict[str, Settlement]:
        """The second half of run(). What has not come to its end when `end` is done is cut off."""
        settlements: dict[str, Settlement] = {}
        open_ones = {each.delivery.id: each for each in batch.claimed}

        def settle(id: str, settlement: Settlement) -> None:
            settlements[id] = settlement
            settled(id, settlement)
            if (claimed := open_ones.pop(id, None)) is not None:
                self._turns.leave(claimed.task)

        batch.line.update(line_of(batch.claimed))
        self._turns.enter([each.task for each in batch.claimed])
        try:
            with self._leases.kept(batch, settlements), watchdog.kept():
                refusing = [self._settle_refused(batch, settle)]
                for chains in schedule(batch.claimed):
                    running = [self._run_in_order(each, batch, metadata, settle) for each in chains]
                    await _run_until(batch.budget, end, refusing + running)
                    refusing = []
            await self._end_place(batch, list(open_ones.values()), settle, end)
        finally:
            for claimed in open_ones.values():
                self._turns.leave(claimed.task)
        return settlements

    async def give_back(self, batch: ClaimedBatch, *, settled: Settled) -> None:
        """Let others run what was claimed, none of which has begun."""
        for id, settlement in batch.refused.items():
            settled(id, settlement)
        unbegun = [as_counted(each, batch) for each in batch.claimed]
        back = await call_database(give_back_unbegun, self._claims, unbegun)
        for id, settlement in await self._sending_again.settlements(back):
            settled(id, settlement)

    def pids(self) -> list[int]:
        """The worker processes that run."""
        return self._processes.pids()

    def prepare(self) -> None:
        """Let the worker processes' fork server load the project meanwhile."""
        self._processes.prepare()

    async def aclose(self) -> None:
        """End lanes and worker processes, and close the connections."""
        await self._lanes.aclose()
        await in_reserved_thread(progress.close)
        await call_database(django_connections.close_all)
        await self._processes.aclose()

    async def _settle_refused(self, batch: ClaimedBatch, settle: Settled) -> None:
        postponed = {resolved.delivery.id for resolved, _ in batch.postponed}
        for id, settlement in batch.refused.items():
            if id not in postponed:
                settle(id, settlement)
        for id, settlement in await self._sending_again.settlements(batch.postponed):
            settle(id, settlement)

    async def _run_in_order(
        self, chain: Chain, batch: ClaimedBatch, metadata: Mapping[str, Any], settle: Settled
    ) -> None:
        """Run one after the other, and none after one that goes back."""
        goes_on = True
        for claimed in chain:
            if goes_on:
                settlement = await self._run_one(claimed, batch, metadata)
            else:
                settlement = await self._give_back(claimed, batch)
            settle(claimed.delivery.id, settlement)
            goes_on = goes_on and settlement.is_final

    async def _run_one(
        self, claimed: ClaimedDelivery, batch: ClaimedBatch, metadata: Mapping[str, Any]
    ) -> Settlement:
        alone = self._suspects if claimed.claim.is_suspect else nullcontext()
        try:
            async with alone:
                ended = await self._attempt(claimed, batch, metadata)
        except NoTimeLeft:
            return await self._give_back(claimed, batch)
        except ProcessNotStarted:
            begun = batch.begun.pop(claimed.delivery.id, None)
            return await self._give_back(claimed if begun is None else begun.claimed, batch)
        except Exception:
            # Its outcome is not known to be durable: the redelivery reads the truth.
            logger.exception("%s (%s) goes back", claimed.task.name, claimed.message.invocation_id)
            has_begun = claimed.delivery.id in batch.begun
            return RETURNED if has_begun else await self._give_back(claimed, batch)
        begun = batch.begun[claimed.delivery.id]
        if ended.wait_s is not None:
            return await self._let_wait(begun.claimed, ended.wait_s)
        return await self._settle_ended(begun.claimed, ended)

    async def _settle_ended(self, claimed: ClaimedDelivery, ended: Ended) -> Settlement:
        if ended.interrupted:
            logger.info("%s %s is interrupted", claimed.task.name, claimed.message.invocation_id)
            back = await call_database(partial(give_back, self._claims, claimed, counts=True))
            return replace(back, stops_worker=True)
        if ended.lost is not None:
            is_last = claimed.claim.attempt >= self._settings().max_attempts
            let_go = partial(self._finisher.let_go, claimed, ended.lost, is_last=is_last)
            return await self._sending_again.settlement(claimed, await call_database(let_go))
        if ended.following is not None:
            await self._send_stored([ended.following])
        outcome = "lease lost" if ended.outcome is None else type(ended.outcome).__name__.lower()
        task_logger.info("%s %s: %s", claimed.task.name, claimed.message.invocation_id, outcome)
        return DONE if ended.outcome is not None else RETURNED

    async def _attempt(
        self, claimed: ClaimedDelivery, batch: ClaimedBatch, metadata: Mapping[str, Any]
    ) -> Ended:
        outside_of_lanes = contextvars.copy_context()

        async def begin() -> Run:
            begun = Begun(await self._begin(claimed, batch, outside_of_lanes))
            batch.begun[claimed.delivery.id] = begun
            return self._run_of(begun.claimed, metadata, batch.budget)

        async def begin_attempt() -> Attempt:
            return self._make_attempt(await begin(), claimed.task)

        try:
            if claimed.task.is_async:
                ended = await self._lanes.run(begin_attempt)
            else:
                ended = await self._processes.run(begin)
        except (LaneLost, HardTimeLimitExceeded, WorkerProcessDied) as error:
            if claimed.delivery.id not in batch.begun:
                raise
            failure = error.failure if isinstance(error, LaneLost) else error
            ended = await self._fail(batch.begun[claimed.delivery.id].claimed, failure)
        begun = batch.begun[claimed.delivery.id]
        if ended.wait_s is None:
            self._durations.add(claimed.task.name, begun.ran_s)
        return ended if ended.is_recorded else await self._record(begun.claimed, ended)

    async def _begin(
        self, claimed: ClaimedDelivery, batch: ClaimedBatch, context: contextvars.Context
    ) -> ClaimedDelivery:
        """Count its start, where its claim has not. Raises NoTimeLeft and LeaseLost."""
        claim, budget = claimed.claim, batch.budget
        is_first = claim.has_begun or claim.cut_off_s > 0
        likely_s = self._durations.likely_s(claimed.task.name)
        if not budget.will_do(likely_s, is_first=is_first):
            raise NoTimeLeft
        self._tell_if_too_short(claimed.task, budget)
        lease = budget.lease([claimed.task], self._settings())
        return await self._starts.begin(claimed, batch, lease, context)

    def _tell_if_too_short(self, task: Task, budget: TimeBudget) -> None:
        hard_s = limits_s(task, self._settings())[1]
        if hard_s <= budget.longest_s or task.name in self._told:
            return
        self._told.add(task.name)
        logger.warning(
            "%s may run for %g s, and this function gives an event %.1f s: what takes longer is "
            "cut off and run again. Raise the function's timeout to %d s, or lower the task's "
            "hard_timeout.",
            task.name, hard_s, budget.longest_s, math.ceil(hard_s + MARGINS_S),
        )  # fmt: skip

    async def _record(self, claimed: ClaimedDelivery, ended: Ended) -> Ended:
        assert ended.outcome is not None
        try:
            end = End(claimed.claim, ended.outcome, ended.ran_for)
            held = await self._ends.write(claimed.message.invocation_id, end)
        except DatabaseErrors as error:
            if meaning_of(error, from_library=True) is Meaning.REFUSAL:  # of the result
                return await self._fail(claimed, error)
            return Ended(None, lost=described(error, claimed.message))
        return ended if held else Ended(None)

    def _finish_many(self, ends: Sequence[End]) -> Mapping[UUID, bool]:
        return dict.fromkeys(self._claims.finish_many(ends), True)

    async def _fail(self, claimed: ClaimedDelivery, error: BaseException) -> Ended:
        """Write the end of what has no attempt any more: its process is gone."""
        run, call = self._run_of(claimed), claimed.task.make_call(claimed.message, claimed.claim)
        return await call_database(self._finisher.fail, run, claimed.task, call, error, None)

    async def _give_back(self, claimed: ClaimedDelivery, batch: ClaimedBatch) -> Settlement:
        """Let what has not begun wait for its turn; its attempts stay as they were."""
        logger.info("%s waits for another delivery", claimed.message.invocation_id)
        claimed = as_counted(claimed, batch)
        ((_, settlement),) = await call_database(give_back_unbegun, self._claims, [claimed])
        return await self._sending_again.settlement(claimed, settlement)

    async def _let_wait(self, claimed: ClaimedDelivery, wait_s: float) -> Settlement:
        """Let a singleton wait for its lock, for which no delivery is to be used up."""
        logger.info("%s waits for its lock", claimed.message.invocation_id)
        waiting = partial(give_back, self._claims, claimed, counts=False, wait_s=wait_s)
        return await self._sending_again.settlement(
            claimed, await call_database(waiting), from_receive=1
        )

    async def _end_place(
        self,
        batch: ClaimedBatch,
        left: Sequence[ClaimedDelivery],
        settle: Settled,
        end: "asyncio.Future[None] | None",
    ) -> None:
        """Give back what has not begun, and cut off what has."""
        is_drain = end is not None and end.done()
        # A deadline counts where nobody else has taken of the task's time.
        counts = not is_drain and len(batch) == 1
        back: list[Back] = []
        if unbegun := [
            as_counted(each, batch) for each in left if each.delivery.id not in batch.begun
        ]:
            back += await call_database(give_back_unbegun, self._claims, unbegun)
        for each in left:
            if begun := batch.begun.get(each.delivery.id):
                back.append((each, await self._cut_off(begun, counts=counts)))
        for id, settlement in await self._sending_again.settlements(back, limit_s=CUT_OFF_S):
            settle(id, settlement)

    async def _cut_off(self, begun: Begun, *, counts: bool) -> Settlement:
        task, ran_s = begun.claimed.task, begun.ran_s
        self._durations.add(task.name, ran_s)
        hard_s = limits_s(task, self._settings())[1]
        cut_off = partial(self._finisher.cut_off, counts=counts, ran_s=ran_s, hard_s=hard_s)
        return await call_database(cut_off, begun.claimed)

    def _run_of(
        self,
        claimed: ClaimedDelivery,
        metadata: Mapping[str, Any] | None = None,
        budget: TimeBudget | None = None,
    ) -> Run:
        """What a claimed delivery asks for, in a place that ends with its budget."""
        settings, max_retries = self._settings(), claimed.task.options.max_retries
        soft_s, hard_s = limits_s(claimed.task, settings)
        return Run(
            message=claimed.message,
            claim=claimed.claim,
            queue=claimed.queue,
            max_retries=settings.max_retries if max_retries is None else max_retries,
            max_continues=settings.max_continues,
            look=claimed.look,
            soft_s=soft_s,
            hard_s=hard_s,
            place_s=math.inf if budget is None else budget.left_s,
            metadata=dict(metadata or {}),
        )


async def _run_until(
    budget: TimeBudget,
    end: "asyncio.Future[None] | None",
    running: Sequence[Coroutine[Any, Any, None]],
) -> None:
    """Run them to their ends; cancel at the deadline, or the end, what has not come to its."""
    if not running:
        return
    deadline = budget.deadline
    tasks = [asyncio.ensure_future(each) for each in running]
    finished: asyncio.Future[Any] = asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.wait(
        [finished] if end is None else [finished, end],
        timeout=None if deadline is None else max(deadline - time.monotonic(), 0.0),
        return_when=asyncio.FIRST_COMPLETED,
    )
    late = [task for task in tasks if not task.done()]
    for task in late:
        task.cancel()
    if late:
        await asyncio.wait(late, timeout=min(CUT_OFF_S, budget.longest_s / 20))
    for task in tasks:
        if task.done() and not task.cancelled():
            task.result()
