"""Tasks with results of all kinds of types."""

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from lambda_tasks import lambda_task

if TYPE_CHECKING:
    from decimal import Decimal as OnlyForCheckers


@dataclass
class Receipt:
    cents: Decimal
    at: datetime


@lambda_task
def make_receipt() -> Receipt:
    return Receipt(Decimal("1.50"), datetime(2026, 1, 1, tzinfo=UTC))


@lambda_task
async def make_receipts(*, n: int) -> dict[str, list[Receipt] | None]:
    return {"many": [make_receipt() for _ in range(n)], "none": None}


@lambda_task
def without_annotation(*, at: datetime):  # type: ignore[no-untyped-def]
    return at


@lambda_task
def of_any_type(*, at: datetime) -> Any:
    return at


@lambda_task
def not_as_annotated() -> int:
    return "a text"  # type: ignore[return-value]


@lambda_task
def annotated_for_checkers(*, a: int) -> "OnlyForCheckers":
    return Decimal(a)
