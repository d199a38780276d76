"""The functions of lambda_tasks that run on the way of one task: out, and in."""

import json
from typing import Any

from django.db import transaction

from benchmarks.contestants.database import migrate
from benchmarks.contestants.work.walked import TASKS, Step, walk
from lambda_tasks.handler import handler
from lambda_tasks.local import LambdaContext
from lambda_tasks.models import TaskRecord

__all__ = ["come_in", "come_in_after", "go_out", "migrate"]


def go_out(*, kind: str) -> list[Step]:
    """From the call in a transaction until its message is sent and marked as sent."""
    task = TASKS[kind]
    with walk.on(), transaction.atomic():
        invocation = task.execute_on_commit(number=1)
    if kind.startswith("durable"):
        assert TaskRecord.objects.get(id=invocation.id).sent_at is not None
    return walk.steps()


def come_in(*, event: dict[str, Any]) -> list[Step]:
    """From the event until its answer, in this process."""
    with walk.on():
        answer = handler(event, LambdaContext())
    assert answer == {"batchItemFailures": []}, answer
    return walk.steps()


def come_in_after(*, event: dict[str, Any]) -> Any:
    """The worker process's steps in the event before, which this one's task gives back."""
    come_in(event=event)
    [record] = event["Records"]
    return TaskRecord.objects.get(id=json.loads(record["body"])["invocation_id"]).result
