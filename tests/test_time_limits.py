"""Soft and hard timeouts of async tasks, wherever these stand, in the real Lambda process. A task
that its limits do not end outlasts the function, which then has no answer."""

from collections.abc import Iterator
from typing import Any

import pytest

from lambda_tasks.models import TaskRecord
from tests.app import stubborn, tasks
from tests.conftest import Task, body, record_of, sqs_event
from tests.servers import LambdaProcess

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(scope="module")
def function(django_db_setup: None) -> Iterator[LambdaProcess]:
    with LambdaProcess(timeout_s=200) as process:
        yield process


def _run(function: LambdaProcess, task: Task, **kwargs: Any) -> TaskRecord:
    """With a neighbour, which must not suffer."""
    function.start()  # again, after one that had no answer
    message, neighbour = body(task, **kwargs), body(tasks.wait, seconds=0.05)

    answer = function.invoke(sqs_event(message, neighbour))

    assert answer == {"batchItemFailures": []}, function.output[-3000:]
    assert record_of(neighbour).status == "SUCCESS"
    return record_of(message)


@pytest.mark.parametrize(
    "task", [stubborn.block, stubborn.spin_for_ever, stubborn.block_in_a_task_of_its_own]
)
def test_a_task_that_blocks_the_event_loop_is_interrupted(
    function: LambdaProcess, task: Task
) -> None:
    record = _run(function, task)

    assert record.status == "FAILED"
    assert "SoftTimeLimitExceeded: The task ran longer" in (record.traceback or "")


def test_a_task_that_blocks_beside_one_that_may_run_for_longer_is_interrupted(
    function: LambdaProcess,
) -> None:
    longer, blocking = body(tasks.wait, seconds=1), body(stubborn.block)

    function.invoke(sqs_event(longer, blocking))

    assert record_of(longer).status == "SUCCESS"
    assert record_of(blocking).status == "FAILED"
    assert "SoftTimeLimitExceeded" in (record_of(blocking).traceback or "")


def test_a_task_that_blocks_the_event_loop_may_catch_its_soft_timeout(
    function: LambdaProcess,
) -> None:
    record = _run(function, stubborn.block_and_clean_up)

    assert (record.status, record.result) == ("SUCCESS", "cleaned up")


@pytest.mark.parametrize(
    "task", [stubborn.block_and_swallow_exceptions, stubborn.swallow_everything]
)
def test_a_task_that_swallows_its_soft_timeout_is_ended_by_the_hard_one(
    function: LambdaProcess, task: Task
) -> None:
    record = _run(function, task)

    assert record.status == "FAILED"
    assert "HardTimeLimitExceeded: The task ran longer" in (record.traceback or "")


@pytest.mark.parametrize(
    ("task", "result"),
    [
        (stubborn.wait_for_a_task_group, ["group", "one", "two"]),
        (stubborn.wait_for_an_anyio_task_group, ["group", "one", "two"]),
        (stubborn.wait_inside_of_a_task_group, ["child", "group"]),
        (stubborn.gather_and_wait, ["one", "soft timeout", "two"]),
    ],
)
def test_what_a_task_has_started_is_cancelled_with_its_soft_timeout(
    function: LambdaProcess, task: Task, result: list[str]
) -> None:
    record = _run(function, task)

    assert (record.status, record.result) == ("SUCCESS", result), record.traceback


@pytest.mark.parametrize(
    ("task", "own_s", "found"),
    [
        (stubborn.wait_under_timeouts, 0.05, "own timeout"),
        (stubborn.wait_under_timeouts, stubborn.FOR_EVER_S, "soft timeout"),
        (stubborn.wait_under_an_anyio_scope, 0.05, "scope"),
        (stubborn.wait_under_an_anyio_scope, stubborn.FOR_EVER_S, "soft timeout"),
    ],
)
def test_a_timeout_of_the_tasks_own_and_the_soft_one_do_not_disturb_each_other(
    function: LambdaProcess, task: Task, own_s: float, found: str
) -> None:
    record = _run(function, task, own_s=own_s)

    assert (record.status, record.result, record.traceback) == ("SUCCESS", found, None)


def test_what_a_task_does_after_its_soft_timeout_is_cancelled_by_nobody_else(
    function: LambdaProcess,
) -> None:
    record = _run(function, stubborn.clean_up_with_limits_and_groups_of_its_own)

    assert record.traceback is None
    assert record.result == [0, "own timeout", "own group"]


@pytest.mark.parametrize("task", [stubborn.wait_under_timeouts, stubborn.wait_under_an_anyio_scope])
def test_two_timeouts_at_the_same_moment_leave_no_stray_cancellation(
    function: LambdaProcess, task: Task
) -> None:
    record = _run(function, task, own_s=stubborn.AFTER_OWN_S)

    assert record.status == "SUCCESS", record.traceback


def test_a_sync_task_that_computes_in_c_has_its_process_replaced(function: LambdaProcess) -> None:
    record = _run(function, stubborn.compute_in_c)
    later = _run(function, tasks.process_id)

    assert "HardTimeLimitExceeded" in (record.traceback or "")
    assert later.status == "SUCCESS"
