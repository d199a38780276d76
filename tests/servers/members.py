"""Several that do the same work, of which a fault takes one that no other fault has hold of."""

import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, TypeVar

T = TypeVar("T")


class Members(Generic[T]):
    """`veterans` says how many of the first are spared by who asks for one that may die."""

    def __init__(self, members: Sequence[T], *, veterans: int = 0) -> None:
        self._members = members
        self._veterans = veterans
        self._taken: set[int] = set()
        self._changed = threading.Condition()

    @contextmanager
    def one(self, *, may_die: bool) -> Iterator[T]:
        """A random one, for the body alone; it waits until one is free."""
        candidates = range(self._veterans if may_die else 0, len(self._members))
        with self._changed:
            self._changed.wait_for(lambda: set(candidates) - self._taken)
            index = random.choice(sorted(set(candidates) - self._taken))
            self._taken.add(index)
        try:
            yield self._members[index]
        finally:
            with self._changed:
                self._taken.discard(index)
                self._changed.notify_all()
