"""One executor for every place a task runs: from deliveries to what becomes of each.

Read `Executor.run` like a sentence: parse, claim, run each, tell.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Final

from asgiref.sync import sync_to_async
from django.db import DatabaseError, connections

from ..conf import Settings
from ..core.lifecycle import Claim, Failed, Raised
from ..core.message import Outgoing
from ..errors import WorkerProcessDied
from ..logging import task_logger
from ..ports import Records, Resolve
from . import journal
from .attempt import Ended, MakeAttempt, Run
from .closing import Closing
from .connections import OUTAGES
from .delivery import (
    BACK,
    DONE,
    Accepted,
    Asked,
    Claimed,
    Delivery,
    Settlement,
    in_turns,
)
from .intake import Intake, give_back
from .lanes import Lanes
from .limits import lease_of, limits_s
from .process_main import Job
from .process_pool import ProcessPool

logger = logging.getLogger("lambda_tasks")

EXTEND_EVERY_S: Final = 10.0
"""Where there is no deadline a batch may wait for long; its leases are begun anew meanwhile."""

LAST_SECOND_S: Final = 1.0
"""Between a task's hard timeout and the deadline of its place: to roll back and to record."""

WATCH_EVERY_S: Final = 2.0
"""How soon a running async task hears that its record was cancelled."""

CUT_OFF_S: Final = 0.3
"""For what is cancelled at the deadline to end; what does not is left behind."""


CUT_OFF: Final = Raised.by(WorkerProcessDied(), "The place where it ran ended before the task.")


class _NoTimeLeft(Exception):
    """The place ends before the task could have its time."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a batch runs: from when to when, in monotonic seconds, and what it tells of itself."""

    began_at: float
    deadline: float | None
    metadata: Mapping[str, Any]

    def left_s(self) -> float:
        return float("inf") if self.deadline is None else self.deadline - time.monotonic()

    def whole_s(self) -> float:
        return float("inf") if self.deadline is None else self.deadline - self.began_at


