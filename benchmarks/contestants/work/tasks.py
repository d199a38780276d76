"""Sync tasks, word for word the same for both libraries."""

import time

from lambda_tasks.decorators import lambda_task


@lambda_task
def welcome(*, user_id: int, template: str) -> None:
    """What is enqueued; it never runs."""


@lambda_task
def trivial(*, number: int) -> int:
    return number


@lambda_task
def wait(*, number: int, seconds: float) -> int:
    time.sleep(seconds)
    return number


@lambda_task
def compute(*, number: int, rounds: int) -> int:
    for step in range(rounds):
        number = (number * 31 + step) % 1_000_003
    return number
