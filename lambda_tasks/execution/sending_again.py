"""Sends what goes back to a standard queue again as a new message, before its receives run out.

SQS counts each delivery of a message, and after maxReceiveCount of them it is among the dead
letters, begun or not. On a FIFO queue a copy would lose its place: there a message only goes back.
"""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final
from uuid import UUID

from ..core.message import Outgoing
from ..core.retries import MAX_DELAY_S
from ..ports import DONE, ResolvedDelivery, Settlement

logger = logging.getLogger("lambda_tasks")

FROM_RECEIVE: Final = 3
"""The receive that is the last for a message which goes back."""

SendStored = Callable[[Sequence[Outgoing]], Awaitable[Mapping[UUID, str]]]
"""Sends messages that have their records; tells why those were not accepted that were not."""

Back = tuple[ResolvedDelivery, Settlement]
"""What goes back, and how."""


class SendingAgain:
    """Settles what goes back: what has few receives left is done with once its copy is sent."""

    def __init__(self, send_stored: SendStored) -> None:
        self._send_stored = send_stored

    async def settlement(
        self,
        resolved: ResolvedDelivery,
        settlement: Settlement,
        *,
        from_receive: int = FROM_RECEIVE,
    ) -> Settlement:
        """See settlements()."""
        ((_, settlement),) = await self.settlements(
            [(resolved, settlement)], from_receive=from_receive
        )
        return settlement

    async def settlements(
        self,
        back: Sequence[Back],
        *,
        from_receive: int = FROM_RECEIVE,
        limit_s: float | None = None,
    ) -> list[tuple[str, Settlement]]:
        """How each of these is settled, by the ids of their deliveries.

        What has been received so often is sent again, and done with if that is accepted in
        `limit_s`. Each must have its record, unless the database was away, and no claim of the
        caller's any more: the new message would find it held.
        """
        copied: dict[UUID, str] = {}
        copies: list[Outgoing] = []
        for resolved, settlement in back:
            delivery, id = resolved.delivery, resolved.message.invocation_id
            if delivery.receives < from_receive or not _may_be_copied(resolved, settlement):
                continue
            # Of two deliveries of one invocation each stands for itself.
            if copied.setdefault(id, delivery.id) == delivery.id:
                copies.append(_copy(resolved, settlement))
        accepted = await self._accepted(copies, limit_s) if copies else set()
        done = {delivery_id for id, delivery_id in copied.items() if id in accepted}
        return [
            (
                resolved.delivery.id,
                DONE if resolved.delivery.id in done else settlement,
            )
            for resolved, settlement in back
        ]

    async def _accepted(self, copies: Sequence[Outgoing], limit_s: float | None) -> set[UUID]:
        try:
            async with asyncio.timeout(limit_s):
                failures = await self._send_stored(copies)
        except Exception:
            # Their deliveries come back by themselves.
            logger.warning("%d messages can't be sent again for now", len(copies), exc_info=True)
            return set()
        return {each.message.invocation_id for each in copies} - failures.keys()


def _may_be_copied(resolved: ResolvedDelivery, settlement: Settlement) -> bool:
    delivery = resolved.delivery
    is_postponed = not settlement.is_final and settlement.retry_after_s is not None
    is_another = settlement.is_outage and delivery.provides_id_of(resolved.message)
    return is_postponed and delivery.may_be_copied and not is_another


def _copy(resolved: ResolvedDelivery, settlement: Settlement) -> Outgoing:
    message = resolved.message
    has_record = message.durable or not settlement.is_outage
    if has_record and not message.durable:
        # It brings its secrets itself where its record can't keep them.
        message = replace(message, durable=True, keeps_arguments=bool(message.secret_kwargs))
    # What has no record yet goes as it came: a later release may have written more than is known.
    body = message.encode() if has_record else str(resolved.delivery.body)
    delay_s = min(math.ceil(settlement.retry_after_s or 0.0), MAX_DELAY_S)
    return Outgoing(message, body, resolved.queue, delay_s, look=resolved.look, is_follow_up=True)
