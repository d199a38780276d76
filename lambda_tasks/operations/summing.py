"""The sums of the tick's rows that pages draw, by moment, queue, task and error."""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final, TypeVar
from uuid import UUID

from .. import conf
from ..core.figures import HOUR, Range, RunFigure, start_of, starts
from ..core.histograms import Histogram, bounds_of, percentile
from ..core.lifecycle import Status
from ..records.counts import Group
from ..records.figures import ErrorRow, KnownError, Row, Tick, Wanted
from ..records.rollups import ALL_TASKS
from .counting import COUNTED_STATES, MIN_ENDED, SHIFT_S, Counts, add_group
from .shapes import (
    HEAT_S,
    ErrorGroup,
    Facts,
    Moment,
    Outcomes,
    QueueFigures,
    ReleaseMark,
    Series,
    Spread,
    TaskFigures,
)

USUAL_DAYS: Final = 7
"""The past days of which the same hour says what is usual."""

By = Mapping[str, RunFigure]
"""Figures by status."""

Key = TypeVar("Key", bound=Hashable)
T = TypeVar("T")


# What is read


def steps(range: Range, now: datetime, task_name: str = ALL_TASKS) -> Wanted:
    """Return the figures of each moment of a range, of one task or of all together."""
    return Wanted(range.step, starts=_moments(range, now), task_name=task_name)


def coarse(range: Range, now: datetime) -> Wanted:
    """Return the figures of each task in a range, in few spans."""
    return Wanted(range.coarse, since=start_of(now - range.length, range.coarse), task_name=None)


def past_hours(this_hour: datetime) -> list[datetime]:
    """Return the starts of this hour and the one before, today and on past days."""
    return [
        this_hour - timedelta(days=days, hours=hours)
        for days in range(USUAL_DAYS + 1)
        for hours in (0, 1)
    ]


def _moments(range: Range, now: datetime) -> list[datetime]:
    return list(starts(now - range.length, now, range.step))


# What is made of it


def sums(rows: Iterable[Row], minutes: int, task_name: str = ALL_TASKS) -> Mapping[datetime, By]:
    """Return the figures of the spans of a length, of one task or of all, by start and status."""
    chosen = [each for each in rows if (each.minutes, each.task_name) == (minutes, task_name)]
    return {
        start: _by_status(group) for start, group in _grouped(chosen, lambda row: row.start).items()
    }


def series(
    range: Range,
    now: datetime,
    by_start: Mapping[datetime, By],
    releases: Sequence[Mapping[str, str]],
) -> Series:
    """Return the moments of a range, also those in which nothing has ended."""
    shown = _moments(range, now)
    of_range = [by_start[each] for each in shown if each in by_start]
    total = {
        status: RunFigure.total(each[status] for each in of_range if status in each)
        for status in {status for each in of_range for status in each}
    }
    marks = [
        ReleaseMark(each["name"], datetime.fromisoformat(each["first_seen"])) for each in releases
    ]
    return Series(
        range=range,
        moments=[_moment(start, range.step, by_start.get(start, {})) for start in shown],
        total=_moment(shown[0], range.step * len(shown), total),
        releases=[each for each in marks if each.first_seen >= shown[0]],
    )


def by_queue(
    range: Range,
    now: datetime,
    rows: Iterable[Row],
    unfinished: Iterable[Group],
    incomplete: Collection[str],
    *,
    paused: Collection[str],
) -> list[QueueFigures]:
    """Return how each queue of the settings, and any other with figures, stands and has done."""
    shown = _moments(range, now)
    spans = set(shown)
    ended = _grouped(
        (
            each
            for each in rows
            if (each.minutes, each.task_name) == (range.step, ALL_TASKS) and each.start in spans
        ),
        lambda row: row.queue,
    )
    counts: defaultdict[str, Counts] = defaultdict(Counts)
    for group in unfinished:
        add_group(counts[group.queue], group, now)
    return [
        _queue_figures(
            name,
            counts[name],
            ended.get(name, []),
            shown,
            is_complete=name not in incomplete,
            is_paused=name in paused,
        )
        for name in sorted({*conf.current().queues, *ended, *counts})
    ]


def _queue_figures(
    name: str,
    counts: Counts,
    ended: Sequence[Row],
    shown: Sequence[datetime],
    *,
    is_complete: bool,
    is_paused: bool,
) -> QueueFigures:
    figures = _by_status(ended)
    for status, figure in figures.items():
        setattr(counts, COUNTED_STATES[Status(status)], figure.n)
    by_start: Counter[datetime] = Counter()
    for row in ended:
        by_start[row.start] += row.n
    return QueueFigures(
        name=name,
        counts=counts,
        is_complete=is_complete,
        is_paused=is_paused,
        outcomes=_outcomes(figures),
        wait=_wait(figures),
        throughput=[by_start[start] for start in shown],
    )


def by_task(range: Range, now: datetime, rows: Iterable[Row]) -> dict[str, TaskFigures]:
    """Return the figures of each task in a range, by name."""
    since = start_of(now - range.length, range.coarse)
    chosen = [
        each
        for each in rows
        if each.minutes == range.coarse and each.task_name != ALL_TASKS and each.start >= since
    ]
    all_s = sum(each.run_s for each in chosen)
    found = {}
    for name, group in sorted(_grouped(chosen, lambda row: row.task_name).items()):
        figures = _by_status(group)
        run = _run(figures)
        found[name] = TaskFigures(
            name=name,
            outcomes=_outcomes(figures),
            wait=_wait(figures),
            run=run,
            share=run.total_s / all_s if all_s else 0.0,
        )
    return found


