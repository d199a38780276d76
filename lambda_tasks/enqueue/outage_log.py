"""The log of outages: one line when a queue begins to refuse messages, one when that is over."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

logger = logging.getLogger("lambda_tasks")

OVER_AFTER_S: Final = 10.0
"""Seconds without a failure after which the next accepted message ends an outage."""


@dataclass(slots=True)
class _Outage:
    failed_at: float
    n_failed: int = 0


class OutageLog:
    """The queues that do not accept what is sent in the background.

    Without it the log would have a line for each message.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._outages: dict[str, _Outage] = {}

    def note_failure(self, queue: str, reason: str) -> None:
        """Note that a message was not accepted; log the first one of an outage."""
        outage = self._outages.get(queue)
        if outage is None:
            outage = self._outages[queue] = _Outage(self._clock())
            logger.error(
                "The queue %r accepts no messages: %s. They are stored, and the relay sends them. "
                "There is no further line until the queue accepts messages again.",
                queue, reason.rstrip("."),
            )  # fmt: skip
        outage.failed_at = self._clock()
        outage.n_failed += 1

    def note_success(self, queue: str) -> None:
        """Note that a message was accepted; log it if that ends an outage."""
        if not self._outages:
            return
        outage = self._outages.get(queue)
        if outage is not None and self._clock() - outage.failed_at > OVER_AFTER_S:
            del self._outages[queue]
            logger.warning(
                "The queue %r accepts messages again. %d were left to the relay.",
                queue, outage.n_failed,
            )  # fmt: skip
