"""Runs tasks outside of Lambda, through the same executor, until it is told to stop."""

import asyncio
import logging
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
    Iterator,
    Sequence,
)
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from itertools import chain, repeat
from typing import Any, Final, TypeVar

from asgiref.sync import ThreadSensitiveContext

from .. import conf
from .. import runtime as runtimes
from ..execution.batch import ClaimedBatch
from ..execution.executor import Executor
from ..execution.own_thread import OwnThread
from ..ports import Settlement, Source
from ..queues.kinds import make_sources
from .ending import CLOSE_S, MARGIN_S

logger = logging.getLogger("lambda_tasks")

T = TypeVar("T")

BATCH: Final = 10
"""Deliveries that are claimed together."""

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

RELAY_EVERY_S: Final = 60.0

RELAY_IN_ORDER_EVERY_S: Final = 1.0
"""The same for its queues that keep an order, where what is due later waits in its row."""

AFTER_AN_ERROR_S: Final = 5.0
"""Before a source that failed is asked again."""

CHECK_WAITS_S: Final = (1.0, 2.0, 4.0, 8.0, 15.0)
"""Between looks whether the database is there again; the last is that of all that follow."""


EndWithin = Callable[[float], None]

Relay = Callable[[], Awaitable[int]]

EverySeconds = tuple[Relay, float]
"""What sends what was left, and how often."""


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
) -> "AsyncIterator[Worker]":
    """A worker of these queues, on the running loop, which the runtime's portal gets too.

    The runtime ends with the body. `end_within` is told in how many seconds the process has to end,
    if it is the worker's own. Raises ImproperlyConfigured for a queue that is not there or
    that no worker consumes.
    """
    settings = conf.current()
    sources = make_sources([settings.queue(name) for name in queues], runtime, once=once)
    runtime.portal.adopt(asyncio.get_running_loop())
    concurrency = concurrency or settings.concurrency
    processes = processes or settings.processes
    executor = runtime.executor(concurrency=concurrency, processes=processes)
    in_order = [name for name in queues if settings.look_terms(name).in_order]
    own_thread = OwnThread("lambda_tasks-worker")
    async with ThreadSensitiveContext(executor=own_thread):
        try:
            yield Worker(
                sources,
                executor,
                relays=_relays(runtime, in_order),
                capacity=concurrency + processes,
                drain_s=drain_s,
                once=once,
                end_within=end_within,
            )
        finally:
            end_within(CLOSE_S)
            await executor.aclose()
            await runtimes.aclose(runtime)
            own_thread.shutdown(wait=False)


