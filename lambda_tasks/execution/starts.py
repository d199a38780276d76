"""Counts the starts of what had to wait for its turn: with each of them those that follow at once,
so that short tasks don't cost a statement each."""

import asyncio
import contextvars
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

from ..core.lifecycle import Claim
from ..errors import LeaseLost
from ..ports import ClaimedDelivery, Claims
from .batch import ClaimedBatch
from .turns import Turns
from .write_batcher import WriteBatcher

Starting = asyncio.Future[Claim | None]


class Starts:
    """One for an executor."""

    def __init__(self, claims: Claims, turns: Turns) -> None:
        self._claims = claims
        self._turns = turns
        self._writes = WriteBatcher(self._begin_many)

    async def begin(
        self,
        claimed: ClaimedDelivery,
        batch: ClaimedBatch,
        lease: timedelta,
        context: contextvars.Context,
    ) -> ClaimedDelivery:
        """Count the start of a delivery, where its claim has not; its claim is another then.

        The database is asked in the `context`. Raises LeaseLost where another has the claim.
        """
        if claimed.claim.has_begun:
            return claimed
        id = claimed.delivery.id
        if id not in batch.starting:
            for each in self._turns.beginning_with(claimed, batch.line):
                start = (each.claim, lease)
                batch.line.pop(each.delivery.id, None)
                batch.starting[each.delivery.id] = self._writes.put(
                    each.message.invocation_id, start, context=context
                )
        begun = await batch.starting.pop(id)
        if begun is None:
            raise LeaseLost(f"{claimed.message.invocation_id} was taken over before its turn came.")
        return replace(claimed, claim=begun)

    def _begin_many(self, starts: Sequence[tuple[Claim, timedelta]]) -> Mapping[UUID, Claim]:
        return self._claims.begin([claim for claim, _ in starts], max(lease for _, lease in starts))


def line_of(claimed: Sequence[ClaimedDelivery]) -> dict[str, ClaimedDelivery]:
    """What waits for its turn and may be counted a little before it, as it runs one after the
    other; by the ids of deliveries.

    Not what may have killed a worker, or must not run twice: there it matters which has begun.
    """
    waiting = [
        each
        for each in claimed
        if each.delivery.order_key is None
        and each.may_rerun
        and not (each.claim.has_begun or each.claim.is_suspect or each.claim.cut_off_s)
    ]
    return {each.delivery.id: each for each in waiting}


def as_counted(claimed: ClaimedDelivery, batch: ClaimedBatch) -> ClaimedDelivery:
    """A delivery whose turn does not come, with its claim as it is: its start may be counted.

    It leaves the line, so that nobody counts it after this.
    """
    batch.line.pop(claimed.delivery.id, None)
    starting = batch.starting.pop(claimed.delivery.id, None)
    # Where there is no answer yet, nobody waits for it any more: the release looks at the record.
    if starting is None or starting.cancel() or starting.cancelled() or starting.exception():
        return claimed
    begun = starting.result()
    return claimed if begun is None else replace(claimed, claim=begun)
