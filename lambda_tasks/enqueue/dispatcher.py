"""Gathers messages, sends them in batches, sends again what may yet be accepted. Knows no AWS.

It never waits to fill a batch: a message leaves at once while few requests are in flight, and
gathers with others while more are. Where a queue keeps an order, a message leaves when the one
before it in its group has been accepted; what is left to the relay holds back the later ones. All
of it runs on one event loop, so there are no locks.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from ..core.batching import Backlog, pop_batch
from ..core.message import Outgoing
from ..ports import SendFailure, Transport
from .in_flight import InFlightLimit
from .left_groups import LeftGroups, nothing_is_left

logger = logging.getLogger("lambda_tasks")

EAGER_IN_FLIGHT: Final = 4
"""Below so many requests in flight a batch leaves although it is not full. One would make a
single slow request hold up everybody; many would make requests of one message each."""

BUFFER_LIMIT: Final = 10_000
"""Messages that wait or are in flight before callers have to wait."""

SEND_ATTEMPTS: Final = 4
GIVE_UP_S: Final = 9.5
"""After so long without a message that its queue accepts, a caller is told of a failure."""

GIVE_UP_STORED_S: Final = 4.0
"""The same where all messages are stored: they are left to the relay, and the caller goes on."""

LOOK_EVERY_S: Final = 0.25

DRAIN_S: Final = 10.0

FIRST_BACKOFF_S: Final = 0.1
"""Before the second attempt; four times that before the third, and so on, with jitter."""


@dataclass(slots=True)
class Stats:
    """What a dispatcher has done since its start."""

    requests: int = 0
    accepted: int = 0
    retried: int = 0
    failed: int = 0


@dataclass(slots=True, eq=False)
class _Call:
    """One caller's messages: which are still open, and what failed."""

    done: "asyncio.Future[None]"
    give_up_s: float
    began_at: float
    is_relay: bool = False
    open: "set[_Entry]" = field(default_factory=set)
    failures: dict[UUID, str] = field(default_factory=dict)

    def progressed_at(self) -> float:
        """When one of its queues has last accepted something, or it began; in the loop's time."""
        streams = {entry.stream for entry in self.open if entry.stream is not None}
        return max([self.began_at, *(stream.accepted_at for stream in streams)])


@dataclass(slots=True, eq=False)
class _Entry:
    outgoing: Outgoing
    call: _Call
    attempt: int = 1
    stream: "_Stream | None" = None
    group: str | None = None
    """What has the same keeps its order; None where there is none."""
    is_given_up: bool = False
    """Nobody waits for it any more: it is not sent again."""

    @property
    def id(self) -> UUID:
        return self.outgoing.message.invocation_id


