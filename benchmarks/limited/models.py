"""What a run leaves, whether it ends or is killed."""

from typing import ClassVar

from django.db import models


class Span(models.Model):
    """The time of one run, by the database's clock."""

    objects: ClassVar["models.Manager[Span]"] = models.Manager()

    tenant = models.CharField(max_length=20)
    process = models.IntegerField()
    began_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return f"{self.tenant} {self.began_at}"
