"""SQS events through the handler of lambda_tasks or of django-lambda-tasks, in this process."""

import importlib
import json
import time
import uuid
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from django.core.management import call_command
from lambda_tasks.handler import handler
from lambda_tasks.models import TaskRecord

SUCCESS = ("SUCCESS", "SUCCEEDED")
"""As the two libraries call it."""


class Context:
    """As much of Lambda's context as a handler reads."""

    aws_request_id = "00000000-0000-0000-0000-000000000000"
    function_name = "benchmark"

    def get_remaining_time_in_millis(self) -> int:
        return 900_000


def migrate() -> None:
    call_command("migrate", verbosity=0)


def handle(
    *, task: str, kwargs: dict[str, Any], sizes: Sequence[int], events: int, warm_up: int
) -> dict[str, list[float]]:
    """Seconds of each event, by its number of records. The sizes take turns.

    `task` is a dotted name within the package `work`; `number` is added to `kwargs`.
    """
    seconds: dict[str, list[float]] = defaultdict(list)
    before = _succeeded()
    for turn in range(warm_up + events):
        for size in sizes:
            event = _event(task, kwargs, size)
            began_at = time.perf_counter()
            answer = handler(event, Context())
            took = time.perf_counter() - began_at
            assert answer == {"batchItemFailures": []}, answer
            if turn >= warm_up:
                seconds[str(size)].append(took)
    assert _succeeded() - before == (warm_up + events) * sum(sizes)
    return seconds


def _succeeded() -> int:
    return TaskRecord.objects.filter(status__in=SUCCESS).count()


def _event(task: str, kwargs: dict[str, Any], size: int) -> dict[str, Any]:
    module, _, name = task.rpartition(".")
    wrapper = getattr(importlib.import_module(f"benchmarks.contestants.work.{module}"), name)
    messages = [wrapper.serialize(number=number, **kwargs)["message"] for number in range(size)]
    return {"Records": [_record(json.dumps(message)) for message in messages]}


def _record(body: str) -> dict[str, Any]:
    return {
        "messageId": str(uuid.uuid4()),
        "receiptHandle": "none",
        "body": body,
        "attributes": {
            "ApproximateReceiveCount": "1",
            "SentTimestamp": str(round(time.time() * 1000)),
        },
        "messageAttributes": {},
        "eventSource": "aws:sqs",
        "eventSourceARN": "arn:aws:sqs:us-east-1:000000000000:benchmark",
        "awsRegion": "us-east-1",
    }
