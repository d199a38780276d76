"""Durable functions with what users of others have fallen into."""

import asyncio
import random
from collections import Counter
from contextlib import suppress
from datetime import timedelta
from typing import Final

from django.db import OperationalError, transaction

from lambda_tasks import lambda_task
from lambda_tasks.durable import SyncWorkflowContext, WorkflowContext
from tests.app.graphs import resize
from tests.app.models import Effect

DAY: Final = timedelta(days=1)

calls: Counter[str] = Counter()
"""How often each step was called in this process."""


TEXTS: Final = {"NUL": "a\x00b", "surrogate": "\ud800", "large": "x" * 1_000_000}
"""Texts of errors that no database, or no row, takes."""


class Declined(Exception):
    """A step fails, and might succeed another time."""


def write(*, name: str) -> int:
    calls[name] += 1
    Effect.objects.create(name=name)
    return calls[name]


def decline_once(*, name: str) -> int:
    """Fail in the first call alone."""
    write(name=name)
    if calls[name] == 1:
        raise Declined(name)
    return calls[name]


def fill(*, size: int) -> str:
    write(name="fill")
    return "x" * size


@lambda_task(workflow=True)
async def in_any_order(workflow: WorkflowContext) -> list[int]:
    names = random.sample("abcdefgh", 8)
    found = await asyncio.gather(*(workflow.step(name, write, name=name) for name in names))
    await workflow.sleep("night", DAY)
    return found


@lambda_task(workflow=True)
async def catch_and_sleep(workflow: WorkflowContext) -> str:
    try:
        await workflow.step("charge", decline_once, name="charge")
    except Declined:
        await workflow.sleep("night", DAY)
        return "declined"
    return "charged"


@lambda_task(workflow=True, retry_on=(ValueError,), max_retries=3)
def keep_too_much(workflow: SyncWorkflowContext, *, size: int) -> int:
    return len(workflow.step("fill", fill, size=size))


@lambda_task(workflow=True)
async def shrug(workflow: WorkflowContext) -> str:
    for night in range(2):
        try:
            await workflow.sleep(f"night:{night}", DAY)
        except Exception:  # what many write, to go on in any case
            return "an end that was none"
    return "slept"


@lambda_task(workflow=True)
async def swallow_everything(workflow: WorkflowContext) -> str:
    with suppress(BaseException):
        await workflow.sleep("night", DAY)
    return "slept, or not"


@lambda_task(workflow=True)
async def clean_up_in_the_end(workflow: WorkflowContext) -> None:
    try:
        await workflow.sleep("night", DAY)
        await workflow.step("work", write, name="work")
    finally:
        await workflow.step("clean up", write, name="clean up")


@lambda_task(workflow=True)
async def wait_within_a_step(workflow: WorkflowContext) -> None:
    async def wait() -> None:
        await workflow.wait_for("approval", bool)

    await workflow.step("outer", wait)


@lambda_task(workflow=True)
async def wait_and_sleep(workflow: WorkflowContext) -> list[int | None]:
    first = await workflow.wait_for("approval", int, timeout=DAY)
    await workflow.sleep("night", DAY)
    return [first]


@lambda_task(workflow=True)
def take_many_steps(workflow: SyncWorkflowContext, *, steps: int) -> int:
    total = sum(workflow.step(f"step:{n}", write, name="step") for n in range(steps))
    workflow.sleep("night", DAY)
    return total


@lambda_task(workflow=True)
async def undo_and_sleep(workflow: WorkflowContext) -> None:
    await workflow.step("charge", write, name="charge")
    workflow.on_failure("refund", undo, name="refund")
    await workflow.sleep("night", DAY)


def undo(*, name: str) -> None:
    Effect.objects.create(name=name)


@lambda_task(workflow=True)
async def catch_what_no_row_takes(workflow: WorkflowContext, *, text: str) -> str:
    try:
        await workflow.step("decline", decline, text=text)
    except Declined:
        await workflow.sleep("night", DAY)
        return "declined"
    return "not declined"


def decline(*, text: str) -> None:
    raise Declined(TEXTS[text])


