"""The counting of starts of deliveries that had to wait for their turn.

One statement counts a start together with those that follow at once. With a statement for each, a
thousand sync tasks in one event took more than twice as long.
"""

import contextvars
from collections.abc import Mapping, Sequence
from datetime import timedelta
from uuid import UUID

from ..core.lifecycle import Claim
from ..errors import LeaseLost
from ..ports import ClaimedDelivery, Claims
from .batch import ClaimedBatch
from .turns import Turns
from .write_batcher import WriteBatcher


class Starts:
    """The counter of starts of one executor."""

    def __init__(self, claims: Claims, turns: Turns) -> None:
        self._claims = claims
        self._turns = turns
        self._writes = WriteBatcher(self._begin_many)

    async def count(
        self,
        claimed: ClaimedDelivery,
        batch: ClaimedBatch,
        lease: timedelta,
        context: contextvars.Context,
    ) -> ClaimedDelivery:
        """Count the start of a delivery that has waited, and return it with its new claim.

        The statement runs in `context`. Raises LeaseLost if another worker has the claim.
        """
        id = claimed.delivery.id
        if id not in batch.starting:
            for each in self._turns.starting_with(claimed, batch.waiting_line):
                start = (each.claim, lease)
                batch.waiting_line.pop(each.delivery.id, None)
                batch.starting[each.delivery.id] = self._writes.put(
                    each.message.invocation_id, start, context=context
                )
        claim_now = await batch.starting[id]
        if claim_now is None:
            raise LeaseLost(
                f"{claimed.message.invocation_id} was cancelled or taken over by another worker "
                "before its turn came."
            )
        return claimed.with_claim(claim_now)

    def _begin_many(self, starts: Sequence[tuple[Claim, timedelta]]) -> Mapping[UUID, Claim]:
        return self._claims.begin([claim for claim, _ in starts], max(lease for _, lease in starts))


def waiting_line_of(claimed: Sequence[ClaimedDelivery]) -> dict[str, ClaimedDelivery]:
    """Return the waiting deliveries whose start may be counted a little early, by delivery id.

    Possible poison and tasks that must not run twice are left out: for those, the record must say
    exactly which of them has started.
    """
    waiting = [
        each
        for each in claimed
        if each.delivery.order_key is None
        and each.may_rerun
        and not (each.claim.has_started or each.claim.may_be_poison or each.claim.cut_off_s)
    ]
    return {each.delivery.id: each for each in waiting}


def with_current_claim(claimed: ClaimedDelivery, batch: ClaimedBatch) -> ClaimedDelivery:
    """Return a delivery that will not run with its current claim, which may count its start.

    It also removes the delivery from the line, so that its start is not counted after this.
    """
    batch.waiting_line.pop(claimed.delivery.id, None)
    starting = batch.starting.pop(claimed.delivery.id, None)
    # If the count is still under way, its answer is not awaited: the release reads the record.
    if starting is None or starting.cancel() or starting.cancelled() or starting.exception():
        return claimed
    claim_now = starting.result()
    return claimed if claim_now is None else claimed.with_claim(claim_now)
