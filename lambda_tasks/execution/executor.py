"""The executor of all host processes: it claims deliveries, runs their tasks and settles them.

Start with `Executor.run`: it claims the batch, then runs it.
"""

import asyncio
import contextvars
import logging
import math
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, Final
from uuid import UUID

from django.db import Error as DatabaseErrors
from django.db import connections as django_connections

from ..conf import Settings
from ..core.aws_values import FUNCTION_MARGIN_S
from ..core.lifecycle import Claim, End, Failed, Outcome, Retried, Skipped
from ..core.message import Outgoing
from ..database_calls import call_database
from ..database_errors import Meaning, meaning_of
from ..errors import HardTimeLimitExceeded, WorkerProcessDied
from ..interrupts import LIBRARY_STATEMENT_LIMIT_S
from ..logging import run_attributes
from ..ports import (
    DONE,
    DONE_FAILED,
    RETURNED,
    ClaimedDelivery,
    Claims,
    Delivery,
    Limits,
    Lock,
    ReceivedBatch,
    Released,
    Resolve,
    Settlement,
    Task,
)
from ..threads import in_reserved_thread
from . import progress
from .attempt import Attempt, MakeAttempt
from .batch import Chain, ClaimedBatch, StartedRun, schedule
from .connections import refresh
from .finishing import Finisher, describe, end_of, release_claim, release_unstarted
from .hook_events import announce_batch, announce_end, announce_return
from .intake import Intake
from .lanes import LaneLost, Lanes
from .leases import Leases
from .process_pool import ProcessPool
from .process_start import ProcessNotStarted
from .refusals import Refusals
from .resender import Resender, ReturnedDelivery, SendStored
from .run import AttemptEnd, Run
from .run_log import log_start, log_success
from .starts import Starts, waiting_line_of, with_current_claim
from .time_budget import NoTimeLeft, TimeBudget, limits_s
from .turns import Durations, Turns
from .watchdog import watchdog
from .write_batcher import WriteBatcher

logger = logging.getLogger("lambda_tasks")

CLAIM_S: Final = 1.0
"""Seconds of an event that may pass before its first task starts."""

HELD_FOR_S: Final = 2.0
"""Seconds after which messages of the table are released that still wait for others to end.

They were claimed as their turn was to come soon. Behind runs that take longer than others they
would wait here, while other workers have time for them.
"""

CANCEL_GRACE_S: Final = 0.3
"""Seconds for a run that was cancelled at the deadline to end. The executor waits no longer."""

AHEAD_TYPICAL_S: Final = 0.01
"""Typical seconds of tasks that are sent to the worker processes while those are busy."""

SendSteps = Callable[[Sequence[Released]], Awaitable[None]]
"""A function that sends the messages of released steps."""

OnSettled = Callable[[str, Settlement], None]
"""A callback that gets a delivery's id and settlement as soon as its outcome is durable."""


