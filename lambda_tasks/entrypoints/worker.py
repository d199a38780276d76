"""A worker: it runs tasks outside of Lambda, with the same executor, until it is stopped."""

import asyncio
import logging
import math
import os
import signal
import socket
import time
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Coroutine,
    Sequence,
)
from contextlib import asynccontextmanager
from functools import partial
from itertools import chain, repeat
from typing import Any, Final, TypeVar
from uuid import UUID

from .. import conf
from .. import runtime as runtimes
from ..execution.batch import ClaimedBatch
from ..execution.executor import Executor
from ..execution.interruptible_thread import DatabaseCalls, InterruptibleThread
from ..logging import log_error
from ..ports import Settlement, Source, Task
from ..queues.kinds import make_sources
from .ending import CLOSE_LIMIT_S, DRAIN_MARGIN_S

logger = logging.getLogger("lambda_tasks")

T = TypeVar("T")

FIRST_BATCH: Final = 10
"""Largest number of deliveries that are received and claimed together at first."""

FAST_GROWTH: Final = 2.0
"""The factor by which that number grows at first, while all that are received start soon."""

SLOW_GROWTH: Final = 1.5
"""The factor by which it grows later."""

LOOK_AHEAD_S: Final = 0.05
"""Seconds before a lane or worker process is free when the next batch is claimed.

Less than `turns.STARTS_SOON_S`, so that each claim is of more than a few.
"""

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
"""The signals that stop a worker."""

RELAY_AGAIN_S: Final = 60.0
"""Seconds before a relay that failed runs again."""

RELAY_UNDELAYED_EVERY_S: Final = 1.0
"""Seconds between two relays of queues that can't delay a message, as FIFO queues can't.

In those queues a message with a delay waits in its record, and so depends on the relay. Each worker
looks: a look that finds nothing costs less than the question whether another worker does.
"""

FIRST_RELAYS_LIMIT_S: Final = 60.0
"""Seconds for which a worker that has nothing more to do waits for the first call of each relay.

Among them is its round, for which mostly nothing is due. What it leaves, the next round does.
"""

RELAYS_END_LIMIT_S: Final = 3.0
"""Seconds for cancelled relays to end: more than a thread is waited for, less than DRAIN_MARGIN_S.
"""

HAND_OVER_EVERY_S: Final = 0.5
"""Seconds between two looks of a worker for places of lost runs, once it has run tasks with limits.

The place of a run is free as soon as its lease is over.
"""

ERROR_PAUSE_S: Final = 5.0
"""Seconds before a source that failed is read again."""

OUTAGE_CHECK_WAITS_S: Final = (1.0, 2.0, 4.0, 8.0, 15.0)
"""Seconds between checks whether the database is back; the last value repeats."""


EndWithin = Callable[[float], None]
"""A function that makes the process end after so many seconds."""

Relay = Callable[[], Awaitable[object]]
"""A function that sends the messages that were left."""


class PeriodicRelay:
    """A relay that is called again and again. `has_run` is whether its first call has ended."""

    def __init__(self, relay: Relay, seconds_to_next: Callable[[], float]) -> None:
        self.has_run = asyncio.Event()
        self._relay = relay
        self._seconds_to_next = seconds_to_next

    async def run(self) -> None:
        """Call the relay until this is cancelled."""
        while True:
            wait_s = await self._call()
            self.has_run.set()
            await asyncio.sleep(wait_s)

    async def _call(self) -> float:
        """Call the relay, and return the seconds until the next call."""
        task = asyncio.current_task()
        assert task is not None
        try:
            await self._relay()
            return self._seconds_to_next()
        except asyncio.CancelledError as error:
            if task.cancelling():
                raise
            # Only something that the relay has awaited was cancelled.
            return _log_failure(error)
        except Exception as error:
            wait_s = _log_failure(error)
            if task.cancelling():
                raise asyncio.CancelledError from error  # which the error has replaced
            return wait_s


