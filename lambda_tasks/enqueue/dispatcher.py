"""Gathers messages, sends them in batches, sends again what may yet be accepted. Knows no AWS.

It never waits to fill a batch: a message leaves at once while few requests are in flight, and
gathers with others while more are. All of it runs on one event loop, so there are no locks.
"""

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from ..core.batching import take_batch
from ..core.message import Outgoing
from ..ports import SendFailure, Transport
from .in_flight import InFlightLimit

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
    is_given_up: bool = False
    """Nobody waits for it any more: it is not sent again."""


class Dispatcher:
    """One per process. `transport_for` gives the transport of a queue's name."""

    def __init__(
        self,
        transport_for: Callable[[str], Transport],
        *,
        buffer_limit: int = BUFFER_LIMIT,
        first_backoff_s: float = FIRST_BACKOFF_S,
    ) -> None:
        self.stats = Stats()
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
        `patient`. Waits first while the buffer is full.
        """
        if not messages:
            return {}
        loop = asyncio.get_running_loop()
        in_a_hurry = not patient and all(outgoing.message.durable for outgoing in messages)
        give_up_s = GIVE_UP_STORED_S if in_a_hurry else GIVE_UP_S
        call = _Call(loop.create_future(), give_up_s, began_at=loop.time())
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
            call.failures[entry.outgoing.message.invocation_id] = failure.reason
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
        if entry.call.give_up_s <= GIVE_UP_STORED_S and entry.stream.is_stuck():
            self.settle(entry, STUCK)
        else:
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
            call.failures[entry.outgoing.message.invocation_id] = reason
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
        self._pending: deque[_Entry] = deque()
        self._is_pumping = False
        self._is_paused = False
        self._limit = InFlightLimit()
        self._requests: set[asyncio.Task[None]] = set()

    def add(self, entry: _Entry) -> None:
        """Send it with the next request."""
        self._pending.append(entry)
        if not self._is_pumping:
            # In the loop's next round, so that what is added in this one travels together.
            self._is_pumping = True
            asyncio.get_running_loop().call_soon(self._pump)

    def is_stuck(self) -> bool:
        """Its requests have been under way for some time, and none is accepted."""
        if not self.in_flight:
            return False
        since = max(self.accepted_at, self._busy_since)
        return asyncio.get_running_loop().time() - since > GIVE_UP_STORED_S

    def _pump(self) -> None:
        self._is_pumping = False
        if self.has_given_up:
            self._drop_given_up()
        while self._may_start():
            batch = take_batch(
                self._pending, self._transport.limits, size_bytes=_size_bytes, kind=_is_follow_up
            )
            if not self.in_flight:
                self._busy_since = asyncio.get_running_loop().time()
            self.in_flight += 1
            was_full = self.in_flight >= self._limit.value
            request = asyncio.get_running_loop().create_task(
                self._request(batch, was_full=was_full)
            )
            self._requests.add(request)
            request.add_done_callback(self._requests.discard)

    def _drop_given_up(self) -> None:
        self.has_given_up = False
        given_up = [entry for entry in self._pending if entry.is_given_up]
        self._pending = deque(entry for entry in self._pending if not entry.is_given_up)
        for entry in given_up:
            self._dispatcher.settle(entry, GIVEN_UP)

    def _may_start(self) -> bool:
        limits = self._transport.limits
        most = 1 if limits.in_order else self._limit.value
        if not self._pending or self._is_paused or self.in_flight >= most:
            return False
        return len(self._pending) >= limits.max_entries or self.in_flight < EAGER_IN_FLIGHT

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
        again = []
        for entry, failure in zip(batch, failures, strict=True):
            is_last = entry.attempt >= SEND_ATTEMPTS or entry.is_given_up
            if failure is None:
                self.accepted_at = asyncio.get_running_loop().time()
            if failure is None or not failure.retryable or is_last:
                self._dispatcher.settle(entry, failure)
            else:
                again.append(entry)
        if again:
            self._send_again(again)
        self._pump()

    def _send_again(self, entries: list[_Entry]) -> None:
        """After a while; where there is an order, before all that wait behind them."""
        self._dispatcher.stats.retried += len(entries)
        later = asyncio.get_running_loop().call_later
        delays = [self._dispatcher.backoff_s(entry.attempt) for entry in entries]
        for entry in entries:
            entry.attempt += 1
        if self._transport.limits.in_order:
            self._is_paused = True
            self._pending.extendleft(reversed(entries))
            later(max(delays), self._resume)
            return
        for delay_s, entry in zip(delays, entries, strict=True):
            later(delay_s, self.add, entry)

    def _resume(self) -> None:
        self._is_paused = False
        self._pump()


STUCK: Final = SendFailure("its queue accepts nothing at the moment", retryable=True)

GIVEN_UP: Final = SendFailure("its caller has waited for long enough", retryable=True)


def _size_bytes(entry: _Entry) -> int:
    return len(entry.outgoing.body)


def _is_follow_up(entry: _Entry) -> bool:
    return entry.outgoing.is_follow_up


def _wake(waiting: "list[asyncio.Future[None]]") -> None:
    for future in waiting:
        if not future.done():
            future.set_result(None)
    waiting.clear()