class Worker:
    """`relays` send what was left. `capacity` deliveries in work are enough to take no more."""

    def __init__(
        self,
        sources: Sequence[Source],
        executor: Executor,
        *,
        relays: Sequence[EverySeconds],
        capacity: int,
        drain_s: float,
        once: bool = False,
        end_within: EndWithin = lambda seconds: None,
    ) -> None:
        self.in_work = 0
        self.done = 0
        self.cut_off = 0
        self._sources = sources
        self._executor = executor
        self._relays = relays
        self._capacity = capacity
        self._once = once
        self._begun = 0
        self._has_room = asyncio.Event()
        self._drain_s = drain_s
        self._drain_until: float | None = None
        self._end_within = end_within
        self._stopping = asyncio.Event()
        self._end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._batches: set[asyncio.Task[None]] = set()

    @contextmanager
    def stopped_by_signals(self) -> Iterator[None]:
        """SIGTERM and SIGINT stop it, in the body; for the main thread."""
        loop = asyncio.get_running_loop()
        for each in SIGNALS:
            loop.add_signal_handler(each, self.stop)
        try:
            yield
        finally:
            for each in SIGNALS:
                loop.remove_signal_handler(each)

    def wake(self) -> None:
        """There is something new in the table."""
        for source in self._sources:
            source.wake()

    def finish(self) -> None:
        """Stop when there is nothing left to do."""
        self._once = True
        self.wake()

    def stop(self) -> None:
        """Take nothing more and finish what runs; called again, give that back at once."""
        if not self._stopping.is_set():
            logger.info("The worker stops; what runs has %g s.", self._drain_s)
            self._drain_until = time.monotonic() + self._drain_s
            self._stopping.set()
            self._end_within(self._drain_s + MARGIN_S)
        elif not self._end.done():
            self._end_within(MARGIN_S)
            self._end.set_result(None)

    async def run(self, *, max_tasks: int | None = None) -> None:
        """Until stop(); `once`, until there is nothing to do; or until so many tasks have begun."""
        relaying = [asyncio.ensure_future(_keep_relaying(*each)) for each in self._relays]
        most = float("inf") if max_tasks is None else max_tasks
        await asyncio.gather(*(self._consume(each, most) for each in self._sources))
        for each in relaying:
            each.cancel()
        await self._drain()
        for source in self._sources:
            await source.aclose()

    async def _consume(self, source: Source, max_tasks: float) -> None:
        while not self._stopping.is_set():
            if self.in_work >= self._capacity:
                self._has_room.clear()
                await self._unless_stopped(self._has_room.wait())
                continue
            batch = await self._receive(source, int(min(BATCH, max_tasks - self._begun)))
            self._begin(source, batch)
            if batch.meets_outage:
                await self._unless_stopped(self._until_it_can_claim())
            if self._begun >= max_tasks:
                self._stopping.set()
            if self._once and not batch and not self._batches:
                return

    async def _receive(self, source: Source, limit: int) -> ClaimedBatch:
        try:
            arriving = await self._unless_stopped(source.receive(limit))
            return (
                ClaimedBatch() if arriving is None else await self._executor.claim_batch(arriving)
            )
        except Exception:
            logger.exception("A queue can't be read; the next try is in %g s", AFTER_AN_ERROR_S)
            await self._unless_stopped(asyncio.sleep(AFTER_AN_ERROR_S))
            return ClaimedBatch()

    async def _until_it_can_claim(self) -> None:
        """What is received meanwhile would only use up its receives before the dead letters."""
        logger.error("The database is away: the worker takes nothing until it is there again.")
        waits = chain(CHECK_WAITS_S, repeat(CHECK_WAITS_S[-1]))
        for wait_s in waits:
            await asyncio.sleep(wait_s)
            if await self._executor.can_claim():
                logger.info("The database is there again.")
                return

    async def _unless_stopped(self, waiting: Coroutine[Any, Any, T]) -> T | None:
        """What it brings, or None when the worker stops first.

        What a long poll that is left had taken comes back after its visibility timeout.
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

    def _begin(self, source: Source, batch: ClaimedBatch) -> None:
        if batch:
            self._begun += len(batch)
            self.in_work += len(batch)
            run = self._give_back if self._stopping.is_set() else self._run_batch
            running = asyncio.ensure_future(run(source, batch))
            self._batches.add(running)
            running.add_done_callback(self._batches.discard)

    async def _run_batch(self, source: Source, batch: ClaimedBatch) -> None:
        open_places = len(batch)

        def settled(id: str, settlement: Settlement) -> None:
            nonlocal open_places
            open_places -= 1
            self.done += settlement.is_final
            self.cut_off += self._end.done() and not settlement.is_final
            source.settle(id, settlement)
            self._leave(1)
            if settlement.stops_worker:
                self.stop()

        try:
            await self._executor.run_batch(
                batch, metadata=_metadata(), settled=settled, end=self._end
            )
        except Exception:
            logger.exception("%d deliveries come back by themselves", open_places)
            self._leave(open_places)

    async def _give_back(self, source: Source, batch: ClaimedBatch) -> None:
        """What a look has found that was under way when the worker was told to stop."""

        def settled(id: str, settlement: Settlement) -> None:
            source.settle(id, settlement)
            self._leave(1)

        await self._executor.give_back(batch, settled=settled)

    def _leave(self, places: int) -> None:
        self.in_work -= places
        self._has_room.set()

    async def _drain(self) -> None:
        finishing = asyncio.ensure_future(_all_done(self._batches))
        left_s = self._drain_s
        if self._drain_until is not None:  # a look that was under way has taken some of it
            left_s = max(self._drain_until - time.monotonic(), 0.0)
        await asyncio.wait(
            [finishing, self._end], timeout=left_s, return_when=asyncio.FIRST_COMPLETED
        )
        if not finishing.done() and not self._end.done():
            logger.warning("What still runs after %g s goes back to its queue.", self._drain_s)
            self._end.set_result(None)
        await finishing


def _relays(runtime: runtimes.Runtime, in_order: Sequence[str]) -> list[EverySeconds]:
    """For all queues, and more often for those in order."""
    relay = runtime.relay.run_once
    relays: list[EverySeconds] = [(relay, RELAY_EVERY_S)]
    if in_order:
        relays.append((partial(relay, queues=in_order), RELAY_IN_ORDER_EVERY_S))
    return relays


async def _keep_relaying(relay: Relay, every_s: float) -> None:
    while True:
        wait_s = every_s
        try:
            await relay()
        except Exception:
            wait_s = RELAY_EVERY_S
            logger.exception("The relay failed; it runs again in %g s.", wait_s)
        await asyncio.sleep(wait_s)


async def _all_done(tasks: "set[asyncio.Task[None]]") -> None:
    while tasks:
        await asyncio.wait(tasks)


def _metadata() -> dict[str, Any]:
    return {"place": "worker", "host": socket.gethostname(), "pid": os.getpid()}
