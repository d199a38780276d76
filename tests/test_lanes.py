"""Where a lane's task does what it asks the database for."""

import asyncio
import threading
from typing import Any

import pytest
from asgiref.sync import ThreadSensitiveContext, sync_to_async

from lambda_tasks.execution.lane_thread import LaneThread, thread_of


def in_a_lane(scene: Any) -> None:
    async def run() -> None:
        async with ThreadSensitiveContext() as context:
            thread = thread_of(context)
            assert isinstance(thread, LaneThread), "asgiref keeps its threads where it did"
            await scene(thread)

    asyncio.run(run())


def test_asgiref_uses_the_thread_of_the_lane() -> None:
    async def scene(thread: LaneThread) -> None:
        own = await thread.call(threading.get_ident)
        assert await sync_to_async(threading.get_ident)() == own
        assert own != threading.get_ident()

    in_a_lane(scene)


def test_what_a_lane_begins_with_comes_before_its_first_call_and_once() -> None:
    happened: list[str] = []

    async def scene(thread: LaneThread) -> None:
        thread.begins_with(lambda: happened.append("begun"))
        for number in range(2):
            await sync_to_async(happened.append)(f"call {number}")
        assert not thread.is_unused()

    in_a_lane(scene)

    assert happened == ["begun", "call 0", "call 1"]


def test_what_was_never_called_never_begins() -> None:
    happened: list[str] = []

    async def scene(thread: LaneThread) -> None:
        thread.begins_with(lambda: happened.append("begun"))
        assert thread.is_unused()
        await thread.call(happened.append, "later")

    in_a_lane(scene)

    assert happened == ["later"]


def test_what_could_not_begin_lets_no_call_through_until_it_can() -> None:
    happened: list[str] = []

    def begin() -> None:
        happened.append("tried")
        if len(happened) < 3:
            raise ConnectionError

    async def scene(thread: LaneThread) -> None:
        thread.begins_with(begin)
        for _ in range(2):
            with pytest.raises(ConnectionError):
                await sync_to_async(happened.append)("too early")
        await sync_to_async(happened.append)("call")

    in_a_lane(scene)

    assert happened == ["tried", "tried", "tried", "call"]
