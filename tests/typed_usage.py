"""How projects call tasks, for mypy and pyright: what is right passes, and what is wrong does not.

Nobody runs it. An error that a checker no longer sees makes its `type: ignore` one too many.
"""

# pyright: reportUnnecessaryTypeIgnoreComment=true

from datetime import timedelta
from typing import assert_type

from lambda_tasks import Invocation, TaskContext, lambda_task


@lambda_task
def add(*, a: int, b: int = 1) -> int:
    return a + b


@lambda_task(queue="default", retry_on=(TimeoutError,), max_retries=3)
async def name_of(*, id: int) -> str:
    return str(id)


@lambda_task(takes_context=True)
def resume(context: TaskContext, *, page: int) -> int:
    return context.attempt + page


@lambda_task(takes_context=True, soft_timeout=5, hard_timeout=9)
async def resume_later(context: TaskContext, /, *, page: int = 1) -> None:
    await context.asave({"page": page})


@lambda_task(takes_context=False)
def plain(*, text: str) -> None: ...


def right() -> None:
    assert_type(add(a=1), int)
    assert_type(add.execute_on_commit(a=1), Invocation)
    add.using(delay=timedelta(seconds=3), queue="other").execute_on_commit(a=1, b=3)
    add.execute_many_on_commit([{"a": 1}, {"a": 2, "b": 3}])
    assert_type(resume(page=1), int)
    resume.execute_on_commit(page=1)
    resume.using(run_after=timedelta(days=1)).execute_on_commit(page=1)
    resume_later.execute_on_commit()
    plain.execute_on_commit(text="x")


async def right_in_async_code() -> None:
    assert_type(await name_of(id=1), str)
    assert_type(await name_of.aexecute_on_commit(id=1), Invocation)
    await resume_later.aexecute_on_commit(page=2)


def wrong() -> None:
    add.execute_on_commit(a="1")  # type: ignore[arg-type]
    add.execute_on_commit(1)  # type: ignore[call-arg]
    add.execute_on_commit()  # type: ignore[call-arg]
    add(a=None)  # type: ignore[arg-type]
    add.using(delays=3)  # type: ignore[call-arg]
    add.delay(a=1)  # type: ignore[attr-defined]
    resume.execute_on_commit()  # type: ignore[call-arg]
    resume.execute_on_commit(page="1")  # type: ignore[arg-type]
    lambda_task(queu="default")  # type: ignore[call-overload]
    lambda_task(max_retries="3")  # type: ignore[call-overload]
    lambda_task(takes_context=True)(add)  # type: ignore[arg-type]
