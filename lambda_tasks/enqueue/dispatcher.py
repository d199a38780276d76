"""The dispatcher, which sends messages in batches and repeats failed sends. It knows no AWS.

It never waits to fill a batch, as `background` has done. A message leaves at once while few
requests are in flight; while many are, messages gather into full batches. On a FIFO queue a message
leaves when the queue has accepted the one before it in its group, and a message that is left to the
relay blocks its group. Everything runs on one event loop, so there are no locks.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextvars import Context
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Final
from uuid import UUID

from .. import hooks
from ..core.arguments import copy_json
from ..core.batching import Backlog, pop_batch
from ..core.message import Outgoing, size_bytes
from ..hooks.beside import call_beside
from ..ports import SendFailure, Transport
from .blocked_groups import BlockedGroups, none_unsent
from .in_flight import InFlightLimit

logger = logging.getLogger("lambda_tasks")

EAGER_IN_FLIGHT: Final = 4
"""The number of requests in flight below which a batch leaves although it is not full.

With one, a single slow request would delay every caller. With many, each request would carry one
message.
"""

BUFFER_LIMIT: Final = 10_000
"""The number of messages, waiting or in flight, at which callers have to wait."""

SEND_ATTEMPTS: Final = 4
"""The number of times that a message is sent before it counts as failed."""

GIVE_UP_AFTER_S: Final = 9.5
"""Seconds in which a queue accepts nothing, after which a call reports a failure."""

GIVE_UP_STORED_AFTER_S: Final = 4.0
"""The same where all messages are stored: the call returns and the relay sends them."""

OWN_FOR_S: Final = 20.0
"""Seconds from the commit of messages that nobody waits for, after which the relay owns them.

The last request with one of them ends before the relay looks at it, which is after GRACE.
"""

CHECK_CALLS_EVERY_S: Final = 0.25
"""Seconds between two checks for calls whose queues accept nothing."""

DRAIN_S: Final = 10.0
"""Seconds for drain() to send what is open."""

FIRST_BACKOFF_S: Final = 0.1
"""Seconds before the second attempt. Each further wait is four times as long, with jitter."""


@dataclass(slots=True)
class Stats:
    """Counts of a dispatcher's requests and messages since its start."""

    requests: int = 0
    """Requests that were sent."""
    accepted: int = 0
    """Messages that a queue accepted."""
    retried: int = 0
    """Messages that were sent again, once for each time."""
    failed: int = 0
    """Messages that no queue accepted."""


Report = Callable[[Outgoing, SendFailure | None], None]
"""Gets a message and the reason why no queue accepted it, None where one has."""


@dataclass(slots=True, eq=False)
class _Call:
    """One send(): its messages that are still open, and the reasons of those that failed."""

    done: "asyncio.Future[None]"
    give_up_after_s: float
    started_at: float
    """The loop's time at the start of the call, or at the commit of its messages."""
    is_relay: bool = False
    report: Report | None = None
    """Called for each message where nobody waits for the call."""
    open: "set[_Entry]" = field(default_factory=set)
    failures: dict[UUID, str] = field(default_factory=dict)

    def is_overdue(self, now: float) -> bool:
        """Return whether the call gives up at this time of the loop."""
        since = self.started_at if self.report is not None else self._progressed_at()
        return now - since > self.give_up_after_s

    def _progressed_at(self) -> float:
        """Return the loop's time at which a queue last accepted a message, or the call's start."""
        streams = {entry.stream for entry in self.open if entry.stream is not None}
        return max([self.started_at, *(stream.accepted_at for stream in streams)])


@dataclass(slots=True, eq=False)
class _Entry:
    """One message on its way to its queue."""

    outgoing: Outgoing
    call: _Call
    attempt: int = 1
    stream: "_Stream | None" = None
    group: str | None = None
    """The ordered group of a FIFO queue; None on other queues."""
    is_given_up: bool = False
    """Whether its call has returned already, so that it is not sent again."""

    @property
    def id(self) -> UUID:
        return self.outgoing.message.invocation_id


