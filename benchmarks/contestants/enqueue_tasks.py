"""Calls of a task, until SQS has accepted every message: lambda_tasks, and django-lambda-tasks in
the one form that it has, `atomic`.
"""

import asyncio
import resource
import time
from concurrent.futures import ThreadPoolExecutor

from django.db import transaction

from benchmarks.contestants.database import migrate
from benchmarks.contestants.work.tasks import welcome

__all__ = ["migrate", "peak_mib", "send", "send_calls"]

THREADS = 8

_runner = asyncio.Runner()


def send(*, messages: int, form: str) -> float:
    """Seconds for so many messages. `form` names the function below that sends them."""
    call = {
        "atomic": _atomic,
        "bulk": _bulk,
        "abulk": _abulk,
        "concurrent": _concurrent,
        "threads": _threads,
    }[form]
    began_at = time.perf_counter()
    call(messages)
    return time.perf_counter() - began_at


def send_calls(*, messages: int, calls: int) -> float:
    """Seconds for so many calls of the bulk form with so many messages each."""
    return sum(send(messages=messages, form="bulk") for _ in range(calls))


def peak_mib() -> float:
    """The peak of this process's memory so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


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


def _abulk(messages: int) -> None:
    calls = [{"user_id": number, "template": "welcome"} for number in range(messages)]
    _runner.run(welcome.aexecute_many_on_commit(calls))


def _threads(messages: int) -> None:
    def work(first: int) -> None:
        for number in range(first, messages, THREADS):
            welcome.execute_on_commit(user_id=number, template="welcome")

    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(work, range(THREADS)))


def _concurrent(messages: int) -> None:
    async def call_all() -> None:
        await asyncio.gather(
            *(
                welcome.aexecute_on_commit(user_id=number, template="welcome")
                for number in range(messages)
            )
        )

    _runner.run(call_all())
