"""The ways that the tasks of Django's tests go, from a call to its result."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.conf import settings
from django.db import connection

from lambda_tasks import handler, runtime
from lambda_tasks.local import EventSourceMapping, LambdaContext, LocalSqs

TESTING, SQS, WORKER = "testing", "sqs", "worker"
WAYS = (TESTING, SQS, WORKER)
"""By the testing helpers; by a real SQS to the real handler; by the table to a worker's process."""

QUEUE_NAMES = ("default", "queue_1", "high")

WAY_VARIABLE = "LAMBDA_TASKS_CONFORMANCE_WAY"
QUEUES_VARIABLE = "LAMBDA_TASKS_CONFORMANCE_QUEUES"
"""The environment variables by which the settings know the way and its queues, as JSON."""

PATIENCE_S = 180.0
"""Seconds for a task to end before the test that waits for it fails."""


@contextmanager
def prepared(way: str) -> Iterator[None]:
    """In the body the queues of the way exist, and Django may read its settings."""
    os.environ[WAY_VARIABLE] = way
    if way != SQS:
        os.environ[QUEUES_VARIABLE] = json.dumps({name: {"database": True} for name in QUEUE_NAMES})
        yield
        return
    with LocalSqs() as sqs:
        urls = {name: sqs.create_queue(name, visibility_timeout_s=90) for name in QUEUE_NAMES}
        os.environ[QUEUES_VARIABLE] = json.dumps(urls)
        os.environ["LAMBDA_TASKS_TEST_AWS"] = json.dumps(sqs.client_options)
        yield


def chosen() -> str:
    """The way of this run."""
    return os.environ[WAY_VARIABLE]


def close() -> None:
    """End what has run tasks in this process."""
    handler.close()
    runtime.close()


def run_to_end(result: Any) -> None:
    """Let a task that was enqueued on the default queue run, and refresh its result.

    Fails within a transaction, which no message leaves before its commit.
    """
    assert not connection.in_atomic_block, "The message is sent after the commit."
    if chosen() == SQS:
        _deliver(result)
    else:
        _work_off()
    result.refresh()
    assert result.is_finished, f"The task has not ended: {result}"


def _deliver(result: Any) -> None:
    """Play Lambda's part between queue and function until the task has ended."""
    deadline = time.monotonic() + PATIENCE_S
    with EventSourceMapping(
        json.loads(os.environ[QUEUES_VARIABLE])["default"],
        lambda event: handler.handler(event, LambdaContext()),
        client_options=settings.LAMBDA_TASKS_AWS,
    ) as mapping:
        while not result.is_finished and time.monotonic() < deadline:
            mapping.poll_once()
            result.refresh()


def _work_off() -> None:
    command = [sys.executable, "-m", "django", "lambda_tasks", "worker", "--once"]
    subprocess.run(command, check=True, timeout=PATIENCE_S, stdout=subprocess.DEVNULL)
