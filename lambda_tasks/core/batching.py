"""The choice of messages that share a request: as many as fit, one of each ordered group."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

T = TypeVar("T")

MAX_IN_FLIGHT: Final = 256
"""The most concurrent requests for one queue, and the most connections of a client.

With batches of ten and 80 ms to an answer, that is 32,000 messages a second.
"""


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """The limits of one request of a transport."""

    max_entries: int
    """Messages in one request, at least 1."""
    max_bytes: int
    """Total size of the messages in one request."""
    in_order: bool = False
    """Whether a message is sent only after the queue accepted the previous one of its group."""


class Backlog(Generic[T]):
    """The messages that wait to be sent. Of each group, only the first one is `ready`.

    The others of the group wait behind it. Where `group_of` returns None, a message belongs to no
    group, and is ready at once.
    """

    def __init__(self, group_of: Callable[[T], str | None]) -> None:
        self.ready: deque[T] = deque()
        self._group_of = group_of
        self._waiting: dict[str, deque[T]] = {}

    def add(self, each: T) -> None:
        """Append a message to its group, or to `ready` where it is the first of its group."""
        group = self._group_of(each)
        if group is None:
            self.ready.append(each)
        elif group in self._waiting:
            self._waiting[group].append(each)
        else:
            self._waiting[group] = deque()
            self.ready.append(each)

    def requeue(self, first: T) -> None:
        """Make a message ready again that was popped from `ready`; its group still waits for it."""
        self.ready.append(first)

    def mark_accepted(self, first: T) -> None:
        """Make the next message of the group ready, because this one was sent."""
        group = self._group_of(first)
        if group is None:
            return
        if waiting := self._waiting[group]:
            self.ready.append(waiting.popleft())
        else:
            del self._waiting[group]

    def remove_waiting(self, first: T) -> list[T]:
        """Remove and return the messages that wait behind one that is not sent, in their order."""
        group = self._group_of(first)
        return [] if group is None else list(self._waiting.pop(group))

    def remove(self, matches: Callable[[T], bool]) -> list[T]:
        """Remove and return the waiting messages that match, and all that wait behind them."""
        removed: list[T] = []
        for _ in range(len(self.ready)):
            first = self.ready.popleft()
            if matches(first):
                removed += [first, *self.remove_waiting(first)]
            else:
                self.ready.append(first)
        for waiting in self._waiting.values():
            index = next(
                (index for index, each in enumerate(waiting) if matches(each)), len(waiting)
            )
            removed += list(waiting)[index:]
            while len(waiting) > index:
                waiting.pop()
        return removed


def pop_batch(
    ready: deque[T],
    limits: BatchLimits,
    *,
    size_bytes: Callable[[T], int],
    kind: Callable[[T], object] = lambda each: None,
) -> list[T]:
    """Pop as many messages of one kind from the left as fit into one request.

    Pops at least one, so that the queue refuses a message over its limit with a reason. Otherwise
    the message would wait for ever.
    """
    if not ready:
        return []
    batch = [first := ready.popleft()]
    room, first_kind = limits.max_bytes - size_bytes(first), kind(first)
    while ready and len(batch) < limits.max_entries:
        size = size_bytes(ready[0])
        if size > room or kind(ready[0]) != first_kind:
            break
        room -= size
        batch.append(ready.popleft())
    return batch
