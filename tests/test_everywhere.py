"""The same twelve tasks in every place, with the same records."""

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.db import transaction

from lambda_tasks import runtime
from lambda_tasks.local import EventSourceMapping, LocalSqs
from lambda_tasks.models import TaskRecord
from tests.app import everywhere as tasks
from tests.app.models import Effect
from tests.conftest import PATIENCE_S, Task, wait_for
from tests.servers import LambdaProcess
from tests.test_batch import SUBMIT, Jobs, jobs  # noqa: F401 - a fixture

pytestmark = pytest.mark.django_db(transaction=True)

CALLS: list[tuple[Task, dict[str, Any], dict[str, Any]]] = [
    (tasks.sync, {"a": 1}, {}),
    (tasks.asynchronous, {"a": 2}, {}),
    (tasks.failing, {}, {}),
    (tasks.retrying, {}, {}),
    (tasks.timing_out, {}, {}),
    (tasks.every_kind, {}, {}),
    (tasks.singleton, {}, {}),
    (tasks.delayed, {}, {"delay": 1}),
    (tasks.resumed, {}, {}),
    (tasks.typed, {"moment": datetime.now(UTC), "amount": Decimal("1.20")}, {}),
]
DJANGOS: list[Any] = [tasks.djangos, tasks.djangos_async]
TIMED_OUT = "SoftTimeLimitExceeded"

RECORDS: dict[str, list[tuple[str, Any, str | None]]] = {
    "sync": [("SUCCESS", 2, None)],
    "asynchronous": [("SUCCESS", 3, None)],
    "failing": [("FAILED", None, "ValueError")],
    "retrying": [("RETRYING", None, "lambda_tasks.errors.Retry"), ("SUCCESS", 1, None)],
    "timing_out": [("FAILED", None, f"lambda_tasks.errors.{TIMED_OUT}")],
    "every_kind": [("SUCCESS", tasks.EVERY_KIND, None)],
    "singleton": [("SUCCESS", "alone", None)],
    "delayed": [("SUCCESS", "later", None)],
    "resumed": [("SUCCESS", None, None), ("SUCCESS", None, None), ("SUCCESS", 2, None)],
    "typed": [("SUCCESS", ["datetime", "1.20"], None)],
    "djangos": [("RETRYING", None, "ConnectionError"), ("SUCCESS", 2, None)],
    "djangos_async": [("SUCCESS", 2, None)],
}
"""The records of each task, one after the other: status, result, the exception's type."""

EFFECTS = Counter(
    {"resumed": 3}
    | dict.fromkeys(
        [
            "sync",
            "asynchronous",
            "retrying",
            "every_kind",
            "singleton",
            "delayed",
            "typed",
            "djangos",
            "djangos_async",
        ],
        1,
    )
)
"""What failed, was retried or was cut off left none."""


def recorded() -> dict[str, list[tuple[str, Any, str | None]]]:
    found: dict[str, list[tuple[str, Any, str | None]]] = {}
    for record in TaskRecord.objects.exclude(task_name=SUBMIT).order_by("enqueued_at", "n_retries"):
        error = None
        if record.traceback:
            error = record.traceback.strip().splitlines()[-1].partition(":")[0]
        name = record.task_name.rpartition(".")[2]
        found.setdefault(name, []).append((record.status, record.result, error))
    return found


def call_all(queue: str | None = None) -> None:
    with transaction.atomic():
        for task, kwargs, options in CALLS:
            task.using(queue=queue, **options).execute_on_commit(**kwargs)
        for each in DJANGOS:
            each.using(queue_name=queue).enqueue(1)


def is_done() -> bool:
    return not TaskRecord.objects.filter(status__in=["QUEUED", "RUNNING"]).exists()


def check(*, timeouts: bool = True) -> None:
    eager = {"timing_out": [("SUCCESS", "nobody minds", None)]}
    assert recorded() == (RECORDS if timeouts else RECORDS | eager)
    effects = Counter(Effect.objects.values_list("name", flat=True))
    assert effects == (EFFECTS if timeouts else EFFECTS + Counter(["timing_out"]))


def test_eager_for_a_sync_caller(settings: Any) -> None:
    settings.LAMBDA_TASKS_EAGER = True
    call_all()
    check(timeouts=False)


def test_eager_for_an_async_caller(settings: Any) -> None:
    settings.LAMBDA_TASKS_EAGER = True

    async def call() -> None:
        for task, kwargs, options in CALLS:
            await task.using(**options).aexecute_on_commit(**kwargs)
        for each in DJANGOS:
            await each.aenqueue(a=1)

    async_to_sync(call)()
    check(timeouts=False)


def test_local_workers(settings: Any) -> None:
    settings.LAMBDA_TASKS_LOCAL_WORKERS = 2
    try:
        call_all()
        wait_for(is_done)
    finally:
        runtime.close()
    check()


@contextmanager
def worker(queue: str, sqs_url: str) -> Iterator[None]:
    process = subprocess.Popen(
        [sys.executable, "-m", "django", "lambda_tasks", "worker", "--queue", queue],
        env=os.environ | {"LAMBDA_TASKS_TEST_QUEUE": sqs_url},
    )
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=PATIENCE_S) == 0


@pytest.mark.parametrize("name", ["table", "default"])
def test_the_worker(queue: str, name: str) -> None:
    with worker(name, queue):
        call_all(name)
        wait_for(is_done, timeout_s=400)  # longer than a lease, which SQLite's one lock may cost
    check()


def test_lambda(queue: str, sqs: LocalSqs) -> None:
    call_all()
    with LambdaProcess(LAMBDA_TASKS_TEST_QUEUE=queue) as function:
        mapping = EventSourceMapping(queue, function.invoke, client_options=sqs.client_options)
        with mapping:
            mapping.run(until=is_done)
    check()


def test_batch(jobs: Jobs, queue: str, work_off: Callable[[str], int]) -> None:  # noqa: F811
    call_all("heavy")
    ran: set[str] = set()

    def all_ran() -> bool:
        work_off(queue)
        new = [job for job in jobs.submitted() if job["jobId"] not in ran]
        ran.update(job["jobId"] for job in new)
        with ThreadPoolExecutor(3) as containers:
            assert set(containers.map(jobs.run, new)) <= {0}
        return is_done()

    wait_for(all_ran, timeout_s=400)
    check()
