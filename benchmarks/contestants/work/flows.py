"""The members of a group, and what follows them."""

from django.db.models import F

from benchmarks.contestants.work.models import Counter, Shipment
from lambda_tasks import lambda_task
from lambda_tasks.workflows import Results


@lambda_task
async def compute(*, number: int) -> int:
    """End beside others, in one statement: it does not touch the database."""
    return number


@lambda_task
async def write(*, number: int) -> int:
    """Commit by itself, with its own write."""
    await Shipment.objects.acreate(number=number)
    return number


@lambda_task
async def write_and_count(*, number: int) -> int:
    """Count in one row, as a join by hand does."""
    await Shipment.objects.acreate(number=number)
    await Counter.objects.aupdate(remaining=F("remaining") - 1)
    return number


@lambda_task
async def begin() -> None:
    """Release a group."""


@lambda_task
async def link(*, number: int) -> int:
    """Be a step of a chain."""
    return number + 1


@lambda_task
async def total(*, numbers: Results[int]) -> int:
    """Follow a group."""
    return sum([number async for number in numbers])
