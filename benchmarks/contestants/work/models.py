"""What a shop sells, and the ledger of what was sent out."""

from typing import ClassVar

from django.db import models


class Order(models.Model):
    """Committed with the call of its task."""

    number = models.IntegerField(primary_key=True)

    objects: ClassVar["models.Manager[Order]"] = models.Manager()

    def __str__(self) -> str:
        return f"order {self.number}"


class Shipment(models.Model):
    """A task's effect. Nothing but the task's library keeps an order from two of them."""

    number = models.IntegerField(db_index=True)

    objects: ClassVar["models.Manager[Shipment]"] = models.Manager()

    def __str__(self) -> str:
        return f"shipment of order {self.number}"
