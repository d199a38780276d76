"""What the two wings need from outside, as Protocols: the real ones are wired in `runtime`."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol
from uuid import UUID

from .context import TaskContext
from .core.batching import BatchLimits
from .core.lifecycle import Claim, Outcome, Refused
from .core.message import Message, Outgoing
from .core.options import TaskOptions


@dataclass(frozen=True, slots=True)
class SendFailure:
    """Why one message was not accepted, and whether sending it again may help."""

    reason: str
    retryable: bool


class Transport(Protocol):
    """Carries messages to one queue."""

    @property
    def limits(self) -> BatchLimits:
        """What one request carries."""

    async def send(self, batch: Sequence[Outgoing]) -> Sequence[SendFailure | None]:
        """Send them in one request; for each, in order, None or why it was not accepted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimRequest:
    """One delivery that asks to run. `rerun_when_lost` is the task's `on_lost`."""

    message: Message
    queue: str
    enqueued_at: datetime | None = None
    rerun_when_lost: bool = True


class Outbox(Protocol):
    """What the way out needs of the records."""

    @property
    def alias(self) -> str:
        """The database that holds the records."""

    def insert_queued(self, messages: Iterable[Outgoing]) -> None:
        """Store messages as QUEUED; one that is there already changes nothing."""

    def mark_sent(self, messages: Sequence[Outgoing]) -> None:
        """Note that their queues have accepted these."""

    def unsent(
        self,
        *,
        older_than: timedelta,
        due_within: timedelta,
        lost_for: timedelta,
        waiting_for: timedelta,
        limit: int,
    ) -> list[Outgoing]:
        """Messages that are to be sent, oldest first.

        Those that no queue has accepted in the time `older_than`; and, as they may have ended
        among the dead letters, those of runs whose lease is over for `lost_for`, and those that
        were sent, and due, and not run in the time `waiting_for`.
        """


class Records(Protocol):
    """What the way in needs of the records."""

    @property
    def alias(self) -> str:
        """The database that holds the records."""

    def claim(
        self, requests: Sequence[ClaimRequest], *, lease: timedelta, max_attempts: int
    ) -> Mapping[UUID, Claim | Refused]:
        """Claim all that can be claimed, in a number of statements that does not grow."""

    def close(
        self,
        claim: Claim,
        outcome: Outcome,
        *,
        ran_for: timedelta | None = None,
        following: Outgoing | None = None,
    ) -> None:
        """Write what an attempt ended in, and the QUEUED record of what follows it.

        Raises LeaseLost, and changes nothing, where the claim no longer holds.
        """

    def close_many(
        self, ends: Sequence[tuple[Claim, Outcome, timedelta | None]]
    ) -> Collection[UUID]:
        """Write what attempts ended in, and for how long each ran; the invocation ids of those
        whose claim has held."""

    def save_state(self, claim: Claim, state: object) -> None:
        """Keep what the run has saved. Raises LeaseLost where the claim no longer holds."""

    def show_progress(self, claim: Claim, progress: object) -> None:
        """Show how far the run is; nothing where the claim no longer holds."""

    def lost(self, claims: Sequence[Claim]) -> list[Claim]:
        """Those that no longer hold: cancelled, or taken over."""

    def release(self, claim: Claim, *, started: bool, comes_back: bool = True) -> None:
        """Give back what this claim holds, for another delivery to run; nothing where it is lost.

        What has not been `started` counts as no attempt. Where its delivery does not come back by
        itself, it is left to the relay.
        """

    def extend(self, claims: Sequence[Claim], lease: timedelta) -> None:
        """Begin the leases anew of those that still hold."""

    def acquire_lock(self, key: str, token: UUID, *, timeout: timedelta) -> bool:
        """Take a singleton's lock, unless another holds it and its time is not over."""

    def release_lock(self, key: str, token: UUID) -> None:
        """Let go of a lock, if it is still this owner's."""


class Listener(Protocol):
    """Hears of new records, on a connection of its own."""

    def fileno(self) -> int:
        """Readable when there is something to clear()."""

    def clear(self) -> None:
        """Take what has been told. Raises the driver's error where the connection is gone."""

    def close(self) -> None:
        """Stop listening."""


class DueRecords(Protocol):
    """What a queue that is the table itself needs of the records."""

    def due(
        self, queues: Collection[str], *, limit: int
    ) -> AbstractContextManager[Sequence[Outgoing]]:
        """What is to run now, by priority, then oldest first; nobody else gets it meanwhile."""

    def listen(self) -> Listener | None:
        """Begin to hear of new records; None where the database can't tell."""

    def postpone(self, invocation_id: UUID, delay: timedelta) -> None:
        """Make a QUEUED record due after this time."""


class TaskCall(Protocol):
    """One run of a task: how its function is called, and who hears of its course."""

    @property
    def has_listeners(self) -> bool:
        """Whether started() and ended() do anything."""

    def started(self) -> None:
        """It begins, on the thread of its connection and before its transaction."""

    def call(self, context: TaskContext) -> Any:
        """Call the function; of an async one this makes the coroutine."""

    def ignores(self, error: BaseException) -> bool:
        """The task ends as SUCCESS all the same."""

    def retry_delay_s(self, error: BaseException, *, jitter_s: float) -> float | None:
        """Seconds before another run; None where the error is the end."""

    def ended(self, outcome: Outcome, error: BaseException | None) -> None:
        """It has ended so, and its record says so."""


class Task(Protocol):
    """What the way in needs of a task: its declaration, and how to call it."""

    name: str
    options: TaskOptions
    is_async: bool

    @property
    def secret_names(self) -> frozenset[str]:
        """The parameters whose values are not for people's eyes."""

    def check(self) -> None:
        """Raise TypeError where its declaration can't work."""

    def begin(self, message: Message, claim: Claim) -> TaskCall:
        """The run that a claimed message asks for; nothing has happened yet."""


class Resolve(Protocol):
    """Finds tasks."""

    def __call__(self, task_name: str, backend: str | None = None) -> Task:
        """The task of a dotted name, as a message asks for it that names this backend.

        Raises UnknownTask.
        """


class Lock(Protocol):
    """What keeps a singleton alone."""

    def held(self, key: str, *, timeout_s: float) -> AbstractContextManager[None]:
        """Held in the body, for so long at most.

        Raises SingletonLockError where another holds it, SingletonLockUnknown where that can't
        be told.
        """
