"""Tasks of a project, declared with every option. Each line is right."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, assert_type

from lambda_tasks import LambdaTaskWrapper, Retry, TaskContext, lambda_task, task_logger
from lambda_tasks.backends import django_task, task
from lambda_tasks.workflows import Results


@dataclass
class Receipt:
    cents: int
    at: datetime


@lambda_task
def add(*, a: int, b: int = 1) -> int:
    return a + b


@lambda_task()
async def name_of(*, id: int) -> str:
    return str(id)


@lambda_task(
    soft_timeout=5,
    hard_timeout=9.5,
    queue="payments",
    delay=30,
    retry_on=(ConnectionError, TimeoutError),
    retry_delay=30,
    retry_backoff=2.0,
    max_retries=8,
    ignore_errors=(KeyError,),
    singleton=True,
    singleton_by=("cents",),
    retry_singleton=False,
    durable=True,
    atomic=False,
    on_lost="fail",
    aliases=("shop.old.charge",),
    unique_by=("cents",),
    unique_while="unfinished",
    unique_for=3600,
    on_conflict="raise",
    expires=90.5,
)
def charge(*, cents: int) -> Receipt:
    if cents == 0:
        raise Retry(delay=60)
    return Receipt(cents, datetime.now())


@lambda_task(takes_context=True)
def resume(context: TaskContext, *, page: int) -> int:
    context.save({"page": page})
    context.progress(page, 10, "pages")
    task_logger.info("%s", context.idempotency_key)
    return context.attempt + page


@lambda_task(takes_context=True, soft_timeout=5)
async def resume_later(context: TaskContext, /, *, page: int = 1) -> None:
    await context.asave({"page": page})
    await context.aprogress(page)


@lambda_task(takes_context=False, unique_by="all", expires=timedelta(hours=1))
def anything(*, data: dict[str, Any]) -> Any:
    return data


@lambda_task
async def anything_later(*, data: list[Any]) -> dict[str, Any]:
    return {"data": data}


@task
def print_order(id: int, copies: int = 1) -> int:
    return id * copies


@task(queue_name="payments", priority=5, max_attempts=3, backoff=lambda error, result: 3.5)
async def print_later(id: int) -> str:
    return str(id)


@task(takes_context=True, soft_timeout=5, hard_timeout=9, singleton=True, atomic=True, unique_by=())
def print_page(context: object, *, page: int) -> int:
    return page


def helper(task: LambdaTaskWrapper[..., Any]) -> str:
    return task.name


assert_type(helper(add) + helper(name_of), str)
charge_by_django = django_task(charge, backend="default")
name_by_django = django_task(name_of)


@lambda_task
def total(*, sizes: Results[int], title: str = "") -> int:
    return sum(sizes)


@lambda_task
async def total_later(*, sizes: Results[int]) -> str:
    return str(sum([size async for size in sizes]) + sizes.total + sizes.failed)
