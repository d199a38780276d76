"""Unique tasks, and tasks that expire."""

from datetime import datetime
from decimal import Decimal
from enum import Enum

from lambda_tasks import Continue, Retry, TaskContext, lambda_task
from tests.app.models import Effect


class Size(Enum):
    SMALL = "s"


@lambda_task(unique_by=("order_id",))
def bill(*, order_id: int, cents: int = 1, fails: bool = False) -> int:
    Effect.objects.create(name=f"bill {order_id}")
    if fails:
        raise ValueError("no bill")
    return cents


@lambda_task(unique_by=("order_id",))
async def abill(*, order_id: int) -> int:
    await Effect.objects.acreate(name=f"bill {order_id}")
    return order_id


@lambda_task(unique_by=("order_id",), unique_while="queued")
def index(*, order_id: int, text: str = "") -> str:
    return text


@lambda_task(unique_by=("order_id",), unique_while="queued")
def reindex(*, order_id: int, again: bool = True) -> None:
    if again:
        reindex.execute_on_commit(order_id=order_id, again=False)


@lambda_task(unique_by=("order_id",), unique_while="queued", on_conflict="replace")
def index_last(*, order_id: int, text: str = "") -> str:
    return text


@lambda_task(unique_by=("order_id",), on_conflict="raise")
def bill_strictly(*, order_id: int) -> int:
    return order_id


@lambda_task(unique_by=("order_id",), unique_for=3600)
def remind(*, order_id: int, fails: bool = False) -> None:
    if fails:
        raise ValueError("no reminder")


@lambda_task(unique_by=("order_id",), max_retries=1)
def retry_once(*, order_id: int) -> int:
    Effect.objects.create(name="tried")
    raise Retry("again")


@lambda_task(unique_by=(), takes_context=True)
def go_on(context: TaskContext) -> int:
    if context.state is None:
        raise Continue(1)
    return 2


@lambda_task(unique_by="all")
def count(
    *,
    number: int = 1,
    price: Decimal = Decimal("1.5"),
    at: datetime | None = None,
    size: Size = Size.SMALL,
    tags: frozenset[str] | None = None,
) -> None:
    pass


@lambda_task(expires=60)
def send_code(*, user_id: int) -> int:
    Effect.objects.create(name="code")
    return user_id


@lambda_task(expires=60, durable=False)
def send_direct_code(*, user_id: int) -> int:
    Effect.objects.create(name="code")
    return user_id


@lambda_task(expires=60, max_retries=1)
def send_code_later(*, user_id: int) -> int:
    raise Retry("the gateway is busy")