def _log_failure(error: BaseException) -> float:
    """Log that a relay failed, and return the seconds until its next call."""
    log_error(logger, error, "The relay failed; it runs again in %g s", RELAY_AGAIN_S)
    return RELAY_AGAIN_S


class Listener:
    """What a worker reports, on its event loop. Override what you want to know."""

    def ended(self, invocation_id: UUID) -> None:
        """Note that a run of this worker has ended, and its record is written."""

    def stopping(self, n_running: int, limit_s: float) -> None:
        """Note that the worker receives no more. What runs has `limit_s` seconds to end."""

    def interrupting(self, n_running: int) -> None:
        """Note that what still runs goes back to its queue."""


@asynccontextmanager
async def worker_of(
    runtime: runtimes.Runtime,
    queues: Collection[str],
    *,
    once: bool = False,
    drain_s: float,
    concurrency: int | None = None,
    processes: int | None = None,
    end_within: EndWithin = lambda seconds: None,
    listener: Listener | None = None,
) -> "AsyncIterator[Worker]":
    """Provide a worker of these queues in the body; close the runtime after it.

    The worker and the runtime's portal use the running event loop. With `once`, the worker stops
    when there is nothing to do. `drain_s` is how many seconds its runs have to end after stop().
    `concurrency` and `processes` default to the settings. Pass `end_within` if the process has no
    other purpose: it is called with the seconds in which the process has to end.

    Raises ImproperlyConfigured for a queue that does not exist or that no worker consumes.
    """
    settings = conf.current()
    sources = make_sources([settings.queue(name) for name in queues], runtime, once=once)
    runtime.portal.adopt(asyncio.get_running_loop())
    concurrency = concurrency or settings.concurrency
    processes = processes or settings.processes
    executor = runtime.executor(concurrency=concurrency, processes=processes)
    undelayed = [name for name in queues if not settings.look_terms(name).can_delay]
    database_thread = InterruptibleThread("lambda_tasks-worker")
    async with DatabaseCalls(database_thread):
        try:
            yield Worker(
                sources,
                executor,
                relays=_relays(runtime, undelayed, always=once),
                capacity=concurrency + processes,
                drain_s=drain_s,
                once=once,
                end_within=end_within,
                listener=listener,
            )
        finally:
            end_within(CLOSE_LIMIT_S)
            await executor.aclose()
            await runtimes.aclose(runtime)
            await database_thread.aclose()


