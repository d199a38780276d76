"""Its tasks, which do nothing."""

from lambda_tasks import lambda_task


@lambda_task(durable=False)
def nothing() -> None: ...


@lambda_task(durable=False)
async def anothing() -> None: ...
