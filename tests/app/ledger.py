"""Tasks that enter their invocation's id into the ledger, so that lost and doubled ones show."""

import asyncio
import os
import signal
import time

from lambda_tasks import Retry, TaskContext, lambda_task
from tests.app.models import Effect

SOFT_S, HARD_S = 6.0, 7.0


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


def first_time(marker: str) -> bool:
    """Whether this file was not there yet; it is now."""
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True