class Worker:
    """A worker of several sources, which shares one executor among them.

    `in_work` counts the deliveries that are not settled, `done` those that are finished, `failed`
    the FAILED among these, and `cut_off` those that were interrupted by shutdown. While `capacity`
    deliveries of sources that hold what they have received are in work, the worker receives more of
    those only as long as they start soon. What waits in the table stays there until then.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        executor: Executor,
        *,
        relays: Sequence[PeriodicRelay],
        capacity: int,
        drain_s: float,
        once: bool = False,
        end_within: EndWithin = lambda seconds: None,
        listener: Listener | None = None,
    ) -> None:
        self.in_work = 0
        self.done = 0
        self.failed = 0
        self.cut_off = 0
        self._sources = sources
        self._executor = executor
        self._relays = relays
        self._capacity = capacity
        self._once = once
        self._n_received = 0
        self._n_held = 0
        """The deliveries in work of sources that hold what they have received."""
        self._awaited: dict[Source, Collection[Task]] = {}
        """The tasks that are known to wait in a source for their turn."""
        self._is_wake_due = False
        self._has_room = asyncio.Event()
        self._drain_s = drain_s
        self._drain_until: float | None = None
        self._end_within = end_within
        self._listener = listener or Listener()
        self._stopping = asyncio.Event()
        self._shutdown: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._batches: set[asyncio.Task[None]] = set()

    def stop_on_signals(self) -> None:
        """Stop the worker on SIGTERM and SIGINT, until its event loop is closed.

        Call it on the main thread.
        """
        loop = asyncio.get_running_loop()
        for each in SIGNALS:
            loop.add_signal_handler(each, self.stop)

    def wake(self) -> None:
        """Make the sources look again at once: the table has new records."""
        for source in self._sources:
            source.wake()

    def finish(self) -> None:
        """Stop the worker when there is nothing left to do."""
        self._once = True
        self.wake()

    def stop(self) -> None:
        """Receive nothing more, and drain. A second call interrupts the runs at once."""
        if not self._stopping.is_set():
            logger.info("The worker stops; its running tasks have %g s to end.", self._drain_s)
            self._drain_until = time.monotonic() + self._drain_s
            self._stopping.set()
            self._listener.stopping(self.in_work, self._drain_s)
            self._end_within(self._drain_s + DRAIN_MARGIN_S)
        elif not self._shutdown.done():
            self._listener.interrupting(self.in_work)
            self._end_within(DRAIN_MARGIN_S)
            self._shutdown.set_result(None)

    async def run(self, *, max_tasks: int | None = None) -> None:
        """Run tasks until stop(), until `max_tasks` were received, or with `once` until idle."""
        relaying = {asyncio.ensure_future(each.run()) for each in self._relays}
        most = float("inf") if max_tasks is None else max_tasks
        # Those that end meanwhile may have sent something to a source that has been looked at.
        first = [each for each in self._relays if not each.has_run.is_set()]
        await self._consume_all(most)
        if first and self._once and not self._stopping.is_set():
            await self._wait_for(first)
            await self._consume_all(most)
        for each in relaying:
            each.cancel()
        await self._drain()
        await _wait_for_end(relaying)
        for source in self._sources:
            await source.aclose()

    async def _consume_all(self, max_tasks: float) -> None:
        await asyncio.gather(*(self._consume(each, max_tasks) for each in self._sources))

    async def _wait_for(self, relays: Sequence[PeriodicRelay]) -> None:
        """Wait until each of these relays has run, at most FIRST_RELAYS_LIMIT_S."""

        async def wait() -> None:
            try:
                async with asyncio.timeout(FIRST_RELAYS_LIMIT_S):
                    for each in relays:
                        await each.has_run.wait()
            except TimeoutError:
                logger.warning(
                    "The round has not ended within %g s, and is interrupted. The next round "
                    "does the rest.",
                    FIRST_RELAYS_LIMIT_S,
                )

        await self._unless_stopped(wait())

    async def _consume(self, source: Source, max_tasks: float) -> None:
        holds = source.holds_received
        size, batch = BatchSize(source.max_batch), ClaimedBatch()
        while not self._stopping.is_set():
            if holds and self._holds_enough(size, batch):
                self._has_room.clear()
                await self._unless_stopped(self._has_room.wait())
                continue
            limit = int(min(size.limit, max_tasks - self._n_received))
            batch = await self._receive(source, limit)
            self._start_batch(source, batch)
            size.note(limit, batch, has_to_wait=holds and self._has_to_wait(batch))
            self._await_turns(source, limit, batch)
            if batch.meets_outage:
                await self._unless_stopped(self._wait_for_database())
            if self._n_received >= max_tasks:
                self._stopping.set()
            # What stays would have had to wait for runs that may have ended meanwhile.
            if self._once and not (batch or batch.staying or self._batches):
                return

    async def _receive(self, source: Source, limit: int) -> ClaimedBatch:
        try:
            arriving = await self._unless_stopped(source.receive(limit))
            return (
                ClaimedBatch() if arriving is None else await self._executor.claim_batch(arriving)
            )
        except Exception as error:
            log_error(
                logger, error, "A queue can't be read; the next try is in %g s", ERROR_PAUSE_S
            )
            await self._unless_stopped(asyncio.sleep(ERROR_PAUSE_S))
            return ClaimedBatch()

    async def _wait_for_database(self) -> None:
        """Wait until the database answers again."""
        # A message that is received meanwhile can't be claimed, and each receive counts toward
        # maxReceiveCount.
        logger.error("The database is away: the worker receives nothing until it is back.")
        waits = chain(OUTAGE_CHECK_WAITS_S, repeat(OUTAGE_CHECK_WAITS_S[-1]))
        for wait_s in waits:
            await asyncio.sleep(wait_s)
            if await self._executor.can_claim():
                logger.info("The database is back.")
                return

    async def _unless_stopped(self, waiting: Coroutine[Any, Any, T]) -> T | None:
        """Await a coroutine and return its result, or None if the worker stops first.

        A cancelled long poll may have received messages. These come back after their visibility
        timeout.
        """
        task = asyncio.ensure_future(waiting)
        stopping = asyncio.ensure_future(self._stopping.wait())
        await asyncio.wait([task, stopping], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if task.done():
            return task.result()
        task.cancel()
        await asyncio.wait([task])
        return None

    def _start_batch(self, source: Source, batch: ClaimedBatch) -> None:
        if batch:
            self._n_received += len(batch)
            self.in_work += len(batch)
            self._n_held += len(batch) if source.holds_received else 0
            run = self._return_batch if self._stopping.is_set() else self._run_batch
            running = asyncio.ensure_future(run(source, batch))
            self._batches.add(running)
            running.add_done_callback(self._batches.discard)

    async def _run_batch(self, source: Source, batch: ClaimedBatch) -> None:
        n_unsettled = len(batch)
        claimed_ids = {each.delivery.id: each.message.invocation_id for each in batch.claimed}

        def on_settled(id: str, settlement: Settlement) -> None:
            nonlocal n_unsettled
            n_unsettled -= 1
            self.done += settlement.is_final
            self.failed += settlement.has_failed
            self.cut_off += self._shutdown.done() and not settlement.is_final
            source.settle(id, settlement)
            self._free_slots(source, 1)
            if settlement.is_final and id in claimed_ids:
                self._listener.ended(claimed_ids[id])
            if settlement.stops_worker:
                self.stop()

        try:
            await self._executor.run_batch(
                batch, metadata=_metadata(), on_settled=on_settled, shutdown=self._shutdown
            )
        except Exception:
            logger.exception("A batch failed; its %d open deliveries come back", n_unsettled)
            self._free_slots(source, n_unsettled)

    async def _return_batch(self, source: Source, batch: ClaimedBatch) -> None:
        """Return a batch to its queue that was received while the worker was being stopped."""

        def on_settled(id: str, settlement: Settlement) -> None:
            source.settle(id, settlement)
            self._free_slots(source, 1)

        await self._executor.return_batch(batch, on_settled=on_settled)

    def _free_slots(self, source: Source, count: int) -> None:
        self.in_work -= count
        self._n_held -= count if source.holds_received else 0
        self._has_room.set()
        if not self._is_wake_due:  # once for all that are settled together
            self._is_wake_due = True
            asyncio.get_running_loop().call_soon(self._wake_if_turn)

    def _await_turns(self, source: Source, limit: int, batch: ClaimedBatch) -> None:
        """Look again at once if there may be more that can start soon, or when its turn comes."""
        is_full = len(batch) + len(batch.staying) >= limit
        self._awaited.pop(source, None)
        if batch.staying or (is_full and batch):
            self._awaited[source] = [each.task for each in (*batch.claimed, *batch.staying)]
            self._wake_if_turn()

    def _wake_if_turn(self) -> None:
        """Wake the sources of which something may start soon, and all if nothing is in work."""
        self._is_wake_due = False
        for source in self._sources:
            tasks = self._awaited.get(source)
            if (tasks and self._starts_soon(tasks)) or not self.in_work:
                source.wake()

    def _starts_soon(self, tasks: Collection[Task]) -> bool:
        """Return whether another run of one of these tasks may start soon."""
        return self._executor.turn_wait_s(tasks) <= LOOK_AHEAD_S

    def _holds_enough(self, size: "BatchSize", last: ClaimedBatch) -> bool:
        """Return whether what was received is enough for now: a next batch, or what has to wait."""
        if self._n_held < self._capacity:
            return False
        return self._n_held >= size.limit or self._has_to_wait(last)

    def _has_to_wait(self, batch: ClaimedBatch) -> bool:
        """Return whether a part of a batch, async or not, won't start soon."""
        kinds = {each.task.is_async: each.task for each in batch.claimed}
        return not all(self._starts_soon([task]) for task in kinds.values())

    async def _drain(self) -> None:
        finishing = asyncio.ensure_future(_all_done(self._batches))
        left_s = self._drain_s
        if self._drain_until is not None:  # the last receive has used some of the time
            left_s = max(self._drain_until - time.monotonic(), 0.0)
        await asyncio.wait(
            [finishing, self._shutdown], timeout=left_s, return_when=asyncio.FIRST_COMPLETED
        )
        if not finishing.done() and not self._shutdown.done():
            logger.warning(
                "Tasks that still run after %g s go back to their queues.", self._drain_s
            )
            self._listener.interrupting(self.in_work)
            self._shutdown.set_result(None)
        await finishing


