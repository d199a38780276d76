"""Protocols for what the two wings need from outside. `runtime` wires the implementations."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple, Protocol
from uuid import UUID

from .context import TaskContext
from .core.batching import BatchLimits
from .core.durable import Checkpoint
from .core.grace import RefusedRecord
from .core.graphs import PlannedJoin
from .core.lifecycle import SQS_TERMS, Claim, End, LookTerms, Outcome, Raised, Refused, Release
from .core.limits import Needs, Places
from .core.message import Message, Outgoing
from .core.options import TaskOptions
from .core.parameters import Description
from .core.quick import quick_dataclass
from .core.schedules import Schedule
from .core.unique import UniqueCall, UniqueTerms

# The way out


@dataclass(frozen=True, slots=True)
class SendFailure:
    """The failure of one message that its queue did not accept."""

    reason: str
    """The queue's own words, for log lines and EnqueueError."""
    retryable: bool
    """Whether another attempt to send the message may succeed."""


class Transport(Protocol):
    """The way of messages to one queue."""

    @property
    def limits(self) -> BatchLimits:
        """The limits of one request."""
        ...

    async def send(self, batch: Sequence[Outgoing]) -> Sequence[SendFailure | None]:
        """Send a batch in one request.

        Returns one entry for each message, in order: None where the queue accepted it.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """A call without a record of its own, because another one holds its unique key."""

    call: UUID
    """The id that the call would have had."""
    invocation_id: UUID
    """The id of the other one."""
    root_id: UUID
    """The id of the first invocation that the other one follows from."""
    replaced: Outgoing | None = None
    """The other one's message as the call has changed it; None for unchanged."""
    is_earlier: bool = False
    """Whether it is due earlier than before, so that its message must be sent again."""


Joins = Mapping[UUID, Joined]
"""The calls that got no record, by the ids that they would have had."""


@dataclass(frozen=True, slots=True)
class Released:
    """Steps of a workflow that an end has released: QUEUED ones, whose messages can be sent."""

    workflow_id: UUID | None
    first: int = 0
    stop: int = 0
    """Their numbers: from `first`, and below `stop`."""
    run_id: UUID | None = None
    """The run of a durable function that is released in place of steps."""


