"""The context of a running task, and the context variable that log lines read."""

import time
import uuid
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Protocol
from uuid import UUID

from asgiref.sync import sync_to_async

from .twins import sync_form

SCHEDULE_HEADER: Final = "lambda_tasks.schedule"
"""The header with the name of the schedule whose run a call is."""

SCHEDULED_FOR_HEADER: Final = "lambda_tasks.scheduled_for"
"""The header with the due time of a schedule's run, in ISO format."""


OVERLAP_HEADER: Final = "lambda_tasks.overlap"
"""The header with what a schedule's run does while the one before it runs: "skip" or "queue"."""


class Recorder(Protocol):
    """The writer of a run's state and progress, before the run ends."""

    def save(self, state: object) -> None:
        """Save the state together with the run's own writes."""

    def show(self, done: float, total: float | None, text: str) -> None:
        """Write the progress at once, on another connection than the run's writes."""


class Addition(Protocol):
    """Steps that a run adds to its workflow. Its end stores them."""

    def store(self, place: Any) -> Any:
        """Store the steps, and return the place that the run has with them in its workflow."""
        ...


class _NullRecorder:
    """A recorder that writes nothing, for a function that is called without a record."""

    def save(self, state: object) -> None:
        pass

    def show(self, done: float, total: float | None, text: str) -> None:
        pass


@dataclass(frozen=True, kw_only=True)
class TaskContext:
    """The context of a run, passed to a task with `takes_context=True`."""

    task_name: str
    invocation_id: UUID = field(default_factory=uuid.uuid4)
    """The id of the invocation, the same in all its attempts. A retry has an id of its own."""
    root_id: UUID | None = None
    """The id of the first invocation of a chain of retries; None in that one itself."""
    attempt: int = 1
    """The number of this execution of the invocation, from 1."""
    n_retries: int = 0
    """The number of retries before this invocation, from 0."""
    queue: str = ""
    """The name of the queue in LAMBDA_TASKS_QUEUES."""
    deadline: float | None = None
    """The end of remaining(), in `time.monotonic()` seconds; None without timeouts."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """JSON values that describe the host process of the run."""
    headers: Mapping[str, Any] = field(default_factory=dict)
    """The headers of the call, as JSON values; its retries and further runs have the same."""
    state: Any = None
    """The JSON value that an earlier run saved or passed to Continue; None in the first run."""
    secrets: tuple[object, ...] = field(default=(), repr=False, compare=False)
    """The values of the run's secret arguments, which log lines redact. Internal."""
    recorder: Recorder = field(default_factory=_NullRecorder, repr=False, compare=False)
    """The writer behind save() and progress(). Internal."""
    place: Any = field(default=None, repr=False, compare=False)
    """The place in a workflow; None outside of one. Internal."""
    additions: list[Addition] | None = field(default=None, repr=False, compare=False)
    """What the run adds to its workflow; None without a transaction to add it in. Internal."""
    journal: Any = field(default=None, repr=False, compare=False)
    """The keeper of a durable function's steps; None for other tasks. Internal."""

    @property
    def idempotency_key(self) -> UUID:
        """The same in all attempts, retries and further runs of one call, and in a replay of it.

        Pass it to APIs outside the database, so that they do nothing twice.
        """
        return self.root_id or self.invocation_id

    @property
    def workflow_id(self) -> UUID | None:
        """The id of the workflow whose step this is; None for other calls."""
        id: UUID | None = None if self.place is None else self.place.workflow_id
        return id

    @property
    def step(self) -> int | None:
        """The number of the step in its workflow, from 0; None for other calls."""
        number: int | None = None if self.place is None else self.place.step
        return number

    @property
    def schedule(self) -> str | None:
        """The name of the schedule whose run this is; None for other calls."""
        name: str | None = self.headers.get(SCHEDULE_HEADER)
        return name

    @property
    def scheduled_for(self) -> datetime | None:
        """The due time of a schedule's run, in UTC; None for other calls."""
        due = self.headers.get(SCHEDULED_FOR_HEADER)
        return None if due is None else datetime.fromisoformat(due)

    def remaining(self) -> float:
        """Return the seconds before the soft timeout; infinity where there are no timeouts.

        With a hard timeout alone, the seconds before nine tenths of it. Less where the time budget
        of the host process ends sooner.
        """
        return float("inf") if self.deadline is None else self.deadline - time.monotonic()

    @sync_form("context.asave(...)")
    def save(self, state: object) -> None:
        """Save a small JSON value, the `state` of the next run if this one is lost or retried.

        It is written with the task's own writes: in its transaction, unless `atomic=False`. Raises
        TypeError where the value is not JSON, ValueError where it has more than 64 KiB, and
        LeaseLost where the run was taken over or cancelled.
        """
        self.recorder.save(state)

    async def asave(self, state: object) -> None:
        """See save()."""
        await sync_to_async(self.recorder.save)(state)

    @sync_form("context.aprogress(...)")
    def progress(self, done: float, total: float | None = None, text: str = "") -> None:
        """Write the task's progress while it runs: `done` of `total`, and a text.

        The progress is visible at once, also where the task's transaction is rolled back later.
        """
        self.recorder.show(done, total, text)

    async def aprogress(self, done: float, total: float | None = None, text: str = "") -> None:
        """See progress()."""
        await sync_to_async(self.recorder.show)(done, total, text)


current_run: ContextVar[TaskContext | None] = ContextVar("lambda_tasks_current_run", default=None)
"""The context of the run that the current code belongs to; None outside of a run."""

boundary_run: ContextVar[TaskContext | None] = ContextVar("lambda_tasks_boundary_run", default=None)
"""The context of the run for which on_commit functions, and listeners of its start and end, are
called. Its task does not run then, so `current_run` is None there."""


def run_of_this_code() -> TaskContext | None:
    """Return the context of the run that this code belongs to, its start and end included."""
    return current_run.get() or boundary_run.get()
