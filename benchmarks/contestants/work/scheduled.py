"""A task of which a schedule makes a run every few seconds."""

from datetime import timedelta

from lambda_tasks import lambda_task
from lambda_tasks.schedules import every

EVERY_S = 20


@lambda_task(schedule=every(timedelta(seconds=EVERY_S)))
async def do_nothing() -> None: ...