class StoredStep(NamedTuple):
    """A step of a workflow to store, with its message, which has its place."""

    outgoing: Outgoing
    waits: bool
    """Whether it waits for others, and its message is not sent yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredWorkflow:
    """A workflow to store: its steps, and the joins that release them."""

    id: UUID
    name: str
    steps: Sequence[StoredStep]
    joins: Sequence[PlannedJoin]
    results: Sequence[Any]
    call_id: UUID | None = None
    """The call of the durable function that waits for it; None for none."""


class Outbox(Protocol):
    """The stored messages, each kept until its queue has accepted it."""

    @property
    def alias(self) -> str:
        """The database that holds the records."""
        ...

    def insert_queued(self, messages: Iterable[Outgoing], ages_s: Sequence[float] = ()) -> None:
        """Store messages as QUEUED records. A message that has a record already is skipped.

        `ages_s` says how long ago each was called; without it, they are called now.
        """

    def insert_workflow(self, workflow: StoredWorkflow) -> None:
        """Store a workflow: steps as QUEUED records, or WAITING ones that wait for others."""

    def add_steps(self, addition: StoredWorkflow) -> None:
        """Store steps that are added to a workflow, in the transaction of the step that does so."""

    def find_released(self, released: Released, *, after: int, limit: int) -> Sequence[Outgoing]:
        """Return the messages of released steps with numbers above `after` that can be sent now.

        Up to `limit` of them. What is due later is left to the relay.
        """
        ...

    def insert_unique(self, messages: Sequence[Outgoing]) -> Sequence[Joined]:
        """Store messages with unique keys; return those that join others instead.

        Raises UniqueConflict and UniqueKeyBusy.
        """
        ...

    def write_headers(self, messages: Sequence[Outgoing]) -> None:
        """Write the headers of stored messages anew."""

    def leave_to_relay(self, messages: Sequence[Outgoing]) -> None:
        """Make messages that no queue has accepted due for the relay at once."""

    def is_unsent(self, invocation_id: UUID) -> bool:
        """Return whether a message is stored and no queue has accepted it yet."""
        ...

    def can_rebuild(self, outgoing: Outgoing) -> bool:
        """Return whether a message can be rebuilt from its record alone, and so be sent later."""
        ...

    def is_shared(self) -> bool:
        """Return whether other connections see what this thread has stored, and can mark it."""
        ...

    def mark_sent(self, messages: Sequence[Outgoing], *, only_new: bool = False) -> None:
        """Record that the queues have accepted these messages.

        With `only_new`, records that a worker or a relay has changed since the call are skipped:
        they may wait in their rows by now, to be sent again.
        """

    def find_unsent(
        self,
        *,
        early: timedelta,
        lost_for: timedelta,
        waiting_for: timedelta,
        limit: int,
        queues: Collection[str] | None = None,
    ) -> list[Outgoing]:
        """Return the messages that the relay must send now.

        Looks at records whose time to look has come, or comes within `early`; with `queues`, only
        at records of these queues. Returns up to `limit` messages of each queue, the longest due
        first; of a queue that keeps an order, the oldest first. A message must be sent

        - if no queue has accepted it yet, or
        - if its run's lease ended `lost_for` ago, or it was sent and due `waiting_for` ago and has
          not run since. Its earlier message may be among the dead letters.

        The time to look at the other records is moved to when one of these will be true.
        """
        ...

    def postpone(self, messages: Sequence[Outgoing]) -> None:
        """Leave these out for a while, which grows each time: their queue does not take them."""


@dataclass(frozen=True, slots=True)
class ShiftAnswer:
    """The answer to a process that has asked whether it may relay."""

    is_granted: bool
    left_s: float
    """Seconds until the next process may have the shift."""
    n_asking: float
    """About how many processes ask, however rarely each does."""


class ShiftTable(Protocol):
    """The shift of the relay: the turn of one process, for a time in which others need not."""

    def ask(self, *, lasts: timedelta, weight: float, always: bool = False) -> ShiftAnswer:
        """Take the shift for so long if it is free, with `always` in any case.

        `weight` is for how many processes this one counts: a process that asks once in three shifts
        counts as three.
        """
        ...


class TickResult(NamedTuple):
    """What a look at the schedules has done."""

    scheduled: int = 0
    """Runs that were enqueued."""
    lag_s: float = 0.0
    """Seconds by which the most overdue of them was enqueued too late."""


class RoundResult(NamedTuple):
    """What a round of the scheduler and the relay has done."""

    scheduled: int = 0
    """Runs of schedules that were enqueued."""
    relayed: int = 0
    """Messages that were left, and that queues have accepted now."""


@dataclass(frozen=True, slots=True)
class ScheduledRun:
    """One due time of a schedule, and the id of its run, which is always the same."""

    name: str
    due: datetime
    id: UUID


class ScheduleTable(Protocol):
    """How far each schedule is, and whether it is switched on."""

    @property
    def alias(self) -> str:
        """The database that holds the records."""
        ...

    def advance(
        self,
        declared: Mapping[str, tuple[str, Schedule]],
        enqueue: Callable[[Mapping[str, Sequence[ScheduledRun]]], Collection[str]],
        *,
        now: datetime | None = None,
    ) -> int:
        """Enqueue the runs that are due soon, each due time once; return how many.

        `declared` has the task's name and the schedule of each name. `enqueue` is called in the
        transaction that notes the due times, and returns the names whose runs it could not enqueue:
        these stay due. `now` is the database's clock by default.
        """
        ...

    def note(self, declared: Mapping[str, tuple[str, Schedule]]) -> None:
        """Note the schedules that are new, and the rules that have changed. Both start now."""

    def switch(self, name: str, schedule: Schedule, *, on: bool, by: str, reason: str) -> bool:
        """Switch a schedule on or off; return False where it is so already, or was never noted.

        Runs that were enqueued ahead and have not begun are cancelled. Switched on, it starts now.
        """
        ...

    def runs_between(
        self, name: str, schedule: Schedule, start: datetime, end: datetime
    ) -> Sequence[ScheduledRun]:
        """Return the runs of the due times from `start` to `end`; none if it was never noted."""
        ...


# The way in


class TaskCall(Protocol):
    """One run of a task: its function call, and the listeners to its start and end."""

    @property
    def has_listeners(self) -> bool:
        """Whether started() and ended() notify anybody."""
        ...

    @property
    def logs_failures(self) -> bool:
        """Whether ended() logs a failure, so that nobody else needs to."""
        ...

    def check_arguments(self) -> None:
        """Raise ArgumentsMismatch where the message's arguments do not fit the function.

        Called before started(), if that notifies anybody. call() raises it, too.
        """

    def started(self) -> None:
        """Notify the listeners that the run starts.

        Called on the thread of the run's connection, before its transaction begins.
        """

    def call(self, context: TaskContext) -> Any:
        """Call the function and return its result; for an async function, the coroutine."""

    def has_rule_for(self, error: BaseException) -> bool:
        """Return whether the task itself says what follows from an error.

        Its rule then decides, also for an error of the database that would repeat the run.
        """
        ...

    def ignores(self, error: BaseException) -> bool:
        """Return whether the task ends as SUCCESS despite this error."""
        ...

    def retry_delay_s(self, error: BaseException, *, jitter_s: float) -> float | None:
        """Return the seconds before a retry, or None where the error is final."""

    def ended(self, outcome: Outcome, error: BaseException | None) -> None:
        """Notify the listeners of the outcome, once the record has it."""


class Task(Protocol):
    """A declared task, as the way in sees it: its options, and a way to call it."""

    name: str
    """The dotted name that messages carry."""
    options: TaskOptions
    is_async: bool

    @property
    def secret_names(self) -> frozenset[str]:
        """The parameters whose values are secret."""
        ...

    def unknown_names(self, kwargs: Mapping[str, Any]) -> frozenset[str]:
        """Return the names of the arguments that the function has no parameter for."""
        ...

    def is_direct(self, backend: str | None) -> bool:
        """Return whether a call may travel as a direct message, without a record before it runs.

        `backend` is the alias in TASKS through which it was enqueued, None for a @lambda_task.
        """
        ...

    @property
    def backend(self) -> str | None:
        """The alias in TASKS through which a schedule enqueues it, None for a @lambda_task."""
        ...

    def argument_of(self, message: Message, name: str) -> Any:
        """Return an argument of a call as a JSON value; its default where it was not passed."""

    def arguments_to_json(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Check the arguments of a call, and return them as JSON values.

        Raises TypeError or ValueError for arguments that the task refuses.
        """
        ...

    def check_json(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Raise ArgumentsMismatch where arguments that are JSON values do not fit the function."""

    def read_texts(self, texts: Mapping[str, str]) -> dict[str, Any]:
        """Return arguments that were written as text, on a command line, as JSON values.

        What fits the function as JSON is JSON; anything else is text.
        """
        ...

    def describe(self) -> Description:
        """Return its signature and documentation, for people who are to call it.

        Raises TypeError where an annotation can't be resolved.
        """
        ...

    def unique_call(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], terms: UniqueTerms | None = None
    ) -> UniqueCall | None:
        """Return a call with these JSON arguments as a unique one; None where it is not.

        By default the task has the terms. Raises TypeError where secret values would become part
        of its key.
        """
        ...

    def check(self) -> None:
        """Check the declaration. Raises TypeError where it can't work."""

    def result_from_json(self, value: Any) -> Any:
        """Return a stored result as the type that a caller gets.

        Raises TypeError where the value can't be converted to it.
        """

    def make_call(self, message: Message, claim: Claim) -> TaskCall:
        """Return the call for a claimed message, without starting it."""
        ...


class Resolve(Protocol):
    """The lookup of a task by its name."""

    def __call__(
        self, task_name: str, backend: str | None = None, *, may_import: bool = True
    ) -> Task:
        """Return the task of a dotted name.

        `backend` is the alias in TASKS that the message names, None for a @lambda_task. Without
        `may_import`, only loaded modules are searched: a name that only a message gives must not
        import code. Raises UnknownTask where there is no such task.
        """
        ...


@quick_dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One arrival of a message."""

    id: str
    """The queue's own id of this delivery."""
    source: str
    """The queue that it came from: its ARN where that is known, else its name in AWS."""
    fallback_id: UUID
    """The invocation id for a body that names none."""
    body: object = field(default=None, repr=False)
    message: Message | None = None
    """The message itself, where the table is the queue: nothing is encoded or signed there."""
    enqueued_at: datetime | None = None
    """The time when the message entered its queue; None where the queue does not say so."""
    receives: int = 1
    """The number of deliveries of the message so far, including this one."""
    is_redelivered: bool = True
    """Whether the queue delivers the message again unless it is acknowledged, as SQS does."""
    order_key: str | None = None
    """The key of a FIFO group, None without an order.

    Deliveries with the same key run one after the other. After one that is returned to the queue,
    the others of its key are returned too.
    """

    @property
    def is_of_table(self) -> bool:
        """Whether the message comes from the table itself, and may stay there unclaimed."""
        return self.message is not None

    @property
    def may_be_copied(self) -> bool:
        """Whether a copy can be sent in place of the message.

        Not where the queue keeps an order: a copy would join the end of its group.
        """
        return self.is_redelivered and self.order_key is None

    def provides_id_of(self, message: Message) -> bool:
        """Return whether the message has its invocation id from this delivery.

        A copy of such a message would be another invocation.
        """
        return message.invocation_id == self.fallback_id


@quick_dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedDelivery:
    """A delivery with its decoded message and the task that the message names."""

    delivery: Delivery
    message: Message
    task: Task
    look: LookTerms = SQS_TERMS
    """The look terms of the queue that the message was sent to."""
    needs_of: Callable[[Message], Needs] | None = None
    """What a call of the task needs before it may begin.

    None for a task without limits, and once the invocation is admitted.
    """
    places: Places | None = None
    """The places of which one is kept for the invocation."""

    @property
    def queue(self) -> str:
        """The name, in the settings, of the queue that the message was sent to."""
        return self.message.queue or self.task.options.queue

    @property
    def enqueued_at(self) -> datetime | None:
        """The time when the message entered its queue; None where the queue does not say so."""
        return self.delivery.enqueued_at

    @property
    def may_rerun(self) -> bool:
        """Whether the task may run again after its worker died (`on_lost="rerun"`)."""
        return self.task.options.on_lost == "rerun"


@dataclass(frozen=True, slots=True, kw_only=True)
class UnrunnableDelivery:
    """A delivery with its decoded message, which this release can't run."""

    delivery: Delivery
    message: Message
    reason: Raised
    queue: str
    """The name, in the settings, of the queue that the message was sent to."""
    look: LookTerms = SQS_TERMS
    """The look terms of that queue."""
    carries_call: bool
    """Whether its body has the call itself, and not only the id of its record."""
    claimed: "ClaimedDelivery | None" = None
    """The delivery with its claim, which was released, if the arguments do not fit the task."""

    @property
    def id(self) -> UUID:
        """The id of the invocation."""
        return self.message.invocation_id

    @property
    def enqueued_at(self) -> datetime | None:
        """The time when the message entered its queue; None where the queue does not say so."""
        return self.delivery.enqueued_at

    @property
    def waits_in_row(self) -> bool:
        """Whether the message waits in its row, until the relay sends it again.

        One that would lose its call or its place waits in its queue. One of the table is left to
        other workers.
        """
        keeps_place = self.delivery.order_key is not None
        return not (self.carries_call or keeps_place or self.delivery.is_of_table)


@quick_dataclass(frozen=True, slots=True)
class Granted:
    """A granted claim, with the message of the record: the call that must run."""

    claim: Claim
    message: Message


@dataclass(frozen=True, slots=True)
class FoundLost(Refused):
    """A refused claim that found a lost run and has marked its record as FAILED."""

    run: Granted | None = None
    """The lost run; None where the record can't be read."""


@quick_dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedDelivery(ResolvedDelivery):
    """A delivery whose invocation this worker has claimed."""

    claim: Claim
    carries_call: bool = False
    """Whether its body has the call itself, and not only the id of its record."""

    def with_claim(self, claim: Claim) -> "ClaimedDelivery":
        """Return the delivery with another claim. See Claim.begun()."""
        return ClaimedDelivery(
            delivery=self.delivery,
            message=self.message,
            task=self.task,
            look=self.look,
            needs_of=self.needs_of,
            places=self.places,
            claim=claim,
            carries_call=self.carries_call,
        )


@quick_dataclass(frozen=True, slots=True)
class Admitted:
    """An invocation that may begin now, as far as its limits are concerned."""

    places: Places | None = None
    """The places of which one is kept for it."""


LeftOut = str | UUID
"""A task, by its name, or an invocation, by its id, that a worker leaves to others."""


@quick_dataclass(frozen=True, slots=True)
class Settlement:
    """The answer to a queue about one delivery: acknowledge it, or return it to the queue."""

    is_final: bool
    """Whether the delivery is acknowledged; otherwise it is returned to its queue."""
    retry_after_s: float | None = None
    """Seconds before a returned delivery is visible again; None leaves that to the queue."""
    stops_worker: bool = False
    """Whether the task raised KeyboardInterrupt, which ends its worker like Ctrl-C."""
    is_outage: bool = False
    """Whether the database could not be reached to claim the invocation."""
    has_record: bool = False
    """Whether the invocation has a record, although it can't be claimed yet."""
    has_failed: bool = False
    """Whether the invocation is now FAILED."""
    reason: str = ""
    """The reason why a delivery is returned, for hooks; empty for one that is acknowledged."""
    left_out: LeftOut | None = None
    """What a worker of the table leaves to others for a while, as its release can't run it."""
    leaves_place: bool = False
    """Whether a place was kept for an invocation that will not begin."""


DONE: Final = Settlement(is_final=True)
"""The delivery is acknowledged."""

DONE_FAILED: Final = Settlement(is_final=True, has_failed=True)
"""The delivery is acknowledged, and its invocation is FAILED."""

RETURNED: Final = Settlement(is_final=False, reason="not settled")
"""The delivery is returned to its queue, which decides when to deliver it again."""

ReceivedBatch = AbstractContextManager[Sequence[Delivery]]
"""Received deliveries, to be claimed before the context exits: it may hold their row locks."""


class Source(Protocol):
    """The queues that a worker consumes."""

    @property
    def max_batch(self) -> int:
        """The most deliveries that it receives at once."""
        ...

    @property
    def holds_received(self) -> bool:
        """Whether what is received, and has to wait, is kept from other workers meanwhile."""
        ...

    async def receive(self, limit: int) -> ReceivedBatch:
        """Receive up to `limit` deliveries, waiting a while for the first. May return none."""
        ...

    def settle(self, id: str, settlement: Settlement) -> None:
        """Acknowledge a delivery or return it to the queue. May be sent later, with others."""

    def wake(self) -> None:
        """End the wait of receive(), as there may be new messages."""

    async def aclose(self) -> None:
        """Send the settlements that are still pending."""


class Finished(NamedTuple):
    """What became of ends that were written together."""

    ids: Collection[UUID]
    """The ids of the invocations whose claim still held."""
    released: Sequence[Released] = ()
    """The steps of their workflows that are released now."""


class Claims(Protocol):
    """The ownership of invocations, and the outcomes of their runs."""

    @property
    def alias(self) -> str:
        """The database that holds the records."""
        ...

    def check(self) -> None:
        """Check that the database can be asked. Raises the database's error where it can't."""

    def task_names(self, ids: Collection[UUID]) -> Mapping[UUID, str]:
        """Return the task name of each of these invocations that has a record."""
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
        """Claim these deliveries, in a number of statements that does not grow with them.

        The start of each counts, except for those in `waiting`, and for possible poison with
        `possible_poison_waits`: for them begin() counts it. The verdicts are by invocation id, one
        for each.
        """
        ...

    def begin(self, claims: Sequence[Claim], lease: timedelta) -> Mapping[UUID, Claim]:
        """Count the starts of these claims' runs, and renew their leases.

        Returns the updated claims by invocation id, without those that no longer hold.
        """
        ...

    def finish(self, end: End, following: Outgoing | None = None) -> Sequence[Released]:
        """Write the end of a run, and the QUEUED record of the retry or run that follows it.

        Returns the steps of its workflow that are released now. Raises LeaseLost, and changes
        nothing, where the claim no longer holds.
        """
        ...

    def finish_many(self, ends: Sequence[End]) -> Finished:
        """Write the ends of runs whose claims still hold."""
        ...

    def send_released(self, released: Sequence[Released]) -> None:
        """Have steps sent that an end has released. What can't be sent is left to the relay."""

    def release(self, claims: Sequence[Claim], release: Release) -> None:
        """Release the claims that still hold, so that another delivery can run the invocations.

        An invocation whose delivery does not come again by itself is left to the relay.
        """

    def refuse(self, deliveries: Sequence[UnrunnableDelivery]) -> Sequence[Refused | RefusedRecord]:
        """Note in their records that this release can't run these deliveries.

        A record that nobody has run for the whole grace of a deployment is FAILED. Returns a
        verdict on each delivery, in order. Refused is for those whose record is missing, finished,
        another task's, not due, or held by others; nothing is noted in it.
        """
        ...

    def fail_direct(self, delivery: UnrunnableDelivery, reason: Raised) -> bool:
        """Store a direct message that nobody could run as a FAILED record.

        Returns False, and stores nothing, where a record can't keep its secret arguments.
        """
        ...

    def extend(self, claims: Sequence[Claim], lease: timedelta) -> None:
        """Renew the leases of the claims that still hold."""

    def find_lost(self, claims: Sequence[Claim]) -> list[Claim]:
        """Return the claims that no longer hold, as they were cancelled or taken over."""
        ...

    def save_state(self, claim: Claim, state: object) -> None:
        """Save a run's state, a JSON value. Raises LeaseLost where the claim no longer holds."""

    def show_progress(self, claim: Claim, progress: object) -> None:
        """Write a run's progress, a JSON value. Does nothing where the claim no longer holds."""

    def read_steps(self, call_id: UUID) -> Sequence[Checkpoint]:
        """Return what is kept of the steps of a durable function, in order."""
        ...

    def write_steps(
        self, claim: Claim, call_id: UUID, steps: Sequence[Checkpoint], *, is_secret: bool
    ) -> None:
        """Write steps in the transaction of the last one.

        Raises LeaseLost where the claim no longer holds.
        """

    def receive_signal(self, call_id: UUID, name: str, *, ends: bool) -> tuple[bool, Any]:
        """Return whether a signal has come, and its value. If it has not, the wait `ends`."""
        ...

    def wait_for_signal(
        self, call_id: UUID, name: str, run_id: UUID, type: str, *, drops: bool
    ) -> bool:
        """Let a signal wake a run; return False where it has come, unless it `drops` that."""
        ...


class Limits(Protocol):
    """The places of keys that limit how many runs there are, and their paces."""

    def admit(self, deliveries: Sequence[ResolvedDelivery]) -> Mapping[UUID, Admitted | Refused]:
        """Find a place and a moment for invocations with limits, before their claim.

        Who finds none waits in its row. A place is kept for a few seconds, for a claim to confirm
        it. Invocations that can't be claimed for other reasons are missing.
        """
        ...

    def free(self, claims: Sequence[Claim]) -> Sequence[Outgoing]:
        """Give the places of these ended claims to those who wait longest.

        Returns the messages among these that have to be sent to their queues.
        """
        ...

    def rescue(self, *, thorough: bool) -> Sequence[Outgoing]:
        """Give away the places of runs that are over or lost. See free().

        With `thorough`, also look for keys for which somebody waits although all places are free.
        """
        ...


class Lock(Protocol):
    """The lock under which only one run of a singleton executes."""

    @property
    def is_elsewhere(self) -> bool:
        """Whether the locks are elsewhere than in the database of the records."""
        ...

    def hold(self, key: str, *, timeout_s: float) -> AbstractContextManager[None]:
        """Acquire a lock without waiting, and hold it for the body, at most `timeout_s` seconds.

        Raises SingletonLockError where another run holds it, and SingletonLockUnknown where the
        lock's server gives no answer.
        """
        ...


class LockTable(Protocol):
    """The locks that are stored as rows of a table."""

    def acquire(self, key: str, token: UUID, *, timeout: timedelta) -> bool:
        """Acquire a lock, unless another token holds it and its timeout is not over.

        Returns whether it was acquired.
        """
        ...

    def release(self, key: str, token: UUID) -> None:
        """Release a lock, if this token still holds it."""


# Queues that are the table


class Listener(Protocol):
    """A subscription to new records, on a connection of its own."""

    def fileno(self) -> int:
        """Return the descriptor that is readable when there are notifications to clear()."""
        ...

    def clear(self) -> None:
        """Discard the notifications that have arrived.

        Raises the driver's error where the connection is lost.
        """

    def close(self) -> None:
        """Close the connection, and with it the subscription."""


class TableQueue(Protocol):
    """The table of records as a queue."""

    def lock_due(
        self, queues: Collection[str], *, limit: int, without: Collection[LeftOut] = ()
    ) -> AbstractContextManager[Sequence[Message]]:
        """Lock the messages that are due for the body, so that no other worker receives them.

        Yields up to `limit` messages of these queues, by priority, then the longest due first.
        `without` leaves out tasks and invocations.
        """
        ...

    def listen(self) -> Listener | None:
        """Listen for new records. Returns None where the database has no notifications."""

    def postpone(self, invocation_id: UUID) -> None:
        """Leave a record out for a while, which grows each time."""
