"""Calls of a task, until SQS has accepted every message: lambda_tasks, and django-lambda-tasks in
the one form that it has, `atomic`.
"""

import asyncio
import time

from django.db import transaction

from benchmarks.contestants.database import migrate
from benchmarks.contestants.work.tasks import welcome

__all__ = ["migrate", "send"]

_runner = asyncio.Runner()


def send(*, messages: int, form: str) -> float:
    """Seconds for so many messages. `form` names the function below that sends them."""
    call = {"atomic": _atomic, "bulk": _bulk, "concurrent": _concurrent}[form]
    began_at = time.perf_counter()
    call(messages)
    return time.perf_counter() - began_at


def close() -> None:
    _runner.close()


def _atomic(messages: int) -> None:
    with transaction.atomic():
        for number in range(messages):
            welcome.execute_on_commit(user_id=number, template="welcome")


def _bulk(messages: int) -> None:
    welcome.execute_many_on_commit(
        {"user_id": number, "template": "welcome"} for number in range(messages)
    )


def _concurrent(messages: int) -> None:
    async def call_all() -> None:
        await asyncio.gather(
            *(
                welcome.aexecute_on_commit(user_id=number, template="welcome")
                for number in range(messages)
            )
        )

    _runner.run(call_all())
