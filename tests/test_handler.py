"""One event after another through the handler: who comes back, and what the records say."""

import asyncio
import gc
import json
import os
import signal
import subprocess
import sys
import threading
import uuid
from contextlib import suppress
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import psutil
import pytest
from asgiref.sync import async_to_sync
from django.core.cache import caches
from django.db import connection
from redis import Redis

from lambda_tasks import conf, handler, runtime
from lambda_tasks.execution.executor import Executor
from lambda_tasks.local import LambdaContext
from lambda_tasks.models import LimitPlace, TaskRecord
from tests.app import gated, tasks
from tests.app.models import Effect
from tests.conftest import Handle, Task, body, record_of, sqs_event, wait_for
from tests.servers.redis_server import RedisServer

SUCCESS = TaskRecord.TaskStatus.SUCCESS
FAILED = TaskRecord.TaskStatus.FAILED
RETRYING = TaskRecord.TaskStatus.RETRYING


@pytest.mark.parametrize("task", [tasks.add, tasks.aadd])
def test_a_task_that_returns_is_a_success_with_its_result(handle: Handle, task: Task) -> None:
    message = body(task, a=1)

    failures = handle(message)

    record = record_of(message)
    assert failures == []
    assert (record.status, record.result, record.traceback) == (SUCCESS, 3, None)
    assert (record.task_name, record.kwargs, record.queue) == (task.name, {"a": 1}, "default")
    assert (record.n_retries, record.n_attempts) == (0, 1)
    assert record.start_time is not None
    assert record.end_time is not None
    assert record.duration is not None


@pytest.mark.parametrize("task", [tasks.write_and_fail, tasks.awrite_and_fail])
def test_a_task_that_raises_is_failed_and_its_writes_are_rolled_back(
    handle: Handle, task: Task
) -> None:
    message = body(task, name="gone")

    failures = handle(message)

    record = record_of(message)
    assert failures == []
    assert record.status == FAILED
    assert record.traceback is not None
    assert "ValueError: failed after writing gone" in record.traceback
    assert record.traceback.count("File ") == 1, "only the task's own frames are shown"
    assert not Effect.objects.exists()


def test_a_task_that_has_given_up_its_transaction_has_failed(handle: Handle) -> None:
    message = body(tasks.give_up_the_transaction)

    assert handle(message) == []

    assert record_of(message).status == FAILED


def test_without_atomic_the_writes_of_a_failed_task_stay(handle: Handle) -> None:
    message = body(tasks.write_and_fail_without_a_transaction, name="stays")

    handle(message)

    assert record_of(message).status == FAILED
    assert Effect.objects.get().name == "stays"


@pytest.mark.parametrize("task", [tasks.leave_effect, tasks.aleave_effect])
def test_a_finished_invocation_is_acknowledged_and_not_run_again(
    handle: Handle, task: Task
) -> None:
    message = body(task, name="once")

    failures = [handle(message), handle(message), handle(message, message)]

    assert failures == [[], [], []]
    assert Effect.objects.count() == 1


def test_two_copies_in_one_batch_run_once_and_the_second_comes_back(handle: Handle) -> None:
    message = body(tasks.aleave_effect, name="once")

    failures = handle(message, message)

    assert failures == [1]
    assert Effect.objects.count() == 1
    assert handle(message) == []


@pytest.mark.parametrize("good", [0, 1])
def test_of_two_records_with_one_message_id_neither_acknowledges_the_other(
    handle: Handle, good: int
) -> None:
    message = body(tasks.aleave_effect, name="once")
    bodies = ["no json"]
    bodies.insert(good, message)
    event = sqs_event(*bodies)
    id = event["Records"][1]["messageId"] = event["Records"][0]["messageId"]

    answer = handler.handler(event, LambdaContext())

    assert answer == {"batchItemFailures": [{"itemIdentifier": id}]}
    assert record_of(message).status == SUCCESS


