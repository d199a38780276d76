"""A web process that takes orders, each in a transaction with the call of its task."""

import time

from django.db import transaction
from django.db.models import Count

from benchmarks.contestants.database import migrate, postgres_version
from benchmarks.contestants.work.models import Order, Shipment
from benchmarks.contestants.work.orders import ship
from lambda_tasks.models import TaskRecord

__all__ = ["migrate", "postgres_version", "take_orders", "tally"]

OPEN = ("QUEUED", "RUNNING")


def take_orders(*, up_to: int, pause_s: float) -> int:
    """Go on where the last process stopped; return the number of orders that there are."""
    first = Order.objects.count()
    for number in range(first, up_to):
        with transaction.atomic():
            Order.objects.create(number=number)
            ship.execute_on_commit(number=number)
        time.sleep(pause_s)
    return Order.objects.count()


def tally() -> dict[str, int]:
    """Orders, how many of them have no shipment or several, and records without an end."""
    shipped = Shipment.objects.order_by().values("number").annotate(times=Count("pk"))
    times = dict(shipped.values_list("number", "times"))
    orders = Order.objects.count()
    return {
        "orders": orders,
        "lost": orders - len(times),
        "twice": sum(count > 1 for count in times.values()),
        "stuck": TaskRecord.objects.filter(status__in=OPEN).count(),
    }
