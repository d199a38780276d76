"""Tasks that are watched: by log lines, metrics, traces and error trackers."""

import asyncio
import importlib
import json
import logging
import os
import signal
import threading
import time
from contextvars import copy_context
from pathlib import Path
from typing import Any

from asgiref.sync import sync_to_async
from django.db import transaction
from pydantic import SecretStr

from lambda_tasks import Continue, Retry, TaskContext, lambda_task, task_logger
from lambda_tasks.backends import task as task_with_options
from lambda_tasks.logging import JSONFormatter
from tests.app import capturing, tracing

other = logging.getLogger("shop.orders")
"""A logger that knows nothing of the library."""


@lambda_task
def log_json_to(*, path: str) -> None:
    """Write the log lines of this worker process as JSON into a file."""
    handler = logging.FileHandler(path)
    handler.setFormatter(JSONFormatter())
    logging.getLogger().addHandler(handler)
    logging.getLogger().setLevel(logging.INFO)


def _say(text: str) -> None:
    other.info("%s", text, extra={"order_id": 7})


@lambda_task
def say() -> None:
    task_logger.info("by the task")
    _say("by another logger")
    thread = threading.Thread(target=copy_context().run, args=(_say, "in a thread"))
    thread.start()
    thread.join()
    transaction.on_commit(lambda: _say("after the commit"))


@lambda_task
async def asay() -> None:
    task_logger.info("by the task")
    _say("by another logger")
    await asyncio.to_thread(_say, "in a thread")
    await sync_to_async(transaction.on_commit)(lambda: _say("after the commit"))


@task_with_options
def django_say() -> None:
    _say("by another logger")


@lambda_task
async def afail() -> None:
    raise LookupError("no order 7")


@lambda_task
async def afail_with(*, token: SecretStr) -> None:
    raise LookupError(f"no order of {token.get_secret_value()}")


@lambda_task
async def aspeak_and_fail_with(*, token: SecretStr) -> None:
    other.warning("the token is %s", token.get_secret_value())
    raise LookupError("no order 7")


@lambda_task
def fail() -> None:
    raise LookupError("no order 7")


@lambda_task(takes_context=True)
async def aretry_once(context: TaskContext) -> None:
    if not context.n_retries:
        raise Retry("once more")


@lambda_task(takes_context=True)
def continue_once(context: TaskContext) -> None:
    if context.state is None:
        raise Continue({"page": 2})
    asay.execute_on_commit()


@lambda_task(hard_timeout=1, soft_timeout=None)
def sleep_too_long() -> None:
    time.sleep(60)


@lambda_task(hard_timeout=1, soft_timeout=None)
async def asleep_too_long() -> None:
    await asyncio.sleep(60)


@lambda_task(on_lost="fail")
def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@lambda_task
async def aspeak(*, token: SecretStr, extra: dict[str, Any]) -> None:
    secret = token.get_secret_value()
    other.warning("the token is %s", secret, extra={"seen": [secret], **extra})


@lambda_task
def trace_to(*, path: str) -> None:
    """Trace this worker process into a file, one span a line."""
    from lambda_tasks.watching import opentelemetry

    opentelemetry.instrument(tracing.provider_of(tracing.FileExporter(path)))


@lambda_task
def call_another() -> None:
    with tracing.span("in the task"):
        asay.execute_on_commit()
    transaction.on_commit(_call_say)


def _call_say() -> None:
    say.execute_on_commit()


@lambda_task
async def acall_another() -> None:
    with tracing.span("in the task"):
        await asay.aexecute_on_commit()


@task_with_options
def django_call() -> None:
    asay.execute_on_commit()


@lambda_task
async def aecho(*, text: str) -> None: ...


@lambda_task
def capture_to(*, path: str) -> None:
    """Let Sentry in this worker process write what it would send into a file, one item a line."""
    from lambda_tasks.watching import sentry

    def keep(item: dict[str, Any]) -> None:
        with Path(path).open("a") as file:
            file.write(json.dumps(item) + "\n")

    capturing.init(keep)
    sentry.instrument()


@task_with_options
def django_fail() -> None:
    raise LookupError("no order 7")


@lambda_task
async def atag_and_fail(*, name: str) -> None:
    sentry_sdk: Any = importlib.import_module("sentry_sdk")
    sentry_sdk.set_tag("own", name)
    await asyncio.sleep(0)
    raise LookupError(name)
