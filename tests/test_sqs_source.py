"""What a worker tells SQS of the messages that it has taken."""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import Any

import pytest

from lambda_tasks.ports import DONE, RETURNED, Settlement
from lambda_tasks.queues import sqs_deliveries as sources

Entries = dict[str, int | None]
"""What is asked for by a request: message ids, and how long each is to be invisible."""


class PlayedQueue:
    """Hands out these messages once, and writes down what it hears of them."""

    def __init__(self, *ids: str) -> None:
        self._ids = ids
        self.heard: list[tuple[str, Entries]] = []

    async def call(self, operation: str, **parameters: Any) -> Any:
        if operation == "receive_message":
            ids, self._ids = self._ids, ()
            return {"Messages": [{"MessageId": id, "ReceiptHandle": id, "Body": ""} for id in ids]}
        entries = {each["Id"]: each.get("VisibilityTimeout") for each in parameters["Entries"]}
        self.heard.append((operation, entries))
        return {}

    def shown(self) -> list[Entries]:
        return [entries for name, entries in self.heard if name == VISIBILITY]


VISIBILITY = "change_message_visibility_batch"
URL = "https://sqs.eu-west-1.amazonaws.com/1/default"
IDS = tuple(f"00000000-0000-0000-0000-{number:012}" for number in range(12))


def play(queue: PlayedQueue, scene: Callable[[sources.SqsSource], Awaitable[None]]) -> None:
    client: Any = queue

    async def run() -> None:
        source = sources.SqsSource(URL, client, polls=client)
        with await source.receive(10):
            pass
        await scene(source)
        await source.aclose()

    asyncio.run(asyncio.wait_for(run(), 60))


async def heard(queue: PlayedQueue, condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


@pytest.fixture
def quick_heart(monkeypatch: Any) -> None:
    monkeypatch.setattr(sources, "HEARTBEAT_S", 0.02)


def test_a_heartbeat_keeps_what_is_worked_on_invisible_and_nothing_else(quick_heart: None) -> None:
    queue = PlayedQueue(*IDS[:4])

    async def scene(source: sources.SqsSource) -> None:
        await heard(queue, queue.shown)
        source.settle(IDS[0], DONE)
        source.settle(IDS[1], RETURNED)
        before = len(queue.shown())
        await heard(queue, lambda: len(queue.shown()) > before + 1)

    play(queue, scene)

    assert queue.shown()[0] == dict.fromkeys(IDS[:4], sources.VISIBILITY_TIMEOUT_S)
    assert queue.shown()[-1] == dict.fromkeys(IDS[2:4], sources.VISIBILITY_TIMEOUT_S)


def test_a_heartbeat_of_many_messages_takes_more_than_one_request(quick_heart: None) -> None:
    queue = PlayedQueue(*IDS)

    async def scene(source: sources.SqsSource) -> None:
        await heard(queue, lambda: len(queue.shown()) >= 2)

    play(queue, scene)

    first, second = queue.shown()[:2]
    assert (len(first), len(second)) == (10, 2)
    assert first | second == dict.fromkeys(IDS, sources.VISIBILITY_TIMEOUT_S)


def test_what_is_to_come_back_at_a_time_is_made_visible_then() -> None:
    queue = PlayedQueue(*IDS[:3])

    async def scene(source: sources.SqsSource) -> None:
        for id, seconds in zip(IDS, (0.0, 6.5, None), strict=False):
            source.settle(id, Settlement(is_final=False, retry_after_s=seconds))

    play(queue, scene)

    assert queue.heard == [(VISIBILITY, {IDS[0]: 0}), (VISIBILITY, {IDS[1]: 7})]


class FullQueue(PlayedQueue):
    """Answers requests by tens while it has messages; the ones of these numbers fail."""

    def __init__(self, n_messages: int, *, failing: Collection[int] = ()) -> None:
        super().__init__(*(f"message-{number}" for number in range(n_messages)))
        self.waits_s: list[int] = []
        self.most_at_once = 0
        self._n_open = 0
        self._failing = failing
        self.answers = asyncio.Event()
        self.answers.set()

    async def call(self, operation: str, **parameters: Any) -> Any:
        if operation != "receive_message":
            return await super().call(operation, **parameters)
        self.waits_s.append(parameters["WaitTimeSeconds"])
        number = len(self.waits_s)
        self._n_open += 1
        self.most_at_once = max(self.most_at_once, self._n_open)
        await asyncio.sleep(0.01)
        await self.answers.wait()
        self._n_open -= 1
        if number in self._failing:
            raise ConnectionError(f"request {number}")
        most = parameters["MaxNumberOfMessages"]
        ids, self._ids = self._ids[:most], self._ids[most:]
        return {"Messages": [{"MessageId": id, "ReceiptHandle": id, "Body": ""} for id in ids]}


def receive_all(queue: FullQueue, *limits: int) -> list[int]:
    """Receive up to each of the limits, and return how many messages came."""
    client: Any = queue
    found: list[int] = []

    async def run() -> None:
        source = sources.SqsSource(URL, client, polls=client)
        for limit in limits:
            with await source.receive(limit) as deliveries:
                found.append(len(deliveries))
        await source.aclose()

    asyncio.run(asyncio.wait_for(run(), 60))
    return found


def test_a_full_queue_is_asked_by_several_requests_at_once_and_an_empty_one_by_one() -> None:
    queue = FullQueue(42)

    assert receive_all(queue, 10, 25, 40, 40, 40) == [10, 25, 7, 0, 0]
    long = sources.LONG_POLL_S
    assert queue.waits_s == [long, 0, 0, 0, *[0] * 4, long, long]
    assert queue.most_at_once == 4


def test_where_none_of_several_requests_finds_anything_one_waits() -> None:
    queue = FullQueue(10)

    assert receive_all(queue, 10, 40) == [10, 0]
    assert queue.waits_s == [sources.LONG_POLL_S, 0, 0, 0, 0, sources.LONG_POLL_S]


def test_a_request_that_fails_keeps_no_message_of_the_others(caplog: Any) -> None:
    assert receive_all(FullQueue(40, failing={3}), 10, 40) == [10, 30]
    assert "A request for messages of the queue default failed" in caplog.text


def test_where_all_requests_fail_the_worker_hears_of_it() -> None:
    with pytest.raises(ConnectionError, match="request 2"):
        receive_all(FullQueue(40, failing={2, 3}), 10, 20)


def test_what_several_requests_bring_to_a_worker_that_stops_goes_back_at_once() -> None:
    queue = FullQueue(45, failing={3})

    async def scene(source: sources.SqsSource) -> None:
        queue.answers.clear()
        receiving = asyncio.ensure_future(source.receive(40))
        await heard(queue, lambda: len(queue.waits_s) == 5)
        receiving.cancel()
        await asyncio.wait([receiving])
        queue.answers.set()

    play(queue, scene)

    assert sorted(id for each in queue.shown() for id in each) == sorted(
        f"message-{number}" for number in range(10, 40)
    )
    assert {seconds for each in queue.shown() for seconds in each.values()} == {0}


def test_a_request_that_does_not_wait_is_given_up_as_soon_as_any_other() -> None:
    long, short = FullQueue(10), FullQueue(10)

    async def run() -> None:
        polls: Any = long
        client: Any = short
        source = sources.SqsSource(URL, client, polls=polls)
        for limit in (10, 20):
            with await source.receive(limit):
                pass
        await source.aclose()

    asyncio.run(asyncio.wait_for(run(), 60))

    assert (long.waits_s, short.waits_s) == ([sources.LONG_POLL_S], [0, 0])
