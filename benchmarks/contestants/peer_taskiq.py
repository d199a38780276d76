"""taskiq on SQS: two processes, ten messages a request, and no result backend."""

import asyncio
import os
from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import urlsplit

from taskiq_aio_sqs import SQSBroker

from benchmarks.contestants import peer

QUEUE_URL = urlsplit(os.environ["BENCHMARK_QUEUE_URL"])
SEND_AT_A_TIME = 16

broker = SQSBroker(
    QUEUE_URL.path.rpartition("/")[2],
    endpoint_url=f"{QUEUE_URL.scheme}://{QUEUE_URL.netloc}",
    region_name=os.environ["AWS_DEFAULT_REGION"],
    aws_access_key_id=os.environ["AWS_ACCESS_KEY_ID"],
    aws_secret_access_key=os.environ["AWS_SECRET_ACCESS_KEY"],
    max_number_of_messages=10,
)

BROKER = "benchmarks.contestants.peer_taskiq:broker"
COMMANDS = [["-m", "taskiq", "worker", BROKER, "--workers=2", "--log-level=ERROR"]]


@broker.task
async def mark() -> None:
    peer.mark()


def work_off(*, kind: str, messages: int) -> dict[str, float]:
    asyncio.run(_with_broker(lambda: _send(messages)))
    return peer.work_off(messages, COMMANDS)


def lone(*, kind: str, calls: int) -> float:
    with asyncio.Runner() as runner:
        runner.run(broker.startup())
        try:
            return peer.lone(lambda: runner.run(mark.kiq()), COMMANDS, calls)
        finally:
            runner.run(broker.shutdown())


async def _with_broker(act: Callable[[], Coroutine[Any, Any, None]]) -> None:
    await broker.startup()
    try:
        await act()
    finally:
        await broker.shutdown()


async def _send(messages: int) -> None:
    waiting = iter(range(messages))

    async def work() -> None:
        for _ in waiting:
            await mark.kiq()

    await asyncio.gather(*(work() for _ in range(SEND_AT_A_TIME)))