def test_two_records_with_one_message_id_that_both_end_are_acknowledged(handle: Handle) -> None:
    event = sqs_event(body(tasks.aadd, a=1), body(tasks.aadd, a=2))
    event["Records"][1]["messageId"] = event["Records"][0]["messageId"]

    answer = handler.handler(event, LambdaContext())

    assert answer == {"batchItemFailures": []}
    assert TaskRecord.objects.filter(status=SUCCESS).count() == 2


def test_what_is_delivered_while_another_holds_the_lease_comes_back(handle: Handle) -> None:
    message = body(tasks.leave_effect, name="held")
    handle(message)
    TaskRecord.objects.update(status="RUNNING", claim_token=uuid.uuid4())

    failures = handle(message)

    assert failures == [0]
    assert Effect.objects.count() == 1


def test_what_a_dead_worker_left_is_taken_over_when_its_lease_has_run_out(handle: Handle) -> None:
    message = body(tasks.leave_effect, name="taken over")
    handle(message)
    Effect.objects.all().delete()
    TaskRecord.objects.update(
        status="RUNNING", claim_token=uuid.uuid4(), lease_until=datetime(2020, 1, 1, tzinfo=UTC)
    )

    failures = handle(message)

    record = record_of(message)
    assert failures == []
    assert (record.status, record.n_attempts) == (SUCCESS, 2)
    assert Effect.objects.count() == 1


def test_what_was_started_too_often_is_failed_and_comes_back_for_the_dead_letters(
    handle: Handle,
) -> None:
    message = body(tasks.leave_effect, name="poison")
    handle(message)
    Effect.objects.all().delete()
    TaskRecord.objects.update(
        status="RUNNING", n_attempts=5, lease_until=datetime(2020, 1, 1, tzinfo=UTC)
    )

    failures = handle(message)

    assert failures == [0]
    assert record_of(message).status == FAILED
    assert not Effect.objects.exists()


def test_a_cancelled_invocation_is_acknowledged_and_not_run(handle: Handle) -> None:
    message = body(tasks.leave_effect, name="cancelled")
    handle(message)
    Effect.objects.all().delete()
    TaskRecord.objects.update(status="CANCELLED")

    assert handle(message) == []
    assert not Effect.objects.exists()


def test_a_lease_outlives_the_function(handle: Handle) -> None:
    message = body(tasks.tell_lease)

    handle(message, timeout_s=60)

    lease_s = record_of(message).result
    assert lease_s is not None
    assert lease_s > 60


def test_a_durable_message_without_its_record_is_not_run(handle: Handle) -> None:
    content = json.loads(body(tasks.leave_effect, name="ghost")) | {"durable": True}

    assert handle(json.dumps(content)) == [0]
    assert not Effect.objects.exists()