class Executor:
    """An executor of tasks, in lanes and worker processes, which keeps their records."""

    def __init__(
        self,
        *,
        finisher: Finisher,
        settings: Callable[[], Settings],
        resolve: Resolve,
        make_attempt: MakeAttempt,
        send_stored: SendStored,
        send_steps: SendSteps,
        limits: Limits,
        lock: Lock,
        lanes: Lanes,
        processes: ProcessPool,
    ) -> None:
        self._claims: Claims = finisher.claims
        self._limits = limits
        self._freed = WriteBatcher(self._free_many)
        self._finisher = finisher
        self._ends = WriteBatcher(self._finish_many)
        self._poison_lock = asyncio.Lock()
        """Held by a run that may be poison. One at a time, so that none kills another."""
        self._durations = Durations()
        self._turns = Turns(self._durations, lanes=lanes.count, processes=processes.count)
        self._starts = Starts(self._claims, self._turns)
        self._warned_tasks: set[str] = set()
        self._settings = settings
        self._refusals = Refusals(self._claims, settings)
        self._intake = Intake(
            self._claims, settings, resolve, self._turns, limits=limits, lock=lock
        )
        self._leases = Leases(self._claims, settings, lanes)
        self._make_attempt = make_attempt
        self._send_stored = send_stored
        self._send_steps = send_steps
        self._resender = Resender(send_stored)
        self._lanes = lanes
        self._processes = processes

    async def run(
        self,
        deliveries: Sequence[Delivery],
        *,
        deadline: float | None,
        metadata: Mapping[str, Any],
        on_settled: OnSettled,
        shutdown: "asyncio.Future[None] | None" = None,
    ) -> dict[str, Settlement]:
        """Run the deliveries that can be run, and return the settlement of each by its id.

        `deadline`, in `time.monotonic()` seconds, is the time by which all must be settled.
        `metadata` goes into the tasks' context. `on_settled` is called for each delivery as soon as
        its outcome is durable. `shutdown` is as in run_batch(). A task that fails raises nothing
        here.
        """
        batch = await self.claim_batch(nullcontext(deliveries), deadline=deadline)
        return await self.run_batch(
            batch, metadata=metadata, on_settled=on_settled, shutdown=shutdown
        )

    async def claim_batch(
        self, arriving: ReceivedBatch, *, deadline: float | None = None
    ) -> ClaimedBatch:
        """Claim the deliveries that can be claimed: the first half of run()."""
        budget = TimeBudget(time.monotonic(), deadline)
        # On a thread, because importing a task's module may block or use the database.
        limit_s = (
            LIBRARY_STATEMENT_LIMIT_S
            if deadline is None
            else min(LIBRARY_STATEMENT_LIMIT_S, deadline - time.monotonic())
        )
        batch = await call_database(self._intake.claim_batch, arriving, budget, limit_s=limit_s)
        self._turns.enter(batch.claimed)
        return batch

    def turn_wait_s(self, tasks: Iterable[Task]) -> float:
        """Return the seconds until the next run of one of these tasks may start."""
        return self._turns.wait_s({task.is_async for task in tasks})

    async def can_claim(self) -> bool:
        """Return whether the database answers."""
        try:
            await call_database(self._check_database)
        except Exception as error:
            logger.warning("Nothing can be claimed: %s", error)
            return False
        return True

    def _check_database(self) -> None:
        refresh()
        self._claims.check()

    async def run_batch(
        self,
        batch: ClaimedBatch,
        *,
        metadata: Mapping[str, Any],
        on_settled: OnSettled,
        shutdown: "asyncio.Future[None] | None" = None,
    ) -> dict[str, Settlement]:
        """Run a claimed batch: the second half of run().

        Runs that have not ended when `shutdown` is done are interrupted and go back.
        """
        settlements: dict[str, Settlement] = {}
        unsettled = {each.delivery.id: each for each in batch.claimed}
        announce_and_settle = _announcing_returns(batch, on_settled)

        def settle(id: str, settlement: Settlement) -> None:
            settlements[id] = settlement
            announce_and_settle(id, settlement)
            if (claimed := unsettled.pop(id, None)) is not None:
                self._turns.leave(claimed)

        batch.waiting_line.update(waiting_line_of(batch.claimed))
        is_of_table = any(each.delivery.is_of_table for each in batch.claimed)
        returning = asyncio.Lock()
        recalling = (
            asyncio.ensure_future(self._recall(batch, unsettled, settle, returning))
            if is_of_table
            else None
        )
        try:
            with self._leases.keep(batch, settlements), watchdog.stay_armed():
                # Refused deliveries are settled while the first group runs: sending their copies
                # takes time.
                refusing = [self._settle_refused(batch, settle)] if batch.refused else []
                for chains in schedule(batch.claimed):
                    async with returning:
                        running = [
                            self._run_in_order(each, batch, metadata, settle)
                            for each in chains
                            if each[0].delivery.id in unsettled
                        ]
                    await _run_until(batch.budget, shutdown, refusing + running)
                    refusing = []
            async with returning:
                await self._end_unfinished(batch, list(unsettled.values()), settle, shutdown)
        finally:
            if recalling is not None:
                recalling.cancel()
            for claimed in unsettled.values():
                self._turns.leave(claimed)
            announce_batch(batch, settlements)
        return settlements

    async def return_batch(self, batch: ClaimedBatch, *, on_settled: OnSettled) -> None:
        """Return a claimed batch to its queue. None of its tasks has started."""
        settlements: dict[str, Settlement] = {}
        announce_and_settle = _announcing_returns(batch, on_settled)

        def settle(id: str, settlement: Settlement) -> None:
            settlements[id] = settlement
            announce_and_settle(id, settlement)

        for claimed in batch.claimed:
            self._turns.leave(claimed)
        for id, settlement in batch.refused.items():
            settle(id, settlement)
        unstarted = [with_current_claim(each, batch) for each in batch.claimed]
        back = await call_database(release_unstarted, self._claims, unstarted)
        await self._free_places(batch.claimed)
        for id, settlement in await self._resender.settlements(back):
            settle(id, settlement)
        announce_batch(batch, settlements)

    def pids(self) -> list[int]:
        """Return the process ids of the worker processes."""
        return self._processes.pids()

    def prepare(self) -> None:
        """Start the fork server of the worker processes, which loads the project by itself."""
        self._processes.prepare()

    async def aclose(self) -> None:
        """End the lanes and worker processes, and close the database connections."""
        await self._lanes.aclose()
        await in_reserved_thread(progress.close)
        await call_database(django_connections.close_all)
        await self._processes.aclose()

    async def _recall(
        self,
        batch: ClaimedBatch,
        unsettled: Mapping[str, ClaimedDelivery],
        settle: OnSettled,
        returning: asyncio.Lock,
    ) -> None:
        """Leave messages of the table to other workers that could not begin within HELD_FOR_S.

        Holds `returning` meanwhile: who else ran or returned them would do so without their claim.
        """
        while True:
            await asyncio.sleep(HELD_FOR_S)
            async with returning:
                held = [
                    each
                    for id, each in unsettled.items()
                    if each.delivery.is_of_table
                    and id not in batch.started
                    and self._turns.is_occupied(each.task)
                ]
                if held:
                    await self._leave_to_others(held, batch, settle)

    async def _leave_to_others(
        self, held: Sequence[ClaimedDelivery], batch: ClaimedBatch, settle: OnSettled
    ) -> None:
        for each in held:
            if (waiting := batch.unbegun.pop(each.delivery.id, None)) is not None:
                waiting.cancel()
        logger.info("%d messages have not begun and are left to other workers", len(held))
        unstarted = [with_current_claim(each, batch) for each in held]
        back = await call_database(release_unstarted, self._claims, unstarted)
        await self._free_places(held)
        for each, settlement in back:
            settle(each.delivery.id, settlement)

    async def _settle_refused(self, batch: ClaimedBatch, settle: OnSettled) -> None:
        postponed = {resolved.delivery.id for resolved, _ in batch.postponed}
        for id, settlement in batch.refused.items():
            if id not in postponed:
                settle(id, settlement)
        for id, settlement in await self._resender.settlements(batch.postponed):
            settle(id, settlement)
        if any(each.leaves_place for each in batch.refused.values()):
            await self._hand_over(call_database(partial(self._limits.rescue, thorough=False)))

    async def _run_in_order(
        self, chain: Chain, batch: ClaimedBatch, metadata: Mapping[str, Any], settle: OnSettled
    ) -> None:
        """Run the deliveries of a chain one after the other, until one goes back."""
        goes_on = True
        for claimed in chain:
            if goes_on:
                batch.unbegun[claimed.delivery.id] = asyncio.current_task()
                settlement = await self._run_one(claimed, batch, metadata)
            else:
                settlement = await self._return_delivery(claimed, batch)
            # Before it is settled: the worker looks then for what may begin now.
            await self._free_places([claimed])
            settle(claimed.delivery.id, settlement)
            goes_on = goes_on and settlement.is_final

    async def _run_one(
        self, claimed: ClaimedDelivery, batch: ClaimedBatch, metadata: Mapping[str, Any]
    ) -> Settlement:
        alone = self._poison_lock if claimed.claim.may_be_poison else nullcontext()
        try:
            async with alone:
                ended = await self._attempt(claimed, batch, metadata)
        except (NoTimeLeft, ProcessNotStarted):
            return await self._return_delivery(claimed, batch)
        except Exception:
            # The outcome may not be durable. The next delivery finds it out from the record.
            logger.exception(
                "[%s] %s goes back", claimed.message.invocation_id, claimed.task.name,
                extra=run_attributes(claimed.message, claimed.claim.attempt, claimed.queue),
            )  # fmt: skip
            if (begun := batch.started.get(claimed.delivery.id)) is None:
                return await self._return_delivery(claimed, batch)
            announce_end(begun.claimed, None)
            return replace(RETURNED, reason="its outcome is unknown")
        started = batch.started[claimed.delivery.id]
        batch.ends[claimed.delivery.id] = ended
        if ended.wait_s is not None:
            return await self._wait_for_lock(started.claimed, ended.wait_s)
        if ended.refused is not None:
            settle = self._refusals.settle_claimed
            return await call_database(settle, started.claimed, ended.refused)
        return await self._settle_ended(started, ended)

    async def _settle_ended(self, started: StartedRun, ended: AttemptEnd) -> Settlement:
        claimed = started.claimed
        if ended.interrupted:
            logger.info(
                "[%s] %s raised KeyboardInterrupt and goes back",
                claimed.message.invocation_id, claimed.task.name,
                extra=run_attributes(claimed.message, claimed.claim.attempt, claimed.queue),
            )  # fmt: skip
            announce_end(claimed, None)
            release = partial(release_claim, self._claims, claimed, counts=True)
            back = await call_database(partial(release, reason="raised KeyboardInterrupt"))
            return replace(back, stops_worker=True)
        if ended.lost is not None:
            is_last = claimed.claim.attempt >= self._settings().max_attempts
            finish_lost = partial(self._finisher.finish_lost, claimed, ended.lost, is_last=is_last)
            return await self._resender.settlement(claimed, await call_database(finish_lost))
        if ended.outcome is None:
            logger.warning(
                "[%s] %s was taken over or cancelled while it ran, and its writes are rolled back",
                claimed.message.invocation_id, claimed.task.name,
                extra=run_attributes(claimed.message, claimed.claim.attempt, claimed.queue),
            )  # fmt: skip
            return replace(RETURNED, reason="lease lost")
        if not isinstance(ended.outcome, Failed | Retried):
            log_success(
                claimed.message,
                claimed.claim,
                claimed.queue,
                ended.outcome,
                _ran_s(started, ended),
            )
        if ended.following is not None:
            await self._send_following(ended.following)
        if ended.released:
            await self._send_released(ended.released)
        return _done(ended.outcome)

    async def _free_places(self, ended: Sequence[ClaimedDelivery]) -> None:
        """Hand over the places of runs that have ended, or will not begin; send who gets one."""
        held = [each for each in ended if each.claim.places is not None]
        freeing = [self._freed.put(each.message.invocation_id, each.claim) for each in held]
        for each in freeing:
            await self._hand_over(each)

    async def _hand_over(self, freeing: Awaitable[Sequence[Outgoing] | None]) -> None:
        """Await that places are handed over, and send who gets one."""
        try:
            if woken := await freeing:
                await self._send_stored(woken)
        except Exception:
            logger.exception(
                "A place could not be handed over at once. A later look hands it over, and the "
                "relay sends what was not sent."
            )

    def _free_many(self, claims: Sequence[Claim]) -> Mapping[UUID, Sequence[Outgoing]]:
        """Free the places of claims; return the messages that must be sent, under one of them."""
        return {claims[0].invocation_id: self._limits.free(claims)}

    async def _send_following(self, following: Outgoing) -> None:
        """Send the retry or continuation, which is stored: what fails here is left to the relay."""
        try:
            await self._send_stored([following])
        except Exception:
            logger.exception(
                "[%s] %s is stored and could not be sent yet: the relay sends it",
                following.message.invocation_id, following.message.task_name,
                extra=run_attributes(following.message, None, following.queue),
            )  # fmt: skip

    async def _send_released(self, released: Sequence[Released]) -> None:
        """Send the steps that an end has released: what fails here is left to the relay."""
        try:
            await self._send_steps(released)
        except Exception:
            logger.exception("Steps are stored and could not be sent yet: the relay sends them")

    async def _attempt(
        self, claimed: ClaimedDelivery, batch: ClaimedBatch, metadata: Mapping[str, Any]
    ) -> AttemptEnd:
        # Taken before the lane's context is entered. In a lane's context the statement that counts
        # the start would run on the lane's thread, within the task's transaction.
        outside_of_lanes = contextvars.copy_context()

        counted = claimed

        async def make_run() -> Run:
            nonlocal counted
            counted = await self._count_start(claimed, batch, outside_of_lanes)
            return self._run_of(counted, metadata, batch.budget)

        def begin() -> None:
            batch.starting.pop(claimed.delivery.id, None)
            batch.unbegun.pop(claimed.delivery.id, None)
            batch.started[claimed.delivery.id] = StartedRun(counted)
            self._turns.begin(claimed)
            log_start(claimed.message, counted.claim, claimed.queue)

        async def start_attempt() -> Attempt:
            run = await make_run()
            begin()
            return self._make_attempt(run, claimed.task)

        try:
            if claimed.task.is_async:
                ended = await self._lanes.run(start_attempt)
            else:
                ended = await self._processes.run(
                    make_run, on_begin=begin, may_be_ahead=self._may_be_ahead(claimed)
                )
        except (LaneLost, HardTimeLimitExceeded, WorkerProcessDied) as error:
            if claimed.delivery.id not in batch.started:
                raise
            failure = error.failure if isinstance(error, LaneLost) else error
            ended = await self._fail(batch.started[claimed.delivery.id].claimed, failure)
        started = batch.started[claimed.delivery.id]
        has_begun = ended.wait_s is None and ended.refused is None
        if has_begun and not isinstance(ended.outcome, Skipped):
            self._durations.add(claimed.task.name, _ran_s(started, ended))
        return ended if ended.is_recorded else await self._record(started.claimed, ended)

    def _may_be_ahead(self, claimed: ClaimedDelivery) -> bool:
        """Return whether a start may be counted a moment before a process begins the run.

        Not if the record must say exactly what has begun: see waiting_line_of().
        """
        is_short = self._durations.typical_s(claimed.task.name) <= AHEAD_TYPICAL_S
        return is_short and claimed.may_rerun and not claimed.claim.may_be_poison

    async def _count_start(
        self, claimed: ClaimedDelivery, batch: ClaimedBatch, context: contextvars.Context
    ) -> ClaimedDelivery:
        """Count the start of a delivery, unless its claim has counted it.

        Raises NoTimeLeft if the batch has too little time for the task, and LeaseLost if another
        worker has the claim.
        """
        claim, budget = claimed.claim, batch.budget
        is_first = claim.has_started or claim.cut_off_s > 0
        likely_s = self._durations.likely_s(claimed.task.name)
        if not budget.has_time_for(likely_s, is_first=is_first):
            raise NoTimeLeft
        if budget.deadline is not None:
            self._warn_if_too_short(claimed.task, budget)
        if claim.has_started:
            return claimed
        lease = budget.lease([claimed.task], self._settings())
        return await self._starts.count(claimed, batch, lease, context)

    def _warn_if_too_short(self, task: Task, budget: TimeBudget) -> None:
        hard_s = limits_s(task, self._settings())[1]
        # The event has used a little of the time that the function has for it.
        if hard_s <= budget.longest_s + CLAIM_S or task.name in self._warned_tasks:
            return
        self._warned_tasks.add(task.name)
        logger.warning(
            "%s may run for %g s, but this function has only %.1f s for an event. A run that takes "
            "longer is interrupted and repeated. Raise the function's timeout to %d s, or lower "
            "the task's hard_timeout.",
            task.name, hard_s, budget.longest_s, math.ceil(hard_s + FUNCTION_MARGIN_S),
        )  # fmt: skip

    async def _record(self, claimed: ClaimedDelivery, ended: AttemptEnd) -> AttemptEnd:
        assert ended.outcome is not None
        try:
            end = end_of(claimed.message, claimed.claim, ended.outcome, ended.ran_for)
            held = await self._ends.write(
                claimed.message.invocation_id, end, is_alone=self._turns.is_alone
            )
        except DatabaseErrors as error:
            if meaning_of(error, from_library=True) is Meaning.REFUSAL:  # it refuses the result
                return await self._fail(claimed, error)
            return AttemptEnd(None, lost=describe(error, claimed.message))
        if held is None:
            return AttemptEnd(None)
        return replace(ended, released=held) if held else ended

    def _finish_many(self, ends: Sequence[End]) -> Mapping[UUID, Sequence[Released]]:
        """Write ends; return what they have released, with the first one that was written."""
        ids, released = self._claims.finish_many(ends)
        return {id: () if number else released for number, id in enumerate(ids)}

    async def _fail(self, claimed: ClaimedDelivery, error: BaseException) -> AttemptEnd:
        """Record the failure of a run whose process or lane is gone."""
        run, call = self._run_of(claimed), claimed.task.make_call(claimed.message, claimed.claim)
        ended = await call_database(self._finisher.fail, run, claimed.task, call, error, None)
        announce_end(claimed, ended.outcome, error=error, following=ended.following)
        return ended

    async def _return_delivery(self, claimed: ClaimedDelivery, batch: ClaimedBatch) -> Settlement:
        """Return a delivery that has not started to its queue. This counts as no attempt."""
        logger.info(
            "[%s] %s has not started and waits for its next delivery",
            claimed.message.invocation_id, claimed.task.name,
            extra=run_attributes(claimed.message, claimed.claim.attempt, claimed.queue),
        )  # fmt: skip
        claimed = with_current_claim(claimed, batch)
        ((_, settlement),) = await call_database(release_unstarted, self._claims, [claimed])
        return await self._resender.settlement(claimed, settlement)

    async def _wait_for_lock(self, claimed: ClaimedDelivery, wait_s: float) -> Settlement:
        """Return a singleton to its queue until its lock may be free."""
        logger.info(
            "[%s] %s waits for its lock", claimed.message.invocation_id, claimed.task.name,
            extra=run_attributes(claimed.message, claimed.claim.attempt, claimed.queue),
        )  # fmt: skip
        waiting = partial(
            release_claim,
            self._claims,
            claimed,
            counts=False,
            wait_s=wait_s,
            reason="waits for its lock",
        )
        # Sent again from its first receive on: a long wait must not use up its deliveries.
        return await self._resender.settlement(
            claimed, await call_database(waiting), from_receive=1
        )

    async def _end_unfinished(
        self,
        batch: ClaimedBatch,
        left: Sequence[ClaimedDelivery],
        settle: OnSettled,
        shutdown: "asyncio.Future[None] | None",
    ) -> None:
        """Release the deliveries that have not started, and interrupt the runs that have."""
        is_drain = shutdown is not None and shutdown.done()
        # A run that hits the deadline counts as an attempt only if it had the whole event: in a
        # batch, others may have used up its time.
        counts = not is_drain and len(batch) == 1
        back: list[ReturnedDelivery] = []
        if unstarted := [
            with_current_claim(each, batch)
            for each in left
            if each.delivery.id not in batch.started
        ]:
            back += await call_database(release_unstarted, self._claims, unstarted)
        for each in left:
            id = each.delivery.id
            if id in batch.ends and (outcome := batch.ends[id].outcome) is not None:
                back.append((each, _done(outcome)))  # the relay sends what follows
            elif started := batch.started.get(id):
                back.append((each, await self._cut_off(started, counts=counts)))
        await self._free_places(left)
        for id, settlement in await self._resender.settlements(back, limit_s=CANCEL_GRACE_S):
            settle(id, settlement)

    async def _cut_off(self, started: StartedRun, *, counts: bool) -> Settlement:
        task, ran_s = started.claimed.task, started.ran_s
        self._durations.add(task.name, ran_s)
        hard_s = limits_s(task, self._settings())[1]
        cut_off = partial(self._finisher.cut_off, counts=counts, ran_s=ran_s, hard_s=hard_s)
        return await call_database(cut_off, started.claimed)

    def _run_of(
        self,
        claimed: ClaimedDelivery,
        metadata: Mapping[str, Any] | None = None,
        budget: TimeBudget | None = None,
    ) -> Run:
        """Return the run of a claimed delivery, in a host process with this time budget."""
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
            budget_s=math.inf if budget is None else budget.left_s,
            metadata=dict(metadata or {}),
            leaves_record=not self._turns.is_alone,
        )


