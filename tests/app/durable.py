"""Durable functions, and their steps, which write what they do as Effects."""

import os
from dataclasses import dataclass
from datetime import timedelta

from pydantic import SecretStr

from lambda_tasks import (
    SyncWorkflowContext,
    TaskFailed,
    WorkerProcessDied,
    WorkflowContext,
    lambda_task,
    task_logger,
)
from tests.app.graphs import Broken, note, resize
from tests.app.models import Effect


@dataclass(frozen=True)
class Approval:
    by: str


class Refused(Exception):
    pass


async def charge(*, order_id: int) -> str:
    await Effect.objects.acreate(name=f"charge {order_id}")
    return f"receipt {order_id}"


def mail(*, text: str) -> Approval:
    Effect.objects.create(name=f"mail {text}")
    return Approval(by=text)


async def refund(*, receipt: str) -> None:
    await Effect.objects.acreate(name=f"refund {receipt}")


def unlock(*, approval: Approval) -> None:
    Effect.objects.create(name=f"unlock {approval.by}")


def fail_once() -> str:
    if not Effect.objects.filter(name="repaired").exists():
        Effect.objects.create(name="rolled back")
        raise Broken("not yet")
    return "repaired"


@lambda_task(workflow=True)
async def fulfil(workflow: WorkflowContext, *, order_id: int) -> str:
    """One of everything."""
    receipt = await workflow.step("charge", charge, order_id=order_id)
    workflow.on_failure("refund", refund, receipt=receipt)
    sizes = await workflow.gather("pack", [resize.step(image_id=n) for n in range(3)])
    approval = await workflow.wait_for("approval", Approval, timeout=timedelta(days=3))
    await workflow.sleep("cool down", timedelta(days=14))
    mailed = await workflow.step("mail", mail, text=receipt)
    noted = await workflow.run("note", note.step(text="noted"))
    by, total = None if approval is None else approval.by, sum([each async for each in sizes])
    return f"{mailed.by}, {total} of {sizes.total}, {by}, {noted}"


@lambda_task(workflow=True)
def fulfil_sync(workflow: SyncWorkflowContext, *, order_id: int) -> str:
    """The same as a `def`, and with a failure in the group."""
    receipt = workflow.step("mail", mail, text=f"receipt {order_id}").by
    workflow.on_failure("unlock", unlock, approval=Approval(by=receipt))
    sizes = workflow.gather("pack", [resize.step(image_id=n, fails=n == 1) for n in range(3)])
    is_approved = workflow.wait_for("approval", bool)
    workflow.sleep("cool down", timedelta(days=14))
    return f"{receipt}, {list(sizes)}, {sizes.failed} failed, {is_approved}"


@lambda_task(workflow=True)
async def undo_both(workflow: WorkflowContext, *, waits: bool = False) -> None:
    receipt = await workflow.step("charge", charge, order_id=1)
    workflow.on_failure("refund", refund, receipt=receipt)
    approval = await workflow.step("mail", mail, text="locked")
    workflow.on_failure("unlock", unlock, approval=approval)
    if waits:
        await workflow.gather("pack", [note.step(text="never")])
        await workflow.wait_for("approval", bool)
    await workflow.step("fail", fail_once)


@lambda_task(workflow=True)
def repair(workflow: SyncWorkflowContext) -> str:
    workflow.step("mail", mail, text="first")
    text = workflow.step("fail", fail_once)
    return f"{text} by {workflow.step('end', mail, text='last').by}"


@lambda_task(workflow=True, retry_on=(Broken,), max_retries=3)
async def insist(workflow: WorkflowContext) -> int:
    await workflow.step("charge", charge, order_id=1)
    n = await Effect.objects.filter(name__startswith="charge").acount()
    if workflow.context.n_retries < 2:
        raise Broken
    await workflow.step("mail", mail, text="at last")
    return n


@lambda_task(workflow=True)
async def catch(workflow: WorkflowContext) -> str:
    """Go another way after a failure, which must stay one in later runs."""
    try:
        await workflow.step("fail", fail_once)
    except Broken as error:
        text = str(error)
    else:
        text = "it has succeeded"
    await workflow.step("mail", mail, text=text)
    await workflow.step("repair", mark_repaired)
    await workflow.sleep("a day", timedelta(days=1))
    return text


async def mark_repaired() -> None:
    await Effect.objects.acreate(name="repaired")


@lambda_task(workflow=True)
async def try_child(workflow: WorkflowContext) -> str:
    try:
        await workflow.run("pack", resize.step(image_id=1, fails=True))
    except TaskFailed as error:
        return str(error)
    return "packed"


@lambda_task(workflow=True)
async def talk(workflow: WorkflowContext) -> None:
    task_logger.info("before")
    await workflow.step("charge", charge, order_id=1)
    task_logger.info("between")
    await workflow.sleep("a day", timedelta(days=1))
    task_logger.info("behind")


@lambda_task(workflow=True)
async def changes(workflow: WorkflowContext) -> str:
    """What a release has of it, and then another one: see its test."""
    return await way(workflow)


async def way(workflow: WorkflowContext) -> str:
    await workflow.step("first", charge, order_id=1)
    await workflow.step("second", charge, order_id=2)
    await workflow.sleep("a month", timedelta(days=30))
    return "old"


@lambda_task(workflow=True, soft_timeout=100, hard_timeout=110)
def twelve(workflow: SyncWorkflowContext) -> int:
    for n in range(12):
        workflow.step(f"step {n}", mail, text=str(n))
    return 12


@lambda_task(workflow=True)
async def keys(workflow: WorkflowContext) -> list[str]:
    found = [str(workflow.key("charge"))]
    await workflow.sleep("a day", timedelta(days=1))
    return [*found, str(workflow.key("charge")), str(workflow.key("other"))]


def die_first() -> str:
    if not Effect.objects.filter(name="mail retried").exists():
        Effect.objects.create(name="rolled back")
        os._exit(1)
    return "alive"


@lambda_task(workflow=True, retry_on=(WorkerProcessDied,))
def survive(workflow: SyncWorkflowContext) -> str:
    workflow.step("first", mail, text="first")
    if workflow.context.n_retries:
        workflow.step("mark", mail, text="retried")
    return workflow.step("die", die_first)


def use(*, token: str) -> str:
    return f"used {token}"


@lambda_task(workflow=True)
def guarded(workflow: SyncWorkflowContext, *, token: SecretStr) -> int:
    used = workflow.step("use", use, token=token.get_secret_value())
    workflow.sleep("a day", timedelta(days=1))
    return len(used)


@lambda_task(workflow=True)
def call_another(workflow: SyncWorkflowContext) -> None:
    workflow.step("call", enqueue_survive)


def enqueue_survive() -> None:
    Effect.objects.create(name="mail retried")
    survive.execute_on_commit()