@pytest.mark.parametrize(
    "refused",
    [
        "",
        "no json",
        "[]",
        "null",
        "{}",
        '{"task_name": "tests.app.tasks.add"}',
        '{"task_name": 3, "kwargs": {}}',
        '{"task_name": "tests.app.tasks.add", "kwargs": []}',
        '{"task_name": "tests.app.tasks.add", "kwargs": {"a": NaN}}',
        '{"task_name": "tests.app.tasks.add", "kwargs": {"a": 1, "a": 2}}',
        '{"task_name": "tests.app.tasks.add", "kwargs": {"a": ' + "9" * 5000 + "}}",
        '{"task_name": "tests.app.tasks.add", "kwargs": {"a": ' + "[" * 100_000 + "}}",
        '{"task_name": "tests.app.tasks.echo", "kwargs": {"value": "\\u0000"}}',
        '{"task_name": "tests.app.tasks.echo", "kwargs": {"value": "\\ud800"}}',
        '{"task_name": "tests.app.tasks.add", "kwargs": {"a": 1}, "invocation_id": "no uuid"}',
        '{"task_name": "tests.app.tasks.add", "kwargs": {"a": 1}, "n_retries": -1}',
        '{"task_name": "tests.app.tasks.add", "kwargs": {"a": 1}, "v": 2}',
        '{"task_name": "tests.app.tasks.unknown", "kwargs": {}}',
        '{"task_name": "tests.app.tasks.not_a_task", "kwargs": {}}',
        '{"task_name": "tests.app.gone.task", "kwargs": {}}',
        '{"task_name": "os.system", "kwargs": {"command": "true"}}',
        '{"task_name": "tests.conftest.body", "kwargs": {}}',
        '{"task_name": "..", "kwargs": {}}',
        '{"task_name": "", "kwargs": {}}',
        None,
        7,
    ],
)
def test_a_refused_body_comes_back_without_a_record_and_its_neighbours_run(
    handle: Handle, refused: object
) -> None:
    before, after = body(tasks.add, a=1), body(tasks.aadd, a=2)

    failures = handle(before, refused, after)

    assert failures == [1]
    assert TaskRecord.objects.count() == 2
    assert {record_of(before).status, record_of(after).status} == {SUCCESS}


def test_a_body_of_an_older_producer_runs_under_its_message_id(handle: Handle) -> None:
    handle('{"task_name": "tests.app.tasks.add", "kwargs": {"a": 1}, "from_a_later_release": 1}')

    assert TaskRecord.objects.get().status == SUCCESS


def test_a_message_under_an_alias_runs(handle: Handle) -> None:
    handle('{"task_name": "gone.module.old_name", "kwargs": {}}')

    assert TaskRecord.objects.get().result == "still found"


def test_typed_arguments_arrive_as_their_types(handle: Handle) -> None:
    message = body(
        tasks.typed,
        moment=datetime(2026, 1, 2, tzinfo=UTC),
        day=date(2026, 1, 2),
        amount=Decimal("1.10"),
        key=uuid.uuid4(),
        colour=tasks.Colour.RED,
        path=Path("/a/b"),
        point=tasks.Point(1, 2.5),
        order=tasks.Order(id=1, lines=[tasks.Point(1, 2.0)]),
        anything={"a": [1, None]},
    )

    handle(message)

    assert record_of(message).result == [
        "datetime", "date", "Decimal", "UUID", "Colour", "PosixPath", "Point", "Order", "dict",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["return_what_is_no_json"])
def test_a_result_that_is_no_json_fails_the_task_and_names_the_type(
    handle: Handle, name: str
) -> None:
    message = body(getattr(tasks, name), name="x")

    handle(message)

    record = record_of(message)
    assert record.status == FAILED
    assert "TypeError" in (record.traceback or "")
    assert "object" in (record.traceback or "")
    assert not Effect.objects.exists()


def test_an_ignored_error_is_a_success_with_its_traceback_and_without_its_writes(
    handle: Handle,
) -> None:
    message = body(tasks.ignored, name="x")

    handle(message)

    record = record_of(message)
    assert record.status == SUCCESS
    assert "KeyError" in (record.traceback or "")
    assert not Effect.objects.exists()


def test_a_retried_task_leaves_a_queued_record_that_is_linked_to_it(
    handle: Handle, queue: str
) -> None:
    message = body(tasks.limited, name="x")

    handle(message)

    first = record_of(message)
    retry = TaskRecord.objects.exclude(id=first.id).get()
    assert (first.status, retry.status, retry.n_retries) == (RETRYING, "QUEUED", 1)
    assert (retry.retry_of, retry.root_id) == (first.id, first.id)
    assert retry.sent_at is not None
    assert retry.run_after is not None
    assert retry.enqueued_at is not None
    assert 30 < (retry.run_after - retry.enqueued_at).total_seconds() < 36