class Executor:
    """Runs tasks in lanes and worker processes, and keeps their records."""

    def __init__(
        self,
        *,
        records: Records,
        settings: Callable[[], Settings],
        resolve: Resolve,
        make_attempt: MakeAttempt,
        send_stored: Callable[[Outgoing], Awaitable[None]],
        lanes: Lanes,
        processes: ProcessPool,
    ) -> None:
        self._records = records
        self._settings = settings
        self._intake = Intake(records, settings, resolve)
        self._make_attempt = make_attempt
        self._send_stored = send_stored
        self._lanes = lanes
        self._processes = processes
        self._closing = Closing(records)
        self._batches = 0
        self._watching: asyncio.Task[None] | None = None

    async def run(
        self,
        deliveries: Sequence[Delivery],
        *,
        deadline: float | None,
        metadata: Mapping[str, Any],
        settled: Callable[[str, Settlement], None],
    ) -> dict[str, Settlement]:
        """Run what can be run and return what becomes of each delivery, by its id.

        `deadline`, in monotonic seconds, is when all must be told. `settled` hears of each as
        soon as its outcome is durable. Raises nothing for a task's sake.
        """
        accepted = await self.accept(nullcontext(deliveries), deadline=deadline)
        return await self.work_off(accepted, metadata=metadata, settled=settled)

    async def accept(
        self,
        arriving: AbstractContextManager[Sequence[Delivery]],
        *,
        deadline: float | None = None,
    ) -> Accepted:
        """The first half of run(): claim what can be claimed.

        `arriving` is open, on a thread, until all is claimed: it may hold locks.
        """
        began_at = time.monotonic()
        # In a thread: importing a task's module may block, or use the database.
        refused, claimed = await sync_to_async(self._intake.take)(arriving, deadline)
        return Accepted(began_at, deadline, refused, claimed)

    async def work_off(
        self,
        accepted: Accepted,
        *,
        metadata: Mapping[str, Any],
        settled: Callable[[str, Settlement], None],
        end: "asyncio.Future[None] | None" = None,
    ) -> dict[str, Settlement]:
        """The second half of run(). What has not come to its end when `end` is done is cut off."""
        place = _Place(accepted.began_at, accepted.deadline, metadata)
        settlements: dict[str, Settlement] = {}

        def settle(id: str, settlement: Settlement) -> None:
            settlements[id] = settlement
            settled(id, settlement)

        async def one_by_one(chain: Sequence[Claimed]) -> None:
            goes_on = True
            for item, claim in chain:
                running = self._run_one(item, claim, place) if goes_on else self._wait(item, claim)
                settlement = await running
                settle(item.delivery.id, settlement)
                goes_on = goes_on and settlement.acknowledge

        for id, settlement in accepted.refused.items():
            settle(id, settlement)
        extend = asyncio.ensure_future(self._extend(accepted, settlements))
        try:
            with self._watched():
                for chains in in_turns(accepted.claimed):
                    await _before(accepted.deadline, end, [one_by_one(each) for each in chains])
        finally:
            extend.cancel()
        for item, claim in accepted.claimed:
            if item.delivery.id not in settlements:
                settle(item.delivery.id, await sync_to_async(self._cut_off)(item, claim))
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
        await asyncio.to_thread(journal.close)
        await sync_to_async(connections.close_all)()
        await asyncio.to_thread(self._processes.close)

    async def _run_one(self, item: Asked, claim: Claim, place: _Place) -> Settlement:
        try:
            ended = await self._attempt(item, claim, place)
            if not ended.is_recorded:
                ended = await self._record(item, claim, place, ended)
        except _NoTimeLeft:
            return await self._wait(item, claim)
        except Exception:
            # Its outcome is not known to be durable: the redelivery reads the truth.
            logger.exception("%s (%s) goes back", item.task.name, item.message.invocation_id)
            return BACK
        if ended.interrupted:
            logger.info("%s %s is interrupted", item.task.name, item.message.invocation_id)
            back = await sync_to_async(give_back)(self._records, item, claim, started=True)
            return replace(back, interrupts=True)
        if ended.following is not None:
            await self._send_stored(ended.following)
        _log_end(item, ended)
        return DONE if ended.outcome is not None else BACK

    async def _record(self, item: Asked, claim: Claim, place: _Place, ended: Ended) -> Ended:
        assert ended.outcome is not None
        try:
            held = await self._closing.close(claim, ended.outcome, ended.ran_for)
        except OUTAGES:
            raise
        except DatabaseError as error:  # it refuses the result
            return await self._fail_from_here(item, claim, place, error)
        return ended if held else Ended(None)

    async def _fail_from_here(
        self, item: Asked, claim: Claim, place: _Place, error: BaseException
    ) -> Ended:
        attempt, _ = self._make_attempt(self._any_run(item, claim), place.metadata)
        return await sync_to_async(attempt.fail)(error)

    async def _wait(self, item: Asked, claim: Claim) -> Settlement:
        logger.info("%s waits for another delivery", item.message.invocation_id)
        return await sync_to_async(give_back)(self._records, item, claim, started=False)

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """While one batch or more is being worked on."""
        self._batches += 1
        if self._watching is None:
            self._watching = asyncio.ensure_future(self._watch())
        try:
            yield
        finally:
            self._batches -= 1
            if not self._batches:
                self._watching.cancel()
                self._watching = None

    async def _watch(self) -> None:
        """Cancel async tasks whose claim is lost: cancelled, or taken over by another worker."""
        while True:
            await asyncio.sleep(WATCH_EVERY_S)
            claims = self._lanes.claims()
            if not claims:
                continue
            try:
                self._lanes.cancel(await sync_to_async(self._records.lost)(claims))
            except Exception:
                logger.warning("The records of running tasks can't be read", exc_info=True)

    async def _extend(self, accepted: Accepted, settlements: Mapping[str, Settlement]) -> None:
        """Begin the leases of what is still open anew, as long as it takes."""
        if accepted.deadline is not None:
            return  # the lease lasts until then
        while True:
            await asyncio.sleep(EXTEND_EVERY_S)
            still = [each for each in accepted.claimed if each[0].delivery.id not in settlements]
            if not still:
                continue
            lease = lease_of([item.task for item, _ in still], self._settings())
            try:
                await sync_to_async(self._records.extend)([claim for _, claim in still], lease)
            except Exception:
                logger.warning("Leases can't be extended", exc_info=True)

    async def _attempt(self, item: Asked, claim: Claim, place: _Place) -> Ended:
        def run() -> Run:
            return self._run(item, claim, place)

        if item.task.is_async:
            return await self._lanes.run(lambda: self._make_attempt(run(), place.metadata))
        try:
            return await self._processes.run(lambda: Job(run(), dict(place.metadata)))
        except BaseException as error:
            if not _is_end_of_process(error):
                raise
            return await self._fail_from_here(item, claim, place, error)

    def _cut_off(self, item: Asked, claim: Claim) -> Settlement:
        """What the deadline has interrupted goes back; its token is void, so it can't commit."""
        logger.error(
            "%s %s is cut off: the place where it runs ends",
            item.task.name, item.message.invocation_id,
        )  # fmt: skip
        if item.task.options.on_lost == "rerun":
            return give_back(self._records, item, claim, started=True)
        return self._fail(claim)

    def _fail(self, claim: Claim) -> Settlement:
        try:
            self._records.close(claim, Failed(CUT_OFF))
        except Exception:
            logger.exception("%s comes back when its lease is over", claim.invocation_id)
            return BACK
        return DONE

    def _run(self, item: Asked, claim: Claim, place: _Place) -> Run:
        """As from now. Raises _NoTimeLeft where the task would not have the time it could have."""
        soft_s, hard_s = limits_s(item.task, self._settings())
        # Where the whole event is shorter than the task's limits, the task hears of it in time.
        longest_s = max(place.whole_s() - LAST_SECOND_S, 0.2)
        hard_s = min(hard_s, longest_s)
        soft_s = min(soft_s, hard_s * 0.9)
        left_s = place.left_s() - LAST_SECOND_S
        if left_s < soft_s:
            raise _NoTimeLeft
        return self._any_run(item, claim, soft_s=soft_s, hard_s=min(hard_s, left_s))

    def _any_run(
        self, item: Asked, claim: Claim, *, soft_s: float = 0.0, hard_s: float = 0.0
    ) -> Run:
        limit = item.task.options.max_retries
        return Run(
            message=item.message,
            claim=claim,
            queue=item.queue,
            soft_s=soft_s,
            hard_s=hard_s,
            max_retries=self._settings().max_retries if limit is None else limit,
        )


