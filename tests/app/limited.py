"""Tasks with limits: so many at once, or so many in a time."""

from lambda_tasks import lambda_task
from tests.app.models import Effect


@lambda_task(limit=2, limit_by=("tenant",))
def two_at_once(*, tenant: str = "a", name: str = "") -> None:
    Effect.objects.create(name=f"{tenant}{name}")


@lambda_task(limit=3, limit_by=("tenant",))
async def three_at_once(*, tenant: str) -> None:
    await Effect.objects.acreate(name=tenant)


@lambda_task(singleton=True)
async def alone(*, name: str) -> None:
    await Effect.objects.acreate(name=name)


@lambda_task(rate="10/m", rate_by=("tenant",))
async def ten_a_minute(*, tenant: str) -> None:
    await Effect.objects.acreate(name=tenant)


@lambda_task(rate="5/s")
async def five_a_second(*, name: str) -> None:
    await Effect.objects.acreate(name=name)


@lambda_task(limit=1, rate="1/h")
async def both(*, name: str) -> None:
    await Effect.objects.acreate(name=name)
