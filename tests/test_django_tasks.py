"""Django's own tasks on this backend: on 6.0 and later Django's framework, before django-tasks."""

import asyncio
import copy
import functools
import json
import logging
import os
import pickle
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.core.checks import run_checks
from django.core.exceptions import ImproperlyConfigured
from django.db import connection, connections, transaction
from django.test import Client
from django.utils import timezone
from hypothesis import HealthCheck, given
from hypothesis import settings as law
from hypothesis import strategies as st

from lambda_tasks import runtime
from lambda_tasks.backends import (
    LambdaTask,
    LambdaTasksBackend,
    compat,
    django_task,
    record_statuses,
)
from lambda_tasks.backends import task as task_with_options
from lambda_tasks.backends.compat import (
    BaseTaskBackend,
    InvalidTask,
    TaskResultDoesNotExist,
    task_backends,
)
from lambda_tasks.errors import UnknownTask
from lambda_tasks.local import LocalSqs
from lambda_tasks.models import TaskRecord
from tests.app import django_tasks, outages
from tests.app import tasks as lambda_tasks
from tests.app.models import Effect
from tests.conftest import Handle, bodies_in, relay, wake_up

tasks: Any = django_tasks

NOBODYS = "00000000-0000-4000-8000-000000000000"

pytestmark = pytest.mark.django_db(transaction=True)

WorkOff = Callable[[str], int]
Signals = list[tuple[str, type, Any, Any]]


@pytest.fixture
def heard() -> Iterator[Signals]:
    """What the signals have told in this process: name, sender, status, exception at hand."""
    told: Signals = []
    receivers = {}
    for name in ("task_enqueued", "task_started", "task_finished"):

        def receive(sender: type, task_result: Any, name: str = name, **_: Any) -> None:
            told.append((name, sender, str(task_result.status), sys.exc_info()[0]))

        receivers[name] = receive
        getattr(compat, name).connect(receive)
    yield told
    for name, receiver in receivers.items():
        getattr(compat, name).disconnect(receiver)


def pickled(task: Any) -> Any:
    if compat.Task.__reduce__ is object.__reduce__ and task.wrapper is None:
        return task  # for which Django provides since 6.1
    return pickle.loads(pickle.dumps(task))


