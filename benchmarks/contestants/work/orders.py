"""A task that leaves its effect in the database; the same for both libraries."""

import random
import time

from benchmarks.contestants.work.models import Shipment
from lambda_tasks.decorators import lambda_task


class NotYet(Exception):
    """The task is to be run again."""


@lambda_task(retry_on=(NotYet,), soft_timeout=8, hard_timeout=10)
def ship(*, number: int) -> None:
    Shipment.objects.create(number=number)
    time.sleep(0.02)
    if random.random() < 0.1:
        raise NotYet
