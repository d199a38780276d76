"""The work that an order makes: some of it async, some sync, some of it failing."""

import asyncio

from lambda_tasks import lambda_task, task_logger
from shop.models import Order, Step

BOUNCING = "bounces.example"


class AddressBounces(Exception):
    """The mail server does not know the address."""


@lambda_task
async def send_confirmation(*, order_id: int) -> str:
    """Wait for a mail server: many of these run at once on one event loop."""
    order = await Order.objects.aget(pk=order_id)
    await asyncio.sleep(0.01)
    if order.email.endswith(BOUNCING):
        raise AddressBounces(order.email)
    await Step.objects.acreate(order=order, name="confirmed")
    task_logger.info("confirmed to %s", order.email)
    return order.email


@lambda_task
async def reserve_stock(*, order_id: int, copies: int = 1) -> int:
    """Django's async ORM, in a transaction with the task's own record."""
    await Step.objects.acreate(order_id=order_id, name="reserved")
    return copies


@lambda_task(soft_timeout=20, hard_timeout=30)
def print_invoice(*, order_id: int, copies: int, pages: int = 3) -> dict[str, int]:
    """Work for a processor: runs in a worker process, beside the event loop."""
    order = Order.objects.get(pk=order_id)
    checksum = sum(ord(letter) * number for letter in order.title for number in range(pages * 500))
    Step.objects.create(order=order, name="invoiced")
    return {"pages": pages * copies, "checksum": checksum % 9973}
