"""A queue that is filled, and the worker that works it off."""

from typing import Any

from django.core.management import call_command
from django.db.models import Max, Min

from benchmarks.contestants.database import migrate, postgres_version
from benchmarks.contestants.work import async_tasks, tasks
from lambda_tasks.models import TaskRecord

__all__ = ["migrate", "postgres_version", "work_off"]

TASKS: dict[str, Any] = {"sync": tasks.trivial, "async": async_tasks.trivial}


def work_off(*, kind: str, queue: str, messages: int) -> float:
    """Seconds from the first task's start to the last one's end, by their records."""
    task = TASKS[kind].using(queue=queue)
    invocations = task.execute_many_on_commit({"number": number} for number in range(messages))
    call_command("lambda_tasks", "worker", "--once", "--queue", queue)
    records = TaskRecord.objects.filter(id__in=[each.id for each in invocations])
    assert records.filter(status="SUCCESS").count() == messages
    times = records.aggregate(first=Min("start_time"), last=Max("end_time"))
    return float((times["last"] - times["first"]).total_seconds())
