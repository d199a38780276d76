"""The on_commit hook that sends the messages of one transaction after its commit."""

import time
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from django.db.backends.base.base import BaseDatabaseWrapper

from ..core.message import Outgoing


class StoringSender(Protocol):
    """What a hand-over needs of the enqueuer."""

    def store(self, messages: Sequence[Outgoing], ages_s: Sequence[float] = ()) -> None:
        """Write the QUEUED records of the durable messages, which were called so long ago."""

    def send_now(self, messages: Sequence[Outgoing]) -> None:
        """Send messages. Raises EnqueueError for direct messages that were not accepted."""


class Unstored(NamedTuple):
    """A message whose record is still to be written."""

    outgoing: Outgoing
    called_at: float
    """The time of its call in `time.monotonic()` seconds."""


class HandOver:
    """The on_commit hook that consecutive calls in one transaction share.

    `is_open` is whether further calls may join it. `unstored` are the messages whose records are
    still to be written.
    """

    def __init__(
        self, enqueuer: StoringSender, messages: Sequence[Outgoing], *, is_stored: bool
    ) -> None:
        self.enqueuer = enqueuer
        self.is_open = True
        self.messages: list[Outgoing] = []
        self.unstored: list[Unstored] = []
        self.add(messages, is_stored=is_stored)

    def add(self, messages: Sequence[Outgoing], *, is_stored: bool) -> None:
        """Add the messages of a further call."""
        self.messages.extend(messages)
        if not is_stored:
            called_at = time.monotonic()
            self.unstored += [Unstored(each, called_at) for each in messages]

    def drop_unstored(self) -> None:
        """Forget the messages whose records are still to be written."""
        dropped = {each.outgoing.message.invocation_id for each in self.unstored}
        self.messages = [
            each for each in self.messages if each.message.invocation_id not in dropped
        ]
        self.unstored = []

    def __call__(self) -> None:
        """Store what is not stored yet and send all messages; Django calls this after the commit.

        Raises EnqueueError for direct messages that were not accepted.
        """
        self.is_open = False
        if self.unstored:
            self.enqueuer.store([each.outgoing for each in self.unstored])
            self.unstored = []
        self.enqueuer.send_now(self.messages)


def hand_overs_on(connection: BaseDatabaseWrapper) -> list[HandOver]:
    """Return the hand-overs of a connection's open transaction, without what was rolled back."""
    return [hook for _, hook, *_ in connection.run_on_commit if isinstance(hook, HandOver)]


def find_joinable(connection: BaseDatabaseWrapper, enqueuer: StoringSender) -> HandOver | None:
    """Return the hook that a call may join: the transaction's last, under the same savepoints."""
    # Messages that joined an earlier hook would overtake the hooks after it. Under other savepoints
    # they would be rolled back with these, or survive their own rollback.
    if not connection.run_on_commit or _is_in_test_case(connection):
        return None
    savepoints, hook = connection.run_on_commit[-1][:2]
    if not isinstance(hook, HandOver) or hook.enqueuer is not enqueuer or not hook.is_open:
        return None
    return hook if savepoints == set(connection.savepoint_ids) else None


def _is_in_test_case(connection: BaseDatabaseWrapper) -> bool:
    """Return whether the connection is directly in the transaction of a TestCase.

    There each call gets a hook of its own. A call that joined a hook from before
    captureOnCommitCallbacks() would be invisible to it.
    """
    return bool(connection.atomic_blocks) and is_of_test_case(connection.atomic_blocks[-1])


def is_of_test_case(block: object) -> bool:
    """Return whether an atomic block is that of a TestCase, which never commits."""
    return bool(getattr(block, "_from_testcase", False))
