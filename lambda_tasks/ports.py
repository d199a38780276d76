"""What the two wings need from outside, as Protocols: the real ones are wired in `runtime`."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, Protocol
from uuid import UUID

from .context import TaskContext
from .core.batching import BatchLimits
from .core.lifecycle import SQS_TERMS, Claim, End, LookTerms, Outcome, Refused, Release
from .core.message import Message, Outgoing
from .core.options import TaskOptions

# The way out


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
        ...

    async def send(self, batch: Sequence[Outgoing]) -> Sequence[SendFailure | None]:
        """Send them in one request; for each, in order, None or why it was not accepted."""
        ...


class Outbox(Protocol):
    """Messages that are stored until their queue has them."""

    @property
    def alias(self) -> str:
        """The database that holds the records."""
        ...

    def insert_queued(self, messages: Iterable[Outgoing]) -> None:
        """Store messages as QUEUED; one that is there already changes nothing."""

    def leave_to_relay(self, messages: Sequence[Outgoing]) -> None:
        """Let the relay look at once at these, which no queue has accepted."""

    def is_unsent(self, invocation_id: UUID) -> bool:
        """Whether a message is stored, and no queue has accepted it yet."""
        ...

    def can_rebuild(self, outgoing: Outgoing) -> bool:
        """Whether its record is all that it takes to send a message later."""
        ...

    def mark_sent(self, messages: Sequence[Outgoing]) -> None:
        """Note that their queues have accepted these."""

    def find_unsent(
        self,
        *,
        early: timedelta,
        lost_for: timedelta,
        waiting_for: timedelta,
        limit: int,
        queues: Collection[str] | None = None,
    ) -> list[Outgoing]:
        """Messages that are to be sent, of records whose time to look has come, or comes within
        `early`; up to `limit` of each queue, the longest due first, and where a queue keeps an
        order, the oldest. With `queues`, of these alone.

        Those that no queue has accepted yet; and, as they may have ended among the dead letters,
        those of runs whose lease is over for `lost_for`, and those that were sent, and due, and
        not run in the time `waiting_for`. The other records say when to look again.
        """
        ...

    def postpone(self, messages: Sequence[Outgoing]) -> None:
        """Leave these out for a while, which grows each time: their queue does not take them."""


# The way in


class TaskCall(Protocol):
    """One run of a task: how its function is called, and who hears of its course."""

    @property
    def has_listeners(self) -> bool:
        """Whether started() and ended() do anything."""
        ...

    def started(self) -> None:
        """It begins, on the thread of its connection and before its transaction."""

    def call(self, context: TaskContext) -> Any:
        """Call the function; of an async one this makes the coroutine."""

    def has_rule_for(self, error: BaseException) -> bool:
        """What follows from this error is the task's own to say, whatever else it means."""
        ...

    def ignores(self, error: BaseException) -> bool:
        """The task ends as SUCCESS all the same."""
        ...

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
        ...

    def is_direct(self, backend: str | None) -> bool:
        """Whether a call that names this backend of django.tasks may have no record before it runs,
        as the declaration or the settings say."""
        ...

    def check(self) -> None:
        """Raise TypeError where its declaration can't work."""

    def make_call(self, message: Message, claim: Claim) -> TaskCall:
        """The run that a claimed message asks for; nothing has happened yet."""
        ...


class Resolve(Protocol):
    """Finds tasks."""

    def __call__(
        self, task_name: str, backend: str | None = None, *, may_import: bool = True
    ) -> Task:
        """The task of a dotted name, as a message asks for it that names this backend.

        Where the name is only a message's word, its module may not be imported. Raises UnknownTask.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One arrival of a message. `id` is the queue's own name for it; `source` is that queue, by its
    ARN where that is known, else by its name in AWS."""

    id: str
    source: str
    fallback_id: UUID
    """The invocation id, where the body names none."""
    body: object = field(default=None, repr=False)
    message: Message | None = None
    """Set where it comes from the records' own table, where nothing is encoded or signed."""
    enqueued_at: datetime | None = None
    receives: int = 1
    """How often its message has been delivered, this time included."""
    is_redelivered: bool = True
    """By itself, where it is not acknowledged: SQS sees to that."""
    order_key: str | None = None
    """FIFO: what has the same key runs one after the other, and none after one that goes back."""

    @property
    def may_be_copied(self) -> bool:
        """Whether another message can stand in for its own. Where an order is kept, a copy would
        come too late."""
        return self.is_redelivered and self.order_key is None

    def provides_id_of(self, message: Message) -> bool:
        """Whether the message names no invocation itself: a copy of it would be another one."""
        return message.invocation_id == self.fallback_id


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedDelivery:
    """A delivery, the message that it has brought, and the task that the message names."""

    delivery: Delivery
    message: Message
    task: Task
    look: LookTerms = SQS_TERMS
    """The terms of the queue that the message was meant for."""

    @property
    def queue(self) -> str:
        """The name of the queue that the message was meant for."""
        return self.message.queue or self.task.options.queue

    @property
    def enqueued_at(self) -> datetime | None:
        """When its queue got it; None where the queue does not tell."""
        return self.delivery.enqueued_at

    @property
    def may_rerun(self) -> bool:
        """A run whose worker has died may be repeated."""
        return self.task.options.on_lost == "rerun"


@dataclass(frozen=True, slots=True)
class Granted:
    """A claim that was granted, and the message that its record stands for: what is to run."""

    claim: Claim
    message: Message


