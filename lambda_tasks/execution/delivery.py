"""What arrives at an executor, what is claimed of it, and what its queue is told."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from uuid import UUID

from ..core.lifecycle import Claim
from ..core.message import Message
from ..ports import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One arrival of a message. `id` is the queue's own name for it, `queue` that queue's."""

    id: str
    body: object
    queue: str
    fallback_id: UUID
    enqueued_at: datetime | None = None
    is_row: bool = False
    """From the records' own table, where nothing is signed."""
    comes_back: bool = True
    """By itself, where it is not acknowledged: SQS sees to that."""
    ordered_by: str | None = None
    """Those of one key run one after the other, and none after one that goes back: FIFO."""


@dataclass(frozen=True, slots=True)
class Settlement:
    """What the queue is to be told: done, or back again, perhaps after some seconds."""

    acknowledge: bool
    again_in_s: float | None = None
    interrupts: bool = False
    """Its task raised KeyboardInterrupt: the place where it ran is to end, as by Ctrl-C."""


DONE: Final = Settlement(acknowledge=True)
BACK: Final = Settlement(acknowledge=False)


@dataclass(frozen=True, slots=True)
class Asked:
    """A delivery that names a task."""

    delivery: Delivery
    message: Message
    task: Task

    @property
    def queue(self) -> str:
        """The name of the queue that the message was meant for."""
        return self.message.queue or self.task.options.queue


Claimed = tuple[Asked, Claim]


@dataclass(frozen=True, slots=True)
class Accepted:
    """What an executor has claimed, and what it has refused; by its default nothing."""

    began_at: float = 0.0
    deadline: float | None = None
    refused: Mapping[str, Settlement] = field(default_factory=dict)
    claimed: Sequence[Claimed] = ()

    def __len__(self) -> int:
        return len(self.refused) + len(self.claimed)


def as_uuid(id: str) -> UUID:
    """A queue's own name for a delivery, as the id of an invocation; always the same one."""
    try:
        return UUID(id)
    except ValueError:
        return uuid.uuid5(uuid.NAMESPACE_OID, ascii(id))


def behind_refused(deliveries: Sequence[Delivery], refused: Mapping[str, Settlement]) -> set[str]:
    """The ids of those that must not run, as one before them, in their order, goes back."""
    blocked: set[str | None] = set()
    behind: set[str] = set()
    for delivery in deliveries:
        if delivery.ordered_by is None:
            continue
        if delivery.ordered_by in blocked:
            behind.add(delivery.id)
        elif delivery.id in refused and not refused[delivery.id].acknowledge:
            blocked.add(delivery.ordered_by)
    return behind


def in_turns(claimed: Sequence[Claimed]) -> list[list[list[Claimed]]]:
    """Groups that run one after the other, of chains that run at the same time.

    A chain is what has one order, or a single delivery. What was started before, without an
    outcome, runs after all others and alone: what has killed a worker may do it again.
    """
    chains: dict[str, list[Claimed]] = {}
    for item, claim in claimed:
        ordered_by = item.delivery.ordered_by
        key = f"alone {item.delivery.id}" if ordered_by is None else f"ordered {ordered_by}"
        chains.setdefault(key, []).append((item, claim))
    others: list[list[Claimed]] = []
    suspects: list[list[list[Claimed]]] = []
    for chain in chains.values():
        if any(claim.attempt > 1 for _, claim in chain):
            suspects.append([chain])
        else:
            others.append(chain)
    return [others, *suspects]