def by_error(
    range: Range,
    now: datetime,
    rows: Iterable[ErrorRow],
    known: Iterable[KnownError],
    *,
    task: str | None = None,
) -> list[ErrorGroup]:
    """Return errors: those that are still broken first, then the most failures.

    With `task`, only those that this task had, in the range or last.
    """
    shown = list(starts(now - range.length, now, range.coarse))
    of_error = _grouped(rows, lambda row: row.error_id)
    found = [
        _error_group(each, of_error.get(each.error.id, []), shown)
        for each in known
        if task is None or each.error.id in of_error or each.error.task_name == task
    ]
    return sorted(found, key=lambda each: (-each.still_broken, -each.failed - each.retried))


def _error_group(
    known: KnownError, rows: Sequence[ErrorRow], shown: Sequence[datetime]
) -> ErrorGroup:
    by_task: Counter[str] = Counter()
    by_start: Counter[datetime] = Counter()
    for row in rows:
        by_task[row.task_name] += row.failed + row.retried
        by_start[row.start] += row.failed + row.retried
    error = known.error
    return ErrorGroup(
        id=error.id,
        exception_class=error.exception_class,
        message=error.message,
        raised_in=error.raised_in,
        task_names=[name for name, _ in by_task.most_common()] or [error.task_name],
        failed=sum(row.failed for row in rows),
        retried=sum(row.retried for row in rows),
        still_broken=known.still_broken,
        first_seen=error.first_seen,
        last_seen=error.last_seen,
        releases=error.releases,
        examples=[UUID(id) for id in error.examples],
        trend=[by_start[start] for start in shown],
    )


def facts(tick: Tick, rows: Iterable[Row], queues: Sequence[QueueFigures]) -> Facts:
    """Return what can be wrong with the system as a whole."""
    waiting = [each for each in queues if each.counts.oldest_waiting_s is not None]
    oldest = max(waiting, key=lambda each: each.counts.oldest_waiting_s or 0.0, default=None)
    now, usual = _failure_rates(rows, start_of(tick.now, HOUR))
    return Facts(
        now=tick.now,
        last_tick_s=_age_s(tick.now, tick.shift_ends, SHIFT_S),
        counted_s=_age_s(tick.now, tick.counted_at),
        oldest_waiting_s=None if oldest is None else oldest.counts.oldest_waiting_s,
        oldest_waiting_queue=None if oldest is None else oldest.name,
        stuck=sum(each.counts.stuck for each in queues),
        still_broken=tick.still_broken,
        failure_rate=now,
        usual_failure_rate=usual,
        connections=tick.n_connections,
        max_connections=tick.max_connections,
    )


def _failure_rates(rows: Iterable[Row], this_hour: datetime) -> tuple[float | None, float | None]:
    """Return the share of failures of this hour, and of the same hour of past days.

    Where fewer than MIN_ENDED have ended in this hour, it is the hour before.
    """
    by_hour = {start: _outcomes(each) for start, each in sums(rows, HOUR).items()}
    hour = this_hour
    if _n_run(by_hour.get(hour)) < MIN_ENDED:
        hour -= timedelta(hours=1)
    today = by_hour.get(hour) or by_hour.get(this_hour)
    past = [by_hour.get(hour - timedelta(days=days + 1)) for days in range(USUAL_DAYS)]
    usual = Outcomes(
        succeeded=sum(each.succeeded for each in past if each),
        failed=sum(each.failed for each in past if each),
    )
    is_enough = _n_run(usual) >= MIN_ENDED
    return None if today is None else today.failure_rate, usual.failure_rate if is_enough else None


def _n_run(outcomes: Outcomes | None) -> int:
    return 0 if outcomes is None else outcomes.succeeded + outcomes.failed


def _age_s(now: datetime, moment: datetime | None, more_s: float = 0.0) -> float | None:
    return None if moment is None else max((now - moment).total_seconds() + more_s, 0.0)


def _grouped(rows: Iterable[T], key: Callable[[T], Key]) -> dict[Key, list[T]]:
    groups: defaultdict[Key, list[T]] = defaultdict(list)
    for row in rows:
        groups[key(row)].append(row)
    return groups


def _by_status(rows: Iterable[Row]) -> By:
    return {
        status: RunFigure.total(row.figure for row in group)
        for status, group in _grouped(rows, lambda row: row.status).items()
    }


def _moment(start: datetime, minutes: int, figures: By) -> Moment:
    return Moment(
        start=start,
        minutes=minutes,
        outcomes=_outcomes(figures),
        wait=_wait(figures),
        run=_run(figures),
        waits=_heat(RunFigure.total(figures.values()).waits),
    )


def _outcomes(figures: By) -> Outcomes:
    return Outcomes(
        **{COUNTED_STATES[Status(status)]: figure.n for status, figure in figures.items()}
    )


def _wait(figures: By) -> Spread:
    total = RunFigure.total(figures.values())
    return _spread(total.waits, total.wait_s)


def _run(figures: By) -> Spread:
    total = RunFigure.total(figures.values())
    return _spread(total.runs, total.run_s)


def _spread(histogram: Histogram, total_s: float) -> Spread:
    return Spread(percentile(histogram, 0.5), percentile(histogram, 0.95), total_s)


def _heat(waits: Histogram) -> Mapping[int, int]:
    """Return how many waited for so long, by the index of HEAT_S."""
    rows: Counter[int] = Counter()
    for bucket, count in waits.items():
        lower_s, upper_s = bounds_of(bucket)
        middle_s = (lower_s + upper_s) / 2
        rows[sum(middle_s >= edge_s for edge_s in HEAT_S)] += count
    return rows
