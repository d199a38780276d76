"""Hooks: how often each is called, in which process, thread and context, and what its failure does.

And headers, which hooks can add.
"""

import asyncio
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.db import connection, transaction
from pydantic import SecretStr

from lambda_tasks import handler, hooks, runtime
from lambda_tasks.core.message import MAX_HEADERS_BYTES
from lambda_tasks.execution import attempt as attempts
from lambda_tasks.execution import lane_thread
from lambda_tasks.hooks import beside, calling
from lambda_tasks.local import LambdaContext, LocalSqs
from lambda_tasks.models import TaskRecord
from lambda_tasks.ports import Delivery
from lambda_tasks.records.clock import Now
from lambda_tasks.records.database import all_records
from tests.app import django_tasks, hooked, secretive, tasks
from tests.app.hooked import VARIABLE, Notebook
from tests.app.models import Effect
from tests.conftest import AMPLE_S, Handle, Task, body, record_of, relay, wait_for, wake_up
from tests.newcomer import ROOT, Newcomer, blocks

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def connect() -> Iterator[Callable[[str, Callable[[Any], object]], None]]:
    """Connect a function to the hook of a name, until the test ends."""

    def connect_one(name: str, receiver: Callable[[Any], object]) -> None:
        getattr(hooks, name).connect(receiver)

    yield connect_one
    for hook in hooks.ALL:
        hook.receivers = ()
    assert beside.flush(AMPLE_S)


Connect = Callable[[str, Callable[[Any], object]], None]


@pytest.fixture
def notebook(tmp_path: Path) -> Notebook:
    return Notebook(tmp_path / "notes")


@pytest.fixture
def connect_in_worker_process(
    handle: Handle, notebook: Notebook, settings: Any
) -> Iterator[Callable[..., None]]:
    """Connect the notebook, and functions of tests.app.hooked by name, where sync tasks run."""
    settings.LAMBDA_TASKS_PROCESSES = 1  # any idle process may take the next task
    handler.close()

    def connect_all(*started: str, limit_s: float = calling.HOOK_LIMIT_S) -> None:
        handle(
            body(hooked.connect, path=str(notebook.path), started=list(started), limit_s=limit_s)
        )

    yield connect_all
    handler.close()


NOTE_SENDS = """
import asyncio
from lambda_tasks import hooks

@hooks.sent.connect
async def note(message: hooks.Sent) -> None:
    await asyncio.sleep(0.1)
    print("noted")
"""
CALL_AND_EXIT = """
from shop.tasks import print_invoice
print_invoice.execute_many_on_commit({"order_id": id} for id in range(3))
"""


def _outcomes(notes: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(note["hook"], note["outcome"]) for note in notes]


def _assert_undisturbed(messages: Sequence[Any], notebook: Notebook) -> None:
    """Assert that each task has succeeded at once, and that the other hooks were called."""
    for message in messages:
        record = record_of(message)
        assert (record.status, record.n_attempts) == ("SUCCESS", 1)
        mine = [note for note in notebook.read() if note["id"] == str(record.id)]
        assert _outcomes(mine) == [("started", None), ("ended", "succeeded")]


# started and ended


def test_hooks_of_a_sync_task_are_called_where_it_runs(
    handle: Handle, connect_in_worker_process: Any, notebook: Notebook
) -> None:
    connect_in_worker_process("set_variable")
    message = body(hooked.see)

    handle(message)

    record = record_of(message)
    started, ended = notebook.read()[1:]  # the first is the end of what has connected them
    assert [started["hook"], ended["hook"]] == ["started", "ended"]
    assert (started["id"], started["attempt"]) == (str(record.id), 1)
    assert (ended["id"], ended["outcome"]) == (str(record.id), "succeeded")
    seen: Any = record.result
    for note in (started, ended):
        assert (note["pid"], note["thread"]) == (seen["pid"], seen["thread"])
        assert note["variable"] == f"set for {record.id}" == seen["variable"]
        assert not note["is_in_transaction"]
    assert seen["pid"] != os.getpid()


def test_an_async_hook_of_a_sync_task_shares_its_context(
    handle: Handle, connect_in_worker_process: Any, notebook: Notebook
) -> None:
    connect_in_worker_process("set_variable_later")
    message = body(hooked.see)

    handle(message)

    record = record_of(message)
    seen: Any = record.result
    assert seen["variable"] == f"set for {record.id}" == notebook.read("ended")[-1]["variable"]