@lambda_task(workflow=True)
async def cancel_a_step(workflow: WorkflowContext, *, is_async: bool) -> None:
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()

    def write_and_cancel() -> None:
        write(name="cancelled")
        loop.call_soon_threadsafe(task.cancel)
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result()

    async def awrite_and_cancel() -> None:
        await Effect.objects.acreate(name="cancelled")
        task.cancel()
        await asyncio.sleep(0)

    with suppress(asyncio.CancelledError):  # as asyncio.timeout() does
        await workflow.step("cancelled", awrite_and_cancel if is_async else write_and_cancel)
    task.uncancel()
    await workflow.step("next", write, name="next")


@lambda_task(workflow=True)
async def fail_in_a_group(workflow: WorkflowContext, *, is_async: bool) -> str:
    async def awrite() -> None:
        await Effect.objects.acreate(name="sibling")

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(workflow.step("decline", decline, text="NUL"))
            if is_async:
                group.create_task(workflow.step("sibling", awrite))
            else:
                group.create_task(workflow.step("sibling", write, name="sibling"))
    except* Declined:
        await workflow.step("tell", write, name="tell")
    await workflow.sleep("night", DAY)
    return "told"


@lambda_task(workflow=True)
async def gather_and_sleep(workflow: WorkflowContext) -> list[int]:
    sizes = await workflow.gather("sizes", [resize.step(image_id=n) for n in range(2)])
    await workflow.sleep("night", DAY)
    return [sizes.total, sizes.failed, *[each async for each in sizes]]


@lambda_task(workflow=True)
def sleep_and_fail(workflow: SyncWorkflowContext) -> None:
    workflow.step("work", write, name="work")
    workflow.sleep("night", DAY)
    if not Effect.objects.filter(name="repaired").exists():
        raise Declined("not yet")


@lambda_task(workflow=True)
def look_alike(workflow: SyncWorkflowContext) -> list[int]:
    """Have steps and signals whose names only differ in what some databases overlook."""
    for name in ("a", "A", "\u00e4", "\u00df", "ss"):
        workflow.step(name, write, name=name)
        workflow.on_failure(f"undo {name}", undo, name=f"undo {name}")
    come = [workflow.wait_for(name, int) for name in ("go", "GO")]
    if sum(come) == 3:
        raise Declined("at the end")
    return come


@lambda_task(workflow=True)
def begin_in_a_transaction(workflow: SyncWorkflowContext) -> None:
    with transaction.atomic():
        workflow.step("work", write, name="work")


class _Shutdown(Exception):
    sqlstate = "57P01"


def lose_the_database_once(*, name: str) -> int:
    write(name=name)
    if calls[name] == 1:
        raise OperationalError("the connection was closed") from _Shutdown()
    return calls[name]


@lambda_task(workflow=True)
async def go_on_in_any_case(workflow: WorkflowContext, *, returns: bool) -> str:
    try:
        await workflow.step("charge", lose_the_database_once, name="charge")
    except Exception:
        if returns:
            return "given up"
        await workflow.step("give up", write, name="give up")
        return "given up"
    return "charged"


@lambda_task(workflow=True)
async def wait_and_fail(workflow: WorkflowContext) -> None:
    await workflow.wait_for("approval", int, timeout=DAY)
    await workflow.step("decline", decline, text="NUL")


@lambda_task(workflow=True)
async def run_another(workflow: WorkflowContext) -> None:
    await workflow.step("book", write, name="book")
    workflow.on_failure("cancel the booking", undo, name="cancel the booking")
    await workflow.run("another", undo_and_sleep.step())


@lambda_task(workflow=True, limit=1)
async def sleep_alone(workflow: WorkflowContext, *, name: str) -> None:
    await workflow.step("work", write, name=name)
    await workflow.sleep("night", DAY)


@lambda_task(workflow=True, soft_timeout=100, hard_timeout=110)
def hurry_and_wait(workflow: SyncWorkflowContext) -> int:
    for n in range(4):
        workflow.step(f"step:{n}", write, name="step")
    return workflow.wait_for("approval", int)
