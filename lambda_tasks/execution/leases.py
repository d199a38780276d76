"""Extends the leases of claims that wait, and cancels async tasks whose claim is lost."""

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from ..conf import Settings
from ..database_calls import call_database
from ..ports import Claims
from .batch import ClaimedBatch
from .lanes import Lanes

logger = logging.getLogger("lambda_tasks")

EXTEND_EVERY_S: Final = 10.0
"""Seconds between extensions of the leases that wait in a batch without a deadline."""

WATCH_EVERY_S: Final = 2.0
"""Seconds between looks for async tasks whose record was cancelled or taken over."""


class Leases:
    """The keeper of the leases of one executor's batches."""

    def __init__(self, claims: Claims, settings: Callable[[], Settings], lanes: Lanes) -> None:
        self._claims = claims
        self._settings = settings
        self._lanes = lanes
        self._batches = 0
        self._watch_timer: asyncio.TimerHandle | None = None
        self._watching: asyncio.Task[None] | None = None

    @contextmanager
    def keep(self, batch: ClaimedBatch, settled: Mapping[str, Any]) -> Iterator[None]:
        """Extend the leases of deliveries that wait for their turn, while the body runs.

        `settled` holds the settled deliveries by id; it grows meanwhile.
        """
        # The lease of a run that has started outlives its hard timeout and is not extended. With
        # REPEATABLE READ, that write would be a conflict for the transaction that ends the run.
        # With a deadline, the claim's lease lasts until then.
        extending = None
        if batch.budget.deadline is None:
            extending = asyncio.ensure_future(self._extend(batch, settled))
        self._batches += 1
        if self._batches == 1:
            self._watch_later()
        try:
            yield
        finally:
            if extending is not None:
                extending.cancel()
            self._batches -= 1
            if not self._batches:
                self._stop_watching()

    async def _extend(self, batch: ClaimedBatch, settled: Mapping[str, Any]) -> None:
        """Extend the leases of waiting deliveries again and again, until it is cancelled."""
        while True:
            await asyncio.sleep(EXTEND_EVERY_S)
            no_more = settled.keys() | batch.started.keys()
            waiting = [each for each in batch.claimed if each.delivery.id not in no_more]
            if not waiting:
                continue
            lease = batch.budget.lease([each.task for each in waiting], self._settings())
            claims = [each.claim for each in waiting]
            try:
                await call_database(self._claims.extend, claims, lease)
            except Exception:
                logger.warning("%d leases can't be extended", len(claims), exc_info=True)

    def _watch_later(self) -> None:
        # Not a task that sleeps: most batches end before the first look.
        loop = asyncio.get_running_loop()
        self._watch_timer = loop.call_later(WATCH_EVERY_S, self._start_watching)

    def _start_watching(self) -> None:
        self._watching = asyncio.get_running_loop().create_task(self._watch())

    async def _watch(self) -> None:
        """Cancel async tasks whose record was cancelled or taken over by another worker."""
        if running := self._lanes.claims():
            try:
                self._lanes.cancel(await call_database(self._claims.find_lost, running))
            except Exception:
                logger.warning(
                    "The records of %d running tasks can't be read", len(running), exc_info=True
                )
        self._watch_later()

    def _stop_watching(self) -> None:
        for each in (self._watch_timer, self._watching):
            if each is not None:
                each.cancel()
        self._watch_timer = self._watching = None
