"""`group_key`: a tenant's share of a standard queue, and the order of a FIFO queue."""

import json
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lambda_tasks import handler
from lambda_tasks.local import LambdaContext, LocalSqs
from lambda_tasks.models import SQSLambdaTask, TaskRecord
from tests.app import tasks
from tests.app.models import Effect
from tests.conftest import Handle, body, sqs_event
from tests.servers.faulty_sqs import Fault, FaultySqs

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def fifo(sqs: LocalSqs, settings: Any, queue: str) -> Iterator[str]:
    url = sqs.create_queue(f"ordered-{uuid.uuid4().hex}.fifo", visibility_timeout_s=30)
    settings.LAMBDA_TASKS_QUEUES = settings.LAMBDA_TASKS_QUEUES | {"ordered": url}
    yield url
    sqs.client.delete_queue(QueueUrl=url)


def received(sqs: LocalSqs, url: str) -> list[dict[str, Any]]:
    answer = sqs.client.receive_message(
        QueueUrl=url, MaxNumberOfMessages=10, AttributeNames=["All"], WaitTimeSeconds=0
    )
    messages: list[dict[str, Any]] = answer.get("Messages", [])
    return messages


def test_a_standard_queue_gets_the_group_for_its_fairness(sqs: LocalSqs, queue: str) -> None:
    tasks.add.using(group_key="tenant-7").execute_on_commit(a=1)

    (message,) = received(sqs, queue)
    assert message["Attributes"]["MessageGroupId"] == "tenant-7"
    assert "MessageDeduplicationId" not in message["Attributes"]


def test_a_fifo_queue_gets_the_group_and_the_invocation_as_deduplication_id(
    sqs: LocalSqs, fifo: str
) -> None:
    ordered = tasks.leave_effect.using(queue="ordered", group_key="tenant-7")
    payload: dict[str, Any] = ordered.serialize(name="x") | {"queue": "ordered"}
    for _ in range(2):
        SQSLambdaTask.model_validate(payload).execute_on_commit()
    tasks.add.using(queue="ordered").execute_on_commit(a=1)

    first, second = received(sqs, fifo)
    assert first["Attributes"]["MessageDeduplicationId"] == payload["message"]["invocation_id"]
    assert second["Attributes"]["MessageGroupId"] == "tests.app.tasks.add", "without one, the task"


@pytest.mark.parametrize("task", [tasks.leave_effect, tasks.aleave_effect])
def test_a_group_of_a_fifo_queue_runs_in_its_order(
    task: Any, fifo: str, work_off: Callable[[str], int]
) -> None:
    for number in range(20):
        group = task.using(queue="ordered", group_key=f"tenant-{number % 2}")
        group.execute_on_commit(name=f"{number % 2} {number:02}")

    while work_off(fifo):
        pass

    names = list(Effect.objects.order_by("pk").values_list("name", flat=True))
    assert len(names) == 20
    for tenant in "01":
        own = [name for name in names if name.startswith(tenant)]
        assert own == sorted(own)


def test_a_slow_request_is_not_overtaken_by_those_behind_it(
    sqs: LocalSqs, fifo: str, settings: Any
) -> None:
    with FaultySqs(sqs.endpoint_url) as proxy:
        settings.LAMBDA_TASKS_AWS = sqs.client_options | {"endpoint_url": proxy.endpoint_url}
        ordered = tasks.leave_effect.using(queue="ordered", group_key="tenant-7")
        ordered.execute_on_commit(name="00")
        proxy.inject(Fault(latency_s=0.5))
        ordered.execute_many_on_commit({"name": f"{number:02}"} for number in range(1, 31))

    names = [json.loads(each["Body"])["kwargs"]["name"] for each in every(sqs, fifo)]
    assert names == [f"{number:02}" for number in range(31)]


def every(sqs: LocalSqs, url: str) -> list[dict[str, Any]]:
    """Of one group, which gives no more before these are deleted."""
    found: list[dict[str, Any]] = []
    while messages := received(sqs, url):
        found += messages
        for each in messages:
            sqs.client.delete_message(QueueUrl=url, ReceiptHandle=each["ReceiptHandle"])
    return found


def fifo_event(*bodies: str, groups: str) -> Any:
    event = sqs_event(*bodies)
    for record, group in zip(event["Records"], groups, strict=True):
        record["eventSourceARN"] += ".fifo"
        record["attributes"]["MessageGroupId"] = group
    return event


def came_back(event: Any) -> list[int]:
    answer = handler.handler(event, LambdaContext())
    ids = [record["messageId"] for record in event["Records"]]
    return sorted(ids.index(each["itemIdentifier"]) for each in answer["batchItemFailures"])


def test_none_of_a_group_runs_after_one_that_goes_back(handle: Handle) -> None:
    good = [body(tasks.leave_effect_direct, name=str(number)) for number in range(6)]
    event = fifo_event(good[0], "no JSON", good[1], good[2], good[3], groups="aaaab")

    assert came_back(event) == [1, 2, 3]
    assert {each.name for each in Effect.objects.all()} == {"0", "3"}
    waiting = TaskRecord.objects.filter(status="QUEUED")
    assert [each.n_attempts for each in waiting] == [0, 0], "it counts as no attempt"

    assert came_back(fifo_event(good[1], good[2], groups="aa")) == []
    assert Effect.objects.count() == 4


def test_a_task_that_fails_holds_up_no_other_of_its_group(handle: Handle) -> None:
    failing, other = body(tasks.write_and_fail, name="x"), body(tasks.leave_effect_direct, name="y")
    event = fifo_event(failing, other, groups="aa")

    assert came_back(event) == []
    assert [each.name for each in Effect.objects.all()] == ["y"]


def test_a_lost_claim_sends_the_rest_of_its_group_back(handle: Handle) -> None:
    event = fifo_event(
        body(tasks.lose_own_claim), body(tasks.leave_effect_direct, name="after"), groups="aa"
    )

    assert came_back(event) == [0, 1]
    assert Effect.objects.count() == 0
