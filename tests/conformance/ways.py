"""The ways that the tasks of Django's tests go, from a call to its result."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
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

WORKERS = """
import gc, io, os, sys
import django

django.setup()
from django.core.management import call_command
from django.db import connections

call_command("check", stdout=io.StringIO())
call_command("lambda_tasks", "stats", stdout=io.StringIO())
connections.close_all()
gc.freeze()
for _ in sys.stdin:
    if (pid := os.fork()) == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        call_command("lambda_tasks", "worker", "--once")
        sys.exit()
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""
"""A process that has loaded the project, which takes longer than a task here. For each line that it
reads it forks a worker, and tells its exit code."""


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


_running = ExitStack()
"""What runs tasks beside this process."""


def close() -> None:
    """End what has run tasks."""
    _running.close()
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
    workers = _workers()
    assert workers.stdin is not None
    assert workers.stdout is not None
    out_of_patience = threading.Timer(PATIENCE_S, workers.kill)
    out_of_patience.start()
    try:
        print(file=workers.stdin, flush=True)
        assert workers.stdout.readline() == "0\n", "the exit code of the worker"
    finally:
        out_of_patience.cancel()


@cache
def _workers() -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", WORKERS]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    return _running.enter_context(process)
