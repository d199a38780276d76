"""What can't be sent or run blocks nothing else."""

import uuid
from typing import Any

import pytest
from django.core.management import call_command
from django.db.models import F
from django.db.models.functions import Now

from lambda_tasks.local import LocalSqs
from lambda_tasks.models import TaskRecord
from tests.app import secretive, tasks
from tests.conftest import relay
from tests.servers import Fault, FaultySqs

pytestmark = pytest.mark.django_db(transaction=True)

REMOVED = "a queue that is no more"


def left_behind(count: int) -> None:
    """Stored messages of a queue that the settings no longer have."""
    tasks.add.using(queue="table").execute_many_on_commit([{"a": n} for n in range(count)])
    TaskRecord.objects.update(queue=REMOVED, sent_at=None)


def test_a_thousand_messages_that_no_queue_takes_hold_up_no_other(
    sqs: LocalSqs, queue: str, settings: Any, caplog: Any
) -> None:
    left_behind(1_001)
    with FaultySqs(sqs.endpoint_url) as proxy:
        proxy.inject(Fault(times=None, drop=True))
        url = queue.replace(sqs.endpoint_url, proxy.endpoint_url)
        settings.LAMBDA_TASKS_QUEUES = settings.LAMBDA_TASKS_QUEUES | {"default": url}
        tasks.add.execute_on_commit(a=1)
    settings.LAMBDA_TASKS_QUEUES = settings.LAMBDA_TASKS_QUEUES | {"default": queue}
    caplog.clear()

    assert relay() == 1

    assert TaskRecord.objects.get(queue="default").sent_at is not None
    waiting = TaskRecord.objects.filter(queue=REMOVED, status="QUEUED", n_waits=1)
    assert waiting.filter(look_at__gt=Now()).count() == 1_001
    assert len([each for each in caplog.records if REMOVED in each.getMessage()]) <= 3


def test_what_is_refused_again_waits_for_longer(queue: str) -> None:
    left_behind(1)
    waits = []
    for _ in range(6):
        relay()
        left = TaskRecord.objects.values_list(F("look_at") - Now(), flat=True).get()
        waits.append(round(left.total_seconds() / 60))
        assert relay() == 0
        assert TaskRecord.objects.get().n_waits == len(waits), "it is not looked at before"
        TaskRecord.objects.update(look_at=Now())

    assert waits == [1, 2, 4, 8, 15, 15]


@pytest.mark.usefixtures("queue")
def test_rows_of_the_table_that_can_not_run_hold_up_no_other(settings: Any, caplog: Any) -> None:
    calls = [{"a": number} for number in range(10)]
    in_table = tasks.add.using(queue="table")
    in_table.execute_many_on_commit(calls)
    TaskRecord.objects.update(
        task_name="tests.app.tasks.not_here",
        status="RUNNING", claim_token=uuid.uuid4(), n_attempts=1, lease_until=Now(),
    )  # fmt: skip
    secret = secretive.pay.using(queue="table")
    secret.execute_many_on_commit([{"account": "a", "token": "t" * 9}] * 10)
    settings.SECRET_KEY = "another key"
    in_table.execute_on_commit(a=1)

    call_command("lambda_tasks", "worker", "--queue", "table", "--once")

    assert TaskRecord.objects.filter(status="SUCCESS").count() == 1
    stuck = TaskRecord.objects.exclude(status="SUCCESS")
    assert stuck.count() == stuck.filter(refused_at__isnull=False).count() == 20
    assert stuck.filter(task_name=secretive.pay.name, n_waits=1, look_at__gt=Now()).count() == 10
    assert len(caplog.records) < 100
