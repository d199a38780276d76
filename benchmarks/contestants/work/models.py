"""What a shop sells, and the ledger of what was sent out."""

from typing import ClassVar

from django.db import models


class Order(models.Model):
    """Committed with the call of its task; of a `kind` that is none's of the mixed load, `ship`."""

    number = models.IntegerField(primary_key=True)
    kind = models.CharField(max_length=20, default="ship")
    due_at = models.FloatField(null=True)
    """When its task may begin, in seconds since the epoch; None where nobody asks."""

    objects: ClassVar["models.Manager[Order]"] = models.Manager()

    def __str__(self) -> str:
        return f"order {self.number}"


class Shipment(models.Model):
    """A task's effect. Nothing but the task's library keeps an order from two of them.

    What goes out in several parcels has one for each, from 0.
    """

    number = models.IntegerField(db_index=True)
    parcel = models.IntegerField(default=0)

    objects: ClassVar["models.Manager[Shipment]"] = models.Manager()

    def __str__(self) -> str:
        return f"shipment of order {self.number}"


class Counter(models.Model):
    """How many members of a group have not ended: one row, which each of them changes."""

    remaining = models.IntegerField()

    objects: ClassVar["models.Manager[Counter]"] = models.Manager()

    def __str__(self) -> str:
        return f"{self.remaining} remaining"
