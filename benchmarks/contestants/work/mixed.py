"""Tasks of every kind, each of which leaves its effect in the database.

All are short beside their limits, so that one which meets a fault of some seconds is still in time.
"""

import asyncio
import os
import random
import signal
import time
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from benchmarks.contestants.work.logbook import BEGUN, DONE, STRUCK, note
from benchmarks.contestants.work.models import Shipment
from benchmarks.contestants.work.orders import NotYet
from lambda_tasks import Continue, TaskContext, durable, lambda_task
from lambda_tasks.durable import WorkflowContext
from lambda_tasks.workflows import Results, WorkflowGraph, group, workflow

SOFT_S, HARD_S = 18, 20
SHORT_S: Final = (0.0, 0.03)
LONG_S: Final = (1.0, 3.0)
PARCELS: Final = 3
MEMBERS: Final = 20
SHELVES: Final = 4
REFUSED: Final = 0.05

limited: Final[dict[str, Any]] = {"soft_timeout": SOFT_S, "hard_timeout": HARD_S}


class OutOfStock(Exception):
    """The task fails, and it is its own fault."""


@lambda_task(**limited)
def send(*, number: int) -> None:
    note(number, BEGUN)
    Shipment.objects.create(number=number)
    time.sleep(random.uniform(*SHORT_S))
    note(number, DONE)


@lambda_task(**limited)
async def asend(*, number: int) -> None:
    note(number, BEGUN)
    await Shipment.objects.acreate(number=number)
    await asyncio.sleep(random.uniform(*SHORT_S))
    note(number, DONE)


@lambda_task(atomic=False, **limited)
def send_once(*, number: int) -> None:
    """Without a transaction around it, so that it has to look itself whether it did it already."""
    note(number, BEGUN)
    Shipment.objects.get_or_create(number=number)
    time.sleep(random.uniform(*SHORT_S))
    note(number, DONE)


@lambda_task(atomic=False, **limited)
async def asend_once(*, number: int) -> None:
    note(number, BEGUN)
    await Shipment.objects.aget_or_create(number=number)
    await asyncio.sleep(random.uniform(*SHORT_S))
    note(number, DONE)


@lambda_task(**limited)
def pack(*, number: int) -> None:
    note(number, BEGUN)
    Shipment.objects.create(number=number)
    time.sleep(random.uniform(*LONG_S))
    note(number, DONE)


@lambda_task(**limited)
async def apack(*, number: int) -> None:
    note(number, BEGUN)
    await Shipment.objects.acreate(number=number)
    await asyncio.sleep(random.uniform(*LONG_S))
    note(number, DONE)


@lambda_task(retry_on=(NotYet,), takes_context=True, **limited)
def send_at_the_retry(context: TaskContext, *, number: int) -> None:
    note(number, BEGUN)
    Shipment.objects.create(number=number)
    if context.n_retries == 0:
        raise NotYet
    note(number, DONE)


@lambda_task(takes_context=True, **limited)
def wrap(context: TaskContext, *, number: int) -> None:
    note(number, BEGUN)
    Shipment.objects.create(number=number)
    for done in range(4):
        context.save({"done": done})
        context.progress(done, 4)
        time.sleep(random.uniform(0.05, 0.2))
    note(number, DONE)


@lambda_task(takes_context=True, **limited)
async def awrap(context: TaskContext, *, number: int) -> None:
    note(number, BEGUN)
    await Shipment.objects.acreate(number=number)
    for done in range(4):
        await context.asave({"done": done})
        await context.aprogress(done, 4)
        await asyncio.sleep(random.uniform(0.05, 0.2))
    note(number, DONE)


@lambda_task(takes_context=True, **limited)
async def send_in_parcels(context: TaskContext, *, number: int) -> None:
    note(number, BEGUN)
    parcel = (context.state or {"parcel": 0})["parcel"]
    await Shipment.objects.acreate(number=number, parcel=parcel)
    if parcel + 1 < PARCELS:
        raise Continue({"parcel": parcel + 1})
    note(number, DONE)


@lambda_task(singleton=True, singleton_by=("shelf",), **limited)
def take_from_shelf(*, number: int, shelf: int) -> None:
    note(number, BEGUN)
    Shipment.objects.create(number=number)
    time.sleep(random.uniform(*SHORT_S))
    note(number, DONE)