class Dispatcher:
    """The sender of all messages of one process.

    `transport_for` maps a queue's name to its transport. `is_unsent` returns whether a stored
    message still waits for the relay. `buffer_limit` is a number of messages.
    """

    def __init__(
        self,
        transport_for: Callable[[str], Transport],
        *,
        is_unsent: Callable[[UUID], Awaitable[bool]] = none_unsent,
        buffer_limit: int = BUFFER_LIMIT,
        first_backoff_s: float = FIRST_BACKOFF_S,
    ) -> None:
        self.stats = Stats()
        self.is_unsent = is_unsent
        self._transport_for = transport_for
        self._buffer_limit = buffer_limit
        self._first_backoff_s = first_backoff_s
        self._streams: dict[Transport, _Stream] = {}
        self._n_open = 0
        self._calls: set[_Call] = set()
        self._is_checking = False
        self._room_waiters: list[asyncio.Future[None]] = []
        self._idle_waiters: list[asyncio.Future[None]] = []

    def __repr__(self) -> str:
        in_flight = sum(stream.in_flight for stream in self._streams.values())
        return f"<Dispatcher [{self._n_open} open, {in_flight} requests in flight]>"

    async def send(self, messages: Sequence[Outgoing], patient: bool = False) -> dict[UUID, str]:
        """Send messages; return the reason for each that was not accepted, by invocation id.

        Waits while the buffer is full, then until each message is accepted or has failed. The call
        gives up after GIVE_UP_AFTER_S without progress, or after GIVE_UP_STORED_AFTER_S where all
        messages are stored and the caller is not `patient`. The relay is patient.
        """
        if not messages:
            return {}
        loop = asyncio.get_running_loop()
        gives_up_early = not patient and all(outgoing.message.durable for outgoing in messages)
        give_up_after_s = GIVE_UP_STORED_AFTER_S if gives_up_early else GIVE_UP_AFTER_S
        call = _Call(
            loop.create_future(), give_up_after_s, started_at=loop.time(), is_relay=patient
        )
        entries = self._open(call, messages)
        try:
            await self._add_all(entries, call)
            await call.done
        finally:
            self._calls.discard(call)
        return call.failures

    def send_in_background(
        self, messages: Sequence[Outgoing], committed_at: float, report: Report
    ) -> None:
        """Send stored messages, and report what becomes of each, until OWN_FOR_S after the commit.

        `committed_at` is in monotonic seconds. Messages for which the buffer has no room are left
        to the relay.
        """
        done = asyncio.get_running_loop().create_future()
        call = _Call(done, OWN_FOR_S, started_at=committed_at, report=report)
        for entry in self._open(call, messages):
            has_room = self._n_open < self._buffer_limit
            self._n_open += 1
            self._add(entry, None if has_room else BUFFER_FULL)

    def _open(self, call: _Call, messages: Sequence[Outgoing]) -> list[_Entry]:
        """Return the entries of a call, which is checked until it is done."""
        entries = [_Entry(outgoing, call) for outgoing in messages]
        call.open.update(entries)
        self._calls.add(call)
        if not self._is_checking:
            self._is_checking = True
            # In a context of its own, as what follows is for the calls of many. So is _pump().
            asyncio.get_running_loop().call_later(
                CHECK_CALLS_EVERY_S, self._check_calls, context=Context()
            )
        return entries

    async def drain(self, *, within_s: float = DRAIN_S) -> None:
        """Wait until no message is open, at most `within_s` seconds.

        A stored message that is still open then is sent by the relay later.
        """
        try:
            async with asyncio.timeout(within_s):
                while self._n_open:
                    idle = asyncio.get_running_loop().create_future()
                    self._idle_waiters.append(idle)
                    await idle
        except TimeoutError:
            logger.warning(
                "%d messages were not sent before this process ended. "
                "The relay sends those that are stored.",
                self._n_open,
            )

    def backoff_s(self, attempt: int) -> float:
        """Return the seconds to wait after an attempt, counted from 1."""
        return self._first_backoff_s * 4.0 ** (attempt - 1) * random.uniform(0.5, 1.0)

    def complete(self, entry: _Entry, failure: SendFailure | None) -> None:
        """Note that an entry was accepted, or has failed, and wake whoever waits for that."""
        call = entry.call
        if failure is None:
            self.stats.accepted += 1
            announce_sent(entry.outgoing)
        else:
            self.stats.failed += 1
            call.failures[entry.id] = failure.reason
        if call.report is not None:
            call.report(entry.outgoing, failure)
        call.open.discard(entry)
        if not call.open and not call.done.done():
            call.done.set_result(None)
            self._calls.discard(call)
        self._n_open -= 1
        if self._room_waiters and self._n_open < self._buffer_limit:
            _wake(self._room_waiters)
        if self._idle_waiters and not self._n_open:
            _wake(self._idle_waiters)

    async def _add_all(self, entries: Sequence[_Entry], call: _Call) -> None:
        """Add entries in parts for which the buffer has room, until the call gives up."""
        for start in range(0, len(entries), self._buffer_limit):
            if self._n_open >= self._buffer_limit:
                await self._wait_for_room(call)
            if call.done.done():
                return
            part = entries[start : start + self._buffer_limit]
            self._n_open += len(part)
            for entry in part:
                self._add(entry)

    def _add(self, entry: _Entry, failure: SendFailure | None = None) -> None:
        """Add an entry to its stream; with a `failure`, leave it to the relay at once."""
        try:
            transport = self._transport_for(entry.outgoing.queue)
        except Exception as error:
            # A queue that is missing from the settings must fail its own messages only.
            self.complete(entry, SendFailure(str(error), retryable=False))
            return
        if transport not in self._streams:
            self._streams[transport] = _Stream(self, transport)
        entry.stream = self._streams[transport]
        entry.stream.add(entry, failure)

    def _check_calls(self) -> None:
        """Give up calls whose queues accept nothing; check again later while calls wait."""
        # One timer for all calls: every accepted message would have to move a timer per call.
        loop = asyncio.get_running_loop()
        for call in list(self._calls):
            if call.is_overdue(loop.time()):
                self._give_up_call(call)
        self._is_checking = bool(self._calls)
        if self._is_checking:
            loop.call_later(CHECK_CALLS_EVERY_S, self._check_calls)

    def _give_up_call(self, call: _Call) -> None:
        """Let the call return with all open messages as failed; those in flight may yet arrive."""
        reason = f"its queue has accepted nothing for {call.give_up_after_s:g} s"
        for entry in call.open:
            entry.is_given_up = True
            call.failures[entry.id] = reason
            if entry.stream is not None:
                entry.stream.remove_given_up()
        if not call.done.done():
            call.done.set_result(None)

    async def _wait_for_room(self, call: _Call) -> None:
        while self._n_open >= self._buffer_limit and not call.done.done():
            room = asyncio.get_running_loop().create_future()
            self._room_waiters.append(room)
            await asyncio.wait([room, call.done], return_when=asyncio.FIRST_COMPLETED)


