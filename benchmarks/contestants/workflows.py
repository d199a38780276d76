"""Groups and chains through the worker and the handler of lambda_tasks, in this process."""

import json
import os
import time
from itertools import pairwise
from typing import Any, Final

from django.core.management import call_command
from django.db import connection, transaction
from django.db.models import Max, Min

from benchmarks.contestants.database import migrate, postgres_version
from benchmarks.contestants.work import flows
from benchmarks.contestants.work.models import Counter
from lambda_tasks.handler import handler
from lambda_tasks.local import LambdaContext
from lambda_tasks.local.event_source import EventSourceMapping
from lambda_tasks.models import TaskRecord
from lambda_tasks.workflows import WorkflowRun, group, workflow

__all__ = ["chain", "join", "migrate", "postgres_version", "release", "store"]

TASKS: Final[dict[str, Any]] = {
    "bulk": flows.compute,
    "own": flows.write,
    "counted": flows.write_and_count,
}

LIMIT_S: Final = 600.0


def join(*, kind: str, members: int, joined: bool, lanes: int) -> float:
    """Members a second of a worker, from the first one's start to the last one's end.

    Without `joined` they are the same calls, which nothing follows.
    """
    _clear()
    Counter.objects.create(remaining=members)
    task = TASKS[kind].using(queue="table")
    run: WorkflowRun | None = None
    if joined:
        numbers = group(task.step(number=number) for number in range(members))
        follower = flows.total.using(queue="table").step(numbers=numbers.results)
        run = workflow("join", follower).execute_on_commit()
    else:
        task.execute_many_on_commit({"number": number} for number in range(members))
    call_command("lambda_tasks", "worker", "--once", "--queue", "table", "--concurrency", lanes)
    if run is not None:
        assert run.result(timeout=0) == [sum(range(members))] or run.status() == "SUCCESS"
    records = TaskRecord.objects.filter(task_name=TASKS[kind].name)
    assert records.filter(status="SUCCESS").count() == members
    times = records.aggregate(first=Min("start_time"), last=Max("end_time"))
    return members / float((times["last"] - times["first"]).total_seconds())


def store(*, members: int) -> float:
    """Seconds of the call and the commit of a group that waits for a step, and of the step's."""
    _clear()
    began = time.perf_counter()
    with transaction.atomic():
        _wide(members).execute_on_commit()
    return time.perf_counter() - began


def release(*, members: int) -> dict[str, float]:
    """Seconds of the event whose step releases so many members, and until all are sent.

    The commit of the release is when the step's record ends.
    """
    _clear()
    _wide(members).execute_on_commit()
    first = TaskRecord.objects.get(task_name=flows.begin.name)
    began = time.perf_counter()
    handler(_event(first), LambdaContext(timeout_s=900))
    released_s = time.perf_counter() - began
    waiting = TaskRecord.objects.filter(task_name=flows.compute.name, sent_at=None)
    while waiting.exists():
        assert time.perf_counter() - began < LIMIT_S, f"{waiting.count()} are not sent"
        call_command("lambda_tasks", "tick", verbosity=0)
    first.refresh_from_db()
    assert first.start_time is not None
    assert first.end_time is not None
    return {
        "release_s": (first.end_time - first.start_time).total_seconds(),
        "event_s": released_s,
        "sent_s": time.perf_counter() - began,
    }


def chain(*, steps: int) -> list[float]:
    """Seconds from the end of each step of a chain to the start of the next one, on the handler."""
    _clear()
    step = flows.link.step(number=0)
    for _ in range(steps - 1):
        step = flows.link.step(number=step.result)
    run = workflow("chain", step).execute_on_commit()
    options = json.loads(os.environ["BENCHMARK_CLIENT_OPTIONS"])
    mapping = EventSourceMapping(
        os.environ["BENCHMARK_QUEUE_URL"],
        lambda event: handler(event, LambdaContext()),
        client_options=options,
    )
    until = time.monotonic() + LIMIT_S
    while run.status() not in ("SUCCESS", "FAILED"):
        assert time.monotonic() < until, run.progress()
        mapping.poll_once(wait_s=1)
    records = TaskRecord.objects.filter(task_name=flows.link.name).order_by("start_time")
    times: list[Any] = list(records.values_list("start_time", "end_time"))
    assert len(times) == steps
    return [(after[0] - before[1]).total_seconds() for before, after in pairwise(times)]


def _wide(members: int) -> Any:
    begin = flows.begin.step()
    numbers = group(flows.compute.step(number=number).after(begin) for number in range(members))
    return workflow("wide", flows.total.step(numbers=numbers.results))


def _clear() -> None:
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names(cursor):
            if not table.startswith("django_"):
                cursor.execute(f"TRUNCATE TABLE {table} CASCADE")
        cursor.execute("VACUUM ANALYZE")


def _event(record: TaskRecord) -> dict[str, Any]:
    body = {"task_name": record.task_name, "invocation_id": str(record.id), "durable": True}
    return {
        "Records": [
            {
                "messageId": str(record.id),
                "receiptHandle": "",
                "body": json.dumps(body),
                "attributes": {
                    "ApproximateReceiveCount": "1",
                    "SentTimestamp": str(round(time.time() * 1000)),
                },
                "messageAttributes": {},
                "eventSource": "aws:sqs",
                "eventSourceARN": "arn:aws:sqs:us-east-1:000000000000:benchmark",
                "awsRegion": "us-east-1",
            }
        ]
    }
