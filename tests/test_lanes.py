"""Where a lane's task does what it asks the database for."""

import asyncio
import threading
import uuid
from collections import Counter
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any

import pytest
from asgiref.sync import ThreadSensitiveContext, sync_to_async
from django.db import connections

from lambda_tasks import TaskContext, handler, runtime
from lambda_tasks.context import current_run
from lambda_tasks.core.lifecycle import Failed, Succeeded
from lambda_tasks.core.message import Message
from lambda_tasks.entrypoints.lambda_events import EventHandler
from lambda_tasks.execution.attempt import Attempt
from lambda_tasks.execution.finishing import Finisher
from lambda_tasks.execution.lane_thread import LaneThread
from lambda_tasks.execution.lanes import Lanes
from lambda_tasks.execution.run import Run
from lambda_tasks.local import LambdaContext
from lambda_tasks.models import TaskRecord
from lambda_tasks.ports import Delivery, Granted, ResolvedDelivery
from lambda_tasks.records.claims import RecordClaims
from tests.app import gated, tasks
from tests.app.models import Effect
from tests.conftest import Handle, body, record_of, sqs_event


def in_a_lane(scene: Any) -> None:
    async def run() -> None:
        thread = LaneThread()
        async with ThreadSensitiveContext(executor=thread):
            await scene(thread)
        thread.shutdown(wait=False)

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
        thread.call_first(lambda: happened.append("begun"))
        for number in range(2):
            await sync_to_async(happened.append)(f"call {number}")
        assert not thread.cancel_begin()

    in_a_lane(scene)

    assert happened == ["begun", "call 0", "call 1"]


def test_what_was_never_called_never_begins() -> None:
    happened: list[str] = []

    async def scene(thread: LaneThread) -> None:
        thread.call_first(lambda: happened.append("begun"))
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
        thread.call_first(begin)
        for _ in range(2):
            with pytest.raises(ConnectionError):
                await sync_to_async(happened.append)("too early")
        await sync_to_async(happened.append)("call")

    in_a_lane(scene)

    assert happened == ["tried", "tried", "tried", "call"]


def test_a_call_that_waits_when_its_run_ends_neither_begins_nor_runs() -> None:
    happened: list[str] = []

    async def scene(thread: LaneThread) -> None:
        is_free, run = threading.Event(), TaskContext(task_name="first")
        busy = asyncio.ensure_future(thread.call(is_free.wait))
        await asyncio.sleep(0)
        thread.call_first(lambda: happened.append("begun"))
        with thread.serving(run):
            token = current_run.set(run)
            waiting = asyncio.ensure_future(sync_to_async(happened.append)("too late"))
            current_run.reset(token)
            await asyncio.sleep(0)
        is_free.set()
        await busy
        with pytest.raises(RuntimeError, match=r"first .* has ended"):
            await waiting
        await thread.call(thread.after_failure, happened.append, "failed")

    in_a_lane(scene)

    assert happened == ["failed"]


def test_what_a_run_leaves_behind_does_not_begin_the_next_one() -> None:
    happened: list[str] = []

    async def scene(thread: LaneThread) -> None:
        first, second = (TaskContext(task_name=name) for name in ("first", "second"))
        with thread.serving(first):
            token = current_run.set(first)
            await sync_to_async(happened.append)("of the first")
            left_behind = asyncio.ensure_future(sync_to_async(happened.append)("too late"))
            current_run.reset(token)
        thread.call_first(lambda: happened.append("begun"))
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


def test_a_call_that_waits_for_the_thread_when_its_task_fails_writes_nothing(
    handle: Handle,
) -> None:
    assert handle(*(body(tasks.afail_beside_a_call) for _ in range(30))) == []

    connections.close_all()
    assert not Effect.objects.exists()


def test_what_a_task_sets_in_a_context_variable_is_not_seen_by_the_next_one_on_its_lane(
    handle: Handle, settings: Any
) -> None:
    settings.LAMBDA_TASKS_CONCURRENCY = 1
    handler.close()
    messages = [body(gated.leave_a_mark, name=str(number)) for number in range(3)]

    try:
        assert handle(*messages) == []
    finally:
        handler.close()

    assert [record_of(each).result for each in messages] == [["none", "none"]] * 3


