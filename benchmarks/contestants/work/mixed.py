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

SOFT_S, HARD_S = 18, 20
SHORT_S: Final = (0.0, 0.03)
LONG_S: Final = (1.0, 3.0)
PARCELS: Final = 3
SHELVES: Final = 4

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
