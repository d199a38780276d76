"""The tasks that are run in every place: each does one thing that a task can do, and leaves an
effect that shows how often it counted."""

import asyncio
import time
from datetime import datetime
from decimal import Decimal
from typing import Any

from lambda_tasks import Continue, Retry, TaskContext, lambda_task
from lambda_tasks.backends import task
from tests.app.models import Effect

EVERY_KIND: list[Any] = [None, True, 1, 2.5, "é", [1, [2]], {"a": {"b": None}}]


@lambda_task
def sync(*, a: int) -> int:
    Effect.objects.create(name="sync")
    return a + 1


@lambda_task
async def asynchronous(*, a: int) -> int:
    await Effect.objects.acreate(name="asynchronous")
    return a + 1


@lambda_task
def failing() -> None:
    Effect.objects.create(name="failing")
    raise ValueError("as it should")


@lambda_task(takes_context=True)
async def retrying(context: TaskContext) -> int:
    await Effect.objects.acreate(name="retrying")
    if context.n_retries == 0:
        raise Retry("once more", delay=0)
    return context.n_retries


@lambda_task(soft_timeout=0.3, hard_timeout=20)
def timing_out() -> str:
    Effect.objects.create(name="timing_out")
    time.sleep(2)
    return "nobody minds"


@lambda_task
async def every_kind() -> list[Any]:
    await asyncio.sleep(0)
    await Effect.objects.acreate(name="every_kind")
    return EVERY_KIND


@lambda_task(singleton=True)
def singleton() -> str:
    Effect.objects.create(name="singleton")
    return "alone"


@lambda_task
def delayed() -> str:
    Effect.objects.create(name="delayed")
    return "later"


@lambda_task(takes_context=True)
def resumed(context: TaskContext) -> int:
    Effect.objects.create(name="resumed")
    done: int = context.state or 0
    if done < 2:
        raise Continue(done + 1)
    return done


@lambda_task
def typed(*, moment: datetime, amount: Decimal) -> list[str]:
    Effect.objects.create(name="typed")
    return [type(moment).__name__, str(amount)]


def at_once(error: BaseException, result: Any) -> float:
    return 0


@task(max_attempts=2, backoff=at_once, takes_context=True, atomic=True)
def djangos(context: Any, a: int) -> int:
    Effect.objects.create(name="djangos")
    if context.attempt == 1:
        raise ConnectionError("not yet")
    return a + len(context.task_result.errors)


@task
async def djangos_async(a: int) -> int:
    await Effect.objects.acreate(name="djangos_async")
    return a + 1
