"""What a running task may know of its run, and the context variable that log lines read."""

import time
import uuid
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import UUID

from asgiref.sync import sync_to_async
from django.utils.asyncio import async_unsafe


class Recorder(Protocol):
    """Writes what others are to know of a run before its end."""

    def save(self, state: object) -> None:
        """With the run's own writes."""

    def show(self, done: float, total: float | None, text: str) -> None:
        """At once, beside the run's own writes."""


class _Nowhere:
    """For a function that is called here and now."""

    def save(self, state: object) -> None:
        pass

    def show(self, done: float, total: float | None, text: str) -> None:
        pass


@dataclass(frozen=True, kw_only=True)
class TaskContext:
    """Given to a task with `takes_context=True`.

    `invocation_id` stays the same when a lost run is repeated, so it serves as an idempotency key
    for effects outside the database. `attempt` counts the executions of this invocation from 1,
    `n_retries` the invocations before it. `deadline` is in `time.monotonic()` seconds, None where
    there is no timeout. `metadata` holds what the place where the task runs tells of itself.
    `state` is what an earlier run has saved, or handed on with Continue; None in the first.
    """

    task_name: str
    invocation_id: UUID = field(default_factory=uuid.uuid4)
    attempt: int = 1
    n_retries: int = 0
    deadline: float | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    state: Any = None
    secrets: tuple[object, ...] = field(default=(), repr=False, compare=False)
    recorder: Recorder = field(default_factory=_Nowhere, repr=False, compare=False)

    def remaining(self) -> float:
        """Seconds left before the soft timeout, or before nine tenths of the hard one where that
        is the only one; infinity where there are no timeouts."""
        return float("inf") if self.deadline is None else self.deadline - time.monotonic()

    @async_unsafe("You are in an event loop: use `await context.asave(...)`.")
    def save(self, state: object) -> None:
        """Keep a small JSON state with the record, for the run that follows a lost or retried one.

        It is written with the task's own writes: in its transaction, unless `atomic=False`.
        Raises TypeError for what is no JSON, ValueError for more than 64 KiB, LeaseLost.
        """
        self.recorder.save(state)

    async def asave(self, state: object) -> None:
        """See save()."""
        await sync_to_async(self.recorder.save)(state)

    @async_unsafe("You are in an event loop: use `await context.aprogress(...)`.")
    def progress(self, done: float, total: float | None = None, text: str = "") -> None:
        """Show how far the task is, in its record, while it runs."""
        self.recorder.show(done, total, text)

    async def aprogress(self, done: float, total: float | None = None, text: str = "") -> None:
        """See progress()."""
        await sync_to_async(self.recorder.show)(done, total, text)


current_run: ContextVar[TaskContext | None] = ContextVar("lambda_tasks_current_run", default=None)
"""The run that this code belongs to, in a coroutine as in a worker process."""