def test_a_retry_that_can_not_be_sent_waits_for_the_relay_and_disturbs_no_neighbour(
    handle: Handle, settings: Any
) -> None:
    gone = {"default": "http://127.0.0.1:9/000000000000/gone"}
    settings.LAMBDA_TASKS_QUEUES = settings.LAMBDA_TASKS_QUEUES | gone
    message = body(tasks.limited, name="x")
    neighbour = body(tasks.add, a=1)

    failures = handle(message, neighbour)

    assert failures == []
    assert (record_of(message).status, record_of(neighbour).status) == (RETRYING, SUCCESS)
    retry = TaskRecord.objects.get(status="QUEUED")
    assert (retry.retry_of, retry.sent_at) == (record_of(message).id, None)


def test_a_retry_waits_for_its_delay_although_the_first_was_due_at_a_certain_time(
    handle: Handle, queue: str
) -> None:
    message = json.loads(body(tasks.limited, name="x"))
    due = message | {"run_after": datetime(2026, 1, 2, tzinfo=UTC).isoformat()}

    handle(json.dumps(due))

    retry = TaskRecord.objects.get(status="QUEUED")
    assert retry.run_after is not None
    assert retry.enqueued_at is not None
    assert 30 < (retry.run_after - retry.enqueued_at).total_seconds() < 36


@pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite adds no constraint to a table")
def test_a_run_whose_retry_the_database_refuses_has_not_ended(handle: Handle, queue: str) -> None:
    message = body(tasks.limited, name="x")
    table = TaskRecord._meta.db_table
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE {table} ADD CONSTRAINT no CHECK (n_retries = 0)")
    try:
        failures = handle(message)
    finally:
        with connection.cursor() as cursor:
            cursor.execute(f"ALTER TABLE {table} DROP CONSTRAINT no")

    assert failures == [0]
    assert record_of(message).status == "RUNNING", "or nothing would ever retry it"


def test_a_task_without_retries_has_none(handle: Handle, queue: str, settings: Any) -> None:
    settings.LAMBDA_TASKS_MAX_RETRIES = 5
    message = body(tasks.limited_to_one_run)

    handle(message)

    assert record_of(message).status == FAILED
    assert TaskRecord.objects.count() == 1


def test_the_last_retry_fails_with_the_limit_and_the_error(handle: Handle, queue: str) -> None:
    message = body(tasks.limited, _n_retries=1, name="x")

    handle(message)

    record = record_of(message)
    assert record.status == FAILED
    assert "RateLimited" in (record.traceback or "")
    assert "MaxRetriesExceededError" in (record.traceback or "")
    assert TaskRecord.objects.count() == 1


@pytest.mark.parametrize("delays", [[7], [None, 7, 3]])
def test_a_task_may_ask_for_a_retry_in_a_task_group(
    handle: Handle, queue: str, delays: list[float | None]
) -> None:
    message = body(tasks.ask_for_a_retry_in_a_group, delays=delays)

    assert handle(message) == []

    record = record_of(message)
    assert (record.status, record.exception_class) == ("RETRYING", "lambda_tasks.errors.Retry")
    assert "from a group" in (record.traceback or "")
    assert TaskRecord.objects.get(retry_of=record.id).status == "QUEUED"


def test_a_group_of_errors_with_another_one_beside_a_retry_is_a_failure(handle: Handle) -> None:
    message = body(tasks.ask_for_a_retry_in_a_group, delays=[7], fails=True)

    assert handle(message) == []

    assert record_of(message).status == "FAILED"
    assert not TaskRecord.objects.filter(status="QUEUED").exists()


def test_continue_in_a_task_group_fails_with_the_fix(handle: Handle) -> None:
    message = body(tasks.go_on_in_a_group)

    assert handle(message) == []

    assert record_of(message).status == "FAILED"
    assert "Raise it in the task itself, after the group." in (record_of(message).traceback or "")


