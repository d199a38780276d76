"""What a task leaves on its connection: it is not acknowledged where it is lost, and no other task
meets it."""

from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connection

from lambda_tasks import handler
from tests.app import outages, sessions, tasks
from tests.app.models import Effect
from tests.conftest import Handle, Task, body, record_of

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def one_by_one(handle: Handle, settings: Any) -> Iterator[Handle]:
    """A handler with one lane and one process, so that a task follows another on its connection."""
    settings.LAMBDA_TASKS_CONCURRENCY = settings.LAMBDA_TASKS_PROCESSES = 1
    handler.close()
    yield handle
    handler.close()


def follower_of(task: Task) -> Task:
    """A task that writes an effect, in the same lane or process."""
    return tasks.aleave_effect if task.is_async else tasks.leave_effect


def names() -> list[str]:
    return sorted(Effect.objects.values_list("name", flat=True))


LEFT = {
    "autocommit": "left a transaction open on the database 'default', by set_autocommit(False)",
    "begin": "left a transaction open on the database 'default', by BEGIN",
    "block": "entered transaction.atomic() on the database 'default' and did not leave it",
}


@pytest.mark.parametrize("goes_on", [False, True])
@pytest.mark.parametrize("how", LEFT)
@pytest.mark.parametrize("task", [sessions.leave, sessions.aleave])
def test_a_task_that_leaves_a_transaction_open_fails_with_the_reason(
    one_by_one: Handle, task: Task, how: str, goes_on: bool
) -> None:
    message, following = body(task, how=how, goes_on=goes_on), body(follower_of(task), name="next")

    assert one_by_one(message) == one_by_one(following) == []

    record = record_of(message)
    assert record.status == "FAILED"
    assert f"{task.name} {LEFT[how]}" in (record.traceback or "")
    assert record_of(following).status == "SUCCESS"
    assert names() == ["next"]


@pytest.mark.parametrize("how", LEFT)
@pytest.mark.parametrize("task", [sessions.leave, sessions.aleave])
def test_a_task_that_fails_in_a_transaction_of_its_own_is_recorded_outside_of_it(
    one_by_one: Handle, task: Task, how: str
) -> None:
    message, following = body(task, how=how, fails=True), body(follower_of(task), name="next")

    assert one_by_one(message) == one_by_one(following) == []

    assert "ZeroDivisionError" in (record_of(message).traceback or "")
    assert record_of(following).status == "SUCCESS"
    assert names() == ["next"]


@pytest.mark.parametrize("task", [sessions.leave, sessions.aleave])
def test_a_task_may_commit_by_hand_and_leaves_no_connection_without_autocommit(
    one_by_one: Handle, task: Task
) -> None:
    message, following = body(task, how="commit"), body(follower_of(task), name="next")

    assert one_by_one(message) == one_by_one(following) == []

    assert (record_of(message).status, record_of(message).traceback) == ("SUCCESS", None)
    assert record_of(following).status == "SUCCESS"
    assert names() == ["kept", "kept", "next"]


@pytest.mark.parametrize("task", [sessions.leave_a_block, sessions.aleave_a_block])
def test_a_task_in_a_transaction_that_does_not_leave_a_block_fails_with_the_reason(
    one_by_one: Handle, task: Task
) -> None:
    message, following = body(task), body(follower_of(task), name="next")

    assert one_by_one(message) == one_by_one(following) == []

    assert LEFT["block"] in (record_of(message).traceback or "")
    assert record_of(following).status == "SUCCESS"
    assert names() == ["next"]


@pytest.mark.parametrize("sql", ["COMMIT", "  rollback", "BEGIN", "/* now */ COMMIT AND CHAIN"])
@pytest.mark.parametrize("task", [sessions.execute_in_a_block, sessions.aexecute_in_a_block])
def test_a_statement_that_would_end_the_transaction_of_a_task_is_refused(
    one_by_one: Handle, task: Task, sql: str
) -> None:
    message, following = body(task, sql=sql), body(follower_of(task), name="next")

    assert one_by_one(message) == one_by_one(following) == []

    record = record_of(message)
    assert record.status == "FAILED"
    assert f"executes '{sql.strip().lower()}' in an atomic block" in (record.traceback or "")
    assert names() == ["next"]


@pytest.mark.skipif(connection.vendor == "mysql", reason="its drivers don't show it")
@pytest.mark.parametrize("task", [sessions.commit_beside_django, sessions.acommit_beside_django])
def test_a_task_whose_transaction_was_ended_beside_django_fails_with_the_reason(
    one_by_one: Handle, task: Task
) -> None:
    message, following = body(task), body(follower_of(task), name="next")

    assert one_by_one(message) == one_by_one(following) == []

    assert f"{task.name} ended the transaction" in (record_of(message).traceback or "")
    assert record_of(following).status == "SUCCESS"


@pytest.mark.parametrize("how", sessions.CLOSING)
@pytest.mark.parametrize(
    "task",
    [
        sessions.close,
        sessions.aclose,
        sessions.close_in_autocommit,
        sessions.aclose_in_autocommit,
    ],
)
def test_a_task_may_close_its_connections(one_by_one: Handle, task: Task, how: str) -> None:
    message = body(task, how=how)

    assert one_by_one(message) == []

    assert (record_of(message).status, record_of(message).traceback) == ("SUCCESS", None)
    assert names() == ["after", "before", "in a block"]


def test_a_task_that_closes_its_connections_and_fails_is_rolled_back(one_by_one: Handle) -> None:
    message = body(sessions.close_and_fail)

    assert one_by_one(message) == []

    assert "ZeroDivisionError" in (record_of(message).traceback or "")
    assert names() == []


@pytest.mark.skipif(connection.vendor != "postgresql", reason="its administrator cuts connections")
@pytest.mark.parametrize("where", sessions.ELSEWHERE)
@pytest.mark.parametrize("task", [sessions.write_elsewhere, sessions.awrite_elsewhere])
def test_connections_of_other_threads_are_replaced_after_they_were_cut(
    one_by_one: Handle, request: pytest.FixtureRequest, task: Task, where: str
) -> None:
    """At the latest by the run after the one that has noticed it."""
    request.addfinalizer(sessions.close_elsewhere)
    before, noticing, after = [
        body(task, where=where, name=name) for name in ("before", "noticing", "after")
    ]
    assert one_by_one(before) == []

    outages.cut_connections()
    one_by_one(noticing)

    assert one_by_one(after) == []
    assert record_of(before).status == record_of(after).status == "SUCCESS", record_of(after)
    assert {"before", "after"} <= set(names())
