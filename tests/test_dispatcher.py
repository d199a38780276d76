"""The dispatcher against a transport that a test plays, so that time and answers are its own."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID, uuid4

import pytest
from asgiref.sync import ThreadSensitiveContext, sync_to_async

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
        return answer if isinstance(answer, list) else [answer] * len(batch)

    def answer(self, *failures: SendFailure | None) -> None:
        """What becomes of the entries of a request, in their order."""
        self.answers.put_nowait(list(failures))

    def names(self) -> list[str]:
        """The bodies of each request."""
        return [" ".join(each.body for each in batch) for batch in self.requests]

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


def test_a_request_does_not_need_the_thread_of_the_caller_who_has_started_it() -> None:
    class UsesTheDatabase(PlayedTransport):
        async def send(self, batch: Sequence[Outgoing]) -> Sequence[SendFailure | None]:
            answer = await super().send(batch)
            await sync_to_async(len)(batch)
            return answer

    async def run() -> None:
        transport = UsesTheDatabase()
        dispatcher = Dispatcher(lambda queue: transport, first_backoff_s=0)
        with ThreadPoolExecutor(1) as thread:
            async with ThreadSensitiveContext(executor=thread):
                call = asyncio.ensure_future(dispatcher.send([message()]))
                await settle()
        transport.answers.put_nowait(None)
        assert await call == {}

    asyncio.run(asyncio.wait_for(run(), 10))


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


# --- where there is an order ------------------------------------------------------------------

BUSY = SendFailure("busy", retryable=True)
NEVER = SendFailure("never", retryable=False)


def in_groups(names: str, *, durable: bool = True) -> list[Outgoing]:
    """Messages with these bodies, whose first letters are their groups."""
    return [
        Outgoing(
            Message(
                task_name="f", kwargs={}, invocation_id=uuid4(), durable=durable, group_key=name[0]
            ),
            name,
            "default",
        )
        for name in names.split()
    ]


def reasons(messages: list[Outgoing], failures: dict[UUID, str]) -> dict[str, str]:
    names = {each.message.invocation_id: each.body for each in messages}
    return {names[id]: reason for id, reason in failures.items()}


def test_of_each_group_one_message_is_on_its_way_and_groups_share_a_request() -> None:
    async def scene(transport: PlayedTransport, dispatcher: Dispatcher) -> None:
        call = asyncio.ensure_future(dispatcher.send(in_groups("a1 a2 b1 a3 c1 b2")))
        await settle()
        assert transport.names() == ["a1 b1 c1"]
        later = asyncio.ensure_future(dispatcher.send(in_groups("b3 d1")))
        await settle()
        assert transport.names()[1:] == ["d1"], "what is of no such group waits for nobody"

        for _ in range(4):
            transport.answers.put_nowait(None)
            await settle()

        assert (await call, await later) == ({}, {})
        assert transport.names() == ["a1 b1 c1", "d1", "a2 b2", "a3 b3"]

    play(scene, in_order=True)


def test_what_is_refused_for_now_holds_back_its_group_and_no_other() -> None:
    async def scene(transport: PlayedTransport, dispatcher: Dispatcher) -> None:
        call = asyncio.ensure_future(dispatcher.send(in_groups("a1 a2 b1 b2 b3")))
        await settle()
        transport.answer(BUSY, None)
        for _ in range(20):
            transport.answers.put_nowait(None)
        assert await call == {}

        sent = " ".join(transport.names()).split()
        assert [name for name in sent if name.startswith("a")] == ["a1", "a1", "a2"]
        assert [name for name in sent if name.startswith("b")] == ["b1", "b2", "b3"]

    play(scene, in_order=True)


@pytest.mark.parametrize("durable", [True, False])
def test_what_is_given_up_takes_those_behind_it_along(durable: bool) -> None:
    async def scene(transport: PlayedTransport, dispatcher: Dispatcher) -> None:
        messages = in_groups("a1 a2 b1 a3 b2", durable=durable)
        transport.answer(NEVER, None)
        transport.answer(None)

        failures = reasons(messages, await dispatcher.send(messages))

        assert transport.names() == ["a1 b1", "b2"]
        first = str(messages[0].message.invocation_id)
        assert failures.keys() == {"a1", "a2", "a3"}
        assert failures["a1"] == "never"
        assert all(first in failures[name] for name in ("a2", "a3"))
        assert (dispatcher.stats.failed, repr(dispatcher)[13:19]) == (3, "0 open")

    play(scene, in_order=True)


def test_nothing_overtakes_what_was_left_to_the_relay() -> None:
    left: set[UUID] = set()

    async def is_unsent(id: UUID) -> bool:
        await asyncio.sleep(0)
        return id in left

    async def scene(transport: PlayedTransport, dispatcher: Dispatcher) -> None:
        first, later, last = (in_groups(name) for name in ("a1", "a2", "a4"))
        direct = in_groups("a3", durable=False)
        transport.answer(NEVER)
        left.update(await dispatcher.send(first))

        left.update(await dispatcher.send(later))
        failures = await dispatcher.send(direct)
        assert transport.names() == ["a1"]
        assert left == {each.message.invocation_id for each in (*first, *later)}
        assert str(later[0].message.invocation_id) in reasons(direct, failures)["a3"]

        transport.answers.put_nowait(None)
        transport.answers.put_nowait(None)
        assert await dispatcher.send([*first, *later], True) == {}, "as the relay does"
        left.clear()
        transport.answers.put_nowait(None)
        assert await dispatcher.send(last) == {}
        assert transport.names() == ["a1", "a1", "a2", "a4"]

    play(scene, in_order=True, is_unsent=is_unsent)


def test_what_another_has_sent_for_it_holds_back_nobody() -> None:
    async def is_unsent(id: UUID) -> bool:
        return False

    async def scene(transport: PlayedTransport, dispatcher: Dispatcher) -> None:
        transport.answer(NEVER)
        await dispatcher.send(in_groups("a1"))
        for _ in range(3):
            transport.answers.put_nowait(None)
        calls = [dispatcher.send(in_groups(name)) for name in ("a2", "a3 b1", "a4")]
        assert await asyncio.gather(*calls) == [{}, {}, {}]
        assert transport.names()[0] == "a1"
        sent = " ".join(transport.names()[1:]).split()
        assert [name for name in sent if name.startswith("a")] == ["a2", "a3", "a4"]

    play(scene, in_order=True, is_unsent=is_unsent)


def test_where_nobody_knows_whether_it_was_sent_its_group_waits() -> None:
    async def is_unsent(id: UUID) -> bool:
        raise OSError("the database is away")

    async def scene(transport: PlayedTransport, dispatcher: Dispatcher) -> None:
        transport.answer(NEVER)
        await dispatcher.send(in_groups("a1"))

        assert len(await dispatcher.send(in_groups("a2"))) == 1
        assert transport.names() == ["a1"]

    play(scene, in_order=True, is_unsent=is_unsent)


def test_what_nobody_waits_for_any_more_is_dropped_with_those_behind_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lambda_tasks.enqueue.dispatcher.GIVE_UP_STORED_AFTER_S", 0.05)
    monkeypatch.setattr("lambda_tasks.enqueue.dispatcher.CHECK_CALLS_EVERY_S", 0.01)

    async def scene(transport: PlayedTransport, dispatcher: Dispatcher) -> None:
        hasty = in_groups("a1 a2")
        patient = in_groups("a3 b1")
        stored = asyncio.ensure_future(dispatcher.send(hasty))
        await settle()
        sent = asyncio.ensure_future(dispatcher.send(patient, True))
        assert reasons(hasty, await stored).keys() == {"a1", "a2"}
        transport.answer(None)
        transport.answer(None)

        failures = reasons(patient, await sent)

        assert failures.keys() == {"a3"}, "it would overtake what nobody sends now"
        assert sorted(transport.names()) == ["a1", "b1"]

    play(scene, in_order=True)


# --- the buffer, failures and statistics -------------------------------------------------------


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
        limit.record_answer(latency_ms / 1000, was_full=True)
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
        limit.record_answer(0.08, was_full=False)

    assert limit.value == in_flight.MIN_IN_FLIGHT


def test_a_queue_that_refuses_for_now_gets_half_as_many_requests_at_a_time() -> None:
    limit = InFlightLimit()
    before = in_flight_after(1_000, limit, quickest_ms=80, busy_ms=0.2)

    limit.record_failure()

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
