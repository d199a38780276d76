"""The scheduler, which enqueues the runs of schedules shortly before they are due."""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from ..context import OVERLAP_HEADER, SCHEDULE_HEADER, SCHEDULED_FOR_HEADER
from ..core.message import Outgoing
from ..core.schedules import Schedule
from ..database_calls import call_database
from ..logging import log_error
from ..ports import ScheduledRun, ScheduleTable, Task, TickResult
from .prepare import prepare

logger = logging.getLogger("lambda_tasks")

TICK_LIMIT_S: Final = 30.0
"""Seconds for the database to advance all schedules."""


class Enqueue(Protocol):
    """The entry point of calls. See on_commit.Enqueuer.enqueue()."""

    def __call__(self, messages: Sequence[Outgoing], *, using: str) -> object:
        """Send messages once the transaction on the database `using` commits."""


class Declared(Protocol):
    """A schedule of this release, with its task."""

    @property
    def schedule(self) -> Schedule:
        """The schedule itself."""
        ...

    @property
    def task(self) -> Task:
        """The task that it runs. Raises UnknownTask where there is none."""
        ...

    @property
    def task_name(self) -> str:
        """The dotted name of the task."""
        ...


class Scheduler:
    """The scheduler of one process. Any number may tick at once: each due time runs once."""

    def __init__(
        self,
        table: ScheduleTable,
        enqueue: Enqueue,
        declared: Callable[[], Mapping[str, Declared]],
    ) -> None:
        self._table = table
        self._enqueue_now = enqueue
        self._declared = declared

    async def tick(self, now: datetime | None = None) -> TickResult:
        """Enqueue what is due until about two minutes from now; return how much, and how late.

        `now` is for tests; by default the database's clock counts.
        """
        return await call_database(self._tick, now, limit_s=TICK_LIMIT_S)

    def _tick(self, now: datetime | None) -> TickResult:
        declared = self._declared()
        if not declared:
            return TickResult()
        lag_s = 0.0

        def enqueue(runs: Mapping[str, Sequence[ScheduledRun]]) -> Collection[str]:
            nonlocal lag_s
            lag_s = max(lag_s, _lag_s(runs, now or datetime.now(UTC)))
            return self._enqueue(declared, runs)

        scheduled = self._table.advance(
            {name: (each.task_name, each.schedule) for name, each in declared.items()},
            enqueue,
            now=now,
        )
        return TickResult(scheduled, lag_s)

    def _enqueue(
        self, declared: Mapping[str, Declared], runs: Mapping[str, Sequence[ScheduledRun]]
    ) -> Collection[str]:
        """Enqueue runs, and return the names of the schedules whose runs can't be enqueued."""
        messages: list[Outgoing] = []
        failed: list[str] = []
        for name, due in runs.items():
            try:
                messages += [message_of(declared[name], each) for each in due]
            except Exception as error:
                failed.append(name)
                log_error(logger, error, "The schedule %r can't run; it stays due", name)
        if messages:
            self._enqueue_now(messages, using=self._table.alias)
        return failed


def _lag_s(runs: Mapping[str, Sequence[ScheduledRun]], now: datetime) -> float:
    """Return the seconds by which the most overdue run is late; 0 if none is."""
    due = [each.due for of_one in runs.values() for each in of_one]
    return max((now - min(due)).total_seconds(), 0.0) if due else 0.0


def message_of(declared: Declared, run: ScheduledRun) -> Outgoing:
    """Return the message of a schedule's run.

    Raises UnknownTask, TypeError and ValueError where the task or its arguments do not fit.
    """
    schedule, task = declared.schedule, declared.task
    kwargs = task.arguments_to_json(schedule.kwargs)
    outgoing = prepare(
        task.name,
        kwargs,
        queue=task.options.queue,
        task_queue=task.options.queue,
        durable=True,
        backend=task.backend,
        invocation_id=run.id,
        run_after=run.due + schedule.offset,
        headers=_headers(schedule, run.due),
        secret=task.secret_names,
        keeps_arguments=task.options.keep_arguments,
        expires=task.options.expires,
        unique=task.unique_call((), kwargs),
        is_workflow=task.options.workflow,
    )
    # Nobody is there to whom an error could be raised, and it would stop the other schedules.
    joins = outgoing.on_conflict == "raise"
    return replace(outgoing, on_conflict="return") if joins else outgoing


def _headers(schedule: Schedule, due: datetime) -> dict[str, Any]:
    headers = {SCHEDULE_HEADER: schedule.name, SCHEDULED_FOR_HEADER: due.isoformat()}
    return headers if schedule.overlap == "allow" else headers | {OVERLAP_HEADER: schedule.overlap}
