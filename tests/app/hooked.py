"""Hooks that write down how they were called, and tasks that see what hooks have done."""

import asyncio
import json
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from asgiref.sync import sync_to_async
from django.db import connection, transaction

from lambda_tasks import Continue, Retry, TaskContext, hooks, lambda_task
from lambda_tasks.execution import attempt
from tests.app.models import Effect

VARIABLE: ContextVar[str] = ContextVar("variable", default="")
"""What a hook sets at the start, for the task and for the hook at its end."""


class Notebook:
    """A file in which hooks of any process write how they were called; an event loop must not."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.notes_of_loops: list[dict[str, Any]] = []

    def writer(self, hook: str) -> Callable[[Any], None]:
        """Return a hook's function."""

        def write(event: Any) -> None:
            self.write(hook, event)

        return write

    def write(self, hook: str, event: Any) -> None:
        error = getattr(event, "error", None)
        note = {
            "hook": hook,
            "id": str(getattr(event, "invocation_id", "")),
            "attempt": getattr(event, "attempt", None),
            "outcome": getattr(event, "outcome", None),
            "error": None if error is None else type(error).__name__,
            "headers": dict(getattr(event, "headers", {})),
            "pid": os.getpid(),
            "thread": threading.current_thread().name,
            "is_in_loop": is_in_loop(),
            "is_in_transaction": connection.in_atomic_block,
            "variable": VARIABLE.get(),
        }
        if is_in_loop():
            self.notes_of_loops.append(note)
            return
        with self.path.open("a") as file:
            file.write(json.dumps(note) + "\n")

    def read(self, hook: str | None = None) -> list[dict[str, Any]]:
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        notes = [json.loads(line) for line in lines] + self.notes_of_loops
        return [note for note in notes if hook in (None, note["hook"])]


def is_in_loop() -> bool:
    with suppress(RuntimeError):
        return bool(asyncio.get_running_loop())
    return False


def set_variable(run: hooks.Started) -> None:
    VARIABLE.set(f"set for {run.invocation_id}")


async def set_variable_later(run: hooks.Started) -> None:
    await asyncio.sleep(0)
    set_variable(run)


def leave_effect(run: hooks.Started) -> None:
    Effect.objects.create(name="of a hook")


async def aleave_effect(run: hooks.Started) -> None:
    await Effect.objects.acreate(name="of a hook")


def fail(event: object) -> None:
    raise LookupError("a hook has failed")


class Stop(BaseException):
    """An error that is no Exception, as gevent's and pytest's are."""


def stop(event: object) -> None:
    raise Stop("a hook has failed")


def cancel(event: object) -> None:
    raise asyncio.CancelledError("a hook has failed")


async def acancel(event: object) -> None:
    future = asyncio.get_running_loop().create_future()
    future.cancel()
    await future


def exit(event: object) -> None:
    raise SystemExit("a hook has failed")


def _enter_transaction() -> None:
    transaction.atomic().__enter__()
    Effect.objects.create(name="of a hook")


async def leave_open(event: object) -> None:
    await sync_to_async(_enter_transaction)()


def _turn_autocommit_off() -> None:
    connection.set_autocommit(False)
    Effect.objects.create(name="of a hook")


async def leave_autocommit_off(event: object) -> None:
    await sync_to_async(_turn_autocommit_off)()


def hang(event: object) -> None:
    until = time.monotonic() + 600
    while time.monotonic() < until:
        pass


async def ahang(event: object) -> None:
    await asyncio.sleep(600)


RECEIVERS: dict[str, Callable[[Any], object]] = {
    each.__name__: each
    for each in (
        set_variable, set_variable_later, leave_effect, aleave_effect, fail, stop, cancel, acancel,
        exit, leave_open, leave_autocommit_off, hang, ahang
    )
}  # fmt: skip


@lambda_task
def connect(*, path: str, started: list[str], limit_s: float) -> None:
    """Connect hooks in this worker process."""
    _connect(Notebook(Path(path)), started)
    attempt.__dict__["HOOK_LIMIT_S"] = limit_s


def _connect(notebook: Notebook, started: list[str]) -> None:
    for name in started:
        hooks.started.connect(RECEIVERS[name])
    hooks.started.connect(notebook.writer("started"))
    hooks.ended.connect(notebook.writer("ended"))


@lambda_task(takes_context=True)
def see(context: TaskContext) -> dict[str, Any]:
    return _seen(context)


@lambda_task(takes_context=True)
async def asee(context: TaskContext) -> dict[str, Any]:
    return _seen(context)


def _seen(context: TaskContext) -> dict[str, Any]:
    seen = {"pid": os.getpid(), "thread": threading.current_thread().name}
    return seen | {"variable": VARIABLE.get(), "headers": dict(context.headers)}


@lambda_task
def write_and_fail() -> None:
    Effect.objects.create(name="of a task")
    raise ValueError("the task has failed")


@lambda_task
async def awrite_and_fail() -> None:
    await Effect.objects.acreate(name="of a task")
    raise ValueError("the task has failed")


@lambda_task(takes_context=True)
async def retry_once(context: TaskContext) -> dict[str, Any]:
    if not context.n_retries:
        raise Retry("once more")
    return dict(context.headers)


@lambda_task(takes_context=True)
async def continue_once(context: TaskContext) -> dict[str, Any]:
    if context.state is None:
        raise Continue({"page": 2})
    return dict(context.headers)


@lambda_task(ignore_errors=(LookupError,))
async def ignore() -> None:
    raise LookupError("ignored")


@lambda_task(singleton=True)
async def wait_for_lock() -> None: ...
