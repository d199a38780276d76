"""What a running task may know of its run, and the context variable that log lines read."""

import time
import uuid
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID


@dataclass(frozen=True, kw_only=True)
class TaskContext:
    """Given to a task with `takes_context=True`.

    `invocation_id` stays the same when a lost run is repeated, so it serves as an idempotency key
    for effects outside the database. `attempt` counts the executions of this invocation from 1,
    `n_retries` the invocations before it. `deadline` is in `time.monotonic()` seconds, None where
    there is no timeout. `metadata` holds what the place where the task runs tells of itself.
    """

    task_name: str
    invocation_id: UUID = field(default_factory=uuid.uuid4)
    attempt: int = 1
    n_retries: int = 0
    deadline: float | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def remaining(self) -> float:
        """Seconds left before the soft timeout; infinity where there is none."""
        return float("inf") if self.deadline is None else self.deadline - time.monotonic()


current_run: ContextVar[TaskContext | None] = ContextVar("lambda_tasks_current_run", default=None)
"""The run that this code belongs to, in a coroutine as in a worker process."""
