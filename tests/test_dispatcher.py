"""The dispatcher against a transport that a test plays, so that time and answers are its own."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from uuid import uuid4

import pytest

from lambda_tasks.core.batching import MAX_IN_FLIGHT, BatchLimits
from lambda_tasks.core.message import Message, Outgoing
from lambda_tasks.enqueue import in_flight
from lambda_tasks.enqueue.dispatcher import Dispatcher
from lambda_tasks.enqueue.in_flight import InFlightLimit
from lambda_tasks.ports import SendFailure


class PlayedTransport:
    """Each request waits until the test answers it."""

    def __init__(self, *, in_order: bool = False) -> None:
        self.limits = BatchLimits(max_entries=10, max_bytes=1000, in_order=in_order)
        self.requests: list[Sequence[Outgoing]] = []
        self.answers: asyncio.Queue[Any] = asyncio.Queue()

    async def send(self, batch: Sequence[Outgoing]) -> Sequence[SendFailure | None]:
        self.requests.append(batch)
        answer = await self.answers.get()
        if isinstance(answer, Exception):
            raise answer
        return [answer] * len(batch)

    def sizes(self) -> list[int]:
        return [len(batch) for batch in self.requests]


def message(size_bytes: int = 10) -> Outgoing:
    return Outgoing(
        Message(task_name="f", kwargs={}, invocation_id=uuid4()), "x" * size_bytes, "default"
    )


def play(
    scene: Callable[[PlayedTransport, Dispatcher], Awaitable[None]],
    *,
    in_order: bool = False,
    **options: Any,
) -> None:
    async def run() -> None:
        transport = PlayedTransport(in_order=in_order)
        await scene(transport, Dispatcher(lambda queue: transport, first_backoff_s=0, **options))

    asyncio.run(asyncio.wait_for(run(), 10))


async def settle() -> None:
    """Let everything that is ready happen."""
    for _ in range(10):
        await asyncio.sleep(0)


def test_a_lone_message_leaves_at_once() -> None:
    async def scene(transport: PlayedTransport, dispatcher: Dispatcher) -> None:
        call = asyncio.ensure_future(dispatcher.send([message()]))
        await settle()
        assert transport.sizes() == [1]
        transport.answers.put_nowait(None)
        assert await call == {}

    play(scene)


def test_while_requests_are_in_flight_messages_gather() -> None:
    async def scene(transport: PlayedTransport, dispatcher: Dispatcher) -> None:
        calls = []
        for _ in range(12):
            calls.append(asyncio.ensure_future(dispatcher.send([message()])))
            await settle()
        assert transport.sizes() == [1, 1, 1, 1], "the rest waits for a request to return"
        for _ in range(5):
            transport.answers.put_nowait(None)
        await asyncio.gather(*calls)
        assert transport.sizes() == [1, 1, 1, 1, 8]

    play(scene)


def test_a_batch_is_cut_by_bytes() -> None:
    async def scene(transport: PlayedTransport, dispatcher: Dispatcher) -> None:
        call = asyncio.ensure_future(dispatcher.send([message(400) for _ in range(5)]))
        for _ in range(3):
            transport.answers.put_nowait(None)
        await call
        assert transport.sizes() == [2, 2, 1]

    play(scene)


def test_where_there_is_an_order_one_request_waits_for_the_other() -> None:
    async def scene(transport: PlayedTransport, dispatcher: Dispatcher) -> None:
        messages = [message() for _ in range(30)]
        call = asyncio.ensure_future(dispatcher.send(messages))
        later = asyncio.ensure_future(dispatcher.send([message()]))
        await settle()
        assert len(transport.requests) == 1

        for answer in (SendFailure("busy", retryable=True), None, None, None):
            transport.answers.put_nowait(answer)
            await asyncio.sleep(0.01)
        transport.answers.put_nowait(None)

        assert (await call, await later) == ({}, {})
        first, again, *_ = transport.requests
        assert first == again, "before those behind it"
        assert [each for batch in transport.requests[1:4] for each in batch] == messages

    play(scene, in_order=True)


def test_a_full_buffer_makes_callers_wait_and_loses_nothing() -> None:
    async def scene(transport: PlayedTransport, dispatcher: Dispatcher) -> None:
        first = asyncio.ensure_future(dispatcher.send([message() for _ in range(5)]))
        await settle()
        second = asyncio.ensure_future(dispatcher.send([message()]))
        await settle()
        assert transport.sizes() == [5], "the second caller waits for room"
        transport.answers.put_nowait(None)
        await first
        transport.answers.put_nowait(None)
        assert await second == {}
        assert transport.sizes() == [5, 1]

    play(scene, buffer_limit=5)


def test_what_may_yet_be_accepted_is_tried_four_times() -> None:
    async def scene(transport: PlayedTransport, dispatcher: Dispatcher) -> None:
        for _ in range(4):
            transport.answers.put_nowait(SendFailure("busy", retryable=True))
        sent = message()
        failures = await dispatcher.send([sent])
        assert failures == {sent.message.invocation_id: "busy"}
        assert transport.sizes() == [1, 1, 1, 1]

    play(scene)


@pytest.mark.parametrize(("attempt", "most_s"), [(1, 0.1), (2, 0.4), (3, 1.6)])
def test_each_time_it_waits_for_longer(attempt: int, most_s: float) -> None:
    dispatcher = Dispatcher(lambda queue: PlayedTransport())

    waits = [dispatcher.backoff_s(attempt) for _ in range(100)]

    assert all(most_s / 2 <= wait <= most_s for wait in waits)


def test_what_will_never_be_accepted_is_tried_once() -> None:
    async def scene(transport: PlayedTransport, dispatcher: Dispatcher) -> None:
        transport.answers.put_nowait(SendFailure("no such queue", retryable=False))
        assert list((await dispatcher.send([message()])).values()) == ["no such queue"]
        assert transport.sizes() == [1]

    play(scene)


def test_a_transport_that_raises_fails_its_own_batch_and_no_more() -> None:
    async def scene(transport: PlayedTransport, dispatcher: Dispatcher) -> None:
        transport.answers.put_nowait(RuntimeError("a bug"))
        assert "a bug" in str(await dispatcher.send([message()]))
        transport.answers.put_nowait(None)
        assert await dispatcher.send([message()]) == {}

    play(scene)


def test_draining_waits_for_what_is_open() -> None:
    async def scene(transport: PlayedTransport, dispatcher: Dispatcher) -> None:
        await dispatcher.drain()
        call = asyncio.ensure_future(dispatcher.send([message()]))
        await settle()
        drained = asyncio.ensure_future(dispatcher.drain())
        await settle()
        assert not drained.done()
        assert repr(dispatcher) == "<Dispatcher [1 open, 1 requests in flight]>"
        transport.answers.put_nowait(None)
        await asyncio.gather(call, drained)

    play(scene)


@pytest.mark.parametrize("answer", [None, SendFailure("no", retryable=False)])
def test_the_stats_count_what_became_of_messages(answer: Any) -> None:
    async def scene(transport: PlayedTransport, dispatcher: Dispatcher) -> None:
        transport.answers.put_nowait(answer)
        await dispatcher.send([message(), message()])
        stats = dispatcher.stats
        assert (stats.requests, stats.accepted + stats.failed) == (1, 2)
        assert stats.accepted == (2 if answer is None else 0)

    play(scene)


# --- how many requests are in flight --------------------------------------------------------


def in_flight_after(
    answers: int, limit: InFlightLimit, *, quickest_ms: float, busy_ms: float
) -> int:
    """With a queue that answers after `quickest_ms` and has, or whose sender has, `busy_ms` of
    work with each request."""
    for _ in range(answers):
        latency_ms = max(quickest_ms, limit.value * busy_ms)
        limit.answered(latency_ms / 1000, was_full=True)
    return limit.value


@pytest.mark.parametrize(
    ("quickest_ms", "busy_ms", "least", "most"),
    [
        (8, 0.2, 40, 100),  # forty saturate it
        (80, 0.2, 256, 256),  # four hundred would
        (80, 1.0, 80, 200),
        (0.5, 0.2, 16, 40),  # sixteen saturate it, and more would but wait
    ],
)
def test_as_many_requests_are_in_flight_as_saturate_a_queue(
    quickest_ms: float, busy_ms: float, least: int, most: int
) -> None:
    for answers in (1_000, 10_000, 100_000):
        limit = InFlightLimit()
        value = in_flight_after(answers, limit, quickest_ms=quickest_ms, busy_ms=busy_ms)
        assert least <= value <= most, answers


def test_a_queue_that_moves_away_is_saturated_again() -> None:
    limit = InFlightLimit()
    in_flight_after(1_000, limit, quickest_ms=8, busy_ms=0.2)

    assert in_flight_after(3_000, limit, quickest_ms=80, busy_ms=0.2) == MAX_IN_FLIGHT


def test_requests_that_the_limit_did_not_hold_back_do_not_raise_it() -> None:
    limit = InFlightLimit()
    for _ in range(1_000):
        limit.answered(0.08, was_full=False)

    assert limit.value == in_flight.MIN_IN_FLIGHT


def test_a_queue_that_refuses_for_now_gets_half_as_many_requests_at_a_time() -> None:
    limit = InFlightLimit()
    before = in_flight_after(1_000, limit, quickest_ms=80, busy_ms=0.2)

    limit.failed()

    assert limit.value == before // 2


def test_quick_refusals_are_no_reason_to_send_more_at_a_time() -> None:
    async def scene(transport: PlayedTransport, dispatcher: Dispatcher) -> None:
        calls = asyncio.ensure_future(dispatcher.send([message() for _ in range(5_000)]))
        for answered in range(300):
            await settle()
            assert len(transport.requests) - answered == in_flight.MIN_IN_FLIGHT
            transport.answers.put_nowait(SendFailure("slow down", retryable=True))
        calls.cancel()

    play(scene)