@lambda_task(durable=False, **limited)
def send_directly(*, number: int) -> None:
    note(number, BEGUN)
    Shipment.objects.create(number=number)
    note(number, DONE)


@lambda_task(durable=False, **limited)
async def asend_directly(*, number: int) -> None:
    note(number, BEGUN)
    await Shipment.objects.acreate(number=number)
    note(number, DONE)


@lambda_task(**limited)
def refuse(*, number: int) -> None:
    note(number, BEGUN)
    Shipment.objects.create(number=number)
    raise OutOfStock


@lambda_task(soft_timeout=SOFT_S, hard_timeout=HARD_S)
async def send_parcel(*, number: int, parcel: int, before: int = 0) -> int:
    """Be a step of a workflow. `before` is what the step before it has returned."""
    note(number, BEGUN)
    assert before in (0, parcel)
    await Shipment.objects.acreate(number=number, parcel=parcel)
    await asyncio.sleep(random.uniform(*SHORT_S))
    note(number, DONE)
    return parcel + 1


@lambda_task(soft_timeout=SOFT_S, hard_timeout=HARD_S)
def pack_parcel(*, number: int, parcel: int) -> int:
    """Be a member of a group that fails now and then, so that `retry_failed` has work."""
    note(number, BEGUN)
    Shipment.objects.create(number=number, parcel=parcel)
    time.sleep(random.uniform(*SHORT_S))
    if random.random() < REFUSED:
        raise OutOfStock
    note(number, DONE)
    return parcel


@lambda_task(soft_timeout=SOFT_S, hard_timeout=HARD_S)
async def seal(*, number: int, parcels: Results[int]) -> None:
    """Follow a group."""
    note(number, BEGUN)
    packed = [parcel async for parcel in parcels]
    assert packed == list(range(MEMBERS)), packed
    await Shipment.objects.acreate(number=number, parcel=MEMBERS)
    note(number, DONE)


def chain(*, number: int, queue: str) -> WorkflowGraph:
    """Make a workflow of three steps, each of which takes the result of the one before it."""
    task = send_parcel.using(queue=queue)
    first = task.step(number=number, parcel=0)
    second = task.step(number=number, parcel=1, before=first.result)
    return workflow("chain", task.step(number=number, parcel=2, before=second.result))


def fan(*, number: int, queue: str) -> WorkflowGraph:
    """Make a group of twenty, and what follows it."""
    task = pack_parcel.using(queue=queue)
    packed = group(task.step(number=number, parcel=parcel) for parcel in range(MEMBERS))
    return workflow("fan", seal.using(queue=queue).step(number=number, parcels=packed.results))


def nested(*, number: int, queue: str) -> WorkflowGraph:
    """Make a workflow with another one between its first step and its last one."""
    task = send_parcel.using(queue=queue)
    first = task.step(number=number, parcel=0)
    inner_first = task.step(number=number, parcel=1)
    inner_last = task.step(number=number, parcel=2, before=inner_first.result)
    inner = workflow("inner", inner_last).after(first)
    return workflow("nested", task.step(number=number, parcel=3).after(inner))


# A durable function

APPROVAL: Final = -100
"""What stands for a parcel in the calls that leave none."""

STAGES: Final = MEMBERS + 7
"""The parcels of an order that is fulfilled."""

UNDONE: Final = (0, 1, STAGES - 2)
"""The parcels that are taken back, the last one first, if an order is refused at its end."""

REFUSED_EVERY: Final = 7

KEPT: Final = 1
"""The parcel of some orders that can't be taken back. Their others are."""

POINTS: Final = 29
"""The points of `fulfil`, its steps and what undoes them, at which this process may strike itself
down."""


def is_refused(number: int) -> bool:
    """Return whether an order is refused at its end, so that all of it is undone."""
    return number % REFUSED_EVERY == 3


def is_kept(number: int) -> bool:
    """Return whether a parcel of an order that is refused can't be taken back."""
    return is_refused(number) and number % 2 == 0


def taken_back(parcel: int) -> int:
    """Return what stands for a parcel that is taken back: -1 for the first one."""
    return -1 - parcel