@pytest.mark.parametrize("receiver", [hooked.set_variable, hooked.set_variable_later])
def test_hooks_of_an_async_task_are_called_where_it_runs(
    handle: Handle, connect: Connect, notebook: Notebook, receiver: Any
) -> None:
    before = VARIABLE.get()
    connect("started", receiver)
    connect("started", notebook.writer("started"))
    connect("ended", notebook.writer("ended"))
    messages = [body(hooked.asee) for _ in range(3)]

    handle(*messages)

    for message in messages:
        record = record_of(message)
        seen: Any = record.result
        assert seen["variable"] == f"set for {record.id}"
        mine = [note for note in notebook.read() if note["id"] == str(record.id)]
        assert _outcomes(mine) == [("started", None), ("ended", "succeeded")]
        for note in mine:
            assert (note["pid"], note["thread"]) == (os.getpid(), seen["thread"])
            assert note["is_in_loop"]
            assert note["variable"] == seen["variable"]
    assert VARIABLE.get() == before


def test_what_a_hook_writes_at_the_start_stays_where_the_task_is_rolled_back(
    handle: Handle, connect: Connect, connect_in_worker_process: Any
) -> None:
    connect("started", hooked.aleave_effect)
    connect_in_worker_process("leave_effect")

    handle(body(hooked.write_and_fail), body(hooked.awrite_and_fail))

    assert list(Effect.objects.values_list("name", flat=True)) == ["of a hook"] * 2


def test_what_a_hook_raises_is_logged_and_the_task_goes_on(
    handle: Handle,
    connect: Connect,
    connect_in_worker_process: Any,
    notebook: Notebook,
    caplog: pytest.LogCaptureFixture,
) -> None:
    connect_in_worker_process("fail")
    for name in ("started", "ended"):
        connect(name, hooked.fail)
        connect(name, notebook.writer(name))
    messages = [body(hooked.see), body(hooked.asee)]

    assert handle(*messages) == []

    _assert_undisturbed(messages, notebook)
    lines = [each for each in caplog.records if each.levelno == logging.ERROR]
    id = record_of(messages[1]).id
    assert [each.getMessage() for each in lines] == [
        f"tests.app.hooked.fail, connected to hooks.{name}, failed ({id})"
        for name in ("started", "ended")
    ]
    assert all(line.exc_info for line in lines)


@pytest.mark.parametrize("receiver", [hooked.stop, hooked.cancel, hooked.acancel, hooked.exit])
def test_what_a_hook_raises_is_logged_even_if_it_is_no_exception(
    handle: Handle,
    connect: Connect,
    connect_in_worker_process: Any,
    notebook: Notebook,
    caplog: pytest.LogCaptureFixture,
    receiver: Any,
) -> None:
    connect_in_worker_process(receiver.__name__)
    for name in ("started", "ended"):
        connect(name, receiver)
        connect(name, notebook.writer(name))
    messages = [body(hooked.see), body(hooked.asee)]

    assert handle(*messages) == []

    _assert_undisturbed(messages, notebook)
    id = record_of(messages[1]).id
    for name in ("started", "ended"):
        what = f"tests.app.hooked.{receiver.__name__}, connected to hooks.{name}, failed ({id})"
        assert caplog.text.count(what) == 1


@pytest.mark.parametrize("receiver", [hooked.leave_open, hooked.leave_autocommit_off])
@pytest.mark.parametrize("hook", ["started", "ended"])
def test_a_transaction_that_a_hook_leaves_open_is_rolled_back_and_the_task_goes_on(
    handle: Handle,
    connect: Connect,
    connect_in_worker_process: Any,
    caplog: pytest.LogCaptureFixture,
    hook: str,
    receiver: Any,
) -> None:
    if hook == "started":
        connect_in_worker_process(receiver.__name__)
    connect(hook, receiver)
    messages = [body(tasks.leave_effect, name="first"), body(tasks.aleave_effect, name="second")]

    assert handle(*messages) == []

    assert [record_of(message).status for message in messages] == ["SUCCESS"] * 2
    assert set(Effect.objects.values_list("name", flat=True)) == {"first", "second"}
    what = f"A function that is called when {tasks.aleave_effect.name} {hook[:-2]}s"
    assert what in caplog.text


def test_a_hook_that_blocks_the_thread_of_a_task_that_has_ended_changes_nothing(
    handle: Handle, connect: Connect, notebook: Notebook, monkeypatch: Any
) -> None:
    may_end = threading.Event()

    async def block(event: object) -> None:
        await sync_to_async(may_end.wait)(AMPLE_S)

    monkeypatch.setattr(attempts, "HOOK_LIMIT_S", 0.2)
    monkeypatch.setattr(lane_thread, "LIBRARY_STATEMENT_LIMIT_S", 0.2)
    connect("ended", notebook.writer("ended"))
    connect("ended", block)
    messages = [body(tasks.aadd, a=1), body(tasks.aleave_effect, name="x")]

    assert handle(*messages) == []

    may_end.set()
    assert [record_of(message).status for message in messages] == ["SUCCESS"] * 2
    assert beside.flush(AMPLE_S)
    assert _outcomes(notebook.read()) == [("ended", "succeeded")] * 2


