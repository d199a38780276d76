"""Which messages travel together: as many as fit, in their order."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

T = TypeVar("T")

MAX_IN_FLIGHT: Final = 256
"""Requests of one queue at a time, and the connections that a client may keep. At 80 ms to an
answer, 32,000 messages a second."""


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """What one request of a transport carries: entries, and bytes in all."""

    max_entries: int
    max_bytes: int
    in_order: bool = False
    """A request leaves only when the one before it has been answered."""


def take_batch(
    pending: deque[T],
    limits: BatchLimits,
    *,
    size_bytes: Callable[[T], int],
    kind: Callable[[T], object] = lambda each: None,
) -> list[T]:
    """Take the longest run of messages of one kind from the left that fits into one request.

    At least one is taken, so that a message over the limit is refused by the queue, with a
    reason, rather than waiting for ever.
    """
    batch: list[T] = []
    room = limits.max_bytes
    while pending and len(batch) < limits.max_entries:
        size = size_bytes(pending[0])
        if batch and (size > room or kind(pending[0]) != kind(batch[0])):
            break
        room -= size
        batch.append(pending.popleft())
    return batch
