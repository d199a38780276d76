"""Eager and noop: where tasks run in the caller's process, or not at all."""

from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.db import transaction

from lambda_tasks.models import TaskRecord
from tests.app import resuming, tasks
from tests.app.models import Effect
from tests.conftest import Task

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def eager(settings: Any) -> None:
    settings.LAMBDA_TASKS_EAGER = True


@pytest.mark.parametrize("task", [tasks.leave_effect, tasks.aleave_effect])
def test_an_eager_task_runs_at_the_commit(eager: None, task: Task) -> None:
    with transaction.atomic():
        invocation = task.execute_on_commit(name="now")
        assert not Effect.objects.exists()

    assert Effect.objects.get().name == "now"
    record = invocation.record()
    assert record is not None
    assert (record.status, record.result) == ("SUCCESS", Effect.objects.get().pk)


@pytest.mark.parametrize("task", [tasks.leave_effect, tasks.aleave_effect])
def test_an_eager_task_runs_for_an_async_caller_too(eager: None, task: Task) -> None:
    async_to_sync(task.aexecute_on_commit)(name="now")

    assert Effect.objects.get().name == "now"


def test_an_eager_task_that_fails_is_recorded_and_not_raised(eager: None) -> None:
    invocation = tasks.write_and_fail.execute_on_commit(name="x")

    record = invocation.record()
    assert record is not None
    assert record.status == "FAILED"
    assert not Effect.objects.exists()


def test_an_eager_task_is_retried_at_once_up_to_its_limit(eager: None) -> None:
    tasks.limited.execute_on_commit(name="x")

    assert sorted(TaskRecord.objects.values_list("status", "n_retries")) == [
        ("FAILED", 1),
        ("RETRYING", 0),
    ]


def test_an_eager_task_goes_on_at_once(eager: None) -> None:
    task: Task = resuming.go_on_in_ten_minutes

    task.execute_on_commit()

    ended = TaskRecord.objects.values_list("status", "result")
    assert set(ended) == {("SUCCESS", None), ("SUCCESS", "went on")}


def test_noop_drops_every_task_with_a_warning(settings: Any, caplog: Any) -> None:
    settings.LAMBDA_TASKS_NOOP_EXECUTION = True

    tasks.leave_effect.execute_on_commit(name="never")
    async_to_sync(tasks.aleave_effect.aexecute_on_commit)(name="never")

    assert not Effect.objects.exists()
    assert not TaskRecord.objects.exists()
    assert caplog.text.count("is dropped") == 2


def test_a_call_runs_here_and_now_and_checks_its_arguments() -> None:
    assert tasks.add(a=1) == 3
    assert async_to_sync(tasks.aadd)(a=1) == 3
    with pytest.raises(ValueError, match="a"):
        tasks.add(a="1")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="failed after writing"):
        tasks.write_and_fail(name="x")
    assert Effect.objects.exists(), "a direct call has no transaction of its own"
    assert not TaskRecord.objects.exists()


def test_a_database_queue_keeps_the_message_in_its_row(settings: Any) -> None:
    settings.LAMBDA_TASKS_QUEUES = {"default": {"database": True}}

    for invocation in (
        tasks.add_direct.execute_on_commit(a=1),
        async_to_sync(tasks.aadd.aexecute_on_commit)(a=1),
    ):
        record = invocation.record()
        assert record is not None
        assert record.status == "QUEUED"
