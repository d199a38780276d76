"""The deliveries that were claimed together, and the order in which they run."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..core.lifecycle import Claim
from ..core.quick import quick_dataclass
from ..ports import (
    ClaimedDelivery,
    Delivery,
    ResolvedDelivery,
    Settlement,
    UnrunnableDelivery,
)
from .resender import ReturnedDelivery
from .run import AttemptEnd
from .time_budget import TimeBudget


@dataclass(frozen=True, slots=True)
class ClaimedBatch:
    """The deliveries that an executor claimed and refused together; empty by default."""

    budget: TimeBudget = field(default_factory=TimeBudget)
    """The time that the batch has; unlimited by default."""
    refused: Mapping[str, Settlement] = field(default_factory=dict)
    """The settlements of the deliveries that were not claimed, by delivery id."""
    claimed: Sequence[ClaimedDelivery] = ()
    """The deliveries to run."""
    postponed: Sequence[ReturnedDelivery] = ()
    """The refused deliveries that may run later and have a record, or need none."""
    deliveries: Sequence[Delivery] = ()
    """All deliveries, in their order."""
    readable: Sequence[ResolvedDelivery | UnrunnableDelivery] = ()
    """The deliveries whose message could be read."""
    staying: Sequence[ResolvedDelivery] = ()
    """The messages that stay in the table unclaimed, because they would have to wait here."""
    started: dict[str, "StartedRun"] = field(default_factory=dict)
    """The runs that have started, by delivery id."""
    ends: dict[str, AttemptEnd] = field(default_factory=dict)
    """The ends of runs that have ended by themselves, or whose process has, by delivery id."""
    unbegun: "dict[str, asyncio.Task[Any] | None]" = field(default_factory=dict)
    """The asyncio tasks that wait for a lane or worker process, by delivery id."""
    waiting_line: dict[str, ClaimedDelivery] = field(default_factory=dict)
    """The deliveries that wait for their turn, by delivery id. See starts.waiting_line_of()."""
    starting: "dict[str, asyncio.Future[Claim | None]]" = field(default_factory=dict)
    """The starts of waiting deliveries whose count is written or under way, by delivery id."""

    def __len__(self) -> int:
        return len(self.refused) + len(self.claimed)

    @property
    def meets_outage(self) -> bool:
        """Whether a delivery could not be claimed because the database is away."""
        return any(settlement.is_outage for settlement in self.refused.values())


@quick_dataclass(frozen=True, slots=True)
class StartedRun:
    """A run that has started."""

    claimed: ClaimedDelivery
    """The delivery, with the claim that counts the start."""
    started_at: float = field(default_factory=time.monotonic)
    """The time of the start, in `time.monotonic()` seconds."""

    @property
    def ran_s(self) -> float:
        """The seconds since the start."""
        return time.monotonic() - self.started_at


Chain = list[ClaimedDelivery]
"""Deliveries that run one after the other."""


def blocked_by_order(deliveries: Sequence[Delivery], refused: Mapping[str, Settlement]) -> set[str]:
    """Return the ids of deliveries that must not run: an earlier one of their order goes back."""
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
    """Return groups that run one after the other. The chains of a group run at the same time.

    A chain is a single delivery, or all deliveries of one order. Runs that were interrupted by
    shutdown before come first, so that they have the most time. Possible poison comes last, each
    chain in a group of its own: a task that killed its worker may do so again.
    """
    chains: dict[str, Chain] = {}
    for each in claimed:
        order_key = each.delivery.order_key
        key = f"alone {each.delivery.id}" if order_key is None else f"ordered {order_key}"
        chains.setdefault(key, []).append(each)
    harmless: list[Chain] = []
    possible_poison: list[list[Chain]] = []
    for chain in chains.values():
        if any(each.claim.may_be_poison for each in chain):
            possible_poison.append([chain])
        else:
            harmless.append(chain)
    harmless.sort(key=lambda chain: not chain[0].claim.cut_off_s)
    return [harmless, *possible_poison]
