"""Which messages travel together: as many as fit, in their order, and one of each ordered group."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

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
    """A message leaves only when the one before it, of its group, has been accepted."""


class Backlog(Generic[T]):
    """What waits to be sent. Of each group, only the first is `ready`: the others wait behind it.

    Where `group_of` says None, there is no order, and all are ready.
    """

    def __init__(self, group_of: Callable[[T], str | None]) -> None:
        self.ready: deque[T] = deque()
        self._group_of = group_of
        self._behind: dict[str, deque[T]] = {}

    def add(self, each: T) -> None:
        """Append it, to its group or to what is ready."""
        group = self._group_of(each)
        if group is None:
            self.ready.append(each)
        elif group in self._behind:
            self._behind[group].append(each)
        else:
            self._behind[group] = deque()
            self.ready.append(each)

    def add_again(self, first: T) -> None:
        """It was taken, and is to be sent once more: its group still waits for it."""
        self.ready.append(first)

    def accept(self, first: T) -> None:
        """It has been sent: the next of its group is ready."""
        group = self._group_of(first)
        if group is None:
            return
        if behind := self._behind[group]:
            self.ready.append(behind.popleft())
        else:
            del self._behind[group]

    def give_up(self, first: T) -> list[T]:
        """It is not sent: take out all that wait behind it, in their order."""
        group = self._group_of(first)
        return [] if group is None else list(self._behind.pop(group))

    def take_out(self, is_meant: Callable[[T], bool]) -> list[T]:
        """Take out those that wait and are meant, and all that wait behind one of them."""
        taken: list[T] = []
        for _ in range(len(self.ready)):
            first = self.ready.popleft()
            if is_meant(first):
                taken += [first, *self.give_up(first)]
            else:
                self.ready.append(first)
        for behind in self._behind.values():
            index = next(
                (index for index, each in enumerate(behind) if is_meant(each)), len(behind)
            )
            taken += list(behind)[index:]
            while len(behind) > index:
                behind.pop()
        return taken


def take_batch(
    ready: deque[T],
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
    while ready and len(batch) < limits.max_entries:
        size = size_bytes(ready[0])
        if batch and (size > room or kind(ready[0]) != kind(batch[0])):
            break
        room -= size
        batch.append(ready.popleft())
    return batch
