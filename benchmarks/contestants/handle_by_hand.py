"""The statements of lambda_tasks, written by hand with Django's async ORM: ten at a time, each task
in a transaction with the end of its record. No validation, no time limits, no logs, no answers.
"""

import asyncio
import time
import uuid
from collections.abc import Iterator
from typing import Any

from asgiref.sync import ThreadSensitiveContext, sync_to_async
from django.db import connections, transaction
from django.db.models.functions import Now

from benchmarks.contestants.database import migrate
from benchmarks.contestants.work.models import Shipment
from lambda_tasks.models import TaskRecord

__all__ = ["handle", "migrate"]

AT_A_TIME = 10

_runner = asyncio.Runner()


def handle(*, task: str, kwargs: dict[str, Any], size: int, events: int) -> list[float]:
    """Seconds of each event of so many records."""
    return [_runner.run(_handle(size)) for _ in range(events)]


def close() -> None:
    _runner.close()


async def _handle(size: int) -> float:
    records = [
        TaskRecord(
            id=uuid.uuid4(),
            task_name="benchmarks.contestants.work.async_tasks.write",
            kwargs={"number": number},
            status="RUNNING",
            n_attempts=1,
        )
        for number in range(size)
    ]
    began_at = time.perf_counter()
    await sync_to_async(TaskRecord.objects.bulk_create)(records, ignore_conflicts=True)
    waiting = iter(records)
    await asyncio.gather(*(_work(waiting) for _ in range(min(AT_A_TIME, size))))
    return time.perf_counter() - began_at


async def _work(waiting: Iterator[TaskRecord]) -> None:
    async with ThreadSensitiveContext():
        for record in waiting:
            block = transaction.atomic()
            await sync_to_async(block.__enter__)()
            await Shipment.objects.acreate(number=record.kwargs["number"])
            await sync_to_async(_end)(record, block)
        await sync_to_async(connections.close_all)()


def _end(record: TaskRecord, block: Any) -> None:
    running = TaskRecord.objects.filter(id=record.id, status="RUNNING")
    running.update(status="SUCCESS", result=None, end_time=Now())
    block.__exit__(None, None, None)
