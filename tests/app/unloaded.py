"""Tasks of a module that nobody imports: only a record's name may load it."""

from lambda_tasks import lambda_task


@lambda_task
def add(*, a: int) -> int:
    return a + 1
