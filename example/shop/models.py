"""Orders, and what the tasks have done about them."""

from django.db import models


class Order(models.Model):
    reference = models.CharField(max_length=40, unique=True)
    title = models.CharField(max_length=100)
    email = models.EmailField()
    placed_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"{self.reference}: {self.title}"


class Step(models.Model):
    """One thing that was done for an order. Not unique, so that a doubled run would show."""

    order = models.ForeignKey(Order, related_name="steps", on_delete=models.CASCADE)
    name = models.CharField(max_length=40)
    done_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"{self.name} for {self.order_id}"