def on_a_loop(test: Callable[..., Any]) -> Callable[..., None]:
    """Run a coroutine function as Django runs those of a TestCase."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        async_to_sync(test)(*args, **kwargs)

    return run


def arrived(sqs: LocalSqs, queue: str) -> list[str]:
    return [json.dumps(body) for body in bodies_in(sqs, queue)]


def run_due(queue: str, work_off: WorkOff) -> None:
    """Let what waits for its retry be due, and run it."""
    TaskRecord.objects.filter(status="QUEUED").update(
        run_after=None, sent_at=None, look_at=timezone.now()
    )
    relay()
    work_off(queue)


@pytest.mark.parametrize("task", [tasks.add, tasks.aadd])
def test_a_task_goes_by_the_queue_to_the_handler_and_its_result_comes_back(
    queue: str, work_off: WorkOff, task: Any
) -> None:
    result = task.enqueue(20, b=22)

    assert (result.status, result.is_finished, result.attempts) == ("READY", False, 0)
    assert task.get_result(result.id) == result
    work_off(queue)
    result.refresh()
    assert (result.status, result.return_value, result.attempts) == ("SUCCESSFUL", 42, 1)
    assert result.enqueued_at <= result.started_at <= result.last_attempted_at
    assert result.started_at <= result.finished_at
    assert (result.args, result.kwargs, result.errors) == ([20], {"b": 22}, [])
    assert result.task == task
    assert result.worker_ids[0]


@on_a_loop
async def test_the_same_from_async_code(queue: str, work_off: WorkOff) -> None:
    result = await tasks.aadd.aenqueue(1)

    assert await tasks.aadd.aget_result(result.id) == result
    await asyncio.to_thread(work_off, queue)
    await result.arefresh()
    assert result.return_value == 3


def test_the_row_is_in_the_callers_transaction_and_the_send_follows_the_commit(
    queue: str, sqs: LocalSqs
) -> None:
    with transaction.atomic():
        result = tasks.add.enqueue(1)
        assert tasks.add.get_result(result.id).status == "READY"
        assert bodies_in(sqs, queue) == []
    assert len(bodies_in(sqs, queue)) == 1

    with pytest.raises(ZeroDivisionError), transaction.atomic():
        gone = tasks.add.enqueue(1)
        1 / 0  # noqa: B018
    assert bodies_in(sqs, queue) == []
    with pytest.raises(TaskResultDoesNotExist, match=gone.id):
        tasks.add.get_result(gone.id)


def test_at_once_is_sent_within_the_transaction_and_survives_its_rollback(
    queue: str, work_off: WorkOff
) -> None:
    at_once = tasks.add.using(backend="at_once")

    with pytest.raises(ZeroDivisionError), transaction.atomic():
        result = at_once.enqueue(1)
        1 / 0  # noqa: B018

    with pytest.raises(TaskResultDoesNotExist):
        at_once.get_result(result.id)
    work_off(queue)
    assert at_once.get_result(result.id).return_value == 3
    with pytest.raises(TaskResultDoesNotExist):
        tasks.add.get_result(result.id)


def test_at_once_can_not_overtake_the_row_of_a_database_queue(settings: Any) -> None:
    at_once = settings.TASKS["at_once"] | {"QUEUES": ["table"]}
    settings.TASKS = settings.TASKS | {"at_once": at_once}
    task = tasks.add.using(backend="at_once", queue_name="table")

    with pytest.raises(ZeroDivisionError), transaction.atomic():
        task.enqueue(1)
        1 / 0  # noqa: B018
    assert not TaskRecord.objects.exists()
    assert task.get_result(task.enqueue(1).id).status == "READY"


@on_a_loop
async def test_at_once_from_async_code(queue: str, work_off: WorkOff) -> None:
    result = await tasks.aadd.using(backend="at_once").aenqueue(1)

    await asyncio.to_thread(work_off, queue)
    await result.arefresh()
    assert result.return_value == 3


def test_many_are_one_insert_and_full_batches(
    queue: str, work_off: WorkOff, statements: Any
) -> None:
    with statements() as counted, transaction.atomic():
        results = tasks.add.enqueue_many([{"a": n} for n in range(5)] + [(n, 0) for n in range(20)])

    assert len([sql for sql in counted if sql.startswith("INSERT")]) == 1
    work_off(queue)
    for result in results:
        result.refresh()
    assert [each.return_value for each in results] == [*range(2, 7), *range(20)]


def test_many_are_all_valid_or_none_is_enqueued(queue: str) -> None:
    with pytest.raises(TypeError, match="Unsupported type"):
        tasks.add.enqueue_many([{"a": 1}, {"a": object()}])

    assert not TaskRecord.objects.exists()


@on_a_loop
async def test_many_from_async_code(queue: str, work_off: WorkOff) -> None:
    results = await tasks.aadd.aenqueue_many([(1,), (2,)])

    await asyncio.to_thread(work_off, queue)
    for result in results:
        await result.arefresh()
    assert [each.return_value for each in results] == [3, 4]


def test_in_an_event_loop_the_sync_form_names_its_twin(queue: str) -> None:
    from django.core.exceptions import SynchronousOnlyOperation

    async def call() -> None:
        tasks.add.enqueue(1)

    with pytest.raises(SynchronousOnlyOperation, match="aenqueue"):
        asyncio.run(call())


def test_using_chooses_queue_and_time(queue: str, work_off: WorkOff) -> None:
    moment = timezone.now() + timedelta(hours=5)
    task = tasks.add.using(queue_name="other", run_after=moment)

    result = task.enqueue(1)

    assert tasks.add.get_result(result.id).task == task
    assert TaskRecord.objects.get().run_after == moment
    assert work_off(queue) == 0
    TaskRecord.objects.update(run_after=None, look_at=timezone.now())
    relay()
    assert work_off(f"{queue}-other") >= 1
    assert result.id == str(TaskRecord.objects.get(status="SUCCESS").id)


def test_priority_is_for_queues_that_have_it(queue: str, settings: Any) -> None:
    assert tasks.add.using(priority=10, queue_name="table").enqueue(1).task.priority == 10
    with pytest.raises(InvalidTask, match="SQS and AWS Batch do not support them"):
        tasks.add.using(priority=10)

    assert task_backends["default"].supports_priority
    settings.TASKS = {"default": settings.TASKS["default"] | {"QUEUES": ["default"]}}
    assert not task_backends["default"].supports_priority
    with pytest.raises(InvalidTask, match="does not support setting priority"):
        tasks.add.using(priority=10)


def test_context_tells_the_result_and_the_true_attempt(queue: str, work_off: WorkOff) -> None:
    result = tasks.tell_context.enqueue("hello")
    work_off(queue)

    result.refresh()
    assert result.return_value == ["hello", result.id, 1, "RUNNING", 0]


@pytest.mark.parametrize("task", [tasks.fail_until, tasks.afail_until])
def test_a_retried_task_is_ready_again_under_the_same_id(
    queue: str, work_off: WorkOff, task: Any
) -> None:
    result = task.enqueue(3)

    for attempt in (1, 2):
        work_off(queue)
        result.refresh()
        assert (result.status, result.attempts, result.finished_at) == ("READY", attempt, None)
        assert [each.exception_class for each in result.errors] == [ConnectionError] * attempt
        run_due(queue, work_off)
    result.refresh()
    assert (result.status, result.return_value, result.attempts) == ("SUCCESSFUL", 3, 3)
    assert "ConnectionError: attempt 2" in result.errors[1].traceback
    assert len(result.worker_ids) == 3
    assert list(Effect.objects.values_list("name", flat=True)) in ([], ["attempt 3"])


def test_the_last_attempt_is_the_end(queue: str, work_off: WorkOff) -> None:
    result = tasks.fail_until.enqueue(99)
    work_off(queue)
    run_due(queue, work_off)
    run_due(queue, work_off)

    result.refresh()
    assert (result.status, result.attempts, len(result.errors)) == ("FAILED", 3, 3)
    assert result.errors[-1].traceback.endswith("ConnectionError: attempt 3\n")
    assert not TaskRecord.objects.filter(status="QUEUED").exists()
    with pytest.raises(ValueError, match="Task failed"):
        _ = result.return_value


def waits(record: TaskRecord) -> float:
    assert record.run_after is not None
    assert record.enqueued_at is not None
    return (record.run_after - record.enqueued_at).total_seconds()


def test_backoff_says_when(queue: str, handle: Handle, sqs: LocalSqs) -> None:
    tasks.raise_.enqueue("OSError")
    handle(*arrived(sqs, queue))

    retry = TaskRecord.objects.get(status="QUEUED")
    assert waits(retry) == pytest.approx(100, abs=1)


def test_backoff_may_be_longer_than_a_queue_can_delay(
    queue: str, handle: Handle, sqs: LocalSqs
) -> None:
    tasks.raise_.enqueue("TimeoutError")
    handle(*arrived(sqs, queue))

    assert waits(TaskRecord.objects.get(status="QUEUED")) == pytest.approx(3 * 3600, abs=5)


def test_without_backoff_the_pauses_grow(queue: str, work_off: WorkOff) -> None:
    tasks.fail_until.enqueue(99)
    work_off(queue)
    assert 6 <= waits(TaskRecord.objects.get(status="QUEUED")) <= 10
    run_due(queue, work_off)
    assert 11 <= waits(TaskRecord.objects.get(status="QUEUED")) <= 15


def test_backoff_may_end_it(queue: str, handle: Handle, sqs: LocalSqs) -> None:
    result = tasks.raise_.enqueue("LookupError")
    handle(*arrived(sqs, queue))

    result.refresh()
    assert (result.status, result.attempts) == ("FAILED", 1)


def test_a_backoff_beyond_all_bounds_is_a_year(queue: str, handle: Handle, sqs: LocalSqs) -> None:
    tasks.raise_.enqueue("OverflowError")
    assert handle(*arrived(sqs, queue)) == []

    assert waits(TaskRecord.objects.get(status="QUEUED")) == pytest.approx(365 * 86400, abs=5)


def test_a_backoff_that_is_no_number_ends_it_with_the_tasks_error(
    queue: str, handle: Handle, sqs: LocalSqs
) -> None:
    result = tasks.raise_.enqueue("FloatingPointError")
    assert handle(*arrived(sqs, queue)) == []

    result.refresh()
    assert (result.status, result.errors[0].exception_class) == ("FAILED", FloatingPointError)


def test_a_backoff_that_fails_ends_it_and_loses_neither_error(
    queue: str, work_off: WorkOff, settings: Any
) -> None:
    result = tasks.raise_.enqueue("ZeroDivisionError")
    work_off(queue)

    result.refresh()
    assert (result.status, result.errors[0].exception_class) == ("FAILED", ZeroDivisionError)


def test_time_limits(queue: str, work_off: WorkOff) -> None:
    soft, hard = tasks.hear_soft_timeout.enqueue(), tasks.ignore_soft_timeout.enqueue()
    work_off(queue)

    soft.refresh()
    hard.refresh()
    assert soft.return_value == "heard"
    assert hard.status == "READY", "of its two attempts it has had one"
    assert hard.errors[0].exception_class.__name__ == "HardTimeLimitExceeded"


def test_a_singleton_that_waits_has_had_no_attempt(queue: str, work_off: WorkOff) -> None:
    key = f"lambda_tasks.singleton_lock.{tasks.alone.module_path}"
    from lambda_tasks.execution.locks import SingletonLocks
    from lambda_tasks.records.locks import RecordLocks

    locks = SingletonLocks(RecordLocks(), cache_alias=lambda: "default")
    result = tasks.alone.enqueue()
    with locks.hold(key, timeout_s=60):
        work_off(queue)
    result.refresh()
    assert (result.status, result.attempts, result.errors) == ("READY", 0, [])

    run_due(queue, work_off)
    result.refresh()
    assert result.return_value == 1


@pytest.mark.parametrize("task", [tasks.meet_a_lock, tasks.meet_a_lock_alone])
def test_a_lock_error_of_a_tasks_own_is_a_failure_like_others(
    queue: str, work_off: WorkOff, task: Any
) -> None:
    result = task.enqueue()
    work_off(queue)
    run_due(queue, work_off)

    result.refresh()
    assert (result.status, result.attempts) == ("FAILED", 2)
    assert [each.exception_class.__name__ for each in result.errors] == ["LockError"] * 2


def test_a_retry_that_the_task_asks_for_is_none_of_its_failures(
    queue: str, work_off: WorkOff
) -> None:
    result = tasks.ask_twice_and_fail.enqueue()
    work_off(queue)
    for _ in range(2):
        run_due(queue, work_off)
    result.refresh()
    assert (result.status, result.attempts) == ("READY", 3), "it has failed once"

    run_due(queue, work_off)

    result.refresh()
    assert (result.status, result.attempts) == ("FAILED", 4)


def test_a_killed_worker_process_is_an_error_and_the_task_runs_again(
    queue: str, work_off: WorkOff
) -> None:
    result = tasks.kill_own_process.enqueue()
    work_off(queue)
    run_due(queue, work_off)

    result.refresh()
    assert (result.status, result.attempts) == ("FAILED", 2)
    assert {each.exception_class.__name__ for each in result.errors} == {"WorkerProcessDied"}


def test_a_task_runs_in_autocommit_as_under_djangos_own_backends(
    queue: str, work_off: WorkOff
) -> None:
    result, plain = tasks.write_durably.enqueue("x"), tasks.atell_transaction.enqueue()
    work_off(queue)

    result.refresh()
    plain.refresh()
    assert (result.status, result.errors[0].exception_class) == ("FAILED", RuntimeError)
    assert set(Effect.objects.values_list("name", flat=True)) == {"x", "x has failed"}
    assert plain.return_value is False


@pytest.mark.parametrize("is_atomic", [True, False])
def test_a_backend_may_run_its_tasks_in_a_transaction(
    queue: str, settings: Any, handle: Handle, is_atomic: bool
) -> None:
    settings.TASKS = {"default": settings.TASKS["default"] | {"OPTIONS": {"ATOMIC": is_atomic}}}
    result = tasks.atell_transaction.enqueue()
    id = TaskRecord.objects.get().id

    handle(wake_up(id, tasks.atell_transaction.module_path, backend="default"))

    result.refresh()
    assert result.return_value is is_atomic


def test_a_task_that_asks_for_a_transaction_has_one(queue: str, work_off: WorkOff) -> None:
    result = tasks.tell_transaction.enqueue()
    work_off(queue)

    result.refresh()
    assert result.return_value is True


def test_a_failed_task_in_a_transaction_leaves_nothing_but_its_error(
    queue: str, work_off: WorkOff
) -> None:
    result = tasks.leave_effect_and_fail.enqueue("effect")
    work_off(queue)

    result.refresh()
    assert result.status == "FAILED"
    assert result.errors[0].traceback.endswith("RuntimeError: no effect\n")
    assert "lambda_tasks/" not in result.errors[0].traceback, "it begins with the task's own code"
    assert not Effect.objects.exists()


@pytest.mark.parametrize("task", [tasks.exit_by_itself, tasks.aexit_by_itself])
def test_a_system_exit_is_a_failure_and_the_worker_stays(
    queue: str, handle: Handle, sqs: LocalSqs, task: Any
) -> None:
    result, neighbour = task.enqueue(), tasks.add.enqueue(1)

    assert handle(*arrived(sqs, queue)) == []

    result.refresh()
    neighbour.refresh()
    assert (result.status, result.errors[0].exception_class) == ("FAILED", SystemExit)
    assert neighbour.return_value == 3


@pytest.mark.parametrize("task", [tasks.interrupt, tasks.ainterrupt])
def test_a_keyboard_interrupt_ends_the_place_after_its_neighbours(
    queue: str, handle: Handle, sqs: LocalSqs, caplog: pytest.LogCaptureFixture, task: Any
) -> None:
    result, neighbour = task.enqueue(), tasks.add.enqueue(1)
    bodies = arrived(sqs, queue)

    with caplog.at_level(logging.ERROR), pytest.raises(KeyboardInterrupt):
        handle(*bodies)

    assert caplog.records == []
    result.refresh()
    neighbour.refresh()
    assert (result.status, result.attempts) == ("READY", 1), "another delivery runs it"
    assert neighbour.return_value == 3
    with pytest.raises(KeyboardInterrupt):
        handle(*bodies)


@pytest.mark.parametrize("task", [tasks.return_a_moment, tasks.areturn_a_moment])
def test_a_result_that_json_can_not_hold_is_a_type_error(
    queue: str, work_off: WorkOff, task: Any
) -> None:
    result = task.enqueue()
    work_off(queue)

    result.refresh()
    assert (result.status, result.errors[0].exception_class) == ("FAILED", TypeError)
    assert "Unsupported type" in result.errors[0].traceback


@pytest.mark.parametrize("id", ["123", "", "not an id", NOBODYS, 7, None, "é" * 36])
@on_a_loop
async def test_what_is_no_id_has_no_result(id: Any) -> None:
    with pytest.raises(TaskResultDoesNotExist):
        await tasks.add.aget_result(id)


def test_the_id_of_a_retry_is_no_result(queue: str, work_off: WorkOff) -> None:
    tasks.fail_until.enqueue(3)
    work_off(queue)

    with pytest.raises(TaskResultDoesNotExist):
        tasks.fail_until.get_result(str(TaskRecord.objects.get(status="QUEUED").id))


def test_a_cancelled_task_has_failed(queue: str) -> None:
    result = tasks.add.enqueue(1)
    TaskRecord.objects.get().cancel()

    result.refresh()
    assert result.status == "FAILED"
    assert result.errors[0].exception_class.__name__ == "TaskCancelled"


def test_a_result_outlives_the_cleanup_of_its_first_record(queue: str, work_off: WorkOff) -> None:
    result = tasks.fail_until.enqueue(3)
    work_off(queue)
    TaskRecord.objects.filter(status="RETRYING").delete()

    assert tasks.fail_until.get_result(result.id).status == "READY"


def test_records_that_follow_each_other_in_a_circle_are_a_result_all_the_same(queue: str) -> None:
    result = tasks.add.enqueue(1)
    TaskRecord.objects.update(retry_of=result.id)

    assert tasks.add.get_result(result.id).status == "READY"


def test_every_status_maps_both_ways() -> None:
    mapped = {each: record_statuses(each) for each in compat.TaskResultStatus}

    assert sorted(each for some in mapped.values() for each in some) == sorted(
        TaskRecord.TaskStatus.values
    )
    assert mapped[compat.TaskResultStatus.READY] == ["WAITING", "QUEUED", "RETRYING"]


def test_signals_are_sent_by_the_backends_class_and_the_exception_is_at_hand(
    queue: str, handle: Handle, heard: Signals, sqs: LocalSqs
) -> None:
    tasks.aexit_by_itself.enqueue()
    tasks.aadd.enqueue(1)
    assert heard == [("task_enqueued", LambdaTasksBackend, "READY", None)] * 2
    heard.clear()

    for body in arrived(sqs, queue):
        handle(body)

    own = LambdaTasksBackend
    assert sorted(heard, key=str) == sorted(
        [
            ("task_started", own, "RUNNING", None),
            ("task_finished", own, "FAILED", SystemExit),
            ("task_started", own, "RUNNING", None),
            ("task_finished", own, "SUCCESSFUL", None),
        ],
        key=str,
    )


def test_a_worker_process_tells_the_end_with_the_exception_at_hand(
    queue: str, handle: Handle, sqs: LocalSqs
) -> None:
    tasks.exit_and_be_heard.enqueue()
    handle(*arrived(sqs, queue))

    heard = Effect.objects.get()
    assert heard.name == "FAILED heard"
    assert heard.process != os.getpid()


def test_a_retry_is_not_finished(queue: str, handle: Handle, heard: Signals, sqs: LocalSqs) -> None:
    tasks.afail_until.enqueue(3)
    handle(*arrived(sqs, queue))

    assert [name for name, *_ in heard] == ["task_enqueued", "task_started"]


@pytest.mark.skipif(connection.vendor != "postgresql", reason="cuts connections")
def test_an_attempt_that_was_lost_for_good_is_finished(
    queue: str, handle: Handle, heard: Signals, sqs: LocalSqs
) -> None:
    result = django_task(outages.acut_and_write_once).enqueue(name="x")

    assert handle(*arrived(sqs, queue)) == []

    connections.close_all()
    result.refresh()
    assert (result.status, len(result.errors)) == ("FAILED", 1)
    assert names_and_statuses(heard)[1:] == [("task_started", "RUNNING"), FINISHED]


@pytest.mark.skipif(connection.vendor != "postgresql", reason="cuts connections")
def test_what_was_lost_too_often_is_finished_once(
    queue: str, handle: Handle, heard: Signals, sqs: LocalSqs
) -> None:
    result = django_task(outages.acut_and_write).enqueue(name="x")
    bodies = arrived(sqs, queue)

    came_back = [handle(*bodies) for _ in range(6)]

    connections.close_all()
    result.refresh()
    assert came_back == [[0]] * 4 + [[]] * 2
    assert (result.status, result.attempts) == ("FAILED", 5)
    assert names_and_statuses(heard)[1:] == [("task_started", "RUNNING")] * 5 + [FINISHED]


def test_what_is_found_to_have_died_too_often_is_finished_once(
    queue: str, handle: Handle, heard: Signals, sqs: LocalSqs
) -> None:
    result = tasks.aadd.enqueue(1)
    bodies = arrived(sqs, queue)
    TaskRecord.objects.update(
        status="RUNNING", claim_token=uuid.uuid4(), n_attempts=5, worker_ids="w\n" * 5,
        start_time=timezone.now(), lease_until=timezone.now() - timedelta(minutes=1),
    )  # fmt: skip

    assert handle(*bodies, *bodies) == [0, 1]
    assert handle(*bodies) == []

    result.refresh()
    assert (result.status, result.attempts) == ("FAILED", 5)
    assert names_and_statuses(heard)[1:] == [FINISHED]


FINISHED = ("task_finished", "FAILED")


def names_and_statuses(heard: Signals) -> list[tuple[str, str]]:
    return [(name, status) for name, _, status, _ in heard]


def test_a_receiver_that_fails_takes_no_task_along(
    queue: str, handle: Handle, sqs: LocalSqs
) -> None:
    def fail(**_: Any) -> None:
        raise RuntimeError("a receiver with a fault")

    result = tasks.aadd.enqueue(1)
    for signal in (compat.task_started, compat.task_finished):
        signal.connect(fail)
    try:
        assert handle(*arrived(sqs, queue)) == []
    finally:
        for signal in (compat.task_started, compat.task_finished):
            signal.disconnect(fail)

    result.refresh()
    assert result.return_value == 3


def test_what_a_receiver_of_enqueued_raises_rolls_the_transaction_back(
    queue: str, sqs: LocalSqs
) -> None:
    def fail(**_: Any) -> None:
        raise RuntimeError("not today")

    compat.task_enqueued.connect(fail)
    try:
        with pytest.raises(RuntimeError, match="not today"), transaction.atomic():
            tasks.add.enqueue(1)
        with pytest.raises(RuntimeError, match="not today"):
            asyncio.run(tasks.aadd.aenqueue(1))
    finally:
        compat.task_enqueued.disconnect(fail)

    assert TaskRecord.objects.count() == 1, "the one without a transaction is stored"


def test_eager_mode_runs_it_at_once(settings: Any, heard: Signals) -> None:
    settings.LAMBDA_TASKS_EAGER = True

    result = tasks.add.enqueue(1)
    failed = asyncio.run(tasks.afail_until.aenqueue(3))

    assert result.return_value == 3
    assert (failed.return_value, failed.attempts) == (3, 3)
    assert [name for name, *_ in heard][:3] == ["task_enqueued", "task_started", "task_finished"]


def test_a_call_in_eager_mode_sends_no_statement_before_the_commit(
    settings: Any, django_assert_num_queries: Any
) -> None:
    settings.LAMBDA_TASKS_EAGER = True
    with transaction.atomic():
        connection.ensure_connection()
        with django_assert_num_queries(0):
            result = tasks.add.enqueue(1)
        assert result.status == "READY"

    result.refresh()
    assert result.return_value == 3


def test_a_replay_goes_on_under_the_same_id(
    queue: str, work_off: WorkOff, admin_client: Client
) -> None:
    result = tasks.leave_effect_and_fail.enqueue("effect")
    work_off(queue)
    record = TaskRecord.objects.get()
    chosen = {"action": "replay", "_selected_action": [str(record.id)], "confirmed": "yes"}

    admin_client.post("/admin/lambda_tasks/taskrecord/", chosen)

    result.refresh()
    assert (result.status, result.attempts) == ("READY", 1)
    work_off(queue)
    result.refresh()
    assert (result.status, result.attempts, len(result.errors)) == ("FAILED", 2, 2)


def test_a_replay_keeps_its_priority_and_is_not_made_twice(admin_client: Client) -> None:
    result = tasks.add.using(queue_name="table", priority=50).enqueue(1)
    TaskRecord.objects.update(status="FAILED", end_time=timezone.now())
    chosen = {"action": "replay", "_selected_action": [result.id], "confirmed": "yes"}

    pages = [
        admin_client.post("/admin/lambda_tasks/taskrecord/", chosen, follow=True) for _ in range(2)
    ]

    assert "1 task was replayed" in pages[0].content.decode()
    assert "it was retried or replayed already" in pages[1].content.decode()
    assert TaskRecord.objects.get(status="QUEUED").priority == 50
    result.refresh()
    assert result.status == "READY"


def test_the_admin_shows_and_finds_positional_arguments(queue: str, admin_client: Client) -> None:
    result = tasks.leave_effect.enqueue("a needle")

    listed = admin_client.get("/admin/lambda_tasks/taskrecord/", {"q": "needle"})
    page = admin_client.get(f"/admin/lambda_tasks/taskrecord/{result.id}/change/")

    assert result.id in listed.content.decode()
    assert "a needle" in page.content.decode()


def test_both_kinds_live_side_by_side(queue: str, work_off: WorkOff) -> None:
    own = lambda_tasks.add.execute_on_commit(a=1)
    result = tasks.add.enqueue(1)
    work_off(queue)

    assert own.result(timeout=1) == 3
    result.refresh()
    assert result.return_value == 3
    with pytest.raises(TaskResultDoesNotExist):
        task_backends["default"].get_result(str(own.id))


def test_a_lambda_task_can_be_enqueued_through_djangos_interface(
    queue: str, work_off: WorkOff, heard: Signals
) -> None:
    task = django_task(lambda_tasks.add)

    result = task.using(queue_name="other").enqueue(a=1)

    assert isinstance(task, LambdaTask)
    assert work_off(f"{queue}-other") == 1
    result.refresh()
    assert (result.return_value, result.kwargs) == (3, {"a": 1})
    assert result.task.func is task.func
    assert heard[0][0] == "task_enqueued"
    with pytest.raises(TypeError, match="takes keyword arguments only"):
        task.enqueue(1)  # type: ignore[call-arg]


def test_a_lambda_task_finds_the_backend_that_has_its_queue(settings: Any) -> None:
    own = settings.TASKS["default"]
    settings.TASKS = {"default": own | {"QUEUES": ["other"]}, "mine": own | {"QUEUES": ["default"]}}

    assert django_task(lambda_tasks.add).backend == "mine"
    with pytest.raises(InvalidTask, match="Queue 'default' is not valid"):
        django_task(lambda_tasks.add, backend="default")


def test_a_lambda_task_with_overrides_is_refused(queue: str) -> None:
    with pytest.raises(TypeError, match=r"comes from using\(\)"):
        django_task(lambda_tasks.add.using(delay=30))


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickled])
def test_a_lambda_task_of_djangos_interface_can_be_copied(copied: Any) -> None:
    task = django_task(lambda_tasks.add).using(queue_name="other")

    assert copied(task) == task
    assert copied(tasks.fail_until).max_attempts == 3


@on_a_loop
async def test_its_async_form_keeps_retries_and_signals(
    queue: str, handle: Handle, heard: Signals, sqs: LocalSqs
) -> None:
    result = await django_task(lambda_tasks.aadd).aenqueue(a=1)
    await asyncio.to_thread(lambda: handle(*arrived(sqs, queue)))

    await result.arefresh()
    assert result.return_value == 3
    assert [name for name, *_ in heard] == ["task_enqueued", "task_started", "task_finished"]


def test_without_a_backend_that_runs_it_there_is_a_clear_error(settings: Any) -> None:
    settings.TASKS = {"default": {"BACKEND": IMMEDIATE}}

    with pytest.raises(ImproperlyConfigured, match=r"lambda_tasks\.backends\.LambdaTasksBackend"):
        _ = django_task(lambda_tasks.add)


def test_a_task_declared_for_another_backend_runs_here_too(
    queue: str, work_off: WorkOff, settings: Any
) -> None:
    settings.TASKS = {
        "default": {"BACKEND": IMMEDIATE},
        "on_lambda": settings.TASKS["default"],
    }
    # An async one: a worker process has the settings that it was started with.
    result = tasks.aadd.using(backend="on_lambda").enqueue(1)
    work_off(queue)

    result.refresh()
    assert (result.return_value, result.backend) == (3, "on_lambda")


def test_a_secret_is_kept_out_of_the_table_and_the_result(
    queue: str, work_off: WorkOff, settings: Any
) -> None:
    settings.LAMBDA_TASKS_REDACT = ["token"]

    result = tasks.pay.enqueue(5, token="sk-hidden")

    assert "sk-hidden" not in str(list(TaskRecord.objects.values())) + str(result)
    work_off(queue)
    result.refresh()
    assert result.return_value == 5
    with pytest.raises(TypeError, match="Pass it by keyword"):
        tasks.pay.enqueue(5, "sk-hidden")


def test_secrets_that_travel_under_any_name_are_kept_out_too(
    queue: str, work_off: WorkOff, settings: Any
) -> None:
    settings.LAMBDA_TASKS_REDACT = ["token"]

    result = tasks.return_words.enqueue(token="sk-hidden")

    assert "sk-hidden" not in str(list(TaskRecord.objects.values())) + str(result)
    work_off(queue)
    result.refresh()
    assert result.return_value == [{"token": "sk-hidden"}]


@pytest.mark.parametrize("call", ["alice", b"alice", 5])
def test_of_many_calls_one_that_is_none_is_refused(call: Any) -> None:
    with pytest.raises(TypeError, match=r"can't be the arguments of a call"):
        tasks.add.enqueue_many([(1,), call])


@pytest.mark.parametrize("year", [1, 1969, 9999])
def test_a_moment_that_can_not_travel_is_refused(year: int) -> None:
    with pytest.raises(InvalidTask, match="outside the years 1970 to 8999"):
        tasks.add.using(run_after=datetime(year, 6, 1, tzinfo=UTC))


def test_a_moment_without_a_time_zone_is_refused(settings: Any) -> None:
    settings.USE_TZ = False  # where Django would take it

    with pytest.raises(InvalidTask, match="has no time zone"):
        tasks.add.using(run_after=datetime(2030, 1, 1))


def test_a_whole_number_is_a_priority_whatever_its_type() -> None:
    task = tasks.add.using(priority=5.0, queue_name="table")

    task.enqueue(1)

    assert TaskRecord.objects.get().priority == 5


def test_a_declaration_leaves_errors_of_the_settings_to_the_checks(settings: Any) -> None:
    settings.LAMBDA_TASKS_EAGER = "perhaps"

    task = task_with_options(max_attempts=2)(tasks.add.func)

    assert [each.id for each in run_checks() if "LAMBDA_TASKS_EAGER" in each.msg]
    with pytest.raises(ImproperlyConfigured, match="LAMBDA_TASKS_EAGER"):
        task.enqueue(1)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"max_attempts": 0}, "max_attempts is 0. Use 1 to 32767"),
        ({"max_attempts": True}, "max_attempts is True"),
        ({"max_attempts": 2, "backoff": 5}, "backoff is 5. Use a function"),
        ({"backoff": lambda *_: 1}, "backoff is set and max_attempts is 1"),
        ({"soft_timeout": 5, "hard_timeout": 5}, "soft_timeout"),
        ({"hard_timeout": 901}, "hard_timeout is 901 s and the queue 'default' allows 900 s"),
        ({"queue_name": "nowhere"}, "Queue 'nowhere' is not valid"),
    ],
)
def test_what_can_not_work_is_refused_at_decoration(options: Any, problem: str) -> None:
    with pytest.raises(InvalidTask, match=problem):
        task_with_options(**options)(tasks.add.func)


def test_an_unknown_option_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="max_atempts"):
        task_with_options(max_atempts=2)(tasks.add.func)  # type: ignore[call-overload]


def test_validation_is_repeated_on_enqueue(settings: Any) -> None:
    task = tasks.add.using(queue_name="other")
    settings.TASKS = {"default": settings.TASKS["default"] | {"QUEUES": ["default"]}}

    with pytest.raises(InvalidTask, match="Queue 'other' is not valid"):
        task.enqueue(1)


def test_a_task_of_a_module_that_is_loaded_runs_though_its_package_is_no_app(
    settings: Any, queue: str, handle: Handle
) -> None:
    settings.INSTALLED_APPS = [each for each in settings.INSTALLED_APPS if each != "tests.app"]
    settings.LAMBDA_TASKS_MODULES = []

    result = tasks.aadd.enqueue(1)
    handle(wake_up(TaskRecord.objects.get().id, tasks.aadd.module_path, backend="default"))

    result.refresh()
    assert result.return_value == 3


@pytest.mark.parametrize("backend", ["immediate.ImmediateBackend", "dummy.DummyBackend"])
def test_a_task_with_options_of_ours_can_be_declared_for_djangos_own_backends(
    settings: Any, monkeypatch: Any, backend: str
) -> None:
    module = BaseTaskBackend.__module__.rpartition(".")[0]
    settings.TASKS = {"default": {"BACKEND": f"{module}.{backend}"}}

    declared = task_with_options(max_attempts=3, soft_timeout=5, hard_timeout=9)(echo)
    monkeypatch.setattr(sys.modules[__name__], "echo", declared)  # Django looks it up by its name

    first = declared.enqueue("a")
    second, third = declared.enqueue_many([{"value": "b"}, ["c"]])
    finished = "READY" if "dummy" in backend else "SUCCESSFUL"
    assert [each.status for each in (first, second, third)] == [finished] * 3
    assert async_to_sync(declared.aenqueue_many)([["d"]])[0].status == finished


def echo(value: str) -> str:
    return value


def test_a_result_outlives_the_name_of_its_task(queue: str, work_off: WorkOff) -> None:
    result = tasks.add.enqueue(1)
    work_off(queue)
    TaskRecord.objects.update(task_name="shop.tasks.renamed_since")

    found = task_backends["default"].get_result(result.id)

    assert (found.status, found.return_value) == ("SUCCESSFUL", 3)
    assert found.task.module_path == "shop.tasks.renamed_since"
    with pytest.raises(UnknownTask, match=r"no task 'shop\.tasks\.renamed_since' any more"):
        found.task.call(1)


def test_a_queue_that_the_settings_lack_is_an_invalid_task(settings: Any) -> None:
    settings.TASKS = {"default": settings.TASKS["default"] | {"QUEUES": []}}

    with pytest.raises(InvalidTask, match="no queue 'missing' in LAMBDA_TASKS_QUEUES"):
        tasks.add.using(queue_name="missing").enqueue(1)


@pytest.mark.parametrize(
    ("backend", "problem"),
    [
        ({"OPTIONS": {"ENQUEUE_ON_COMIT": False}}, "Did you mean 'ENQUEUE_ON_COMMIT'"),
        ({"QUEUES": ["reports"]}, "but LAMBDA_TASKS_QUEUES has only 'default'"),
        (
            {"QUEUES": ["table"], "OPTIONS": {"ENQUEUE_ON_COMMIT": False}},
            "the queue 'table' is a table",
        ),
        (
            {"QUEUES": [], "OPTIONS": {"ENQUEUE_ON_COMMIT": False}},
            "the queue 'table' is a table",
        ),
        ({"OPTIONS": {"DATABASE": "nope"}}, "'nope', which is no alias of DATABASES"),
    ],
)
def test_the_check_command_tells_what_can_not_work(
    settings: Any, backend: Any, problem: str
) -> None:
    settings.TASKS = {"default": settings.TASKS["default"] | backend}

    assert [each for each in task_backends["default"].check() if problem in each.msg]


def test_the_check_command_is_content_with_local_workers(settings: Any) -> None:
    settings.LAMBDA_TASKS_LOCAL_WORKERS = 2  # in development, of what is sent at once elsewhere

    assert task_backends["at_once"].check() == []


def test_the_check_command_is_content_with_these_settings() -> None:
    assert [each for each in run_checks() if "TASKS[" in each.msg] == []


def test_backends_are_made_per_thread_and_share_what_is_dear(queue: str, sqs: LocalSqs) -> None:
    backends, runtimes = set(), set()

    def enqueue() -> None:
        tasks.add.enqueue(1)
        backends.add(id(task_backends["default"]))
        runtimes.add(id(runtime.current()))
        kept.append(task_backends["default"])
        from django.db import connections

        connections.close_all()

    kept: list[Any] = []
    threads = [threading.Thread(target=enqueue) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(backends), len(runtimes)) == (5, 1)
    assert len(bodies_in(sqs, queue)) == 5


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(-1e15, 1e15)  # a larger one becomes a whole number in a database's JSON
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00")),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00")),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)
names = st.from_regex(r"[a-z]{1,8}", fullmatch=True)


@law(
    max_examples=30,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    args=st.lists(json_values, max_size=3), kwargs=st.dictionaries(names, json_values, max_size=3)
)
def test_any_json_arguments_arrive_as_they_were(
    settings: Any, args: list[Any], kwargs: dict[str, Any]
) -> None:
    settings.LAMBDA_TASKS_EAGER = True

    result = tasks.return_words.enqueue(*args, **kwargs)

    assert result.return_value == [*args, kwargs]
    assert (result.args, result.kwargs) == (args, kwargs)


IMMEDIATE = (
    "django.tasks.backends.immediate.ImmediateBackend"
    if compat.NATIVE
    else "django_tasks.backends.immediate.ImmediateBackend"
)
