"""The figures that the admin's pages show, from the rows that the tick has counted.

Nothing here reads all records, however many there are: ends are counted once a minute, in
`RunFigures` and `ErrorFigures`, and what is still broken, waits or runs is found by an index. So
the last minute may be missing, and more if nobody ticks: `Facts.counted_s` tells.
"""

from collections.abc import Collection
from datetime import datetime
from typing import Final
from uuid import UUID

from .. import runtime
from ..core.figures import HOUR, Range, start_of
from ..core.schedules import in_words
from ..declared_schedules import declared, find_declared
from ..errors import UnknownSchedule
from ..records import counts, figures
from ..records.figures import Wanted
from .counting import STUCK_AFTER
from .shapes import (
    HEAT_S,
    STILL_BROKEN_COUNTED,
    ErrorGroup,
    Facts,
    Moment,
    NextDue,
    Outcomes,
    Overview,
    QueueFigures,
    ReleaseMark,
    ScheduleRun,
    Series,
    Spread,
    TaskFigures,
    TaskStory,
)
from .summing import by_error, by_queue, by_task, coarse, facts, past_hours, series, steps, sums

__all__ = [
    "HEAT_S",
    "STILL_BROKEN_COUNTED",
    "ErrorGroup",
    "Facts",
    "Moment",
    "NextDue",
    "Outcomes",
    "Overview",
    "QueueFigures",
    "Range",
    "ReleaseMark",
    "ScheduleRun",
    "Series",
    "Spread",
    "TaskFigures",
    "TaskStory",
    "acknowledge",
    "error",
    "errors",
    "last_successes",
    "overview",
    "queues",
    "schedule_runs",
    "still_broken_ids",
    "task",
    "tasks",
]

SHOWN: Final = 10
"""The most errors, tasks and schedules in each list of the overview."""


def overview(range: Range = Range.LAST_HOUR) -> Overview:
    """Return what the first page shows. Executes seven statements on PostgreSQL."""
    tick = figures.read_tick(with_report=True)
    now = tick.now
    rows = figures.read_runs(
        steps(range, now),
        coarse(range, now),
        Wanted(HOUR, starts=past_hours(start_of(now, HOUR))),
    )
    unfinished = counts.count_unfinished(STUCK_AFTER)
    of_queues = by_queue(range, now, rows, *unfinished, paused=tick.paused)
    of_tasks = list(by_task(range, now, rows).values())
    return Overview(
        facts=facts(tick, rows, of_queues),
        series=series(range, now, sums(rows, range.step), tick.releases),
        queues=of_queues,
        errors=_errors(range, now)[:SHOWN],
        slowest=sorted(of_tasks, key=lambda each: -(each.run.p95_s or 0.0))[:SHOWN],
        costliest=sorted(of_tasks, key=lambda each: -each.run.total_s)[:SHOWN],
        next_due=_next_due(),
        report=tick.report,
    )


def queues(range: Range = Range.LAST_HOUR) -> list[QueueFigures]:
    """Return how each queue stands, by name."""
    tick = figures.read_tick()
    rows = figures.read_runs(steps(range, tick.now))
    unfinished = counts.count_unfinished(STUCK_AFTER)
    return by_queue(range, tick.now, rows, *unfinished, paused=tick.paused)


def tasks(range: Range = Range.LAST_DAY) -> dict[str, TaskFigures]:
    """Return the figures of each task of which something has ended in the range, by name."""
    now = figures.read_tick().now
    return by_task(range, now, figures.read_runs(coarse(range, now)))


def task(name: str, range: Range = Range.LAST_DAY) -> TaskStory:
    """Return how one task is doing. A name without figures has a story without numbers."""
    tick = figures.read_tick()
    now = tick.now
    rows = figures.read_runs(steps(range, now, name), coarse(range, now))
    return TaskStory(
        figures=by_task(range, now, rows).get(name) or TaskFigures(name=name),
        series=series(range, now, sums(rows, range.step, name), tick.releases),
        last_success=last_successes([name]).get(name),
        errors=_errors(range, now, task=name)[:SHOWN],
    )


def last_successes(names: Collection[str] | None = None) -> dict[str, datetime]:
    """Return when each of these tasks last succeeded; with None, of all that have figures.

    It goes back as far as LAMBDA_TASKS_KEEP_FIGURES, mostly further than the records.
    """
    return figures.last_successes(names)


def errors(
    range: Range = Range.LAST_DAY,
    *,
    task: str | None = None,
    still_broken: bool = False,
    limit: int = 100,
) -> list[ErrorGroup]:
    """Return failures by error: those that are still broken first, then the most failures.

    With `still_broken` only errors that have such records, whenever they were seen.
    """
    found = _errors(range, figures.read_tick().now, task=task)
    return [each for each in found if each.still_broken or not still_broken][:limit]


def error(id: UUID, range: Range = Range.LAST_WEEK) -> ErrorGroup | None:
    """Return one error; None for one that is unknown, or that was not seen for long."""
    return next(iter(_errors(range, figures.read_tick().now, id=id)), None)


def still_broken_ids(
    *, error: UUID | None = None, task: str | None = None, limit: int
) -> list[UUID]:
    """Return the ids of records that are still broken, the latest failure first.

    For lists with other filters, `TaskRecord.objects.filter(broken_since__isnull=False)` is the
    condition, and `error_id` that of an error; `-broken_since` is the order with an index.
    """
    return figures.still_broken(error=error, task=task, limit=limit)


def acknowledge(ids: Collection[UUID]) -> int:
    """Let FAILED records no longer count as still broken; return how many did.

    The caller says in its own log who did it. A record that is retried and fails again counts anew.
    """
    return figures.acknowledge(ids)


def schedule_runs(name: str, *, limit: int = 30) -> list[ScheduleRun]:
    """Return the last due times of a schedule, the latest first; none for an unknown one."""
    try:
        found = find_declared(name)
    except UnknownSchedule:
        return []
    table = runtime.current().schedule_table
    return [
        ScheduleRun(
            due=run.due,
            record_id=run.id,
            status=run.status,
            run_s=(run.ended_at - run.started_at).total_seconds()
            if run.started_at is not None and run.ended_at is not None
            else None,
        )
        for run in table.last_runs(name, found.schedule, limit=limit)
    ]


def _next_due() -> list[NextDue]:
    schedules = declared()
    states = runtime.current().schedule_table.due_next(schedules, limit=SHOWN)
    return [
        NextDue(
            name=state.name,
            task_name=schedules[state.name].task_name,
            rule=in_words(schedules[state.name].schedule),
            due=state.next_due,
        )
        for state in states
        if state.next_due is not None
    ]


def _errors(
    range: Range, now: datetime, *, task: str | None = None, id: UUID | None = None
) -> list[ErrorGroup]:
    since = start_of(now - range.length, range.coarse)
    rows = figures.read_errors(range.coarse, since, task=task, error=id)
    known = figures.describe_errors(since=since, id=id)
    return by_error(range, now, rows, known, task=task)
