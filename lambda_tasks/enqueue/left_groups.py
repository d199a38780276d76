"""Groups of a FIFO queue of which something was left to the relay: nothing must overtake it."""

import logging
from collections.abc import Awaitable, Callable
from typing import Final
from uuid import UUID

logger = logging.getLogger("lambda_tasks")


MOST_GROUPS: Final = 100_000
"""After so many the one that was first left is forgotten."""


async def nothing_is_left(id: UUID) -> bool:
    """Say no, for a sender that stores nothing."""
    return False


class LeftGroups:
    """The groups of one queue of which this process has left messages to the relay.

    `is_left` says whether a stored message is still to be sent. The relay sends a group in its
    order, so that where its last message has been sent, all have.
    """

    def __init__(self, is_left: Callable[[UUID], Awaitable[bool]]) -> None:
        self._is_left = is_left
        self._last: dict[str, UUID] = {}

    def __contains__(self, group: str) -> bool:
        return group in self._last

    def leave(self, group: str, id: UUID) -> None:
        """A message of the group has been left, and is the last one so far."""
        self._last[group] = id
        if len(self._last) > MOST_GROUPS:
            del self._last[next(iter(self._last))]

    def accept(self, group: str, id: UUID) -> None:
        """A message of the group has been sent after all."""
        if self._last.get(group) == id:
            del self._last[group]

    async def blocker(self, group: str) -> UUID | None:
        """What a message of this group has to wait for; None where all has been sent by now."""
        id = self._last.get(group)
        if id is None:
            return None
        try:
            is_left = await self._is_left(id)
        except Exception:
            logger.warning("%s may not have been sent: its group waits", id, exc_info=True)
            is_left = True
        if not is_left:
            self.accept(group, id)
        return self._last.get(group)
