"""What was claimed together, and the order in which it runs."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..core.lifecycle import Claim
from ..ports import ClaimedDelivery, Delivery, Settlement
from .sending_again import Back
from .time_budget import TimeBudget


@dataclass(frozen=True, slots=True)
class ClaimedBatch:
    """What an executor has claimed, and what it has refused; by its default nothing."""

    budget: TimeBudget = field(default_factory=TimeBudget)
    refused: Mapping[str, Settlement] = field(default_factory=dict)
    """By the ids of deliveries."""
    claimed: Sequence[ClaimedDelivery] = ()
    postponed: Sequence[Back] = ()
    """What was refused, has its record, and may run later."""
    begun: dict[str, "Begun"] = field(default_factory=dict)
    """The tasks that have begun, by the ids of their deliveries."""
    line: dict[str, ClaimedDelivery] = field(default_factory=dict)
    """What waits for its turn. See starts.line_of()."""
    starting: "dict[str, asyncio.Future[Claim | None]]" = field(default_factory=dict)
    """The starts that are counted, or being counted, of what has not begun."""

    def __len__(self) -> int:
        return len(self.refused) + len(self.claimed)

    @property
    def meets_outage(self) -> bool:
        """Something could not be claimed, as the database is away."""
        return any(settlement.is_outage for settlement in self.refused.values())


@dataclass(frozen=True, slots=True)
class Begun:
    """A task that has begun, with its claim as it is since then."""

    claimed: ClaimedDelivery
    at: float = field(default_factory=time.monotonic)
    """In monotonic seconds."""

    @property
    def ran_s(self) -> float:
        """For how long by now."""
        return time.monotonic() - self.at


Chain = list[ClaimedDelivery]
"""What runs one after the other."""


def blocked_by_order(deliveries: Sequence[Delivery], refused: Mapping[str, Settlement]) -> set[str]:
    """The ids of those that must not run, as one before them, in their order, goes back."""
    blocked_orders: set[str | None] = set()
    blocked: set[str] = set()
    for delivery in deliveries:
        if delivery.order_key is None:
            continue
        if delivery.order_key in blocked_orders:
            blocked.add(delivery.id)
        elif delivery.id in refused and not refused[delivery.id].is_final:
            blocked_orders.add(delivery.order_key)
    return blocked


def schedule(claimed: Sequence[ClaimedDelivery]) -> list[list[Chain]]:
    """Groups that run one after the other, of chains that run at the same time.

    A chain is what has one order, or a single delivery. What was cut off before is first, to have
    as much time as there is. A suspect is last, and alone: what has killed a worker may do it
    again.
    """
    chains: dict[str, Chain] = {}
    for each in claimed:
        order_key = each.delivery.order_key
        key = f"alone {each.delivery.id}" if order_key is None else f"ordered {order_key}"
        chains.setdefault(key, []).append(each)
    harmless: list[Chain] = []
    possible_poison: list[list[Chain]] = []
    for chain in chains.values():
        if any(each.claim.is_suspect for each in chain):
            possible_poison.append([chain])
        else:
            harmless.append(chain)
    harmless.sort(key=lambda chain: not chain[0].claim.cut_off_s)
    return [harmless, *possible_poison]
