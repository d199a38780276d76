"""Durable calls are sent in the background: the request waits for nothing of SQS."""

import time
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import transaction

from lambda_tasks import runtime
from lambda_tasks.local import LocalSqs
from lambda_tasks.models import TaskRecord
from tests.app import tasks
from tests.conftest import bodies_in, wait_for

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _in_the_background(settings: Any) -> Iterator[None]:
    settings.LAMBDA_TASKS_WAIT_FOR_SEND = False
    yield
    runtime.close()


def test_a_call_is_sent_and_marked(sqs: LocalSqs, queue: str) -> None:
    began = time.perf_counter()
    with transaction.atomic():
        tasks.add.execute_on_commit(a=1)
    print("first", time.perf_counter() - began)
    for _ in range(5):
        began = time.perf_counter()
        with transaction.atomic():
            tasks.add.execute_on_commit(a=1)
        print(time.perf_counter() - began)
        time.sleep(0.2)

    wait_for(lambda: not TaskRecord.objects.filter(sent_at=None).exists())
    assert len(bodies_in(sqs, queue)) == 6