@dataclass(frozen=True, slots=True)
class FoundLost(Refused):
    """A claim that was not granted: it has found a run lost, and the record is FAILED now."""

    run: Granted | None = None
    """That run; None where the record can't be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedDelivery(ResolvedDelivery):
    """A delivery that is this worker's to run."""

    claim: Claim


@dataclass(frozen=True, slots=True)
class Settlement:
    """What becomes of a delivery: it is done with, or goes back, perhaps after some seconds."""

    is_final: bool
    retry_after_s: float | None = None
    stops_worker: bool = False
    """Its task raised KeyboardInterrupt: its worker is to end, as by Ctrl-C."""
    is_outage: bool = False
    """It could not be claimed, as the database is away."""
    has_record: bool = False
    """It could not be claimed for now, and its record was seen."""


DONE: Final = Settlement(is_final=True)
RETURNED: Final = Settlement(is_final=False)

ReceivedBatch = AbstractContextManager[Sequence[Delivery]]
"""Deliveries that must be claimed before the context is left: it may hold locks."""


class Source(Protocol):
    """One or more queues that a worker consumes."""

    async def receive(self, limit: int) -> ReceivedBatch:
        """Wait a while for up to `limit` deliveries; nothing where there are none."""
        ...

    def settle(self, id: str, settlement: Settlement) -> None:
        """Tell the queue what has become of a delivery, now or soon."""

    def wake(self) -> None:
        """Look again at once: there may be something new."""

    async def aclose(self) -> None:
        """Tell the queue what is still to be told."""


class Claims(Protocol):
    """Who runs what, and what they have come to."""

    @property
    def alias(self) -> str:
        """The database that holds the records."""
        ...

    def check(self) -> None:
        """Raise what the database raises where nothing can be claimed."""

    def task_names(self, ids: Collection[UUID]) -> Mapping[UUID, str]:
        """The names of the tasks of these invocations' records, as far as there are any."""
        ...

    def claim(
        self,
        deliveries: Sequence[ResolvedDelivery],
        *,
        lease: timedelta,
        max_attempts: int,
        waiting: Collection[UUID] = (),
        possible_poison_waits: bool = False,
    ) -> Mapping[UUID, Granted | Refused]:
        """Claim all that can be claimed, in a number of statements that does not grow.

        The start of each counts, but of those that are `waiting`, and of suspects if
        `possible_poison_waits`: for them begin() counts it. The verdicts are by invocation id, one for
        each.
        """
        ...

    def begin(self, claims: Sequence[Claim], lease: timedelta) -> Mapping[UUID, Claim]:
        """Count the starts of these, and begin their leases anew.

        The claims by invocation id, as they are now; those that no longer hold are missing.
        """
        ...

    def finish(self, end: End, following: Outgoing | None = None) -> None:
        """Write the end of a run, and the QUEUED record of what follows it.

        Raises LeaseLost, and changes nothing, where the claim no longer holds.
        """

    def finish_many(self, ends: Sequence[End]) -> Collection[UUID]:
        """Write the ends of runs; the invocation ids of those whose claim has held."""
        ...

    def release(self, claims: Sequence[Claim], release: Release) -> None:
        """Give back what these claims hold, for other deliveries to run; not what is lost.

        What no delivery comes back with by itself is left to the relay.
        """

    def extend(self, claims: Sequence[Claim], lease: timedelta) -> None:
        """Begin the leases anew of those that still hold."""

    def find_lost(self, claims: Sequence[Claim]) -> list[Claim]:
        """The claims that no longer hold: cancelled, or taken over."""
        ...

    def save_state(self, claim: Claim, state: object) -> None:
        """Keep what the run has saved. Raises LeaseLost where the claim no longer holds."""

    def show_progress(self, claim: Claim, progress: object) -> None:
        """Show how far the run is; nothing where the claim no longer holds."""


class Lock(Protocol):
    """What keeps a singleton alone."""

    def hold(self, key: str, *, timeout_s: float) -> AbstractContextManager[None]:
        """Held in the body, for so long at most.

        Raises SingletonLockError where another holds it, SingletonLockUnknown where that can't
        be told.
        """
        ...


class LockTable(Protocol):
    """Locks that are rows of a table."""

    def acquire(self, key: str, token: UUID, *, timeout: timedelta) -> bool:
        """Take a lock, unless another holds it and its time is not over."""
        ...

    def release(self, key: str, token: UUID) -> None:
        """Let go of a lock, if it is still this owner's."""


# Queues that are the table


class Listener(Protocol):
    """Hears of new records, on a connection of its own."""

    def fileno(self) -> int:
        """Readable when there is something to clear()."""
        ...

    def clear(self) -> None:
        """Take what has been told. Raises the driver's error where the connection is gone."""

    def close(self) -> None:
        """Stop listening."""


class TableQueue(Protocol):
    """What a queue that is the table itself needs of the records."""

    def lock_due(
        self, queues: Collection[str], *, limit: int
    ) -> AbstractContextManager[Sequence[Message]]:
        """What is to run now, by priority, then oldest first; nobody else gets it meanwhile."""
        ...

    def listen(self) -> Listener | None:
        """Begin to hear of new records; None where the database can't tell."""

    def postpone(self, invocation_id: UUID) -> None:
        """Leave a record out for a while, which grows each time: it can't be run here."""