def test_a_task_may_ask_for_a_retry_by_hand(handle: Handle, queue: str) -> None:
    message = body(tasks.ask_for_a_retry, name="x")

    handle(message)

    retry = TaskRecord.objects.get(status="QUEUED")
    assert retry.run_after is not None
    assert retry.enqueued_at is not None
    assert 7 < (retry.run_after - retry.enqueued_at).total_seconds() < 13


@pytest.mark.parametrize("task", [tasks.sleep_and_clean_up, tasks.asleep_and_clean_up])
def test_a_task_may_catch_its_soft_timeout(handle: Handle, task: Task) -> None:
    message = body(task, name="x")

    handle(message)

    assert record_of(message).result == "x cleaned up"


def test_the_hard_timeout_counts_from_the_start_of_a_sync_task(handle: Handle) -> None:
    message = body(tasks.tell_time_left_after_the_soft_timeout)

    handle(message)

    left_s = record_of(message).result
    assert left_s is not None
    assert left_s <= 20 - 0.5


def test_no_alarm_of_a_sync_task_goes_off_after_its_end(handle: Handle) -> None:
    handle(body(tasks.leave_time_to_the_alarm_at_the_commit))

    assert Effect.objects.get().name == "0.0 s"


def test_without_a_soft_timeout_of_its_own_a_task_hears_of_the_hard_one_in_time(
    handle: Handle,
) -> None:
    message = body(tasks.tell_time_left)

    handle(message, timeout_s=600)

    left_s = record_of(message).result
    assert left_s is not None
    assert left_s <= 90, "of 100 s"


def test_a_soft_timeout_shortly_before_the_hard_one_is_kept(handle: Handle) -> None:
    message = body(tasks.tell_time_left_until_shortly_before_the_hard_timeout)

    handle(message, timeout_s=900)

    left_s = record_of(message).result
    assert left_s is not None
    assert 450 < left_s <= 490


@pytest.mark.parametrize("task", [tasks.ignore_the_soft_timeout, tasks.aignore_the_soft_timeout])
def test_except_exception_does_not_survive_the_hard_timeout(handle: Handle, task: Task) -> None:
    message = body(task, name="x")

    handle(message)

    record = record_of(message)
    assert record.status == FAILED
    assert "HardTimeLimitExceeded" in (record.traceback or "")


def test_a_worker_process_that_dies_fails_its_task_and_the_next_finds_a_working_one(
    handle: Handle,
) -> None:
    dead, neighbour, later = (
        body(tasks.exit_at_once, code=3),
        body(tasks.add, a=1),
        body(tasks.add, a=2),
    )

    failures = handle(dead, neighbour)
    handle(later)

    assert failures == []
    assert record_of(dead).status == FAILED
    assert "WorkerProcessDied" in (record_of(dead).traceback or "")
    assert "exit code 3" in (record_of(dead).traceback or "")
    assert {record_of(neighbour).status, record_of(later).status} == {SUCCESS}


def test_a_worker_process_that_dies_while_it_waits_harms_no_task(handle: Handle) -> None:
    first, later = body(tasks.process_id), body(tasks.process_id)
    handle(first)
    killed = record_of(first).result
    assert killed is not None

    os.kill(killed, signal.SIGKILL)
    wait_for(lambda: not psutil.pid_exists(killed))
    handle(later)

    assert record_of(later).status == SUCCESS
    assert record_of(later).result != killed


def test_a_process_that_was_cut_off_gives_no_later_task_its_answer(
    handle: Handle, settings: Any, tmp_path: Path
) -> None:
    settings.LAMBDA_TASKS_PROCESSES = 1
    handler.close()
    warming, later = body(tasks.process_id), body(tasks.process_id)
    gate = tmp_path / "open"

    try:
        assert handle(warming) == []
        assert handle(body(gated.hold_on_until, gate=gate), timeout_s=6) == [0]
        gate.touch()
        assert handle(later) == []
    finally:
        handler.close()

    assert record_of(later).status == SUCCESS
    assert record_of(later).result != record_of(warming).result