class Dispatcher:
    """One per process. `transport_for` gives the transport of a queue's name.

    `is_left` says whether a stored message is still left to the relay.
    """

    def __init__(
        self,
        transport_for: Callable[[str], Transport],
        *,
        is_left: Callable[[UUID], Awaitable[bool]] = nothing_is_left,
        buffer_limit: int = BUFFER_LIMIT,
        first_backoff_s: float = FIRST_BACKOFF_S,
    ) -> None:
        self.stats = Stats()
        self.is_left = is_left
        self._transport_for = transport_for
        self._buffer_limit = buffer_limit
        self._first_backoff_s = first_backoff_s
        self._streams: dict[Transport, _Stream] = {}
        self._open = 0
        self._calls: set[_Call] = set()
        self._is_looking = False
        self._room: list[asyncio.Future[None]] = []
        self._idle: list[asyncio.Future[None]] = []

    def __repr__(self) -> str:
        in_flight = sum(stream.in_flight for stream in self._streams.values())
        return f"<Dispatcher [{self._open} open, {in_flight} requests in flight]>"

    async def send(self, messages: Sequence[Outgoing], patient: bool = False) -> dict[UUID, str]:
        """Send messages; return the reason for each that was not accepted, by invocation id.

        Returns when each is accepted or given up; stored ones sooner, unless the caller is
        `patient`: the relay, which sends what was left. Waits first while the buffer is full.
        """
        if not messages:
            return {}
        loop = asyncio.get_running_loop()
        in_a_hurry = not patient and all(outgoing.message.durable for outgoing in messages)
        give_up_s = GIVE_UP_STORED_S if in_a_hurry else GIVE_UP_S
        call = _Call(loop.create_future(), give_up_s, began_at=loop.time(), is_relay=patient)
        entries = [_Entry(outgoing, call) for outgoing in messages]
        call.open.update(entries)
        self._calls.add(call)
        if not self._is_looking:
            self._is_looking = True
            loop.call_later(LOOK_EVERY_S, self._look_at_calls)
        try:
            await self._add_all(entries, call)
            await call.done
        finally:
            self._calls.discard(call)
        return call.failures

    async def drain(self, *, within_s: float = DRAIN_S) -> None:
        """Wait until nothing is open, for so long at most; what is stored is safe."""
        try:
            async with asyncio.timeout(within_s):
                while self._open:
                    idle = asyncio.get_running_loop().create_future()
                    self._idle.append(idle)
                    await idle
        except TimeoutError:
            logger.warning("%d messages are not sent at the end of this process.", self._open)

    def backoff_s(self, attempt: int) -> float:
        """Seconds to wait after this attempt, the first being 1."""
        return self._first_backoff_s * 4.0 ** (attempt - 1) * random.uniform(0.5, 1.0)

    def settle(self, entry: _Entry, failure: SendFailure | None) -> None:
        """An entry has come to its end."""
        call = entry.call
        if failure is None:
            self.stats.accepted += 1
        else:
            self.stats.failed += 1
            call.failures[entry.id] = failure.reason
        call.open.discard(entry)
        if not call.open and not call.done.done():
            call.done.set_result(None)
        self._open -= 1
        if self._room and self._open < self._buffer_limit:
            _wake(self._room)
        if self._idle and not self._open:
            _wake(self._idle)

    async def _add_all(self, entries: Sequence[_Entry], call: _Call) -> None:
        """In parts that the buffer has room for; no more once the caller is told of a failure."""
        for start in range(0, len(entries), self._buffer_limit):
            if self._open >= self._buffer_limit:
                await self._wait_for_room(call)
            if call.done.done():
                return
            part = entries[start : start + self._buffer_limit]
            self._open += len(part)
            for entry in part:
                self._add(entry)

    def _add(self, entry: _Entry) -> None:
        try:
            transport = self._transport_for(entry.outgoing.queue)
        except Exception as error:
            # A queue that is gone from the settings concerns its own messages only.
            self.settle(entry, SendFailure(str(error), retryable=False))
            return
        if transport not in self._streams:
            self._streams[transport] = _Stream(self, transport)
        entry.stream = self._streams[transport]
        entry.stream.add(entry)

    def _look_at_calls(self) -> None:
        """Give up those whose queues accept nothing any more; again while somebody waits."""
        loop = asyncio.get_running_loop()
        for call in list(self._calls):
            if loop.time() - call.progressed_at() > call.give_up_s:
                self._give_up(call)
        self._is_looking = bool(self._calls)
        if self._is_looking:
            loop.call_later(LOOK_EVERY_S, self._look_at_calls)

    def _give_up(self, call: _Call) -> None:
        """Tell the caller that what is open was not accepted; what is on its way may be yet."""
        reason = f"its queue has accepted nothing for {call.give_up_s:g} s"
        for entry in call.open:
            entry.is_given_up = True
            call.failures[entry.id] = reason
            if entry.stream is not None:
                entry.stream.has_given_up = True
        if not call.done.done():
            call.done.set_result(None)

    async def _wait_for_room(self, call: _Call) -> None:
        while self._open >= self._buffer_limit and not call.done.done():
            room = asyncio.get_running_loop().create_future()
            self._room.append(room)
            await asyncio.wait([room, call.done], return_when=asyncio.FIRST_COMPLETED)


