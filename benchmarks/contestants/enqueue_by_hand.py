"""What somebody who knows SQS writes by hand: full batches over one kept client."""

import asyncio
import os
import time
from contextlib import AsyncExitStack
from functools import cache
from typing import Any

import boto3
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session

from benchmarks.contestants.bodies import batches

REQUESTS_AT_A_TIME = 16

QUEUE_URL = os.environ["BENCHMARK_QUEUE_URL"]

CONFIGS = {
    "aiobotocore": AioConfig(max_pool_connections=REQUESTS_AT_A_TIME),
    # With the options that lambda_tasks sets, to tell its client's share from the rest of it.
    "aiobotocore tuned": AioConfig(
        max_pool_connections=REQUESTS_AT_A_TIME, parameter_validation=False, user_agent="by hand"
    ),
}

_runner = asyncio.Runner()
_stack = AsyncExitStack()
_clients: dict[str, Any] = {}


def send(*, messages: int, form: str) -> float:
    """Seconds for so many messages, their bodies made on the way: boto3, or a key of CONFIGS."""
    if form == "boto3":
        return _send_one_by_one(messages)
    return _runner.run(_send_concurrently(messages, form))


def close() -> None:
    _runner.run(_stack.aclose())
    _runner.close()


def _send_one_by_one(messages: int) -> float:
    client = _boto3_client()
    began_at = time.perf_counter()
    for entries in batches(messages):
        answer = client.send_message_batch(QueueUrl=QUEUE_URL, Entries=entries)
        assert not answer.get("Failed")
    return time.perf_counter() - began_at


async def _send_concurrently(messages: int, form: str) -> float:
    client = await _aiobotocore_client(form)
    began_at = time.perf_counter()
    waiting = batches(messages)

    async def work() -> None:
        for entries in waiting:
            answer = await client.send_message_batch(QueueUrl=QUEUE_URL, Entries=entries)
            assert not answer.get("Failed")

    await asyncio.gather(*(work() for _ in range(REQUESTS_AT_A_TIME)))
    return time.perf_counter() - began_at


@cache
def _boto3_client() -> Any:
    return boto3.client("sqs")


async def _aiobotocore_client(form: str) -> Any:
    if form not in _clients:
        client = get_session().create_client("sqs", config=CONFIGS[form])
        _clients[form] = await _stack.enter_async_context(client)
    return _clients[form]
