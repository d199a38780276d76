"""One message after another, each alone: by hand, by the transport alone, and by the call forms."""

import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from aiobotocore.session import get_session

from benchmarks.contestants.work.tasks import welcome
from lambda_tasks import runtime
from lambda_tasks.enqueue.prepare import prepare

QUEUE_URL = os.environ["BENCHMARK_QUEUE_URL"]
ARGUMENTS: dict[str, Any] = {"user_id": 1, "template": "welcome"}

Send = Callable[[], Awaitable[Any]]


def measure(*, messages: int) -> dict[str, list[float]]:
    """Seconds of each message, by its form. The forms take turns, message by message."""
    welcome.execute_on_commit(**ARGUMENTS)  # opens the client, on the loop that it stays on
    asynchronous = runtime.current().portal.call(_measure_on_the_loop, messages)
    return {
        **asynchronous,
        "await aexecute_on_commit()": asyncio.run(_measure_async_call(messages)),
        "execute_on_commit()": [_seconds_of_a_call() for _ in range(messages)],
    }


async def _measure_on_the_loop(messages: int) -> dict[str, list[float]]:
    dispatcher = runtime.current().dispatcher
    transport = runtime.current().transport("default")
    async with get_session().create_client("sqs") as client:
        forms: dict[str, Callable[[Any], Awaitable[Any]]] = {
            "aiobotocore by hand": partial(_by_hand, client),
            "transport alone": lambda outgoing: transport.send([outgoing]),
            "dispatcher": lambda outgoing: dispatcher.send([outgoing]),
        }
        seconds: dict[str, list[float]] = {form: [] for form in forms}
        for number in range(messages + 5):
            for form, send in forms.items():
                outgoing = _outgoing()
                began_at = time.perf_counter()
                await send(outgoing)
                if number >= 5:  # the first ones open connections
                    seconds[form].append(time.perf_counter() - began_at)
    return seconds


async def _measure_async_call(messages: int) -> list[float]:
    seconds = []
    for _ in range(messages + 5):
        began_at = time.perf_counter()
        await welcome.aexecute_on_commit(**ARGUMENTS)
        seconds.append(time.perf_counter() - began_at)
    return seconds[5:]


def _seconds_of_a_call() -> float:
    began_at = time.perf_counter()
    welcome.execute_on_commit(**ARGUMENTS)
    return time.perf_counter() - began_at


async def _by_hand(client: Any, outgoing: Any) -> None:
    body = json.dumps(outgoing.message.kwargs)
    await client.send_message_batch(QueueUrl=QUEUE_URL, Entries=[{"Id": "0", "MessageBody": body}])


def _outgoing() -> Any:
    return prepare(welcome.name, ARGUMENTS, queue="default", durable=False)
