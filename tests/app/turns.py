"""Tasks that wait for their turn, or take the others' time."""

import asyncio
import os
import signal
import time
from pathlib import Path

from lambda_tasks import TaskContext, lambda_task

from .models import Effect


@lambda_task
async def kill_its_worker() -> None:
    """The function or the worker, in whose process async tasks run."""
    os.kill(os.getpid(), signal.SIGKILL)


@lambda_task(on_lost="fail")
async def kill_its_worker_once() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@lambda_task
def take(*, seconds: float) -> None:
    time.sleep(seconds)


@lambda_task
def wait_at_gate(*, gate: Path, opens: bool) -> None:
    """One run opens it; the others wait for that, for two seconds at most.

    No run is so short that others are sent ahead to a process that still has one.
    """
    time.sleep(0.05)
    if opens:
        gate.touch()
    ends_at = time.monotonic() + 2
    while not gate.exists() and time.monotonic() < ends_at:
        time.sleep(0.02)


@lambda_task
async def awrite_and_take(*, seconds: float) -> None:
    await Effect.objects.acreate(name="taken")
    await asyncio.sleep(seconds)


@lambda_task(on_lost="fail")
def take_once(*, seconds: float) -> None:
    time.sleep(seconds)


@lambda_task(soft_timeout=2, hard_timeout=3)
def take_of_three(*, seconds: float) -> None:
    time.sleep(seconds)


@lambda_task(soft_timeout=400, hard_timeout=450, atomic=False)
async def hang() -> None:
    await asyncio.sleep(600)


@lambda_task(takes_context=True)
def tell_remaining(context: TaskContext) -> float:
    return context.remaining()


@lambda_task(singleton=True, max_retries=2, atomic=False)
def alone() -> None:
    Effect.objects.create(name="alone")


@lambda_task(singleton=True, max_retries=2, atomic=False, ignore_errors=(OSError,))
async def aalone_until(*, gate: Path) -> None:
    while not await asyncio.to_thread(gate.exists):
        await asyncio.sleep(0.02)