async def put_out(*, number: int, parcel: int, points: int) -> int:
    """Be a step: leave a parcel, with two points at which it may be struck."""
    strike(number, points)
    await Shipment.objects.acreate(number=number, parcel=parcel)
    strike(number, points + 1)
    return parcel


def put_out_sync(*, number: int, parcel: int, points: int) -> int:
    strike(number, points)
    Shipment.objects.create(number=number, parcel=parcel)
    strike(number, points + 1)
    return parcel


async def ask_for_approval(*, number: int, id: UUID, queue: str, points: int) -> None:
    """Be a step that enqueues the call of another task."""
    strike(number, points)
    await approve.using(queue=queue, delay=1).aexecute_on_commit(
        number=number, parcel=APPROVAL, id=id
    )
    strike(number, points + 1)


class Kept(Exception):
    """A customer does not give a parcel back."""


def take_back(*, number: int, parcel: int) -> None:
    """Undo a step, with two points at which it may be struck."""
    strike(number, POINTS - 2)
    Shipment.objects.create(number=number, parcel=taken_back(parcel))
    strike(number, POINTS - 1)
    if parcel == KEPT and is_kept(number):
        raise Kept


@lambda_task(soft_timeout=SOFT_S, hard_timeout=HARD_S)
async def approve(*, number: int, parcel: int, id: UUID) -> None:
    await durable.asignal(id, "approval", number)


@lambda_task(workflow=True, **limited)
async def fulfil(workflow: WorkflowContext, *, number: int) -> list[int]:
    """Leave parcels in ten steps, which sleep, fan out, wait for a signal, and may be undone."""
    note(number, BEGUN)
    queue = workflow.context.queue
    await _leave(workflow, "charge", number, 0, 0)
    workflow.on_failure("refund", take_back, number=number, parcel=0)
    strike(number, 3)
    await workflow.step("reserve", put_out_sync, number=number, parcel=1, points=4)
    workflow.on_failure("release", take_back, number=number, parcel=1)
    strike(number, 6)
    await workflow.sleep("settle", timedelta(seconds=1))
    strike(number, 7)
    members = range(2, 2 + MEMBERS)
    task = send_parcel.using(queue=queue)
    packed = await workflow.gather(
        "pack", [task.step(number=number, parcel=parcel) for parcel in members]
    )
    strike(number, 8)
    found = [parcel async for parcel in packed]
    assert found == [parcel + 1 for parcel in members], found
    await _leave(workflow, "weigh", number, 2 + MEMBERS, 9)
    strike(number, 12)
    await workflow.step(
        "ask", ask_for_approval, number=number, id=workflow.id, queue=queue, points=13
    )
    strike(number, 15)
    assert await workflow.wait_for("approval", int, timeout=timedelta(hours=1)) == number
    strike(number, 16)
    label = await workflow.run("label", task.step(number=number, parcel=3 + MEMBERS))
    assert label == 4 + MEMBERS, label
    strike(number, 17)
    await workflow.sleep("cool down", timedelta(seconds=2))
    strike(number, 18)
    await _leave(workflow, "insure", number, 4 + MEMBERS, 19)
    shipped = await workflow.step(
        "ship", put_out_sync, number=number, parcel=5 + MEMBERS, points=22
    )
    workflow.on_failure("recall", take_back, number=number, parcel=shipped)
    strike(number, 24)
    if is_refused(number):
        raise OutOfStock
    await workflow.step("close", put_out, number=number, parcel=6 + MEMBERS, points=25)
    note(number, DONE)
    return found


async def _leave(
    workflow: WorkflowContext, name: str, number: int, parcel: int, points: int
) -> None:
    await workflow.step(name, put_out, number=number, parcel=parcel, points=points)
    strike(number, points + 2)


def strike(number: int, point: int) -> None:
    """Kill this process at one point of each order, once, where BENCHMARK_STRIKES says so.

    The order's number says at which: each point has its share.
    """
    if "BENCHMARK_STRIKES" in os.environ and number % POINTS == point and _first_time(number):
        note(number, STRUCK)
        os.kill(os.getpid(), signal.SIGKILL)


def _first_time(number: int) -> bool:
    marker = f"{os.environ['BENCHMARK_LOGBOOK']}.struck.{number}"
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True
