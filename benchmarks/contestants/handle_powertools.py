"""SQS events through AWS Lambda Powertools' AsyncBatchProcessor, which keeps no records."""

import asyncio
import json
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from aws_lambda_powertools.utilities.batch import (
    AsyncBatchProcessor,
    EventType,
    async_process_partial_response,
)

processor = AsyncBatchProcessor(event_type=EventType.SQS)


async def trivial(*, number: int) -> int:
    return number


async def wait(*, number: int, seconds: float) -> int:
    await asyncio.sleep(seconds)
    return number


TASKS: dict[str, Any] = {"async_tasks.trivial": trivial, "async_tasks.wait": wait}


def migrate() -> list[str]:
    """There are no tables."""
    return []


def handle(*, task: str, kwargs: dict[str, Any], size: int, events: int) -> list[float]:
    """Seconds of each event of so many records."""
    return [_handle(_event(task, kwargs, size)) for _ in range(events)]


async def _on_record(record: Any) -> int:
    body = json.loads(record.body)
    task: Callable[..., Awaitable[int]] = TASKS[body["task"]]
    return await task(**body["kwargs"])


def _handle(event: dict[str, Any]) -> float:
    began_at = time.perf_counter()
    answer = async_process_partial_response(
        event=event, record_handler=_on_record, processor=processor
    )
    seconds = time.perf_counter() - began_at
    assert answer == {"batchItemFailures": []}, answer
    return seconds


def _event(task: str, kwargs: dict[str, Any], size: int) -> dict[str, Any]:
    bodies = [{"task": task, "kwargs": {"number": number, **kwargs}} for number in range(size)]
    return {
        "Records": [
            {"messageId": str(uuid.uuid4()), "body": json.dumps(body), "eventSource": "aws:sqs"}
            for body in bodies
        ]
    }
