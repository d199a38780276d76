"""The same tasks as coroutines, which django-lambda-tasks does not have."""

import asyncio

from benchmarks.contestants.work.models import Shipment
from lambda_tasks.decorators import lambda_task


@lambda_task
async def trivial(*, number: int) -> int:
    return number


@lambda_task
async def write(*, number: int) -> None:
    await Shipment.objects.acreate(number=number)


@lambda_task
async def wait(*, number: int, seconds: float) -> int:
    await asyncio.sleep(seconds)
    return number
