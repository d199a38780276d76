"""Durable functions whose compensations fail, and what else befalls those that are undone."""

import asyncio
from collections import Counter
from contextlib import suppress
from datetime import timedelta
from typing import Final

from django.db import OperationalError
from pydantic import SecretStr

from lambda_tasks import lambda_task
from lambda_tasks.durable import SyncWorkflowContext, WorkflowContext
from tests.app.graphs import resize
from tests.app.models import Effect

DAY: Final = timedelta(days=1)

tried: list[str] = []
"""The compensations that were called in this process, in order."""

failures: Counter[str] = Counter()
"""How often each of them fails yet."""

error_of: dict[str, type[BaseException]] = {}
"""With what each of them fails, if not with Broken."""

keys: list[str] = []
"""The keys that a payment service has got."""


class Broken(Exception):
    """What fails for good."""


class Flaky(Exception):
    """What the function is retried for."""


class _Collision(Exception):
    sqlstate = "40001"


class Conflict(OperationalError):
    """What a database raises when two transactions collide."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.__cause__ = _Collision()


def write(*, name: str) -> None:
    Effect.objects.create(name=name)


def undo(*, name: str) -> None:
    tried.append(name)
    write(name=f"undo {name}")
    _fail(name)


async def aundo(*, name: str) -> None:
    tried.append(name)
    await Effect.objects.acreate(name=f"undo {name}")
    _fail(name)


def _fail(name: str) -> None:
    if failures[name] > 0:
        failures[name] -= 1
        raise error_of.get(name, Broken)(f"{name} can't be undone")


@lambda_task
def tell_success() -> None:
    write(name="told of a success")


@lambda_task(workflow=True, retry_on=(Flaky,), max_retries=2, on_success=tell_success)
async def afail(workflow: WorkflowContext, *, names: list[str]) -> None:
    for name in names:
        await workflow.step(name, write, name=name)
        workflow.on_failure(f"undo {name}", aundo, name=name)
    raise Broken("at the end")


@lambda_task(workflow=True, retry_on=(Flaky,), max_retries=2)
def fail(workflow: SyncWorkflowContext, *, names: list[str]) -> None:
    for name in names:
        workflow.step(name, write, name=name)
        workflow.on_failure(f"undo {name}", undo, name=name)
    raise Broken("at the end")


def undo_secretly(*, token: str) -> None:
    raise Broken(f"{token} is refused")


@lambda_task(workflow=True)
def fail_secretly(workflow: SyncWorkflowContext, *, token: SecretStr) -> None:
    workflow.step("charge", write, name="charge")
    workflow.on_failure("refund", undo_secretly, token=token.get_secret_value())
    raise Broken("at the end")


def charge(*, key: str) -> None:
    keys.append(key)
    write(name="charge")


@lambda_task(workflow=True)
def pay(workflow: SyncWorkflowContext, *, is_undone: bool) -> None:
    workflow.step("charge", charge, key=str(workflow.key("charge")))
    if is_undone:
        workflow.on_failure("refund", undo, name="charge")
    if failures["pay"]:
        failures["pay"] -= 1
        raise Broken("pay")


@lambda_task(workflow=True)
async def wait_for_each(workflow: WorkflowContext, *, last: str) -> int:
    """Wait for a step's, tasks', a signal's and a time's sake, up to one of them."""
    failed = 0
    await workflow.step("work", write, name="work")
    if last == "sizes":
        failed = (
            await workflow.gather("sizes", [resize.step(image_id=n) for n in range(2)])
        ).failed
    elif last == "approval":
        await workflow.wait_for("approval", bool)
    elif last == "night":
        await workflow.sleep("night", DAY)
    return failed


@lambda_task(workflow=True)
async def sleep_in_a_group(workflow: WorkflowContext) -> None:
    await workflow.step("charge", write, name="charge")
    workflow.on_failure("refund", undo, name="charge")
    async with asyncio.TaskGroup() as group:
        group.create_task(workflow.sleep("night", DAY))


@lambda_task(workflow=True)
async def name_it_in_the_end(workflow: WorkflowContext) -> None:
    """Let something be undone that was not done, as a function that is replayed ends there, too."""
    await workflow.step("charge", write, name="charge")
    workflow.on_failure("refund", undo, name="charge")
    try:
        await workflow.sleep("night", DAY)
    finally:
        with suppress(BaseException):
            workflow.on_failure("call back", undo, name="send")


@lambda_task(workflow=True)
def lose_its_code(workflow: SyncWorkflowContext) -> None:
    workflow.step("charge", write, name="charge")
    workflow.on_failure("refund", undo, name="charge")
    workflow.step("send", write, name="send")
    workflow.on_failure("call back", call_back)
    raise Broken("at the end")


def call_back() -> None:
    tried.append("send")


def forget() -> None:
    """Let nothing fail, and forget what was done."""
    tried.clear()
    failures.clear()
    error_of.clear()
    keys.clear()
