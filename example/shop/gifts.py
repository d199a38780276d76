"""A gift, from its payment to the mail that follows it weeks later: one function, which waits."""

from datetime import timedelta

from lambda_tasks import lambda_task
from lambda_tasks.durable import WorkflowContext
from shop.models import Order, Step

APPROVAL = timedelta(days=3)
DELIVERY = timedelta(days=14)


class NotApproved(Exception):
    """The recipient has said no, or nothing for three days."""


def pay(*, order_id: int) -> str:
    """Charge the card. A payment service would get a key, so that it charges once."""
    Step.objects.create(order_id=order_id, name="paid")
    return f"receipt-{order_id}"


def refund(*, order_id: int, receipt: str) -> None:
    """Give the money back."""
    Step.objects.create(order_id=order_id, name=f"refunded {receipt}")


@lambda_task
def pack(*, order_id: int, copy: int) -> str:
    """Wrap one copy: a task of its own, so that all are wrapped side by side."""
    Step.objects.create(order_id=order_id, name=f"packed {copy}")
    return f"{order_id}/{copy}"


@lambda_task
async def ask_how_it_was(*, order_id: int) -> str:
    """Write the mail that follows."""
    order = await Order.objects.aget(pk=order_id)
    await Step.objects.acreate(order=order, name="asked")
    return order.email


@lambda_task(workflow=True)
async def send_gift(workflow: WorkflowContext, *, order_id: int, copies: int = 2) -> str:
    """Do it all; nothing runs while the recipient thinks, or the parcel travels."""
    receipt = await workflow.step("pay", pay, order_id=order_id)
    workflow.on_failure("refund", refund, order_id=order_id, receipt=receipt)
    await workflow.gather(
        "pack", [pack.step(order_id=order_id, copy=number) for number in range(copies)]
    )
    if not await workflow.wait_for("approval", bool, timeout=APPROVAL):
        raise NotApproved(f"order {order_id}")
    await workflow.sleep("delivery", DELIVERY)
    return await workflow.run("ask", ask_how_it_was.step(order_id=order_id))
