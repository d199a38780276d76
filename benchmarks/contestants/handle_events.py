"""SQS events through the handler of lambda_tasks or of django-lambda-tasks, in this process."""

import importlib
import json
import os
import time
import uuid
from typing import Any

from benchmarks.contestants.database import migrate, postgres_version
from lambda_tasks.handler import handler
from lambda_tasks.models import TaskRecord

__all__ = ["handle", "migrate", "postgres_version"]

SUCCESS = ("SUCCESS", "SUCCEEDED")
"""As the two libraries call it."""


class Context:
    """As much of Lambda's context as a handler reads."""

    aws_request_id = "00000000-0000-0000-0000-000000000000"
    function_name = "benchmark"

    def get_remaining_time_in_millis(self) -> int:
        return 900_000


def handle(*, task: str, kwargs: dict[str, Any], size: int, events: int) -> list[float]:
    """Seconds of each event of so many records.

    `task` is a dotted name within the package `work`; `number` is added to `kwargs`.
    """
    before = _succeeded()
    seconds = [_handle(_event(task, kwargs, size)) for _ in range(events)]
    # An error that is quicker than the work must not win.
    assert _succeeded() - before == events * size
    return seconds


def _handle(event: dict[str, Any]) -> float:
    began_at = time.perf_counter()
    answer = handler(event, Context())
    seconds = time.perf_counter() - began_at
    assert answer == {"batchItemFailures": []}, answer
    return seconds


def _succeeded() -> int:
    return TaskRecord.objects.filter(status__in=SUCCESS).count()


def _event(task: str, kwargs: dict[str, Any], size: int) -> dict[str, Any]:
    module, _, name = task.rpartition(".")
    wrapper = getattr(importlib.import_module(f"benchmarks.contestants.work.{module}"), name)
    calls = [{"number": number, **kwargs} for number in range(size)]
    make = _durable if "BENCHMARK_DURABLE" in os.environ else _direct
    return {"Records": [_record(json.dumps(message)) for message in make(wrapper, calls)]}


def _direct(wrapper: Any, calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [wrapper.serialize(**call)["message"] for call in calls]


def _durable(wrapper: Any, calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """With their records, as lambda_tasks writes them when it enqueues."""
    invocations = wrapper.execute_many_on_commit(calls)
    return [
        message | {"invocation_id": str(invocation.id), "durable": True}
        for message, invocation in zip(_direct(wrapper, calls), invocations, strict=True)
    ]


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
