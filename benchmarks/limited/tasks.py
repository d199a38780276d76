"""Its tasks. The place of a killed run is free after some seconds, so that many can be killed."""

import asyncio
import os

from benchmarks.limited.models import Span
from lambda_tasks import lambda_task
from lambda_tasks.execution import time_budget
from lambda_tasks.records.clock import Now

time_budget.LEASE_MARGIN_S = 2.0  # type: ignore[misc]


@lambda_task(limit=3, limit_by=("tenant",), atomic=False, soft_timeout=8, hard_timeout=9)
async def three_at_once(*, tenant: str, seconds: float) -> None:
    span = await Span.objects.acreate(tenant=tenant, process=os.getpid(), began_at=Now())
    try:
        await asyncio.sleep(seconds)
    finally:
        await Span.objects.filter(pk=span.pk).aupdate(ended_at=Now())


@lambda_task(limit=3, limit_by=("tenant",))
async def full(*, tenant: str) -> None:
    await asyncio.sleep(600)


@lambda_task(limit=3, limit_by=("tenant",))
async def other(*, tenant: str) -> None:
    """Nothing."""


@lambda_task(rate="10/s")
async def ten_a_second() -> None:
    """Nothing."""
