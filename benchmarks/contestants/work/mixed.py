"""Tasks of every kind, each of which leaves its effect in the database.

All are short beside their limits, so that one which meets a fault of some seconds is still in time.
"""

import asyncio
import random
import time
from typing import Any, Final

from benchmarks.contestants.work.logbook import BEGUN, DONE, note
from benchmarks.contestants.work.models import Shipment
from benchmarks.contestants.work.orders import NotYet
from lambda_tasks import Continue, TaskContext, lambda_task
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
