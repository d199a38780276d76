"""Keeps the claims of what runs alive, and hears of those that are lost."""

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
"""Where there is no deadline a batch may wait for long; its leases are begun anew meanwhile."""

WATCH_EVERY_S: Final = 2.0
"""How soon a running async task hears that its record was cancelled."""


class Leases:
    """The leases of one executor's batches."""

    def __init__(self, claims: Claims, settings: Callable[[], Settings], lanes: Lanes) -> None:
        self._claims = claims
        self._settings = settings
        self._lanes = lanes
        self._batches = 0
        self._watching: asyncio.Task[None] | None = None

    @contextmanager
    def kept(self, batch: ClaimedBatch, settled: Mapping[str, Any]) -> Iterator[None]:
        """In the body the leases of those deliveries are kept that wait for their turn.

        That of a task which has begun outlives its hard timeout. To write it meanwhile would be a
        conflict with the task's end, where transactions see what was there when they began.
        """
        # Where there is a deadline, the lease lasts until then.
        extending = None
        if batch.budget.deadline is None:
            extending = asyncio.ensure_future(self._extend(batch, settled))
        self._batches += 1
        if self._watching is None:
            self._watching = asyncio.ensure_future(self._watch())
        try:
            yield
        finally:
            if extending is not None:
                extending.cancel()
            self._batches -= 1
            if not self._batches:
                self._watching.cancel()
                self._watching = None

    async def _extend(self, batch: ClaimedBatch, settled: Mapping[str, Any]) -> None:
        """Begin the leases of what waits anew, as long as it takes."""
        while True:
            await asyncio.sleep(EXTEND_EVERY_S)
            no_more = settled.keys() | batch.begun.keys()
            waiting = [each for each in batch.claimed if each.delivery.id not in no_more]
            if not waiting:
                continue
            lease = batch.budget.lease([each.task for each in waiting], self._settings())
            try:
                claims = [each.claim for each in waiting]
                await call_database(self._claims.extend, claims, lease)
            except Exception:
                logger.warning("Leases can't be extended", exc_info=True)

    async def _watch(self) -> None:
        """Cancel async tasks whose claim is lost: cancelled, or taken over by another worker."""
        while True:
            await asyncio.sleep(WATCH_EVERY_S)
            running = self._lanes.claims()
            if not running:
                continue
            try:
                self._lanes.cancel(await call_database(self._claims.find_lost, running))
            except Exception:
                logger.warning("The records of running tasks can't be read", exc_info=True)
