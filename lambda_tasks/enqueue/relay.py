"""Sends what was stored and, for whatever reason, not sent, or not run.

Several at once are safe: a message that two of them send is claimed once.
"""

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from datetime import timedelta
from typing import Final
from uuid import UUID

from ..core.lifecycle import GRACE
from ..core.message import Outgoing
from ..database_calls import call_database
from ..ports import Outbox

logger = logging.getLogger("lambda_tasks")

LOST_FOR: Final = timedelta(minutes=15)
"""After the end of its lease a run is to be taken over by a redelivery. Where none has come for so
long, its message is among the dead letters, or gone."""

WAITING_FOR: Final = timedelta(hours=24)
"""So long a message may wait in its queue before it is sent again. It costs a delivery."""

LOOK_S: Final = 60.0
"""For the database to find what is left, in a table of any size."""

LIMIT: Final = 1000
"""Messages of a queue in one round."""

MAX_ROUNDS: Final = 20
"""So that a handler's invocation does not grow long over it."""


class Relay:
    """`asend` sends and returns the reason for each message that was not accepted."""

    def __init__(
        self,
        outbox: Outbox,
        asend: Callable[[Sequence[Outgoing]], Awaitable[dict[UUID, str]]],
    ) -> None:
        self._outbox = outbox
        self._asend = asend

    async def run_once(
        self, *, grace: timedelta = GRACE, queues: Collection[str] | None = None
    ) -> int:
        """Send what is left and due, as far as its queue can delay it; how many went.

        With `queues`, of these alone. A `grace` below the usual one looks that much sooner at what
        was just stored. What its queue refuses is put behind the others, so that they are sent at
        once.
        """
        sent = 0
        for _ in range(MAX_ROUNDS):
            due = await call_database(
                self._outbox.find_unsent,
                early=GRACE - grace,
                lost_for=LOST_FOR,
                waiting_for=WAITING_FOR,
                limit=LIMIT,
                queues=queues,
                limit_s=LOOK_S,
            )
            if not due:
                break
            sent += await self._send(due)
            # Of groups that keep an order a round has but the first ones.
            if len(due) < LIMIT and not any(each.look.in_order for each in due):
                break
        return sent

    async def _send(self, due: Sequence[Outgoing]) -> int:
        failures = await self._asend(due)
        accepted = [each for each in due if each.message.invocation_id not in failures]
        refused = [each for each in due if each.message.invocation_id in failures]
        if accepted:
            await call_database(self._outbox.mark_sent, accepted)
        if refused:
            await call_database(self._outbox.postpone, refused)
        for (queue, reason), count in _reasons(refused, failures).items():
            logger.error(
                "%d messages of the queue %r could not be sent by the relay and wait: %s",
                count, queue, reason,
            )  # fmt: skip
        logger.info("The relay sent %d of %d messages that were left.", len(accepted), len(due))
        return len(accepted)


def _reasons(refused: Sequence[Outgoing], failures: Mapping[UUID, str]) -> Counter[tuple[str, str]]:
    """How many there are for each queue and reason: a line each, not one for each message.

    What is held back in its group counts for the reason of the first one.
    """
    counted: Counter[tuple[str, str]] = Counter()
    first: dict[tuple[str, str], str] = {}
    for each in refused:
        reason = failures[each.message.invocation_id]
        if each.look.in_order:
            reason = first.setdefault((each.queue, each.message.group), reason)
        counted[each.queue, reason] += 1
    return counted
