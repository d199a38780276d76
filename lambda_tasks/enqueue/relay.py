"""The relay, which sends stored messages that were not sent, or not run, for whatever reason.

Several relays at a time are safe: a message that two of them send is claimed once.
"""

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from datetime import timedelta
from typing import Final
from uuid import UUID

from .. import hooks
from ..core.lifecycle import GRACE
from ..core.message import Outgoing
from ..database_calls import call_database
from ..hooks.beside import call_beside
from ..ports import Outbox

logger = logging.getLogger("lambda_tasks")

RESEND_LOST_AFTER: Final = timedelta(minutes=15)
"""The time after the end of a run's lease after which its message is sent again.

Normally a redelivery takes the run over. Without one for so long, the message is among the dead
letters, or lost.
"""

RESEND_UNRUN_AFTER: Final = timedelta(hours=24)
"""The time after which a message that was sent and never run is sent again.

A message that still waits in its queue then is delivered twice, which costs one delivery.
"""

QUERY_LIMIT_S: Final = 60.0
"""Seconds for the database to find the messages of one round, in a table of any size."""

ROUND_LIMIT: Final = 1000
"""The number of messages of one queue in one round."""

MAX_ROUNDS: Final = 20
"""The number of rounds in one call, which bounds the time that a handler's invocation spends."""


class Relay:
    """The sender of the stored messages that nobody else sends.

    `asend` sends messages and returns the reason for each that was not accepted.
    """

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
        """Send the stored messages that are due; return the number that queues accepted.

        A message is due as soon as its queue can delay it until its time. `queues` limits the call
        to these names. `grace` is the time that the process that stored a message has to send it
        itself. Messages that their queue refuses are postponed, so that they don't hold up others.
        """
        sent = n_due = 0
        for _ in range(MAX_ROUNDS):
            due = await call_database(
                self._outbox.find_unsent,
                early=GRACE - grace,
                lost_for=RESEND_LOST_AFTER,
                waiting_for=RESEND_UNRUN_AFTER,
                limit=ROUND_LIMIT,
                queues=queues,
                limit_s=QUERY_LIMIT_S,
            )
            if not due:
                break
            n_due += len(due)
            sent += await self._send(due)
            # A short round ends the loop, except with FIFO groups: a round has only their first
            # messages, and the next ones may be sent now.
            if len(due) < ROUND_LIMIT and not any(each.look.in_order for each in due):
                break
        if hooks.relayed:
            call_beside(hooks.relayed, hooks.Relayed(n_due, sent))
        return sent

    async def _send(self, due: Sequence[Outgoing]) -> int:
        failures = await self._asend(due)
        accepted = [each for each in due if each.message.invocation_id not in failures]
        refused = [each for each in due if each.message.invocation_id in failures]
        if accepted:
            await call_database(self._outbox.mark_sent, accepted)
        if refused:
            await call_database(self._outbox.postpone, refused)
        for (queue, reason), count in _count_reasons(refused, failures).items():
            logger.error(
                "The relay could not send %d messages of the queue %r and tries later: %s",
                count, queue, reason,
            )  # fmt: skip
        logger.info("The relay sent %d of %d messages that were due.", len(accepted), len(due))
        return len(accepted)


def _count_reasons(
    refused: Sequence[Outgoing], failures: Mapping[UUID, str]
) -> Counter[tuple[str, str]]:
    """Count the refused messages by queue and reason, for one log line each.

    A message that its FIFO group holds back counts under the reason of the group's first one.
    """
    counts: Counter[tuple[str, str]] = Counter()
    group_reasons: dict[tuple[str, str], str] = {}
    for each in refused:
        reason = failures[each.message.invocation_id]
        if each.look.in_order:
            # Each message behind the first has a reason of its own, which names its predecessor.
            reason = group_reasons.setdefault((each.queue, each.message.group), reason)
        counts[each.queue, reason] += 1
    return counts