class BatchSize:
    """The number of deliveries to receive next: more while all that come start soon.

    It grows slowly once it was too large: what has to stay in the table is read in vain, and what
    has to wait in this process is kept from other workers.
    """

    def __init__(self, most: int) -> None:
        self.limit = min(FIRST_BATCH, most)
        self._most = most
        self._growth = FAST_GROWTH

    def note(self, asked: int, batch: ClaimedBatch, *, has_to_wait: bool = False) -> None:
        """Note what came of the last limit, and whether a part of it has to wait here."""
        if has_to_wait:
            self._shrink(FIRST_BATCH)
        elif batch.staying:
            self._shrink(max(len(batch), FIRST_BATCH))
        elif len(batch) >= asked:
            self.limit = min(math.ceil(self._growth * asked), self._most)

    def _shrink(self, limit: int) -> None:
        if limit < self.limit:
            self._growth = SLOW_GROWTH
        self.limit = min(limit, self._most)


def _relays(
    runtime: runtimes.Runtime, undelayed: Sequence[str], *, always: bool
) -> list[PeriodicRelay]:
    """Return a round for all queues, and what has to happen more often than a round.

    The round runs while this process has the shift, or `always`.
    """
    relay, shifts = runtime.relay.run_once, runtime.relay_shifts

    async def run_round_in_shift() -> None:
        if await shifts.take(always=always):
            await _run_round(runtime)

    relays = [PeriodicRelay(run_round_in_shift, lambda: shifts.due_in_s)]
    relays.append(PeriodicRelay(partial(_hand_over_if_used, runtime), lambda: HAND_OVER_EVERY_S))
    if undelayed:
        relay_undelayed = partial(relay, queues=undelayed)
        relays.append(PeriodicRelay(relay_undelayed, lambda: RELAY_UNDELAYED_EVERY_S))
    return relays


async def _run_round(runtime: runtimes.Runtime) -> None:
    """Run a round on a thread of its own, so that no claim and no end waits for its statements."""
    thread = InterruptibleThread("lambda_tasks-round")
    try:
        async with DatabaseCalls(thread):
            await runtime.round.run()
    finally:
        thread.interrupt()
        await thread.aclose()


async def _hand_over_if_used(runtime: runtimes.Runtime) -> None:
    if runtime.limits.is_used:
        await runtime.hand_over_places()


async def _wait_for_end(relaying: "set[asyncio.Task[None]]") -> None:
    """Wait until cancelled relays have ended, at most RELAYS_END_LIMIT_S."""
    if relaying:
        _, late = await asyncio.wait(relaying, timeout=RELAYS_END_LIMIT_S)
        if late:
            logger.warning(
                "%d relays have not ended within %g s. The worker ends without them.",
                len(late), RELAYS_END_LIMIT_S,
            )  # fmt: skip


async def _all_done(tasks: "set[asyncio.Task[None]]") -> None:
    while tasks:
        await asyncio.wait(tasks)


def _metadata() -> dict[str, Any]:
    return {"runtime": "worker", "host": socket.gethostname(), "pid": os.getpid()}
