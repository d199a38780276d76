"""SendMessageBatch requests of ten messages made beforehand, sixteen at a time, in CPU seconds."""

import asyncio
import os
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from itertools import repeat
from typing import Any

from aiobotocore.session import get_session

from benchmarks.contestants.bodies import batches
from benchmarks.contestants.enqueue_by_hand import CONFIGS, REQUESTS_AT_A_TIME
from lambda_tasks.core.message import Message, Outgoing
from lambda_tasks.queues.aws.client import AwsClient
from lambda_tasks.queues.sqs import SQSTransport

QUEUE_URL = os.environ["BENCHMARK_QUEUE_URL"]


def measure(*, requests: int, runs: int) -> dict[str, list[float]]:
    """CPU seconds per request of each run, by form. The forms take turns."""
    return asyncio.run(_measure(requests, runs))


async def _measure(requests: int, runs: int) -> dict[str, list[float]]:
    (entries,) = batches(10)
    outgoing = [
        Outgoing(
            Message(task_name="welcome", kwargs={}, invocation_id=uuid.uuid4()),
            entry["MessageBody"],
            "default",
        )
        for entry in entries
    ]
    async with AsyncExitStack() as stack:
        forms: dict[str, Callable[[], Awaitable[Any]]] = {}
        for form, config in CONFIGS.items():
            client = await stack.enter_async_context(
                get_session().create_client("sqs", config=config)
            )
            forms[form] = partial(client.send_message_batch, QueueUrl=QUEUE_URL, Entries=entries)
        own = AwsClient("sqs", {})
        stack.push_async_callback(own.aclose)
        forms["lambda_tasks"] = partial(SQSTransport(QUEUE_URL, own).send, outgoing)
        for send in forms.values():
            await _cpu_seconds(send, REQUESTS_AT_A_TIME * 2)  # opens connections
        measured: dict[str, list[float]] = {form: [] for form in forms}
        for _ in range(runs):
            for form, send in forms.items():
                measured[form].append(await _cpu_seconds(send, requests) / requests)
    return measured


async def _cpu_seconds(send: Callable[[], Awaitable[Any]], requests: int) -> float:
    waiting = repeat(None, requests)

    async def work() -> None:
        for _ in waiting:
            await send()

    began_at = time.process_time()
    await asyncio.gather(*(work() for _ in range(REQUESTS_AT_A_TIME)))
    return time.process_time() - began_at
