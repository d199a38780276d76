"""SQS events through the handler of lambda_tasks or of django-lambda-tasks, in this process."""

import importlib
import json
import time
import uuid
from typing import Any

from django.core.management import call_command
from django.db import connection
from django.test import override_settings

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


def migrate() -> list[str]:
    """Make the tables; return the names of the indexes that this server can't have.

    django-lambda-tasks has trigram indexes, and not every build of PostgreSQL can do them. To go
    without them is to its advantage: they make an INSERT dearer.
    """
    trigram = [index for index in TaskRecord._meta.indexes if "trgm" in index.name]
    if not trigram or _has_trigrams():
        call_command("migrate", verbosity=0)
        return []
    TaskRecord._meta.indexes = [
        index for index in TaskRecord._meta.indexes if index not in trigram
    ]
    with override_settings(MIGRATION_MODULES={"lambda_tasks": None}):
        call_command("migrate", run_syncdb=True, verbosity=0)
    return [index.name for index in trigram]


def _has_trigrams() -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1 FROM pg_available_extensions WHERE name = 'pg_trgm'")
        return cursor.fetchone() is not None


def postgres_version() -> str:
    with connection.cursor() as cursor:
        cursor.execute("SHOW server_version")
        return str(cursor.fetchone()[0])


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