@pytest.mark.parametrize("hook", ["started", "ended"])
def test_the_end_of_a_run_with_hooks_is_committed_after_one_without(
    handle: Handle, connect: Connect, settings: Any, caplog: pytest.LogCaptureFixture, hook: str
) -> None:
    settings.LAMBDA_TASKS_CONCURRENCY = 1
    handler.close()
    before, *after = map(body, (tasks.await_a_little, tasks.await_a_little, hooked.ignore))
    try:
        handle(before)
        connect(hook, lambda event: None)
        for message in after:
            handle(message)
            assert record_of(message).status == "SUCCESS"
    finally:
        handler.close()
    assert [each for each in caplog.records if each.levelno == logging.ERROR] == []


@pytest.mark.parametrize("receiver", [hooked.hang, hooked.ahang])
@pytest.mark.parametrize("hook", ["started", "ended"])
def test_a_hook_of_an_async_task_that_hangs_is_interrupted(
    handle: Handle,
    connect: Connect,
    monkeypatch: Any,
    caplog: pytest.LogCaptureFixture,
    hook: str,
    receiver: Any,
) -> None:
    monkeypatch.setattr(attempts, "HOOK_LIMIT_S", 0.2)
    connect(hook, receiver)
    messages = [body(hooked.asee), body(tasks.aadd, a=1)]

    assert handle(*messages) == []

    assert [record_of(message).status for message in messages] == ["SUCCESS", "SUCCESS"]
    what = f"tests.app.hooked.{receiver.__name__}, connected to hooks.{hook}, was interrupted"
    assert caplog.text.count(what) == 2


@pytest.mark.parametrize("receiver", ["hang", "ahang"])
def test_a_hook_of_a_sync_task_that_hangs_is_interrupted(
    handle: Handle, connect_in_worker_process: Any, notebook: Notebook, receiver: str
) -> None:
    connect_in_worker_process(receiver, limit_s=0.2)
    message = body(hooked.see)

    assert handle(message) == []

    assert record_of(message).status == "SUCCESS"
    assert notebook.read("ended")[-1]["outcome"] == "succeeded"