class _Stream:
    """The messages on their way to one transport, and its requests in flight."""

    def __init__(self, dispatcher: Dispatcher, transport: Transport) -> None:
        self.in_flight = 0
        self.accepted_at = 0.0
        self._has_given_up_entries = False
        self._busy_since = 0.0
        self._dispatcher = dispatcher
        self._transport = transport
        self._backlog: Backlog[_Entry] = Backlog(attrgetter("group"))
        self._blocked = BlockedGroups(dispatcher.is_unsent)
        self._awaiting_check: dict[str, list[_Entry]] = {}
        self._is_pumping = False
        self._limit = InFlightLimit()
        self._tasks: set[asyncio.Task[None]] = set()

    def add(self, entry: _Entry, failure: SendFailure | None) -> None:
        """Queue an entry for the next request, or behind the earlier ones of its group.

        With a `failure`, leave it to the relay.
        """
        if self._transport.limits.in_order:
            entry.group = entry.outgoing.message.group
        if failure is not None:
            self._leave_to_relay(entry, failure)
        elif entry.call.give_up_after_s <= GIVE_UP_STORED_AFTER_S and self.is_stuck():
            # Else each later call would wait its 4 s for a queue that is known to hang.
            self._leave_to_relay(entry, QUEUE_STUCK)
        elif entry.group in self._awaiting_check and not entry.call.is_relay:
            self._awaiting_check[entry.group].append(entry)
        elif entry.group is not None and entry.group in self._blocked and not entry.call.is_relay:
            self._awaiting_check[entry.group] = [entry]
            self._start_task(self._check_blocked(entry.group))
        else:
            self._backlog.add(entry)
            self._pump_soon()

    def remove_given_up(self) -> None:
        """Remove the entries that were given up, in the loop's next round."""
        self._has_given_up_entries = True
        self._pump_soon()

    def is_stuck(self) -> bool:
        """Return whether requests are in flight and none was accepted for a while."""
        if not self.in_flight:
            return False
        since = max(self.accepted_at, self._busy_since)
        return asyncio.get_running_loop().time() - since > GIVE_UP_STORED_AFTER_S

    async def _check_blocked(self, group: str) -> None:
        """Release the entries that wait for a group, or fail them while the relay has to send."""
        blocker = await self._blocked.blocker(group)
        for entry in self._awaiting_check.pop(group):
            if blocker is None and entry.is_given_up:
                blocker = entry.id
                self._leave_to_relay(entry, CALL_GIVEN_UP)
            elif blocker is not None:
                self._leave_to_relay(entry, _blocked_by(blocker))
            else:
                self._backlog.add(entry)
        self._pump_soon()

    def _pump_soon(self) -> None:
        if not self._is_pumping:
            # In the loop's next round, so that all messages of this round share requests.
            self._is_pumping = True
            asyncio.get_running_loop().call_soon(self._pump, context=Context())

    def _pump(self) -> None:
        self._is_pumping = False
        if self._has_given_up_entries:
            self._has_given_up_entries = False
            for entry in self._backlog.remove(lambda entry: entry.is_given_up):
                self._leave_to_relay(entry, CALL_GIVEN_UP)
        while self._may_send():
            batch = pop_batch(
                self._backlog.ready,
                self._transport.limits,
                size_bytes=_size_bytes,
                kind=_is_follow_up,
            )
            if not self.in_flight:
                self._busy_since = asyncio.get_running_loop().time()
            self.in_flight += 1
            self._start_task(self._send_batch(batch, was_full=self.in_flight >= self._limit.value))

    def _start_task(self, coroutine: Coroutine[Any, Any, None]) -> None:
        # In a context of its own: a request has the messages of many callers, and outlives some.
        # Those may have a thread for database calls, which ends with them.
        task = asyncio.get_running_loop().create_task(coroutine, context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _may_send(self) -> bool:
        n_ready = len(self._backlog.ready)
        if not n_ready or self.in_flight >= self._limit.value:
            return False
        return n_ready >= self._transport.limits.max_entries or self.in_flight < EAGER_IN_FLIGHT

    async def _send_batch(self, batch: list[_Entry], was_full: bool) -> None:
        self._dispatcher.stats.requests += 1
        started_at = time.monotonic()
        try:
            failures = await self._transport.send([entry.outgoing for entry in batch])
            _check_answers(failures, batch)
        except Exception as error:
            # A transport returns failures. One that raises must not break the other callers.
            failures = [SendFailure(repr(error), retryable=False)] * len(batch)
        if None not in failures and all(each and each.retryable for each in failures):
            self._limit.record_failure()
        else:
            self._limit.record_answer(time.monotonic() - started_at, was_full=was_full)
        self.in_flight -= 1
        if None in failures:
            self.accepted_at = asyncio.get_running_loop().time()
        for entry, failure in zip(batch, failures, strict=True):
            if failure is None:
                if entry.group is not None:
                    self._let_next_go(entry.group, entry)
                self._dispatcher.complete(entry, None)
            elif failure.retryable and entry.attempt < SEND_ATTEMPTS and not entry.is_given_up:
                self._send_again(entry)
            else:
                self._fail(entry, failure)
        self._pump()

    def _send_again(self, entry: _Entry) -> None:
        """Send an entry again after its backoff. Only its own group waits meanwhile."""
        self._dispatcher.stats.retried += 1
        delay_s = self._dispatcher.backoff_s(entry.attempt)
        entry.attempt += 1
        asyncio.get_running_loop().call_later(delay_s, self._add_again, entry)

    def _add_again(self, entry: _Entry) -> None:
        self._backlog.requeue(entry)
        self._has_given_up_entries |= entry.is_given_up
        self._pump_soon()

    def _let_next_go(self, group: str, accepted: _Entry) -> None:
        """Let the next message of a group go, which waits for this one."""
        self._backlog.mark_accepted(accepted)
        self._blocked.discard(group, accepted.id)

    def _fail(self, entry: _Entry, failure: SendFailure) -> None:
        """Fail an entry and all later ones of its group, which must not overtake it."""
        followers = self._backlog.remove_waiting(entry)
        self._leave_to_relay(entry, failure)
        for each in followers:
            self._leave_to_relay(each, _blocked_by(entry.id))

    def _leave_to_relay(self, entry: _Entry, failure: SendFailure) -> None:
        """Report an entry as failed. If it is stored, the relay sends it, and its group waits."""
        if entry.group is not None and entry.outgoing.message.durable:
            self._blocked.add(entry.group, entry.id)
        self._dispatcher.complete(entry, failure)


BUFFER_FULL: Final = SendFailure("too many messages wait for their queues", retryable=True)

QUEUE_STUCK: Final = SendFailure("its queue accepts nothing at the moment", retryable=True)

CALL_GIVEN_UP: Final = SendFailure("its call has given up waiting for the queue", retryable=True)


def _blocked_by(id: UUID) -> SendFailure:
    return SendFailure(
        f"it would overtake {id} of its group, which has not been sent", retryable=True
    )


def _check_answers(failures: Sequence[SendFailure | None], batch: Sequence[_Entry]) -> None:
    """Raise ValueError unless a transport has answered each message of a batch."""
    if len(failures) != len(batch):
        raise ValueError(
            f"The transport's send() returned {len(failures)} answers to {len(batch)} messages: it "
            "has to return one for each."
        )


def announce_sent(outgoing: Outgoing) -> None:
    """Have hooks.sent called beside, for a message that its queue has accepted."""
    if hooks.sent:
        event = hooks.Sent(
            task_name=outgoing.message.task_name,
            invocation_id=outgoing.message.invocation_id,
            queue=outgoing.queue,
            headers=copy_json(outgoing.message.headers),
        )
        call_beside(hooks.sent, event)


_is_follow_up: Final = attrgetter("outgoing.is_follow_up")


def _size_bytes(entry: _Entry) -> int:
    return size_bytes(entry.outgoing.body)


def _wake(waiters: "list[asyncio.Future[None]]") -> None:
    for future in waiters:
        if not future.done():
            future.set_result(None)
    waiters.clear()
