"""Gathers messages, sends them in batches, sends again what may yet be accepted. Knows no AWS.

It never waits to fill a batch: a message leaves at once while few requests are in flight, and
gathers with others while more are. All of it runs on one event loop, so there are no locks.
"""

import asyncio
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

EAGER_IN_FLIGHT: Final = 4
"""Below so many requests in flight a batch leaves although it is not full. One would make a
single slow request hold up everybody; many would make requests of one message each."""

BUFFER_LIMIT: Final = 10_000
"""Messages that wait or are in flight before callers have to wait."""

SEND_ATTEMPTS: Final = 4
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
    """One caller's messages: how many are still open, and what failed."""

    open: int
    done: "asyncio.Future[None]"
    failures: dict[UUID, str] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class _Entry:
    outgoing: Outgoing
    call: _Call
    attempt: int = 1


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
        self._room: list[asyncio.Future[None]] = []
        self._idle: list[asyncio.Future[None]] = []

    def __repr__(self) -> str:
        in_flight = sum(stream.in_flight for stream in self._streams.values())
        return f"<Dispatcher [{self._open} open, {in_flight} requests in flight]>"

    async def send(self, messages: Sequence[Outgoing]) -> dict[UUID, str]:
        """Send messages; return the reason for each that was not accepted, by invocation id.

        Returns when each is accepted or given up. Waits first while the buffer is full.
        """
        if not messages:
            return {}
        call = _Call(open=len(messages), done=asyncio.get_running_loop().create_future())
        for start in range(0, len(messages), self._buffer_limit):
            part = messages[start : start + self._buffer_limit]
            if self._open >= self._buffer_limit:
                await self._wait_for_room()
            self._open += len(part)
            for outgoing in part:
                self._add(_Entry(outgoing, call))
        await call.done
        return call.failures

    async def drain(self) -> None:
        """Wait until nothing is open."""
        while self._open:
            idle = asyncio.get_running_loop().create_future()
            self._idle.append(idle)
            await idle

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
        call.open -= 1
        if not call.open and not call.done.done():
            call.done.set_result(None)
        self._open -= 1
        if self._room and self._open < self._buffer_limit:
            _wake(self._room)
        if self._idle and not self._open:
            _wake(self._idle)

    def _add(self, entry: _Entry) -> None:
        try:
            transport = self._transport_for(entry.outgoing.queue)
        except Exception as error:
            # A queue that is gone from the settings concerns its own messages only.
            self.settle(entry, SendFailure(str(error), retryable=False))
            return
        if transport not in self._streams:
            self._streams[transport] = _Stream(self, transport)
        self._streams[transport].add(entry)

    async def _wait_for_room(self) -> None:
        while self._open >= self._buffer_limit:
            room = asyncio.get_running_loop().create_future()
            self._room.append(room)
            await room


class _Stream:
    """The messages of one transport."""

    def __init__(self, dispatcher: Dispatcher, transport: Transport) -> None:
        self.in_flight = 0
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

    def _pump(self) -> None:
        self._is_pumping = False
        while self._may_start():
            batch = take_batch(self._pending, self._transport.limits, size_bytes=_size_bytes)
            self.in_flight += 1
            was_full = self.in_flight >= self._limit.value
            request = asyncio.get_running_loop().create_task(
                self._request(batch, was_full=was_full)
            )
            self._requests.add(request)
            request.add_done_callback(self._requests.discard)

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
            if failure is None or not failure.retryable or entry.attempt >= SEND_ATTEMPTS:
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


def _size_bytes(entry: _Entry) -> int:
    return len(entry.outgoing.body)


def _wake(waiting: "list[asyncio.Future[None]]") -> None:
    for future in waiting:
        if not future.done():
            future.set_result(None)
    waiting.clear()
