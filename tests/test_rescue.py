"""What the relay brings back besides what was never sent: lost runs, and lost messages."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from asgiref.sync import async_to_sync
from django.utils.timezone import now

from lambda_tasks import handler, runtime
from lambda_tasks.local import LambdaContext, LocalSqs
from lambda_tasks.models import TaskRecord
from tests.app import tasks
from tests.app.models import Effect
from tests.conftest import Handle, bodies_in, body, kwargs_of, relay, sqs_event

pytestmark = pytest.mark.django_db(transaction=True)


def _relay() -> int:
    return async_to_sync(runtime.current().relay.run_once)()


def _lose_the_message(sqs: LocalSqs, queue: str) -> None:
    sqs.client.purge_queue(QueueUrl=queue)


def test_a_run_whose_worker_died_and_whose_message_is_gone_runs_again(
    sqs: LocalSqs, queue: str, work_off: Callable[[str], int]
) -> None:
    invocation = tasks.leave_effect.execute_on_commit(name="rescued")
    _lose_the_message(sqs, queue)
    TaskRecord.objects.update(
        status="RUNNING", n_attempts=1, lease_until=now() - timedelta(minutes=20), look_at=now()
    )

    sent = [_relay(), _relay()]
    work_off(queue)

    assert sent == [1, 0], "once, until that may be lost too"
    assert Effect.objects.get().name == "rescued"
    record = invocation.record()
    assert record is not None
    assert (record.status, record.n_attempts) == ("SUCCESS", 2)


def test_a_run_whose_lease_has_just_ended_is_left_to_its_redelivery(queue: str) -> None:
    tasks.leave_effect.execute_on_commit(name="soon")
    TaskRecord.objects.update(
        status="RUNNING", lease_until=now() - timedelta(minutes=1), look_at=now()
    )

    assert _relay() == 0


def test_a_message_that_has_not_come_for_a_day_is_sent_again(
    sqs: LocalSqs, queue: str, work_off: Callable[[str], int]
) -> None:
    tasks.leave_effect.execute_on_commit(name="found")
    _lose_the_message(sqs, queue)
    TaskRecord.objects.update(sent_at=now() - timedelta(hours=25), look_at=now())

    sent = [_relay(), _relay()]
    work_off(queue)

    assert sent == [1, 0]
    assert Effect.objects.get().name == "found"


def test_a_message_that_waits_for_its_time_is_not_sent_again(queue: str) -> None:
    later = tasks.leave_effect.using(run_after=timedelta(days=2))
    later.execute_on_commit(name="later")
    TaskRecord.objects.update(sent_at=now() - timedelta(hours=25), look_at=now())

    assert _relay() == 0


def test_what_comes_back_to_its_queue_is_not_sent_by_the_relay_too(
    queue: str, handle: Handle
) -> None:
    first, second = body(tasks.add, a=1), body(tasks.add, a=2)
    event = sqs_event("no JSON", first, second)
    for record in event["Records"]:
        record["eventSourceARN"] += ".fifo"
        record["attributes"]["MessageGroupId"] = "one"

    answer = handler.handler(event, LambdaContext(timeout_s=60))

    assert len(answer["batchItemFailures"]) == 3
    assert TaskRecord.objects.filter(status="QUEUED").count() == 2
    assert relay() == 0


def test_the_relay_begins_with_what_has_waited_longest(
    sqs: LocalSqs, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lambda_tasks.enqueue.relay.ROUND_LIMIT", 2)
    for a in range(3):
        tasks.add.execute_on_commit(a=a)
    _lose_the_message(sqs, queue)
    TaskRecord.objects.update(sent_at=None)

    monkeypatch.setattr("lambda_tasks.enqueue.relay.MAX_ROUNDS", 1)

    assert relay() == 2
    assert {kwargs_of(each)["a"] for each in bodies_in(sqs, queue)} == {0, 1}
    assert relay() == 1


def test_the_relay_leaves_alone_what_waits_in_the_table(queue: str) -> None:
    tasks.leave_effect.using(queue="table").execute_on_commit(name="x")

    assert relay() == 0
