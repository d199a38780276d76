"""Where a lane's task does what it asks the database for."""

import asyncio
import threading
from collections import Counter
from typing import Any

import pytest
from asgiref.sync import ThreadSensitiveContext, sync_to_async
from django.db import connections

from lambda_tasks import TaskContext, handler
from lambda_tasks.context import current_run
from lambda_tasks.execution.lane_thread import LaneThread
from lambda_tasks.models import TaskRecord
from tests.app import tasks
from tests.app.models import Effect
from tests.conftest import Handle, body


def in_a_lane(scene: Any) -> None:
    async def run() -> None:
        thread = LaneThread()
        async with ThreadSensitiveContext(executor=thread):
            await scene(thread)
        thread.shutdown()

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
        assert not thread.cancel_begin()

    in_a_lane(scene)

    assert happened == ["begun", "call 0", "call 1"]


def test_what_was_never_called_never_begins() -> None:
    happened: list[str] = []

    async def scene(thread: LaneThread) -> None:
        thread.begins_with(lambda: happened.append("begun"))
        assert thread.cancel_begin()
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


def test_what_a_run_leaves_behind_does_not_begin_the_next_one() -> None:
    happened: list[str] = []

    async def scene(thread: LaneThread) -> None:
        first, second = (TaskContext(task_name=name) for name in ("first", "second"))
        with thread.serving(first):
            token = current_run.set(first)
            await sync_to_async(happened.append)("of the first")
            left_behind = asyncio.ensure_future(sync_to_async(happened.append)("too late"))
            current_run.reset(token)
        thread.begins_with(lambda: happened.append("begun"))
        with thread.serving(second), pytest.raises(RuntimeError, match=r"first .* has ended"):
            await left_behind
        assert thread.cancel_begin()

    in_a_lane(scene)

    assert happened == ["of the first"]


def test_what_a_failed_task_leaves_running_writes_nothing_and_harms_no_other(
    handle: Handle, settings: Any
) -> None:
    settings.LAMBDA_TASKS_CONCURRENCY = 1
    handler.close()
    straying = [body(tasks.afail_beside_others) for _ in range(3)]
    idle = [body(tasks.await_a_little) for _ in range(3)]
    writing = [body(tasks.aleave_effect, name=str(number)) for number in range(3)]
    mixed = [each for group in zip(straying, idle, writing, strict=True) for each in group]

    try:
        assert handle(*mixed) == []
    finally:
        handler.close()

    connections.close_all()
    assert sorted(Effect.objects.values_list("name", flat=True)) == ["0", "1", "2"]
    ended = TaskRecord.objects.values_list("task_name", "status")
    assert Counter(status for _, status in ended) == {"FAILED": 3, "SUCCESS": 6}
