"""Replaces a message that goes back with a new copy of it, before SQS dead-letters it.

SQS counts the deliveries of a message, and after maxReceiveCount of them it dead-letters the
message, even if its task never started. On a FIFO queue a copy would lose its position, so there
a message only goes back.
"""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final
from uuid import UUID

from ..core.message import Outgoing, as_stored
from ..core.retries import MAX_DELAY_S
from ..ports import DONE, ResolvedDelivery, Settlement

logger = logging.getLogger("lambda_tasks")

RESEND_FROM_RECEIVE: Final = 3
"""The receive count from which a message that goes back is replaced with a copy."""

SendStored = Callable[[Sequence[Outgoing]], Awaitable[Mapping[UUID, str]]]
"""A function that sends stored messages, and returns by id why a message was not accepted."""

ReturnedDelivery = tuple[ResolvedDelivery, Settlement]
"""A delivery that goes back, and its settlement."""


class Resender:
    """A settler of deliveries that go back.

    A message with few receives left is sent again as a copy, and its delivery is then done.
    """

    def __init__(self, send_stored: SendStored) -> None:
        self._send_stored = send_stored

    async def settlement(
        self,
        resolved: ResolvedDelivery,
        settlement: Settlement,
        *,
        from_receive: int = RESEND_FROM_RECEIVE,
    ) -> Settlement:
        """Return the settlement of a single delivery. See settlements()."""
        ((_, settlement),) = await self.settlements(
            [(resolved, settlement)], from_receive=from_receive
        )
        return settlement

    async def settlements(
        self,
        back: Sequence[ReturnedDelivery],
        *,
        from_receive: int = RESEND_FROM_RECEIVE,
        limit_s: float | None = None,
    ) -> list[tuple[str, Settlement]]:
        """Return the ids of the deliveries with their settlements.

        A message that was received `from_receive` times is sent again as a copy. If the queue
        accepts the copy within `limit_s` seconds, its delivery is done. Each message must have a
        record, unless the database was away. The caller must have released its claim, or the copy
        would find the record held.
        """
        copied: dict[UUID, str] = {}
        copies: list[Outgoing] = []
        for resolved, settlement in back:
            delivery, id = resolved.delivery, resolved.message.invocation_id
            if delivery.receives < from_receive or not _may_be_copied(resolved, settlement):
                continue
            # Of two deliveries of one invocation, one is copied; the other goes back.
            if copied.setdefault(id, delivery.id) == delivery.id:
                copies.append(_copy(resolved, settlement))
        accepted = await self._accepted(copies, limit_s) if copies else set()
        done = {delivery_id for id, delivery_id in copied.items() if id in accepted}
        return [
            (
                resolved.delivery.id,
                replace(DONE, reason=settlement.reason)
                if resolved.delivery.id in done
                else settlement,
            )
            for resolved, settlement in back
        ]

    async def _accepted(self, copies: Sequence[Outgoing], limit_s: float | None) -> set[UUID]:
        try:
            async with asyncio.timeout(limit_s):
                failures = await self._send_stored(copies)
        except Exception:
            # The deliveries go back instead, and SQS delivers them again.
            logger.warning("%d messages can't be sent again for now", len(copies), exc_info=True)
            return set()
        return {each.message.invocation_id for each in copies} - failures.keys()


def _may_be_copied(resolved: ResolvedDelivery, settlement: Settlement) -> bool:
    delivery = resolved.delivery
    is_postponed = not settlement.is_final and settlement.retry_after_s is not None
    is_another = settlement.is_outage and delivery.provides_id_of(resolved.message)
    return is_postponed and delivery.may_be_copied and not is_another


def _copy(resolved: ResolvedDelivery, settlement: Settlement) -> Outgoing:
    message, body = resolved.message, str(resolved.delivery.body)
    if not settlement.is_outage:  # it has a record, whatever its body says
        body = as_stored(body, message.invocation_id)
    delay_s = min(math.ceil(settlement.retry_after_s or 0.0), MAX_DELAY_S)
    return Outgoing(message, body, resolved.queue, delay_s, look=resolved.look, is_follow_up=True)
