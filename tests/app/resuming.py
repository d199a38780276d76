"""Tasks that keep a state, go on in another run, show their progress, and can be cancelled."""

import asyncio
import os
import time
from uuid import UUID

from lambda_tasks import Continue, Retry, TaskContext, WorkerProcessDied, lambda_task
from tests.app.models import Effect


@lambda_task(takes_context=True)
async def count_to_three(context: TaskContext) -> str:
    done = context.state or 0
    await Effect.objects.acreate(name=f"step {done}")
    if done < 2:
        raise Continue(done + 1)
    return f"{done + 1} steps"


@lambda_task(takes_context=True)
def count_to_two(context: TaskContext) -> str:
    Effect.objects.create(name=f"step {context.state}")
    if context.state is None:
        raise Continue({"page": 2}, delay=1)
    return str(context.state)


@lambda_task(takes_context=True, atomic=False, retry_on=(WorkerProcessDied,))
def save_and_die(context: TaskContext) -> object:
    if context.state is None:
        context.save({"page": 3})
        os._exit(1)
    return context.state


@lambda_task(takes_context=True)
async def save_and_retry(context: TaskContext) -> object:
    if context.n_retries == 0:
        await context.asave("rolled back with the rest")
        raise Retry
    return context.state


@lambda_task(takes_context=True)
def save(context: TaskContext, *, size: int) -> None:
    context.save("x" * size if size else object())


@lambda_task(takes_context=True, soft_timeout=20, hard_timeout=30)
def save_and_show(context: TaskContext) -> object:
    context.save({"page": 1})
    context.progress(1, 3, "one of three")
    context.save({"page": 2})
    context.progress(2, 3, "two of three")
    return context.state


@lambda_task(takes_context=True, soft_timeout=20, hard_timeout=30)
async def asave_and_show(context: TaskContext) -> object:
    await context.asave({"page": 1})
    await context.aprogress(1, 3, "one of three")
    await context.asave({"page": 2})
    await context.aprogress(2, 3, "two of three")
    return context.state


@lambda_task(takes_context=True, atomic=False)
def save_twice_and_retry(context: TaskContext) -> None:
    context.save({"page": 1})
    context.save({"page": 2})
    raise Retry


@lambda_task
def go_on_once() -> str:
    if not Effect.objects.exists():
        Effect.objects.create(name="step")
        raise Continue(None)
    return "went on"


@lambda_task(takes_context=True)
async def show_progress_and_wait(context: TaskContext, *, seconds: float) -> None:
    await context.aprogress(1, 3, "one of three")
    await asyncio.sleep(seconds)


@lambda_task(takes_context=True)
def show_progress_and_sleep(context: TaskContext, *, seconds: float) -> None:
    context.progress(1, 3, "one of three")
    time.sleep(seconds)


@lambda_task
async def leave_effect_and_wait(*, seconds: float) -> None:
    await Effect.objects.acreate(name="of a cancelled task")
    await asyncio.sleep(seconds)


@lambda_task(takes_context=True)  # type: ignore[arg-type]
def attempt_by_keyword(*, times: int, context: TaskContext) -> int:
    """As earlier releases had the context."""
    return times * context.attempt


@lambda_task(takes_context=True)
async def show_and_wait(context: TaskContext, *, seconds: float) -> None:
    await Effect.objects.acreate(name="of a task that was cut off")
    await context.aprogress(1)
    await asyncio.sleep(seconds)


@lambda_task
def leave_effect_and_sleep(*, seconds: float) -> None:
    Effect.objects.create(name="of a cancelled task")
    time.sleep(seconds)


@lambda_task(takes_context=True)
async def go_on_in_ten_minutes(context: TaskContext) -> str:
    if context.state is None:
        raise Continue(1, delay=600)
    return "went on"


@lambda_task(takes_context=True)
async def go_on_for_ever(context: TaskContext, *, delay: float = 0) -> None:
    raise Continue((context.state or 0) + 1, delay=delay)


@lambda_task
async def ask_for_a_retry(*, delay: float) -> None:
    raise Retry(delay=delay)


keys_seen: list[tuple[UUID, UUID]] = []
"""Ids of invocations, and the keys that their runs had."""


@lambda_task(takes_context=True)
async def see_key(context: TaskContext) -> None:
    keys_seen.append((context.invocation_id, context.idempotency_key))
    if context.n_retries == 0:
        raise Retry(delay=0)
    if context.state is None:
        raise Continue("done")
