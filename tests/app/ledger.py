"""Tasks that enter their invocation's id into the ledger, so that lost and doubled ones show."""

import asyncio
import os
import signal
import time

from lambda_tasks import Retry, TaskContext, lambda_task
from lambda_tasks.workflows import Results
from tests.app.models import Effect

SOFT_S, HARD_S = 6.0, 7.0

REPAIRED = "repaired"
"""The name of an effect without which some tasks fail."""


@lambda_task(takes_context=True, soft_timeout=SOFT_S, hard_timeout=HARD_S)
def enter(context: TaskContext, *, pause_s: float = 0.0) -> None:
    Effect.objects.create(name=str(context.invocation_id))
    time.sleep(pause_s)


@lambda_task(takes_context=True, soft_timeout=SOFT_S, hard_timeout=HARD_S)
async def aenter(context: TaskContext, *, pause_s: float = 0.0) -> None:
    await Effect.objects.acreate(name=str(context.invocation_id))
    await asyncio.sleep(pause_s)


@lambda_task(takes_context=True, soft_timeout=SOFT_S, hard_timeout=HARD_S)
async def enter_at_the_retry(context: TaskContext) -> None:
    if context.n_retries == 0:
        raise Retry(delay=0)
    await Effect.objects.acreate(name=str(context.invocation_id))


@lambda_task(takes_context=True, soft_timeout=SOFT_S, hard_timeout=HARD_S)
def enter_and_kill_the_worker(context: TaskContext, *, marker: str) -> None:
    Effect.objects.create(name=str(context.invocation_id))
    if first_time(marker):
        os.kill(os.getpid(), signal.SIGKILL)


@lambda_task(takes_context=True, soft_timeout=SOFT_S, hard_timeout=HARD_S)
async def aenter_next(context: TaskContext, *, number: int) -> int:
    await Effect.objects.acreate(name=str(context.invocation_id))
    return number + 1


@lambda_task(takes_context=True, soft_timeout=SOFT_S, hard_timeout=HARD_S)
def enter_next(context: TaskContext, *, number: int) -> int:
    Effect.objects.create(name=str(context.invocation_id))
    return number + 1


@lambda_task(soft_timeout=SOFT_S, hard_timeout=HARD_S)
async def anext_number(*, number: int) -> int:
    """Touch no table, so that the end is written together with others."""
    return number + 1


@lambda_task(takes_context=True, soft_timeout=SOFT_S, hard_timeout=HARD_S)
async def aenter_once_repaired(context: TaskContext, *, number: int) -> int:
    assert await Effect.objects.filter(name=REPAIRED).aexists()
    await Effect.objects.acreate(name=str(context.invocation_id))
    return number + 1


@lambda_task(takes_context=True, soft_timeout=SOFT_S, hard_timeout=HARD_S)
async def aenter_total(context: TaskContext, *, numbers: Results[int]) -> int:
    await Effect.objects.acreate(name=str(context.invocation_id))
    return sum([number async for number in numbers])


def first_time(marker: str) -> bool:
    """Whether this file was not there yet; it is now."""
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True
