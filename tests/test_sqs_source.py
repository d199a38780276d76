"""What a worker tells SQS of the messages that it has taken."""

import asyncio
from collections.abc import Awaitable, Callable
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
