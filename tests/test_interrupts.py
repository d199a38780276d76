"""What waits for the database longer than it may is ended there, and its thread goes on."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connection, connections, transaction

from lambda_tasks import handler
from lambda_tasks.models import TaskRecord
from tests.app import tasks, waiting
from tests.app.models import Effect, Seat
from tests.conftest import Handle, Task, body, record_of, wait_for

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def one_lane(handle: Handle, settings: Any) -> Iterator[Handle]:
    """A handler with one lane, which must go on."""
    settings.LAMBDA_TASKS_CONCURRENCY = 1
    handler.close()
    waiting.released.clear()
    yield handle
    waiting.released.set()
    handler.close()


@contextmanager
def seat_locked_by_another() -> Iterator[None]:
    Seat.objects.create(row=1, number=1)
    with transaction.atomic():
        Seat.objects.update(taken_by="another")
        yield


def was_cut_off(message: str) -> bool:
    """By its hard timeout, and long before what it has waited for would have come."""
    record = record_of(message)
    assert record.status == "FAILED"
    assert "HardTimeLimitExceeded: The task ran longer" in (record.traceback or "")
    return record.end_time is not None and record.end_time < _half_way(record)


def _half_way(record: TaskRecord) -> datetime:
    assert record.start_time is not None
    return record.start_time + timedelta(seconds=150)


def statements_that_wait() -> list[str]:
    """What the database's server executes that is one of these tasks' endless statements."""
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute(
                "SELECT query FROM pg_stat_activity WHERE state = 'active'"
                " AND pid <> pg_backend_pid()"
            )
        elif connection.vendor == "mysql":
            cursor.execute(
                "SELECT info FROM information_schema.processlist WHERE id <> CONNECTION_ID()"
            )
        else:
            return []
        return [query for (query,) in cursor.fetchall() if query and "leep(300)" in query.lower()]


@pytest.mark.parametrize(
    "task",
    [
        waiting.sleep_in_statements,
        waiting.sync_sleep_in_statements,
        waiting.sleep_in_a_statement,
        waiting.sync_sleep_in_a_statement,
        waiting.sleep_in_python,
        waiting.sync_sleep_in_python,
    ],
)
def test_a_statement_is_cut_off_by_the_hard_timeout_of_its_task(
    one_lane: Handle, task: Task
) -> None:
    message, following = body(task), body(tasks.aleave_effect, name="next")

    assert one_lane(message, following) == []

    assert was_cut_off(message)
    assert record_of(following).status == "SUCCESS"
    assert statements_that_wait() == []


@pytest.mark.skipif(connection.vendor == "sqlite", reason="it locks no rows")
@pytest.mark.parametrize("task", [waiting.take_a_locked_seat, waiting.sync_take_a_locked_seat])
def test_a_wait_for_a_lock_is_cut_off_by_the_hard_timeout_of_its_task(
    one_lane: Handle, task: Task
) -> None:
    message, following = body(task), body(tasks.aleave_effect, name="next")

    with seat_locked_by_another():
        assert one_lane(message, following) == []

    assert was_cut_off(message)
    assert record_of(following).status == "SUCCESS"
    assert Seat.objects.get().taken_by == "another"


@pytest.mark.parametrize(
    "task",
    [
        waiting.clean_up_after_a_statement,
        waiting.sync_clean_up_after_a_statement,
        waiting.clean_up_after_a_savepoint,
        waiting.sync_clean_up_after_a_savepoint,
    ],
)
def test_a_statement_ends_with_the_soft_timeout_so_that_the_task_can_clean_up(
    one_lane: Handle, task: Task
) -> None:
    message = body(task)

    assert one_lane(message) == []

    record = record_of(message)
    assert (record.status, record.result) == ("SUCCESS", "cleaned up"), record.traceback
    assert Effect.objects.count() == 1


@pytest.mark.parametrize("task", [waiting.commit_and_wait, waiting.commit_and_hang])
def test_a_hook_of_the_commit_is_cut_off_and_its_task_has_succeeded(
    one_lane: Handle, caplog: pytest.LogCaptureFixture, task: Task
) -> None:
    message, following = body(task), body(tasks.aleave_effect, name="next")

    with caplog.at_level(logging.ERROR):
        one_lane(message, following)

    assert record_of(message).status == "SUCCESS"
    assert record_of(following).status == "SUCCESS"
    assert sorted(Effect.objects.values_list("name", flat=True)) == ["committed", "next"]
    assert "HardTimeLimitExceeded: The task ran longer" in caplog.text
    assert "lost its attempt" not in caplog.text
    assert one_lane(message) == [], "and its delivery is done with"


@pytest.mark.parametrize(
    ("task", "is_killed"),
    [(waiting.sync_commit_and_wait, False), (waiting.sync_commit_and_hang, True)],
)
def test_a_hook_of_a_sync_tasks_commit_is_cut_off(
    one_lane: Handle, caplog: pytest.LogCaptureFixture, task: Task, is_killed: bool
) -> None:
    message, before = body(task), body(tasks.process_id)
    one_lane(before)

    with caplog.at_level(logging.ERROR):
        one_lane(message)

    assert record_of(message).status == "SUCCESS"
    assert Effect.objects.get().name == "committed"
    assert "lost its attempt" not in caplog.text
    assert one_lane(message) == [], "and its delivery is done with"
    assert (record_of(before).result not in handler.pids()) == is_killed


@pytest.mark.skipif(connection.vendor == "sqlite", reason="its one writer is the task that hangs")
def test_a_task_that_hangs_in_its_thread_is_failed_and_its_lane_replaced(one_lane: Handle) -> None:
    message = body(waiting.hang_in_its_thread)
    following = [body(tasks.aleave_effect, name=name) for name in ("one", "two")]

    assert one_lane(message, *following) == []

    assert was_cut_off(message)
    assert [record_of(each).status for each in following] == ["SUCCESS"] * 2
    waiting.released.set()
    wait_for(lambda: not _hanging_lanes())
    assert sorted(Effect.objects.values_list("name", flat=True)) == ["one", "two"]


@pytest.mark.skipif(connection.vendor == "sqlite", reason="its one writer is the task that hangs")
def test_what_a_task_does_in_a_thread_of_its_own_holds_up_nobody(one_lane: Handle) -> None:
    message, following = (
        body(waiting.hang_in_a_thread_beside),
        body(tasks.aleave_effect, name="next"),
    )

    assert one_lane(message, following) == []

    assert was_cut_off(message)
    assert record_of(following).status == "SUCCESS"
    assert Effect.objects.get().name == "next"


def _hanging_lanes() -> list[threading.Thread]:
    """But for the one that has replaced the other."""
    lanes = [each for each in threading.enumerate() if each.name == "lambda_tasks-lane"]
    return lanes[1:]


def test_the_connection_of_a_statement_that_was_cut_off_is_not_used_by_another(
    one_lane: Handle,
) -> None:
    messages = [
        each
        for number in range(3)
        for each in (
            body(waiting.sleep_in_statements),
            body(tasks.aleave_effect, name=str(number)),
        )
    ]

    assert one_lane(*messages) == []

    connections.close_all()
    assert [record_of(each).status for each in messages] == ["FAILED", "SUCCESS"] * 3
    assert all(was_cut_off(each) for each in messages[::2])
