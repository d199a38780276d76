"""A module that declares a task, and can't be imported."""

from lambda_tasks import lambda_task


@lambda_task
def declare() -> None: ...


1 / 0  # noqa: B018
