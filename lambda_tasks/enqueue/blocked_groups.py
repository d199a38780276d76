"""The groups of a FIFO queue that wait for the relay: nothing may overtake their messages."""

import logging
from collections.abc import Awaitable, Callable
from typing import Final
from uuid import UUID

logger = logging.getLogger("lambda_tasks")


MAX_GROUPS: Final = 100_000
"""The number of groups above which the oldest one is forgotten."""


async def none_unsent(id: UUID) -> bool:
    """Return False: a sender that stores nothing has nothing unsent."""
    return False


class BlockedGroups:
    """The groups of one queue with messages that this process has left to the relay.

    `is_unsent` returns whether a stored message still has to be sent. The relay sends the messages
    of a group in their order, so once the last one has been sent, all have.
    """

    def __init__(self, is_unsent: Callable[[UUID], Awaitable[bool]]) -> None:
        self._is_unsent = is_unsent
        self._last: dict[str, UUID] = {}

    def __contains__(self, group: str) -> bool:
        return group in self._last

    def add(self, group: str, id: UUID) -> None:
        """Block a group until the relay has sent this message, the last one of it so far."""
        self._last[group] = id
        if len(self._last) > MAX_GROUPS:
            del self._last[next(iter(self._last))]

    def discard(self, group: str, id: UUID) -> None:
        """Unblock a group if this message, which has now been sent, was its last one."""
        if self._last.get(group) == id:
            del self._last[group]

    async def blocker(self, group: str) -> UUID | None:
        """Return the message that blocks a group; None once the relay has sent everything of it.

        An error of the database counts as "still blocked", and is logged.
        """
        id = self._last.get(group)
        if id is None:
            return None
        try:
            is_unsent = await self._is_unsent(id)
        except Exception:
            logger.warning(
                "Whether %s has been sent is not known; its group waits.", id, exc_info=True
            )
            is_unsent = True
        if not is_unsent:
            self.discard(group, id)
        # Another message of the group may have been left to the relay during the query.
        return self._last.get(group)
