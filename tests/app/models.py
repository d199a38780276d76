"""A table in which tasks leave a trace."""

from django.db import models


class Effect(models.Model):
    name = models.CharField(max_length=100)
    process = models.IntegerField(default=0)

    def __str__(self) -> str:
        return self.name


class Seat(models.Model):
    pk = models.CompositePrimaryKey("row", "number")
    row = models.IntegerField()
    number = models.IntegerField()
    taken_by = models.CharField(max_length=100)

    def __str__(self) -> str:
        return f"{self.row}/{self.number}"