async def _before(
    deadline: float | None,
    end: "asyncio.Future[None] | None",
    running: Sequence[Coroutine[Any, Any, None]],
) -> None:
    """Run them to their ends, or cancel at the deadline, or the end, what has not come to its."""
    if not running:
        return
    tasks = [asyncio.ensure_future(each) for each in running]
    late = await _late(tasks, deadline, end)
    for task in late:
        task.cancel()
    if late:
        await asyncio.wait(late, timeout=CUT_OFF_S)
    for task in tasks:
        if task.done() and not task.cancelled():
            task.result()


async def _late(
    tasks: Sequence["asyncio.Task[None]"],
    deadline: float | None,
    end: "asyncio.Future[None] | None",
) -> "set[asyncio.Task[None]]":
    """Wait; return those that are not done when the time is over."""
    open_tasks = set(tasks)
    while open_tasks and not (end is not None and end.done()):
        left_s = None if deadline is None else max(deadline - time.monotonic(), 0.0)
        waits: set[asyncio.Future[None]] = {*open_tasks, *([end] if end is not None else [])}
        when = asyncio.FIRST_COMPLETED if end is not None else asyncio.ALL_COMPLETED
        await asyncio.wait(waits, timeout=left_s, return_when=when)
        open_tasks = {task for task in open_tasks if not task.done()}
        if left_s == 0.0:
            break
    return open_tasks


def _is_end_of_process(error: BaseException) -> bool:
    from ..errors import HardTimeLimitExceeded, WorkerProcessDied

    return isinstance(error, HardTimeLimitExceeded | WorkerProcessDied)


def _log_end(item: Asked, ended: Ended) -> None:
    outcome = "lease lost" if ended.outcome is None else type(ended.outcome).__name__.lower()
    task_logger.info("%s %s: %s", item.task.name, item.message.invocation_id, outcome)