def test_lanes_share_neither_a_thread_nor_what_surrounds_who_starts_them(
    transactional_db: None,
) -> None:
    place = str(uuid.uuid4())
    messages = [body(gated.meet_and_tell_thread, place=place, guests=2) for _ in range(2)]
    here = runtime.Runtime()
    executor = here.executor(concurrency=2)
    events = EventHandler(here, executor)

    async def handle_them() -> None:
        gated.mark.set("of who starts them")
        async with ThreadSensitiveContext():
            await events.handle(sqs_event(*messages), LambdaContext())
            await executor.aclose()
            await runtime.aclose(here)

    asyncio.run(handle_them())

    threads, marks = zip(*(record_of(each).result or () for each in messages), strict=True)
    assert len(set(threads)) == 2
    assert set(marks) == {"none"}


@pytest.mark.django_db(transaction=True)
def test_a_task_that_is_cancelled_as_it_starts_leaves_its_lane_at_work() -> None:
    async def scene() -> None:
        lanes = Lanes(1)
        cancelled, following = await sync_to_async(lambda: [run_of(1), run_of(2)])()

        async def start_cancelled() -> Attempt:
            # In the iteration of the event loop in which the task takes its first step.
            asyncio.get_running_loop().call_soon(lanes.cancel, [cancelled.claim])
            return make_attempt(cancelled, tasks.aadd)

        async def start_following() -> Attempt:
            return make_attempt(following, tasks.aadd)

        async with asyncio.timeout(60):
            ended = await lanes.run(start_cancelled)
            assert isinstance(ended.outcome, Failed)
            ended = await lanes.run(start_following)
            assert isinstance(ended.outcome, Succeeded)
        await lanes.aclose()
        await sync_to_async(connections.close_all)()

    asyncio.run(scene())


@pytest.mark.django_db(transaction=True)
def test_a_run_that_waits_begins_although_the_one_before_it_is_cancelled_as_it_starts() -> None:
    async def scene() -> None:
        lanes, is_starting = Lanes(1), asyncio.Event()
        following = await sync_to_async(run_of)(1)

        async def start_slowly() -> Attempt:
            is_starting.set()
            await asyncio.Event().wait()
            raise AssertionError("unreachable")

        async def start_following() -> Attempt:
            return make_attempt(following, tasks.aadd)

        cancelled = asyncio.ensure_future(lanes.run(start_slowly))
        await is_starting.wait()
        waiting = asyncio.ensure_future(lanes.run(start_following))
        await asyncio.sleep(0)
        cancelled.cancel()
        async with asyncio.timeout(60):
            assert isinstance((await waiting).outcome, Succeeded)
        await lanes.aclose()
        await sync_to_async(connections.close_all)()

    asyncio.run(scene())


def make_attempt(run: Run, task: Any) -> Attempt:
    return Attempt(run, task, finisher=Finisher(RecordClaims()), lock=NoLock())


def run_of(a: int) -> Run:
    id = uuid.uuid4()
    message = Message(task_name=tasks.aadd.name, kwargs={"a": a}, invocation_id=id)
    delivery = Delivery(id=str(id), source="default", fallback_id=id)
    resolved = ResolvedDelivery(delivery=delivery, message=message, task=tasks.aadd)
    verdicts = RecordClaims().claim([resolved], lease=timedelta(minutes=5), max_attempts=5)
    verdict = verdicts[id]
    assert isinstance(verdict, Granted)
    return Run(
        message=message,
        claim=verdict.claim,
        queue="default",
        max_retries=0,
        soft_s=60,
        hard_s=70,
    )


class NoLock:
    is_elsewhere = False

    def hold(self, key: str, *, timeout_s: float) -> AbstractContextManager[None]:
        return nullcontext()


@pytest.mark.django_db(transaction=True)
def test_a_task_that_is_cut_off_at_the_deadline_leaves_its_lane_to_the_next_event(
    handle: Handle, settings: Any
) -> None:
    settings.LAMBDA_TASKS_CONCURRENCY = 1
    handler.close()
    try:
        assert handle(body(tasks.wait, seconds=300), timeout_s=4) == [0]
        following = body(tasks.aadd, a=1)
        assert handle(following, timeout_s=60) == []
    finally:
        handler.close()

    assert record_of(following).status == "SUCCESS"