class _Stream:
    """The messages of one transport."""

    def __init__(self, dispatcher: Dispatcher, transport: Transport) -> None:
        self.in_flight = 0
        self.accepted_at = 0.0
        self.has_given_up = False
        self._busy_since = 0.0
        self._dispatcher = dispatcher
        self._transport = transport
        self._backlog: Backlog[_Entry] = Backlog(lambda entry: entry.group)
        self._left = LeftGroups(dispatcher.is_left)
        self._asking: dict[str, list[_Entry]] = {}
        self._is_pumping = False
        self._limit = InFlightLimit()
        self._tasks: set[asyncio.Task[None]] = set()

    def add(self, entry: _Entry) -> None:
        """Send it with the next request, or behind what is before it in its group."""
        if self._transport.limits.in_order:
            entry.group = entry.outgoing.message.group
        if entry.call.give_up_s <= GIVE_UP_STORED_S and self.is_stuck():
            self._leave(entry, STUCK)
        elif entry.group in self._asking and not entry.call.is_relay:
            self._asking[entry.group].append(entry)
        elif entry.group is not None and entry.group in self._left and not entry.call.is_relay:
            self._asking[entry.group] = [entry]
            self._begin(self._ask_about(entry.group))
        else:
            self._backlog.add(entry)
            self._pump_soon()

    def is_stuck(self) -> bool:
        """Its requests have been under way for some time, and none is accepted."""
        if not self.in_flight:
            return False
        since = max(self.accepted_at, self._busy_since)
        return asyncio.get_running_loop().time() - since > GIVE_UP_STORED_S

    async def _ask_about(self, group: str) -> None:
        """Whether the relay has sent what was left of a group, for those that wait to know."""
        blocker = await self._left.blocker(group)
        for entry in self._asking.pop(group):
            if blocker is None and entry.is_given_up:
                blocker = entry.id
                self._leave(entry, GIVEN_UP)
            elif blocker is not None:
                self._leave(entry, _behind(blocker))
            else:
                self._backlog.add(entry)
        self._pump_soon()

    def _pump_soon(self) -> None:
        if not self._is_pumping:
            # In the loop's next round, so that what is added in this one travels together.
            self._is_pumping = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        self._is_pumping = False
        if self.has_given_up:
            self.has_given_up = False
            for entry in self._backlog.remove(lambda entry: entry.is_given_up):
                self._leave(entry, GIVEN_UP)
        while self._may_start():
            batch = pop_batch(
                self._backlog.ready,
                self._transport.limits,
                size_bytes=_size_bytes,
                kind=_is_follow_up,
            )
            if not self.in_flight:
                self._busy_since = asyncio.get_running_loop().time()
            self.in_flight += 1
            self._begin(self._request(batch, was_full=self.in_flight >= self._limit.value))

    def _begin(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _may_start(self) -> bool:
        n_ready = len(self._backlog.ready)
        if not n_ready or self.in_flight >= self._limit.value:
            return False
        return n_ready >= self._transport.limits.max_entries or self.in_flight < EAGER_IN_FLIGHT

    async def _request(self, batch: list[_Entry], was_full: bool) -> None:
        self._dispatcher.stats.requests += 1
        began_at = time.monotonic()
        try:
            failures = await self._transport.send([entry.outgoing for entry in batch])
        except Exception as error:
            # A transport tells failures by value; one that raises must not take callers along.
            failures = [SendFailure(repr(error), retryable=False)] * len(batch)
        if None not in failures and all(each and each.retryable for each in failures):
            self._limit.failed()
        else:
            self._limit.answered(time.monotonic() - began_at, was_full=was_full)
        self.in_flight -= 1
        for entry, failure in zip(batch, failures, strict=True):
            is_last = entry.attempt >= SEND_ATTEMPTS or entry.is_given_up
            if failure is None:
                self._accept(entry)
            elif failure.retryable and not is_last:
                self._send_again(entry)
            else:
                self._give_up(entry, failure)
        self._pump()

    def _send_again(self, entry: _Entry) -> None:
        """After a while, in which its group waits, and no other."""
        self._dispatcher.stats.retried += 1
        delay_s = self._dispatcher.backoff_s(entry.attempt)
        entry.attempt += 1
        asyncio.get_running_loop().call_later(delay_s, self._add_again, entry)

    def _add_again(self, entry: _Entry) -> None:
        self._backlog.requeue(entry)
        self._pump_soon()

    def _accept(self, entry: _Entry) -> None:
        self.accepted_at = asyncio.get_running_loop().time()
        self._backlog.mark_accepted(entry)
        if entry.group is not None:
            self._left.accept(entry.group, entry.id)
        self._dispatcher.settle(entry, None)

    def _give_up(self, entry: _Entry, failure: SendFailure) -> None:
        """With what waits behind it, as that would overtake it."""
        behind = self._backlog.remove_waiting(entry)
        self._leave(entry, failure)
        for each in behind:
            self._leave(each, _behind(entry.id))

    def _leave(self, entry: _Entry, failure: SendFailure) -> None:
        """To the relay, where it is stored."""
        if entry.group is not None and entry.outgoing.message.durable:
            self._left.leave(entry.group, entry.id)
        self._dispatcher.settle(entry, failure)


STUCK: Final = SendFailure("its queue accepts nothing at the moment", retryable=True)

GIVEN_UP: Final = SendFailure("its caller has waited for long enough", retryable=True)


def _behind(id: UUID) -> SendFailure:
    return SendFailure(f"it would overtake {id} of its group, which is not sent", retryable=True)


def _size_bytes(entry: _Entry) -> int:
    return len(entry.outgoing.body)


def _is_follow_up(entry: _Entry) -> bool:
    return entry.outgoing.is_follow_up


def _wake(waiting: "list[asyncio.Future[None]]") -> None:
    for future in waiting:
        if not future.done():
            future.set_result(None)
    waiting.clear()
