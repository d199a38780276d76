"""taskiq on SQS: `kiq()`, a request for each message, sixteen at a time."""

import asyncio
import os
import time
from urllib.parse import urlsplit

from taskiq_aio_sqs import SQSBroker

QUEUE_URL = urlsplit(os.environ["BENCHMARK_QUEUE_URL"])
AT_A_TIME = 16

broker = SQSBroker(
    QUEUE_URL.path.rpartition("/")[2],
    endpoint_url=f"{QUEUE_URL.scheme}://{QUEUE_URL.netloc}",
    aws_access_key_id="test",
    aws_secret_access_key="test",
)
_runner = asyncio.Runner()
_started: list[SQSBroker] = []


@broker.task
async def welcome(user_id: int, template: str) -> None:
    """What is enqueued; it never runs."""


def send(*, messages: int, form: str) -> float:
    """Seconds for so many messages."""
    return _runner.run(_send(messages))


def close() -> None:
    for started in _started:
        _runner.run(started.shutdown())
    _runner.close()


async def _send(messages: int) -> float:
    if not _started:
        await broker.startup()
        _started.append(broker)
    waiting = iter(range(messages))

    async def work() -> None:
        for number in waiting:
            await welcome.kiq(user_id=number, template="welcome")

    began_at = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(AT_A_TIME)))
    return time.perf_counter() - began_at