def test_what_a_task_has_started_ends_with_its_killed_process(
    handle: Handle, tmp_path: Path
) -> None:
    told = tmp_path / "pid"
    message = body(gated.start_a_program_and_hang, told=told)
    handle(body(tasks.process_id))  # so that a process is warm

    assert handle(message) == []

    program = int(told.read_text())
    try:
        wait_for(lambda: _has_ended(program), timeout_s=20)
    finally:
        with suppress(ProcessLookupError):
            os.kill(program, signal.SIGKILL)
    assert "HardTimeLimitExceeded" in (record_of(message).traceback or "")


def _has_ended(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_system_exit_fails_the_task_and_not_the_handler(handle: Handle) -> None:
    message, neighbour = body(tasks.exit_politely), body(tasks.aadd, a=1)

    failures = handle(message, neighbour)

    assert failures == []
    assert record_of(message).status == FAILED
    assert record_of(neighbour).status == SUCCESS


def test_worker_processes_stay_warm_from_one_event_to_the_next(handle: Handle) -> None:
    messages = [body(tasks.process_id) for _ in range(6)]

    for each in messages:
        handle(each)

    assert len({record_of(each).result for each in messages}) <= conf.current().processes


@pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite adds no constraint to a table")
def test_a_message_that_the_database_refuses_holds_up_no_neighbour(handle: Handle) -> None:
    refused = json.dumps(json.loads(body(tasks.add_direct, a=1)) | {"group_key": "refused"})
    neighbours = [body(tasks.add_direct, a=2), body(tasks.aadd_direct, a=3)]
    table = TaskRecord._meta.db_table
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE {table} ADD CONSTRAINT no CHECK (group_key <> 'refused')")
    try:
        failures = handle(neighbours[0], refused, neighbours[1])
    finally:
        with connection.cursor() as cursor:
            cursor.execute(f"ALTER TABLE {table} DROP CONSTRAINT no")

    assert failures == [1]
    assert [record_of(each).status for each in neighbours] == [SUCCESS, SUCCESS]


def test_a_handler_closes_what_it_has_opened_although_the_process_began_anew(
    handle: Handle, queue: str
) -> None:
    handle(body(tasks.limited, name="x"))
    runtime.close()
    handle(body(tasks.limited, name="y"))

    handler.close()

    threads = [thread.name for thread in threading.enumerate()]
    assert "lambda_tasks-portal" not in threads


def test_a_task_with_context_is_told_of_its_run(handle: Handle) -> None:
    message = body(tasks.tell_context)

    handle(message)

    told = record_of(message).result
    assert told is not None
    assert told["id"] == json.loads(message)["invocation_id"]
    assert told["attempt"] == 1
    assert 0 < told["remaining"] <= 270
    assert told["metadata"]["runtime"] == "lambda"


@pytest.mark.parametrize("task", [tasks.enqueue_another, tasks.aenqueue_another])
def test_what_a_task_enqueues_is_sent_with_its_success_and_gone_with_its_failure(
    handle: Handle, queue: str, task: Task
) -> None:
    handle(body(task, name="kept"), body(task, name="dropped", fail=True))

    queued = TaskRecord.objects.get(status="QUEUED")
    assert queued.kwargs == {"name": "kept"}
    assert queued.sent_at is not None


def test_a_singleton_that_is_taken_ends_as_it_was_told(handle: Handle) -> None:
    first, second, other = (
        body(tasks.alone, key="a", pause_s=4.0),
        body(tasks.alone, key="a", pause_s=4.0),
        body(tasks.alone, key="b", pause_s=0.0),
    )

    handle(first, second, other)

    tracebacks = [record_of(each).traceback or "" for each in (first, second)]
    assert sum("LockError" in each for each in tracebacks) == 1
    assert record_of(other).traceback is None
    assert set(TaskRecord.objects.values_list("status", flat=True)) == {"SUCCESS"}


def test_a_singleton_keeps_its_lock_until_its_writes_are_there(handle: Handle) -> None:
    handle(body(tasks.leave_locks_at_the_commit))

    assert Effect.objects.get().name == "1 held"
    assert not LimitPlace.objects.exists()


def test_a_singleton_that_fails_lets_go_of_its_lock(handle: Handle) -> None:
    gc.disable()  # which lets go of it too, some time
    try:
        for _ in range(2):
            handle(body(tasks.afail_alone))
    finally:
        gc.enable()

    assert not LimitPlace.objects.exists()
    assert all("ZeroDivision" in (each.traceback or "") for each in TaskRecord.objects.all())


@pytest.mark.parametrize(
    "backend", ["django.core.cache.backends.redis.RedisCache", "django_redis.cache.RedisCache"]
)
def test_where_the_cache_is_redis_it_holds_the_singletons_lock(
    handle: Handle, redis: RedisServer, settings: Any, backend: str
) -> None:
    cache = {"BACKEND": backend, "LOCATION": redis.location, "KEY_PREFIX": "shop", "VERSION": 7}
    settings.CACHES = {"default": cache}
    with Redis.from_url(redis.location) as client:
        key = f"lambda_tasks.singleton_lock.{tasks.aalone.name}.key='a'"
        held, of_another_project = (
            client.lock(f"{prefix}:7:{key}", timeout=60) for prefix in ("shop", "blog")
        )
        held.acquire()
        of_another_project.acquire()
        taken, other, later = (body(tasks.aalone, key=key) for key in "aba")

        handle(taken, other)
        held.release()
        handle(later)
        of_another_project.release()

        results = [(record_of(each).status, record_of(each).result) for each in (other, later)]
        assert results == [(SUCCESS, "b"), (SUCCESS, "a")]
        assert "LockError" in (record_of(taken).traceback or "")
        assert client.keys() == [], "each has released its own"
    caches["default"].close()


def test_a_ping_is_answered_with_versions() -> None:
    answer = handler.handler({"lambda_tasks": "ping"}, None)

    assert set(answer) == {"lambda_tasks", "django", "python"}


@pytest.mark.parametrize("event", [{}, {"Records": []}, None, [], {"Records": [{}]}, "text"])
def test_another_kind_of_event_is_refused_with_those_that_are_taken(event: object) -> None:
    with pytest.raises(ValueError, match="accepts SQS events"):
        handler.handler(event, None)


def test_a_handler_that_async_code_has_called_first_serves_others_too(handle: Handle) -> None:
    handler.close()
    first, second = body(tasks.aadd, a=1), body(tasks.exit_at_once, code=3)

    async def call() -> list[int]:
        return await asyncio.to_thread(handle, first)

    assert async_to_sync(call)() == []
    assert handle(body(tasks.aadd, a=2)) == []
    assert handle(second) == []
    assert "WorkerProcessDied" in (record_of(second).traceback or "")


def test_a_fork_server_that_does_not_know_the_project_is_no_obstacle(handle: Handle) -> None:
    message = body(tasks.add, a=1)
    code = f"""
import multiprocessing
multiprocessing.get_context("forkserver").Process(target=print).start()
from lambda_tasks import handler
from lambda_tasks.local import LambdaContext
print(handler.handler({sqs_event(message)!r}, LambdaContext()))
handler.close()
"""

    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )

    assert "{'batchItemFailures': []}" in done.stdout, done.stderr
    assert record_of(message).status == "SUCCESS"


def test_after_an_event_that_could_not_be_run_there_is_nothing_to_interrupt(
    handle: Handle, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(self: Executor, *deliveries: object, **options: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Executor, "run", fail)
    with pytest.raises(MemoryError):
        handle(body(tasks.aadd, a=1))

    assert not handler.interrupt()
