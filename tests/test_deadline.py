"""The end of an invocation: what can't be finished goes back, and the answer always gets out."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from uuid import uuid4

import pytest
from django.db import connection, transaction

from lambda_tasks.models import TaskRecord
from tests.app import stubborn, tasks
from tests.conftest import AMPLE_S, Handle, body, record_of, sqs_event, wait_for
from tests.servers import LambdaProcess

pytestmark = pytest.mark.django_db(transaction=True)

TIMEOUT_S = 10


@pytest.fixture(scope="module")
def function(django_db_setup: None) -> Iterator[LambdaProcess]:
    with LambdaProcess(timeout_s=TIMEOUT_S) as process:
        process.invoke(sqs_event(body(tasks.process_id)), timeout_s=AMPLE_S)  # its cold start
        yield process


def _invoke(function: LambdaProcess, *messages: str, timeout_s: float = TIMEOUT_S) -> list[int]:
    """Which come back, by their place; FunctionTimedOut where there is no answer in time."""
    event = sqs_event(*messages)
    answer = function.invoke(event, timeout_s=timeout_s)
    ids = [record["messageId"] for record in event["Records"]]
    return sorted(ids.index(each["itemIdentifier"]) for each in answer["batchItemFailures"])


def test_what_can_not_be_started_in_time_goes_back_unharmed(function: LambdaProcess) -> None:
    messages = [body(stubborn.take_half_a_second) for _ in range(100)]

    back = _invoke(function, *messages)

    records = [record_of(each) for each in messages]
    assert 0 < len(back) < 100
    for place, record in enumerate(records):
        expected = ("QUEUED", 0) if place in back else ("SUCCESS", 1)
        assert (record.status, record.n_attempts) == expected
        assert len((record.worker_ids or "").splitlines()) == record.n_attempts
    assert len(_invoke(function, *[messages[place] for place in back])) < len(back)


def test_a_task_that_hangs_at_the_deadline_is_left_behind_and_its_neighbour_is_done(
    function: LambdaProcess,
) -> None:
    hanging, neighbour = body(stubborn.hang_in_a_thread), body(tasks.aadd, a=1)

    back = _invoke(function, hanging, neighbour)

    record = record_of(hanging)
    assert back == [0]
    assert (record.status, record.n_attempts, record.claim_token) == ("QUEUED", 0, None)
    assert record_of(neighbour).status == "SUCCESS"
    assert _invoke(function, body(tasks.aadd, a=2), body(tasks.add, a=3), timeout_s=AMPLE_S) == []


def test_a_task_that_must_not_run_twice_is_failed_at_the_deadline(function: LambdaProcess) -> None:
    hanging = body(stubborn.hang_in_a_thread_only_once)

    back = _invoke(function, hanging)

    assert back == []
    assert record_of(hanging).status == "FAILED"
    assert "shut down before the task" in (record_of(hanging).traceback or "")


def test_what_another_has_taken_over_by_the_deadline_is_not_acknowledged(
    function: LambdaProcess,
) -> None:
    message = body(stubborn.compute_in_c_only_once)
    event = sqs_event(message)
    id = function.begin(event, timeout_s=TIMEOUT_S)
    running = TaskRecord.objects.filter(status="RUNNING")
    wait_for(running.exists)

    running.update(claim_token=uuid4())
    answer = function.finish(id)

    assert len(answer["batchItemFailures"]) == 1, "its message is the other's, too"
    assert record_of(message).status == "RUNNING"


@pytest.mark.skipif(connection.vendor != "postgresql", reason="needs PostgreSQL's table locks")
def test_a_database_that_hangs_does_not_hold_up_the_answer(function: LambdaProcess) -> None:
    message = body(tasks.add, a=1)

    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("LOCK TABLE lambda_tasks_taskrecord IN ACCESS EXCLUSIVE MODE")
        back = _invoke(function, message)

    assert back == [0]
    assert _soon_acknowledged(function, message)
    assert record_of(message).status == "SUCCESS"


def test_what_was_given_back_too_often_is_failed(handle: Handle) -> None:
    message = body(tasks.add, a=1)
    handle(message)
    TaskRecord.objects.update(status="QUEUED", claim_token=None, n_attempts=5)

    first, second = handle(message), handle(message)

    assert (first, second) == ([0], [])
    assert record_of(message).status == "FAILED"


def test_a_suspect_runs_alone(handle: Handle) -> None:
    suspects = [body(tasks.wait, seconds=0.1) for _ in range(2)]
    handle(*suspects)
    TaskRecord.objects.update(status="RUNNING", lease_until=datetime(2020, 1, 1, tzinfo=UTC))
    others = [body(tasks.wait, seconds=0.2) for _ in range(2)]

    assert handle(*suspects, *others) == []

    last_end = max(_times(each)[1] for each in others)
    for start, end in sorted(_times(each) for each in suspects):
        assert start > last_end
        last_end = end


def _times(message: str) -> tuple[datetime, datetime]:
    record = record_of(message)
    assert record.start_time is not None
    assert record.end_time is not None
    return record.start_time, record.end_time


def _soon_acknowledged(function: LambdaProcess, message: str) -> bool:
    """The interrupted claim may have gone through after all: its lease is to end first."""
    for _ in range(20):
        if not _invoke(function, message):
            return True
        TaskRecord.objects.filter(status="RUNNING").update(
            lease_until=datetime(2020, 1, 1, tzinfo=UTC)
        )
        time.sleep(0.1)
    return False
