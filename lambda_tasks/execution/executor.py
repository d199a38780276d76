"""One executor for every place a task runs: from deliveries to what becomes of each.

Read `Executor.run` like a sentence: claim the batch, run the batch.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, Final

from django.db import Error as DatabaseErrors
from django.db import connections as django_connections

from ..conf import Settings
from ..core.lifecycle import CUT_OFF, End
from ..core.message import Outgoing
from ..database_errors import Meaning, meaning_of
from ..errors import HardTimeLimitExceeded, WorkerProcessDied
from ..interrupts import OWN_S, ask
from ..logging import task_logger
from ..ports import BACK, DONE, Arriving, ClaimedDelivery, Claims, Delivery, Resolve, Settlement
from ..threads import in_reserved_thread
from . import progress
from .attempt import MakeAttempt
from .batch import Chain, ClaimedBatch, schedule
from .connections import refresh
from .finish_batcher import FinishBatcher
from .finishing import Finisher, described, give_back
from .intake import Intake
from .lanes import LaneLost, Lanes
from .leases import Leases
from .process_pool import ProcessPool
from .run import Ended, Run
from .time_budget import NoTimeLeft, TimeBudget

logger = logging.getLogger("lambda_tasks")

CUT_OFF_S: Final = 0.3
"""For what is cancelled at the deadline to end; what does not is left behind."""

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
        send_stored: Callable[[Outgoing], Awaitable[None]],
        lanes: Lanes,
        processes: ProcessPool,
    ) -> None:
        self._claims: Claims = finisher.claims
        self._finisher = finisher
        self._finish_batcher = FinishBatcher(self._claims)
        self._settings = settings
        self._intake = Intake(self._claims, settings, resolve)
        self._leases = Leases(self._claims, settings, lanes)
        self._make_attempt = make_attempt
        self._send_stored = send_stored
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
        self, arriving: Arriving, *, deadline: float | None = None
    ) -> ClaimedBatch:
        """The first half of run(): claim what can be claimed."""
        budget = TimeBudget(time.monotonic(), deadline)
        # In a thread: importing a task's module may block, or use the database.
        limit_s = OWN_S if deadline is None else min(OWN_S, deadline - time.monotonic())
        return await ask(self._intake.claim_batch, arriving, budget, limit_s=limit_s)

    async def can_claim(self) -> bool:
        """Whether the database answers."""
        try:
            await ask(self._check)
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

        def settle(id: str, settlement: Settlement) -> None:
            settlements[id] = settlement
            settled(id, settlement)

        for id, settlement in batch.refused.items():
            settle(id, settlement)
        with self._leases.kept(batch, settlements):
            for chains in schedule(batch.claimed):
                running = [self._run_in_order(each, batch, metadata, settle) for each in chains]
                await _run_until(batch.budget.deadline, end, running)
        is_drain = end is not None and end.done()
        for claimed in batch.claimed:
            if claimed.delivery.id not in settlements:
                let_go = self._finisher.let_go
                settle(
                    claimed.delivery.id, await ask(let_go, claimed, CUT_OFF, counts=not is_drain)
                )
        return settlements

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
        await ask(django_connections.close_all)
        await in_reserved_thread(self._processes.close)

    async def _run_in_order(
        self, chain: Chain, batch: ClaimedBatch, metadata: Mapping[str, Any], settle: Settled
    ) -> None:
        """Run one after the other, and none after one that goes back."""
        goes_on = True
        for claimed in chain:
            if goes_on:
                settlement = await self._run_one(claimed, batch, metadata)
            else:
                settlement = await self._wait(claimed)
            settle(claimed.delivery.id, settlement)
            goes_on = goes_on and settlement.is_final

    async def _run_one(
        self, claimed: ClaimedDelivery, batch: ClaimedBatch, metadata: Mapping[str, Any]
    ) -> Settlement:
        try:
            ended = await self._attempt(claimed, batch, metadata)
            if not ended.is_recorded:
                ended = await self._record(claimed, ended)
        except NoTimeLeft:
            return await self._wait(claimed)
        except Exception:
            # Its outcome is not known to be durable: the redelivery reads the truth.
            logger.exception("%s (%s) goes back", claimed.task.name, claimed.message.invocation_id)
            return BACK
        if ended.interrupted:
            logger.info("%s %s is interrupted", claimed.task.name, claimed.message.invocation_id)
            back = await ask(give_back, self._claims, claimed, started=True)
            return replace(back, interrupts=True)
        if ended.lost is not None:
            is_last = claimed.claim.attempt >= self._settings().max_attempts
            return await ask(self._finisher.let_go, claimed, ended.lost, is_last=is_last)
        if ended.following is not None:
            await self._send_stored(ended.following)
        outcome = "lease lost" if ended.outcome is None else type(ended.outcome).__name__.lower()
        task_logger.info("%s %s: %s", claimed.task.name, claimed.message.invocation_id, outcome)
        return DONE if ended.outcome is not None else BACK

    async def _attempt(
        self, claimed: ClaimedDelivery, batch: ClaimedBatch, metadata: Mapping[str, Any]
    ) -> Ended:
        def make_run() -> Run:
            run = self._run_of(claimed, metadata, batch.budget)
            batch.begun.add(claimed.delivery.id)
            return run

        if claimed.task.is_async:
            try:
                return await self._lanes.run(lambda: self._make_attempt(make_run(), claimed.task))
            except LaneLost as lost:
                return await self._fail(claimed, lost.failure)
        try:
            return await self._processes.run(make_run)
        except (HardTimeLimitExceeded, WorkerProcessDied) as error:
            return await self._fail(claimed, error)

    async def _record(self, claimed: ClaimedDelivery, ended: Ended) -> Ended:
        assert ended.outcome is not None
        try:
            end = End(claimed.claim, ended.outcome, ended.ran_for)
            held = await self._finish_batcher.finish(end)
        except DatabaseErrors as error:
            if meaning_of(error, is_ours=True) is Meaning.REFUSAL:  # of the result
                return await self._fail(claimed, error)
            return Ended(None, lost=described(error, claimed.message))
        return ended if held else Ended(None)

    async def _fail(self, claimed: ClaimedDelivery, error: BaseException) -> Ended:
        """Write the end of what has no attempt any more: its process is gone."""
        run, call = self._run_of(claimed), claimed.task.begin(claimed.message, claimed.claim)
        return await ask(self._finisher.fail, run, claimed.task, call, error, None)

    async def _wait(self, claimed: ClaimedDelivery) -> Settlement:
        logger.info("%s waits for another delivery", claimed.message.invocation_id)
        return await ask(give_back, self._claims, claimed, started=False)

    def _run_of(
        self,
        claimed: ClaimedDelivery,
        metadata: Mapping[str, Any] | None = None,
        budget: TimeBudget | None = None,
    ) -> Run:
        """What a claimed delivery asks for, with the limits that its budget has now.

        Raises NoTimeLeft.
        """
        settings, max_retries = self._settings(), claimed.task.options.max_retries
        soft_s, hard_s = budget.limits_s(claimed.task, settings) if budget else (0.0, 0.0)
        return Run(
            message=claimed.message,
            claim=claimed.claim,
            queue=claimed.queue,
            max_retries=settings.max_retries if max_retries is None else max_retries,
            max_continues=settings.max_continues,
            soft_s=soft_s,
            hard_s=hard_s,
            metadata=dict(metadata or {}),
        )


async def _run_until(
    deadline: float | None,
    end: "asyncio.Future[None] | None",
    running: Sequence[Coroutine[Any, Any, None]],
) -> None:
    """Run them to their ends; cancel at the deadline, or the end, what has not come to its."""
    if not running:
        return
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
        await asyncio.wait(late, timeout=CUT_OFF_S)
    for task in tasks:
        if task.done() and not task.cancelled():
            task.result()
