"""What one process does for the whole system, about once a minute.

It enqueues what schedules have due, hands over places that were lost, relays, and counts what has
ended for the pages.
"""

import logging
from collections.abc import Awaitable, Callable

from .. import hooks
from ..hooks.beside import call_beside
from ..logging import log_error
from ..ports import RoundResult, TickResult

logger = logging.getLogger("lambda_tasks")


class Round:
    """A round of the scheduler, the limits and the relay. Several at a time are safe."""

    def __init__(
        self,
        tick: Callable[[], Awaitable[TickResult]],
        hand_over_places: Callable[[], Awaitable[None]],
        end_cancelled: Callable[[], Awaitable[None]],
        relay: Callable[[], Awaitable[int]],
        roll_up: Callable[[], Awaitable[int]],
    ) -> None:
        self._tick = tick
        self._hand_over_places = hand_over_places
        self._end_cancelled = end_cancelled
        self._relay = relay
        self._roll_up = roll_up

    async def run(self) -> RoundResult:
        """Run a round. Raises the relay's errors; the others are logged."""
        ticked = TickResult()
        try:
            ticked = await self._tick()
        except Exception as error:
            log_error(logger, error, "The schedules could not be read; the next round tries again")
        try:
            await self._hand_over_places()
        except Exception as error:
            log_error(logger, error, "No place could be handed over; the next round tries again")
        try:
            await self._end_cancelled()
        except Exception as error:
            log_error(logger, error, "Steps could not be cancelled; the next round tries again")
        try:
            relayed = await self._relay()
        except Exception:
            await self._count_ends()  # if the relay can't send, people look at the figures
            raise
        await self._count_ends()  # last, as nothing waits for it
        if hooks.ticked:
            call_beside(hooks.ticked, hooks.Ticked(relayed, ticked.scheduled, ticked.lag_s))
        return RoundResult(ticked.scheduled, relayed)

    async def _count_ends(self) -> None:
        try:
            await self._roll_up()
        except Exception as error:
            log_error(logger, error, "Ends could not be counted; the next round tries again")
