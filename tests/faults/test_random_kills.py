"""Sandboxes that are killed at random moments, under load."""

import os
import random
import time
from typing import Any

from django.db import transaction

from tests.app import ledger as tasks
from tests.faults.farm import CLEAN, Farm
from tests.faults.test_windows import Plant, plant, pytestmark, queue_url

__all__ = ["plant", "pytestmark", "queue_url"]

TASKS = 200
KILLS = 8


def test_random_kills_lose_and_double_nothing(plant: Plant) -> None:
    seed = int(os.environ.get("FAULTS_SEED", time.time_ns()))
    random.seed(seed)
    with plant(functions=2) as farm:
        with transaction.atomic():
            asked = [_call(number) for number in range(TASKS)]
        _kill_now_and_then(farm)

        left = farm.wait_for_the_end(asked, patience_s=600, ends_leases=False)
        assert left == CLEAN, f"FAULTS_SEED={seed}"
    assert farm.kills == KILLS


def _call(number: int) -> Any:
    kind = [tasks.enter, tasks.aenter, tasks.enter, tasks.aenter, tasks.enter_at_the_retry]
    task: Any = kind[number % 5]
    kwargs = {"pause_s": 0.02} if task is not tasks.enter_at_the_retry else {}
    return task.execute_on_commit(**kwargs).id


def _kill_now_and_then(farm: Farm) -> None:
    for _ in range(KILLS):
        time.sleep(random.uniform(0.5, 2.0))
        farm.kill_one()
