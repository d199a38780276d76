"""Durable functions on the handler of lambda_tasks, in this process; and their rows without it."""

import json
import time
from collections.abc import Callable
from statistics import median
from typing import Any, Final

from asgiref.sync import async_to_sync
from django.db import connection, transaction

from benchmarks.contestants.database import migrate, postgres_version
from benchmarks.contestants.work import stepped
from lambda_tasks import conf, runtime
from lambda_tasks.handler import handler
from lambda_tasks.local import LambdaContext
from lambda_tasks.models import TaskRecord

__all__ = ["forget", "look", "migrate", "postgres_version", "run", "sleep", "stored"]

TASKS: Final[dict[str, Any]] = {"sync": stepped.step_by_step, "async": stepped.astep_by_step}

BATCH: Final = 10


def run(*, way: str, steps: int) -> float:
    """Return the seconds of the event of a durable function with so many steps.

    `way` is "sync", "async", or "bare" for the rows in transactions of their own, without a
    function.
    """
    if way == "bare":
        return _seconds_of(_ship_bare, steps)
    invocation = TASKS[way].execute_on_commit(steps=steps)
    record = TaskRecord.objects.get(id=invocation.id)
    seconds = _seconds_of(_deliver, [record])
    record.refresh_from_db()
    assert record.status == "SUCCESS", record.traceback
    return seconds


def sleep(*, functions: int) -> None:
    """Let so many functions fall asleep for a day."""
    with transaction.atomic():
        calls = [stepped.sleep_for_a_day.execute_on_commit(number=n) for n in range(functions)]
    ids = [each.id for each in calls]
    for start in range(0, len(ids), BATCH):
        _deliver(list(TaskRecord.objects.filter(id__in=ids[start : start + BATCH])))


def look(*, times: int) -> dict[str, float]:
    """Return what a look of the relay takes that finds nothing: the median and what it has sent."""
    relay = async_to_sync(runtime.current().relay.run_once)
    sent = 0
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        sent += relay()
        seconds.append(time.perf_counter() - began)
    return {"ms": 1000 * median(seconds), "sent": sent}


def stored() -> dict[str, int]:
    """Return how many records there are, by their status."""
    statuses = TaskRecord.objects.order_by().values_list("status", flat=True)
    return {status: list(statuses).count(status) for status in set(statuses)}


def forget() -> None:
    """Empty the tables."""
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names(cursor):
            if not table.startswith("django_"):
                cursor.execute(f"TRUNCATE TABLE {table} CASCADE")
        cursor.execute("VACUUM ANALYZE")


def _ship_bare(steps: int) -> None:
    for number in range(steps):
        with transaction.atomic():
            stepped.ship(number=number)


def _seconds_of(function: Callable[[Any], object], argument: object) -> float:
    began = time.perf_counter()
    function(argument)
    return time.perf_counter() - began


def _deliver(records: list[TaskRecord]) -> None:
    answer = handler(_event(records), LambdaContext(timeout_s=900))
    assert answer == {"batchItemFailures": []}, answer


def _event(records: list[TaskRecord]) -> dict[str, Any]:
    return {
        "Records": [
            {
                "messageId": str(record.id),
                "receiptHandle": "",
                "body": json.dumps(
                    {
                        "task_name": record.task_name,
                        "invocation_id": str(record.id),
                        "durable": True,
                    }
                ),
                "attributes": {
                    "ApproximateReceiveCount": "1",
                    "SentTimestamp": str(round(time.time() * 1000)),
                },
                "messageAttributes": {},
                "eventSource": "aws:sqs",
                "eventSourceARN": conf.current().queue("default").source,
                "awsRegion": "us-east-1",
            }
            for record in records
        ]
    }
