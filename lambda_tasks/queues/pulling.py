"""A source for queues from which messages are pulled: with three coroutines it is complete."""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Sequence
from contextlib import nullcontext
from typing import Any, Final

from ..ports import Delivery, ReceivedBatch, Settlement

logger = logging.getLogger("lambda_tasks")

ANSWER_LIMIT_S: Final = 10.0
"""Seconds for ack() and nack(): a queue that does not answer must not keep a worker from ending."""


class PullSource(ABC):
    """See Source. It answers the queue in the background, and waits for that when it is closed.

    What a message needs between pull() and its answer is up to you. A message that comes again
    while it runs does no harm: its invocation is claimed once, and the copy goes back.
    """

    max_batch: int = 10
    """The most messages of one pull."""
    holds_received: bool = True
    """Whether the queue hides a pulled message from other workers until it is answered."""

    def __init__(self) -> None:
        self._answers: set[asyncio.Task[None]] = set()

    @abstractmethod
    async def pull(self, limit: int) -> Sequence[Delivery]:
        """Return up to `limit` messages, which others must not get meanwhile.

        Wait for the first for some seconds at most, so that a worker can end; never block the event
        loop. Make each with Queue.delivery(), with an id that no other open delivery has.
        """

    @abstractmethod
    async def ack(self, id: str) -> None:
        """Remove a message from the queue for good: its outcome is stored."""

    @abstractmethod
    async def nack(self, id: str, retry_after_s: float | None) -> None:
        """Return a message to the queue, after so many seconds; None leaves the time to the queue.

        A message that can't be delayed may come at once: it is returned again. With None it can't
        be read or run, so wait a while, and at last put it aside, as a dead letter.
        """

    async def close(self) -> None:  # noqa: B027 - a source may have nothing to close
        """Close connections, after the last answer."""

    async def receive(self, limit: int) -> ReceivedBatch:
        """See Source."""
        return nullcontext(await self.pull(limit))

    def settle(self, id: str, settlement: Settlement) -> None:
        """See Source."""
        if settlement.is_final:
            answer = self._answer(self.ack(id), id)
        else:
            answer = self._answer(self.nack(id, settlement.retry_after_s), id)
        task = asyncio.ensure_future(answer)
        self._answers.add(task)
        task.add_done_callback(self._answers.discard)

    def wake(self) -> None:  # noqa: B027 - a pull is short
        """See Source. A pull ends by itself."""

    async def aclose(self) -> None:
        """See Source."""
        while self._answers:
            await asyncio.wait(self._answers)
        await self.close()

    async def _answer(self, answer: Coroutine[Any, Any, None], id: str) -> None:
        try:
            async with asyncio.timeout(ANSWER_LIMIT_S):
                await answer
        except Exception:
            # A queue that hears nothing delivers the message again, and its record says that it
            # has run.
            logger.warning("The queue could not be told of the delivery %s", id, exc_info=True)