def test_each_attempt_ends_with_its_outcome(
    handle: Handle, queue: str, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    ends: list[hooks.Ended] = []
    connect("ended", ends.append)
    for task in (hooked.retry_once, hooked.continue_once, hooked.ignore, hooked.awrite_and_fail):
        ends.clear()
        id = task.using(headers={"tenant": 7}).execute_on_commit().id
        handle(wake_up(id, task.name))
        following = TaskRecord.objects.filter(retry_of=id).first()
        if following is not None:
            TaskRecord.objects.update(run_after=Now())
            handle(wake_up(following.id, task.name))
            assert following.headers == {"tenant": 7}
            assert ends[0].next_id == following.id
            following.refresh_from_db()
            assert following.result == {"tenant": 7}
        outcomes = {
            hooked.retry_once: ["retried", "succeeded"],
            hooked.continue_once: ["continued", "succeeded"],
            hooked.ignore: ["succeeded"],
            hooked.awrite_and_fail: ["failed"],
        }[task]
        assert [each.outcome for each in ends] == outcomes
        assert all(each.root_id == id and each.headers == {"tenant": 7} for each in ends)
        assert all(each.ran_s is not None and each.ran_s < AMPLE_S for each in ends)
    assert isinstance(ends[0].error, ValueError)
    assert ends[0].traceback is not None
    assert "the task has failed" in ends[0].traceback


def test_a_process_that_died_has_its_end_announced_by_its_parent(
    handle: Handle, connect: Connect, connect_in_worker_process: Any, notebook: Notebook
) -> None:
    connect_in_worker_process()
    connect("ended", notebook.writer("ended"))
    message = body(tasks.exit_at_once, code=3)

    handle(message)

    assert beside.flush(AMPLE_S)
    id = str(record_of(message).id)
    started, ended = (note for note in notebook.read() if note["id"] == id)
    assert (ended["outcome"], ended["error"]) == ("failed", "WorkerProcessDied")
    assert started["pid"] != ended["pid"] == os.getpid()
    assert ended["thread"] == "lambda_tasks-hooks"


def test_what_is_interrupted_by_shutdown_ends_as_lost(handle: Handle, connect: Connect) -> None:
    ends: list[hooks.Ended] = []
    back: list[hooks.GivenBack] = []
    connect("ended", ends.append)
    connect("given_back", back.append)
    message = body(tasks.wait, seconds=600)

    def is_interrupted() -> bool:  # on a busy machine, some events end before it has begun
        handle(message, timeout_s=3)
        assert beside.flush(AMPLE_S)
        return bool(ends)

    wait_for(is_interrupted)

    (end,) = ends
    assert (end.invocation_id, end.outcome, end.attempt) == (record_of(message).id, "lost", 1)
    assert back[-1].reason == "interrupted by shutdown"
    assert {each.reason for each in back[:-1]} <= {"not started"}


def test_a_hook_gets_no_secret_of_a_task(handle: Handle, queue: str, connect: Connect) -> None:
    ends: list[hooks.Ended] = []
    connect("ended", ends.append)

    handle(body(secretive.fail, token=SecretStr("a secret token"), password="swordfish"))

    (end,) = ends
    assert type(end.error).__name__ == "TaskFailed"
    assert "a secret token" not in f"{end!r} {end.error}"


def test_djangos_own_task_calls_hooks_too(handle: Handle, queue: str, connect: Connect) -> None:
    events: list[Any] = []
    for name in ("enqueued", "started", "ended"):
        connect(name, events.append)
    name = "tests.app.django_tasks.aadd"

    id = django_tasks.aadd.enqueue(1, 2).id
    handle(wake_up(TaskRecord.objects.get().id, name, backend="default"))

    kinds = [type(each) for each in events]
    assert kinds == [hooks.Enqueued, hooks.Started, hooks.Ended]
    assert {(str(each.invocation_id), each.task_name) for each in events} == {(id, name)}


def test_an_eager_run_calls_hooks_in_the_caller(
    settings: Any, connect: Connect, notebook: Notebook
) -> None:
    settings.LAMBDA_TASKS_EAGER = True
    before = VARIABLE.get()
    connect("started", hooked.set_variable)
    connect("ended", notebook.writer("ended"))

    for task in (hooked.see, hooked.asee):
        task.execute_on_commit()

    ends = notebook.read()
    assert [note["outcome"] for note in ends] == ["succeeded"] * 2
    assert all(note["thread"] == threading.current_thread().name for note in ends)
    assert all(note["variable"] == f"set for {note['id']}" for note in ends)
    assert VARIABLE.get() == before


def test_a_run_that_waits_for_its_lock_has_not_started(handle: Handle, connect: Connect) -> None:
    events: list[Any] = []
    back: list[hooks.GivenBack] = []
    connect("started", events.append)
    connect("ended", events.append)
    connect("given_back", back.append)
    waiting, giving_up = body(hooked.wait_for_lock), body(tasks.aalone, key="a")
    prefix, locks = "lambda_tasks.singleton_lock", runtime.current().locks
    with (
        locks.hold(f"{prefix}.{hooked.wait_for_lock.name}", timeout_s=60),
        locks.hold(f"{prefix}.{tasks.aalone.name}.key='a'", timeout_s=60),
    ):
        handle(waiting, giving_up)

    assert beside.flush(AMPLE_S)
    assert events == []
    assert [each.reason for each in back] == ["waits for its lock"]
    assert record_of(giving_up).status == "SUCCESS"  # it gives up, as retry_singleton is False


# enqueued, and headers


def test_enqueued_is_called_once_a_call_in_the_callers_thread_transaction_and_context(
    queue: str, connect: Connect, notebook: Notebook
) -> None:
    connect("enqueued", notebook.writer("enqueued"))
    VARIABLE.set("of the caller")
    with transaction.atomic():
        ids = [tasks.add.execute_on_commit(a=1).id]
        calls = [{"a": 2}, {"a": 3}]
        ids += [each.id for each in tasks.add.execute_many_on_commit(calls)]
    VARIABLE.set("")

    notes = notebook.read()
    assert [note["id"] for note in notes] == list(map(str, ids))
    for note in notes:
        assert note["thread"] == threading.current_thread().name
        assert note["is_in_transaction"]
        assert note["variable"] == "of the caller"


@pytest.mark.parametrize("is_async", [False, True])
def test_enqueued_of_an_async_call_sees_the_callers_transaction_and_context(
    queue: str, connect: Connect, is_async: bool
) -> None:
    seen: list[tuple[str, bool]] = []

    def look(call: hooks.Enqueued) -> None:
        seen.append((VARIABLE.get(), connection.in_atomic_block))
        Effect.objects.create(name="of a hook")
        call.headers["tenant"] = 7

    async def alook(call: hooks.Enqueued) -> None:
        await Effect.objects.acreate(name="of a hook")
        seen.append((VARIABLE.get(), True))
        call.headers["tenant"] = 7

    async def call_many() -> None:
        VARIABLE.set("of the caller")
        await asyncio.gather(*(tasks.add.aexecute_on_commit(a=number) for number in range(3)))

    connect("enqueued", alook if is_async else look)
    with transaction.atomic():
        async_to_sync(call_many)()
        assert seen == [("of the caller", True)] * 3
        transaction.set_rollback(True)

    assert not Effect.objects.exists()
    assert not TaskRecord.objects.exists()
    async_to_sync(call_many)()
    assert [record.headers for record in TaskRecord.objects.all()] == [{"tenant": 7}] * 3


def test_headers_of_hooks_and_of_using_reach_the_record_the_run_and_its_calls(
    handle: Handle, queue: str, connect: Connect
) -> None:
    def add_language(call: hooks.Enqueued) -> None:
        call.headers["language"] = "de"

    def inherit(call: hooks.Enqueued) -> None:
        if call.parent is not None:
            call.headers.update(call.parent.headers)

    connect("enqueued", add_language)
    connect("enqueued", inherit)
    id = tasks.aenqueue_another.using(headers={"tenant": 7}).execute_on_commit(name="x").id

    handle(wake_up(id, tasks.aenqueue_another.name))

    both = {"tenant": 7, "language": "de"}
    assert [each.headers for each in TaskRecord.objects.order_by("enqueued_at")] == [both, both]


@pytest.mark.parametrize("task", [hooked.see, hooked.asee])
def test_a_direct_message_carries_its_headers(handle: Handle, task: Task) -> None:
    payload = task.using(headers={"tenant": 7}).serialize()
    message = payload["message"] | {"headers": payload["headers"]}

    handle(json.dumps(message))

    record = TaskRecord.objects.get()
    seen: Any = record.result
    assert record.headers == {"tenant": 7} == seen["headers"]


def test_a_stored_payload_keeps_its_headers(queue: str) -> None:
    from lambda_tasks.payload import SQSLambdaTask

    payload = hooked.see.using(headers={"tenant": 7}).serialize()

    SQSLambdaTask.model_validate(payload).execute_on_commit()

    assert TaskRecord.objects.get().headers == {"tenant": 7}


@pytest.mark.parametrize(
    "bad",
    [
        {"tenant": object()},
        {"tenant": "x" * MAX_HEADERS_BYTES},
        {7: "a number"},
        {"ratio": float("nan")},
        {"text": "\0"},
    ],
)
def test_headers_that_can_not_travel_are_refused_at_the_call_and_dropped_from_a_hook(
    queue: str, connect: Connect, caplog: pytest.LogCaptureFixture, bad: Any
) -> None:
    with pytest.raises((TypeError, ValueError), match=r"headers of tests\.app\.tasks\.add"):
        tasks.add.using(headers=bad)

    def add_bad(call: hooks.Enqueued) -> None:
        call.headers.update(bad)

    def add_good(call: hooks.Enqueued) -> None:
        call.headers["tenant"] = 7

    connect("enqueued", add_bad)
    connect("enqueued", add_good)
    tasks.add.execute_on_commit(a=1)

    assert TaskRecord.objects.get().headers == {"tenant": 7}
    assert "add_bad, connected to hooks.enqueued, failed" in caplog.text


def test_a_body_with_too_large_headers_is_refused(
    handle: Handle, caplog: pytest.LogCaptureFixture
) -> None:
    message = json.loads(body(tasks.aadd, a=1)) | {"headers": {"x": "y" * MAX_HEADERS_BYTES}}

    assert handle(json.dumps(message)) == [0]

    assert "'headers' have more than 4096 bytes" in caplog.text


def test_what_a_hook_changes_within_headers_stays_with_its_call(
    queue: str, connect: Connect
) -> None:
    def add_page(call: hooks.Enqueued) -> None:
        call.headers["trace"]["pages"].append(len(call.headers["trace"]["pages"]) + 1)

    connect("enqueued", add_page)
    task = tasks.add.using(headers={"trace": {"pages": []}})

    for _ in range(2):
        task.execute_on_commit(a=1)

    assert [each.headers for each in TaskRecord.objects.all()] == [{"trace": {"pages": [1]}}] * 2


def test_what_a_hook_changes_in_the_headers_of_an_event_does_not_travel(
    handle: Handle, queue: str, connect: Connect
) -> None:
    def add_span(run: hooks.Started) -> None:
        run.headers["span"] = object()  # type: ignore[index]

    connect("started", add_span)
    id = hooked.retry_once.using(headers={"tenant": 7}).execute_on_commit().id

    handle(wake_up(id, hooked.retry_once.name))

    assert TaskRecord.objects.get(retry_of=id).headers == {"tenant": 7}


def test_what_an_enqueued_hook_raises_is_logged_and_the_call_goes_on(
    queue: str, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    connect("enqueued", hooked.fail)

    tasks.add.execute_on_commit(a=1)
    async_to_sync(tasks.add.aexecute_on_commit)(a=1)

    assert TaskRecord.objects.count() == 2
    assert caplog.text.count("tests.app.hooked.fail, connected to hooks.enqueued, failed") == 2


# Beside: sent, given_back, failed_unbegun, cancelled, relayed, ticked


def test_sent_is_called_once_for_each_accepted_send(
    queue: str, sqs: LocalSqs, connect: Connect
) -> None:
    threads: list[str] = []
    sends: list[hooks.Sent] = []

    def note_thread(event: object) -> None:
        threads.append(threading.current_thread().name)

    connect("sent", note_thread)
    connect("sent", sends.append)
    ids = {each.id for each in tasks.add.execute_many_on_commit([{"a": n} for n in range(25)])}

    assert beside.flush(AMPLE_S)
    assert sorted(each.invocation_id for each in sends) == sorted(ids)
    assert set(threads) == {"lambda_tasks-hooks"}
    TaskRecord.objects.update(sent_at=None, look_at=Now() - timedelta(minutes=1))
    sends.clear()
    assert relay() == 25
    assert beside.flush(AMPLE_S)
    assert {each.invocation_id for each in sends} == ids


@pytest.mark.parametrize("is_async", [False, True])
def test_sent_is_called_where_the_table_is_the_queue(
    queue: str, connect: Connect, is_async: bool
) -> None:
    sends: list[hooks.Sent] = []
    connect("sent", sends.append)
    add = tasks.add.using(queue="table")

    call = async_to_sync(add.aexecute_on_commit)(a=1) if is_async else add.execute_on_commit(a=1)

    assert beside.flush(AMPLE_S)
    assert [(each.invocation_id, each.queue) for each in sends] == [(call.id, "table")]


@pytest.mark.parametrize("is_async", [False, True])
def test_a_hook_that_enqueues_is_not_called_for_its_own_calls(
    queue: str, connect: Connect, is_async: bool
) -> None:
    others: list[str] = []

    def audit(call: hooks.Enqueued) -> None:
        tasks.leave_effect.execute_on_commit(name=call.task_name)

    async def aaudit(call: hooks.Enqueued) -> None:
        await tasks.leave_effect.aexecute_on_commit(name=call.task_name)

    connect("enqueued", aaudit if is_async else audit)
    connect("enqueued", lambda call: others.append(call.task_name))

    tasks.add.execute_on_commit(a=1)
    async_to_sync(tasks.add.aexecute_on_commit)(a=2)

    names = list(TaskRecord.objects.order_by("task_name").values_list("task_name", flat=True))
    assert names == [tasks.add.name] * 2 + [tasks.leave_effect.name] * 2
    assert sorted(others) == names


def test_sent_is_not_called_for_what_no_queue_has_accepted(settings: Any, connect: Connect) -> None:
    settings.LAMBDA_TASKS_QUEUES = {"default": "http://127.0.0.1:9/000000000000/none"}
    sends: list[hooks.Sent] = []
    connect("sent", sends.append)

    tasks.add.execute_on_commit(a=1)

    assert beside.flush(AMPLE_S)
    assert sends == []


def test_given_back_has_the_reason_once_a_delivery(handle: Handle, connect: Connect) -> None:
    back: list[hooks.GivenBack] = []
    connect("given_back", back.append)
    held = body(tasks.aadd, a=1)
    handle(held)
    assert back == []
    running = {"status": "RUNNING", "lease_until": Now() + timedelta(hours=1)}
    TaskRecord.objects.update(claim_token="0ac50489-7fd1-4132-ac78-2c6384a6d486", **running)

    assert handle(held, "no JSON") == [0, 1]

    assert beside.flush(AMPLE_S)
    by_reason = {each.reason: each for each in back}
    assert sorted(by_reason) == ["held", "refused"]
    assert by_reason["held"].invocation_id == record_of(held).id
    assert by_reason["held"].task_name == tasks.aadd.name
    assert by_reason["refused"].invocation_id is None


@pytest.mark.usefixtures("transactional_db")
def test_given_back_has_what_returns_before_any_of_its_batch_begins(connect: Connect) -> None:
    """As in a worker that stops while it receives."""
    back: list[hooks.GivenBack] = []
    connect("given_back", back.append)
    ended: list[hooks.BatchEnded] = []
    connect("batch_ended", ended.append)
    message = body(tasks.aadd, a=1)
    arriving = [
        Delivery(id=id, source="default", fallback_id=uuid4(), body=each)
        for id, each in (("1", message), ("2", "no JSON"))
    ]

    async def claim_and_return() -> None:
        here = runtime.Runtime()
        executor = here.executor(concurrency=1, processes=1)
        try:
            batch = await executor.claim_batch(nullcontext(arriving))
            await executor.return_batch(batch, on_settled=lambda *_: None)
        finally:
            await executor.aclose()
            await runtime.aclose(here)

    asyncio.run(claim_and_return())

    assert beside.flush(AMPLE_S)
    assert {each.delivery_id: each.reason for each in back} == {"1": "not started", "2": "refused"}
    assert [(each.runs, each.n_given_back) for each in ended] == [((), {"default": 1, "": 1})]
    assert record_of(message).status == "QUEUED"


@pytest.mark.usefixtures("queue")
@pytest.mark.parametrize("changes", [{"task_name": "tests.app.tasks.gone"}, {"kwargs": {}}])
@pytest.mark.parametrize("task", [tasks.add, tasks.aadd])
def test_what_this_release_can_not_run_is_given_back_and_fails_unbegun(
    handle: Handle, connect: Connect, task: Task, changes: dict[str, Any]
) -> None:
    events: list[tuple[str, Any]] = []

    def note(name: str, event: object) -> None:
        events.append((name, event))

    for name in ("started", "ended", "given_back", "failed_unbegun"):
        connect(name, partial(note, name))
    id = task.execute_on_commit(a=1).id
    TaskRecord.objects.update(**changes)
    record = TaskRecord.objects.get(id=id)

    handle(wake_up(id, record.task_name))
    TaskRecord.objects.update(refused_at=Now() - timedelta(hours=1))
    handle(wake_up(id, record.task_name))

    assert beside.flush(AMPLE_S)
    assert [name for name, _ in events] == ["given_back", "failed_unbegun"]
    assert {(each.task_name, each.invocation_id) for _, each in events} == {(record.task_name, id)}
    assert "LAMBDA_TASKS_DEPLOYMENT_GRACE" in events[1][1].reason


def test_failed_unbegun_is_called_for_what_another_finds_lost(
    handle: Handle, queue: str, connect: Connect
) -> None:
    failed: list[hooks.FailedUnbegun] = []
    connect("failed_unbegun", failed.append)
    id = tasks.aleave_effect.using(headers={"tenant": 7}).execute_on_commit(name="x").id
    lost = {"status": "RUNNING", "n_attempts": 5, "start_time": Now(), "lease_until": Now()}
    TaskRecord.objects.filter(id=id).update(**lost)

    handle(wake_up(id, tasks.aleave_effect.name))

    assert beside.flush(AMPLE_S)
    (event,) = failed
    assert (event.invocation_id, event.headers) == (id, {"tenant": 7})
    assert "Its worker died" in event.reason


def test_cancelled_is_called_after_the_commit_once_for_each(queue: str, connect: Connect) -> None:
    cancelled: list[hooks.Cancelled] = []
    connect("cancelled", cancelled.append)
    calls = [{"a": number} for number in range(3)]
    ids = {each.id for each in tasks.add.execute_many_on_commit(calls)}
    finished = TaskRecord.objects.create(task_name="x", kwargs={}, status="SUCCESS")

    with transaction.atomic():
        assert all_records().cancel() == 3
        transaction.set_rollback(True)
    assert beside.flush(AMPLE_S)
    assert cancelled == []
    assert all_records().cancel() == 3
    assert all_records().cancel() == 0

    assert beside.flush(AMPLE_S)
    assert {each.invocation_id for each in cancelled} == ids
    assert len(cancelled) == 3
    finished.refresh_from_db()
    assert finished.status == "SUCCESS"


@pytest.mark.usefixtures("_warm_handler")
def test_a_round_of_the_relay_and_a_tick_are_called_once(queue: str, connect: Connect) -> None:
    rounds: list[hooks.Relayed] = []
    ticks: list[hooks.Ticked] = []
    connect("relayed", rounds.append)
    connect("ticked", ticks.append)
    tasks.add.execute_on_commit(a=1)
    TaskRecord.objects.update(sent_at=None, look_at=Now() - timedelta(minutes=1))

    answer = handler.handler({"lambda_tasks": "tick"}, LambdaContext())

    assert answer == {"relayed": 1, "scheduled": 0}
    assert beside.flush(AMPLE_S)
    assert rounds == [hooks.Relayed(n_due=1, n_sent=1)]
    assert ticks == [hooks.Ticked(n_relayed=1)]


def test_an_async_hook_is_called_beside_too(queue: str, connect: Connect) -> None:
    names: list[str] = []

    async def note(event: hooks.Sent) -> None:
        record = await TaskRecord.objects.aget(id=event.invocation_id)
        names.append(record.task_name)

    connect("sent", note)
    tasks.add.execute_on_commit(a=1)

    assert beside.flush(AMPLE_S)
    assert names == [tasks.add.name]


def test_a_hook_that_hangs_beside_holds_up_only_itself(
    connect: Connect, monkeypatch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(beside, "HOOK_LIMIT_S", 0.1)
    go_on = threading.Event()
    calls: list[object] = []
    seen: list[hooks.Relayed] = []

    def hang(event: object) -> None:
        calls.append(event)
        assert go_on.wait(AMPLE_S)

    connect("relayed", hang)
    connect("relayed", seen.append)
    for number in range(3):
        beside.call_beside(hooks.relayed, hooks.Relayed(number, number))
    try:
        wait_for(lambda: calls)
        time.sleep(0.2)
        assert beside.flush(AMPLE_S)

        assert [each.n_due for each in seen] == [0, 1, 2]
        assert len(calls) == 1
        assert caplog.text.count("has not returned for 0.1 s") == 1
        assert f"dropped: {__name__}.{hang.__qualname__} has not returned." in caplog.text
        assert "too slow" not in caplog.text
    finally:
        go_on.set()
    wait_for(lambda: not beside._Process.beside.stuck)
    beside.call_beside(hooks.relayed, hooks.Relayed(3, 3))
    wait_for(lambda: len(calls) == 2)


def test_what_no_hook_can_keep_up_with_is_dropped_and_counted(
    connect: Connect, monkeypatch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(beside._Process, "beside", beside._Beside())
    monkeypatch.setattr(beside._Process.beside.waiting, "maxsize", 2)
    go_on = threading.Event()
    connect("relayed", lambda _: go_on.wait(AMPLE_S))

    for _ in range(10):
        beside.call_beside(hooks.relayed, hooks.Relayed(0, 0))

    assert beside._Process.beside.dropped["hooks are too slow"].n_calls >= 7
    assert "calls of hooks were dropped: hooks are too slow." in caplog.text
    go_on.set()


def test_async_hooks_are_called_beside_before_a_script_ends(tmp_path: Path) -> None:
    newcomer = Newcomer.with_first_task(tmp_path)
    newcomer.write("shop/tasks.py", NOTE_SENDS, add=True)

    noted = newcomer.run_with_errors("manage.py", "shell", "-c", CALL_AND_EXIT)

    assert "RuntimeError" not in noted
    assert noted.count("noted") == 3


def test_a_forked_child_makes_no_call_of_its_parent(connect: Connect) -> None:
    go_on = threading.Event()
    connect("relayed", lambda _: go_on.wait(AMPLE_S))
    for _ in range(3):
        beside.call_beside(hooks.relayed, hooks.Relayed(0, 0))

    pid = os.fork()
    if pid == 0:
        os._exit(0 if beside.flush(0.5) else 1)

    _, status = os.waitpid(pid, 0)
    go_on.set()
    assert os.waitstatus_to_exitcode(status) == 0


# Connecting


def test_a_function_is_connected_once_until_it_is_disconnected() -> None:
    hook: hooks.Hook[hooks.Relayed] = hooks.Hook("relayed")
    seen: list[hooks.Relayed] = []

    assert not hook
    assert hook.connect(seen.append) == seen.append
    hook.connect(seen.append)
    assert hook
    calling.call(hook, hooks.Relayed(1, 1))
    assert seen == [hooks.Relayed(1, 1)]
    assert hook.disconnect(seen.append)
    assert not hook.disconnect(seen.append)
    assert not hook


def _takes_nothing() -> None: ...


def _generates(event: object) -> Iterator[None]:
    yield


@pytest.mark.parametrize(
    ("receiver", "reason"),
    [
        (7, r"hooks\.ended\.connect\(\) needs a function, and got 7"),
        (_takes_nothing, "one positional argument, the event"),
        (_generates, "it is a generator"),
    ],
)
def test_what_can_not_be_called_is_refused_when_it_is_connected(receiver: Any, reason: str) -> None:
    with pytest.raises(TypeError, match=reason):
        hooks.ended.connect(receiver)


SEEING = """
from django.utils import translation
from lambda_tasks import TaskContext, lambda_task

@lambda_task(takes_context=True)
def see(context: TaskContext) -> list[str]:
    return [translation.get_language(), context.headers["language"], str(context.headers["tenant"])]

@lambda_task
def call_see() -> None:
    see.execute_on_commit()
"""
CALLS = """
from django.utils import translation
from shop import calls, inheriting, seeing
from lambda_tasks.models import TaskRecord

assert calls.per_tenant.name == "shop.tasks.confirm"
with translation.override("de"):
    seeing.call_see.using(headers={"tenant": 7}).execute_on_commit()
"""
SEEN = """
from lambda_tasks.models import TaskRecord

record = TaskRecord.objects.get(task_name="shop.seeing.see")
assert record.result == ["de", "de", "7"], (record.result, record.traceback)
"""


def test_the_page_about_hooks_works_as_it_says(tmp_path: Path) -> None:
    shown = blocks((ROOT / "docs" / "hooks.md").read_text())
    shop = Newcomer.with_first_task(tmp_path, settings="LANGUAGE_CODE = 'en'")
    for file, code in shown.items():
        shop.write(file, code)
    shop.write("shop/seeing.py", SEEING)
    shop.write("shop/tasks.py", "\nfrom shop import inheriting, seeing\n", add=True)
    shop.run("manage.py", "shell", stdin=CALLS)

    for _ in range(2):
        shop.run("manage.py", "lambda_tasks", "worker", "--once")

    shop.run("manage.py", "shell", stdin=SEEN)
