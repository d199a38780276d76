"""Cancelling: what waits never runs, what runs never commits."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connection
from django.db.models import Model

from lambda_tasks.models import TaskRecord
from tests.app import resuming, tasks
from tests.app.models import Effect
from tests.conftest import Handle, Task, body, record_of, sqs_event, wait_for
from tests.servers import LambdaProcess

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(scope="module")
def function(django_db_setup: None) -> Iterator[LambdaProcess]:
    with LambdaProcess() as process:
        yield process


def test_a_queued_task_that_is_cancelled_never_runs(
    queue: str, work_off: Callable[[str], int]
) -> None:
    invocation = tasks.leave_effect.execute_on_commit(name="never")
    record = invocation.record()
    assert record is not None

    cancelled = record.cancel()
    deliveries = work_off(queue)

    assert cancelled
    assert deliveries == 1, "acknowledged at once"
    assert record.status == "CANCELLED"
    assert not Effect.objects.exists()


class ReadsElsewhere:
    """A router that sends reads to a replica, which has nothing yet."""

    def db_for_read(self, model: type[Model], **hints: object) -> str:
        return "replica"


def test_a_task_can_be_cancelled_where_reads_go_to_a_replica(queue: str, settings: Any) -> None:
    record = tasks.add.execute_on_commit(a=1).record()
    assert record is not None
    settings.DATABASE_ROUTERS = [ReadsElsewhere()]

    assert record.cancel()

    assert record.status == "CANCELLED"


def test_a_finished_task_can_not_be_cancelled(handle: Handle) -> None:
    message = body(tasks.add, a=1)
    handle(message)

    record = record_of(message)

    assert not record.cancel()
    assert record.status == "SUCCESS"


@pytest.mark.skipif(connection.vendor == "sqlite", reason="its one writer is the running task")
@pytest.mark.parametrize(
    ("task", "seconds"),
    [(resuming.leave_effect_and_wait, 250), (resuming.leave_effect_and_sleep, 4)],
)
def test_a_running_task_that_is_cancelled_does_not_commit(
    function: LambdaProcess, task: Task, seconds: float
) -> None:
    message = body(task, seconds=seconds)
    event = sqs_event(message)
    began_at = time.monotonic()
    id = function.begin(event)
    record = _running(task)

    assert record.cancel()
    function.finish(id)

    if seconds > 100:
        assert time.monotonic() - began_at < 100, "it is ended, and does not end by itself"
    assert record_of(message).status == "CANCELLED"
    assert not Effect.objects.exists()
    assert function.invoke(event) == {"batchItemFailures": []}


def _running(task: Task) -> TaskRecord:
    running = TaskRecord.objects.filter(task_name=task.name, status="RUNNING")
    wait_for(running.exists)
    return running.get()