def _done(outcome: Outcome) -> Settlement:
    """Return the settlement of a run whose outcome is written."""
    return DONE_FAILED if isinstance(outcome, Failed) else DONE


def _ran_s(started: StartedRun, ended: AttemptEnd) -> float:
    """Return the seconds that a run took.

    Its own process measures them: this one may hear of the start and of the end at the same time.
    """
    return started.ran_s if ended.ran_for is None else ended.ran_for.total_seconds()


def _announcing_returns(batch: ClaimedBatch, on_settled: OnSettled) -> OnSettled:
    """Return `on_settled`, preceded by the hook of deliveries that go back to their queue."""
    deliveries = {each.id: each for each in batch.deliveries}
    readable = {each.delivery.id: each for each in batch.readable}

    def settle(id: str, settlement: Settlement) -> None:
        if settlement.reason:
            announce_return(deliveries[id], readable.get(id), settlement)
        on_settled(id, settlement)

    return settle


async def _run_until(
    budget: TimeBudget,
    shutdown: "asyncio.Future[None] | None",
    running: Sequence[Coroutine[Any, Any, None]],
) -> None:
    """Run the coroutines, and cancel those that have not ended at the deadline or at `shutdown`."""
    if not running:
        return
    deadline = budget.deadline
    tasks = [asyncio.ensure_future(each) for each in running]
    finished: asyncio.Future[Any] = (
        tasks[0] if len(tasks) == 1 else asyncio.gather(*tasks, return_exceptions=True)
    )
    await asyncio.wait(
        [finished] if shutdown is None else [finished, shutdown],
        timeout=None if deadline is None else max(deadline - time.monotonic(), 0.0),
        return_when=asyncio.FIRST_COMPLETED,
    )
    late = [task for task in tasks if not task.done()]
    for task in late:
        task.cancel()
    if late:
        await asyncio.wait(late, timeout=min(CANCEL_GRACE_S, budget.longest_s / 20))
    for task in tasks:
        if task.done() and not task.cancelled():
            task.result()
