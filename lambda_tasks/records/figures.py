"""The rows that the tick has made, as pages read them: few, and each set by one statement."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

from django.db import connections
from django.db.models import DateTimeField, Max, Q, QuerySet, Subquery, TextField, Value
from django.db.models.expressions import RawSQL

from ..core.figures import DAY, RunFigure
from ..core.histograms import from_text
from ..core.lifecycle import Status
from .clock import Now, read_clock
from .counts import last_round
from .database import all_records, record_alias
from .portable import RELAY_SHIFT
from .reports import read_last
from .retrying import with_retries
from .rollups import ALL_TASKS, RUN_COLUMNS, RUN_KEY
from .tables import (
    DoctorReport,
    ErrorFigures,
    LastTick,
    QueueState,
    RelayShift,
    RunFigures,
    TaskError,
    TaskRecord,
)

MAX_BROKEN: Final = 10_000
"""The most records that are counted as still broken, the last ones: a few milliseconds."""

MAX_ERRORS: Final = 500
"""The most errors that one look returns, those that were seen last."""

MAX_ERROR_ROWS: Final = 20_000
"""The most figures of errors that one look reads, the last ones."""

ACKNOWLEDGED_TOGETHER: Final = 1000


class Tick(NamedTuple):
    """What is known of the last tick, and of the system."""

    now: datetime
    """The time of the database's clock."""
    shift_ends: datetime | None
    """The end of the last shift of the relay; None if there was none."""
    counted_at: datetime | None
    """The time of the tick that has counted last."""
    n_connections: int | None
    max_connections: int | None
    releases: Sequence[Mapping[str, str]]
    still_broken: int
    """The records that are still broken, up to MAX_BROKEN."""
    paused: frozenset[str] = frozenset()
    """The names of the queues that are paused."""
    report: DoctorReport | None = None
    """What the doctor has found last, if it was asked for: the columns in REPORTED."""


REPORTED: Final = ("at", "findings", "ignored", "failed_at", "failure")
"""The columns of the doctor's report that come with a tick."""

OF_TICK: Final = (
    "now", "shift_ends", "at", "n_connections", "max_connections", "releases", "still_broken",
)  # fmt: skip
"""The columns of a tick, in the order of Tick."""


class Wanted(NamedTuple):
    """Figures of spans of one length, in minutes."""

    minutes: int
    starts: Collection[datetime] | None = None
    """The starts of the spans; None for all from `since` on."""
    since: datetime | None = None
    task_name: str | None = ALL_TASKS
    """The task, or ALL_TASKS for their sum; None for each, and their sum."""


class Row(NamedTuple):
    """Figures of one task, queue and status in one span."""

    minutes: int
    start: datetime
    task_name: str
    queue: str
    status: str
    n: int
    wait_s: float
    run_s: float
    waits: str
    runs: str
    last_end: datetime

    @property
    def figure(self) -> RunFigure:
        """The figures."""
        return RunFigure(
            self.n, self.wait_s, self.run_s, from_text(self.waits), from_text(self.runs),
            self.last_end,
        )  # fmt: skip


ROW_COLUMNS: Final = (*RUN_KEY, *RUN_COLUMNS)


class ErrorRow(NamedTuple):
    """How often an error has ended runs of a task in one span."""

    start: datetime
    error_id: UUID
    task_name: str
    failed: int
    retried: int


ERROR_COLUMNS: Final = ("start", "error_id", "task_name", "failed", "retried")


class KnownError(NamedTuple):
    """An error, and how many records with it are still broken."""

    error: TaskError
    still_broken: int


@with_retries
def read_tick(*, with_report: bool = False) -> Tick:
    """Return what is known of the last tick, and with `with_report` what the doctor has found.

    Executes one statement, or a few before the first tick.
    """
    alias = record_alias()
    shifts = RelayShift.objects.using(alias).filter(name=RELAY_SHIFT).values("next_at")
    still_broken = f"SELECT COUNT(*) FROM {_newest_broken()} newest"  # noqa: S608
    ticks: QuerySet[Any] = LastTick.objects.using(alias).annotate(
        now=Now(),
        shift_ends=Subquery(shifts[:1], output_field=DateTimeField()),
        still_broken=RawSQL(still_broken, []),  # noqa: S611 - nobody's input is in it
    )
    columns = list(OF_TICK)
    if with_report:
        reports = DoctorReport.objects.using(alias).filter(id=1)
        of_report = {f"report_{each}": Subquery(reports.values(each)) for each in REPORTED}
        ticks, columns = ticks.annotate(**of_report), [*columns, *of_report]
    row, paused = _with_paused(ticks, columns)
    if row is not None:
        known: list[Any] = [*(row[each] for each in OF_TICK), paused, _report(row)]
        return Tick(*known)
    report = read_last() if with_report else None
    return Tick(read_clock(alias), last_round(), None, None, None, [], 0, paused, report)


def _with_paused(
    ticks: QuerySet[Any], columns: Sequence[str]
) -> tuple[Mapping[str, Any] | None, frozenset[str]]:
    """Return the row of the tick, None before the first one, and the names of paused queues.

    Each name is a row of its own: MySQL cuts off names that it joins to one text.
    """
    nothing = Value(None, output_field=TextField())
    paused = QueueState.objects.using(ticks.db).filter(is_paused=True)
    names = paused.annotate(**dict.fromkeys(columns, nothing)).values(*columns, "name")
    rows = list(ticks.annotate(name=nothing).values(*columns, "name").union(names, all=True))
    row = next((each for each in rows if each["name"] is None), None)
    return row, frozenset(each["name"] for each in rows) - {None}


def _report(row: Mapping[str, Any]) -> DoctorReport | None:
    if row.get("report_at") is None:
        return None
    return DoctorReport(id=1, **{each: row[f"report_{each}"] for each in REPORTED})


@with_retries
def read_runs(*wanted: Wanted) -> list[Row]:
    """Return figures, each once, though several ask for them. Executes one statement."""
    condition = Q()
    for each in wanted:
        of_spans = Q(minutes=each.minutes)
        of_spans &= Q(start__gte=each.since) if each.starts is None else Q(start__in=each.starts)
        if each.task_name is not None:
            of_spans &= Q(task_name=each.task_name)
        condition |= of_spans
    rows = RunFigures.objects.using(record_alias()).filter(condition)
    return [Row(*values) for values in rows.values_list(*ROW_COLUMNS)]


@with_retries
def read_errors(
    minutes: int, since: datetime, *, task: str | None = None, error: UUID | None = None
) -> list[ErrorRow]:
    """Return the figures of errors since a moment, the last MAX_ERROR_ROWS."""
    rows = ErrorFigures.objects.using(record_alias()).filter(minutes=minutes, start__gte=since)
    if task is not None:
        rows = rows.filter(task_name=task)
    if error is not None:
        rows = rows.filter(error_id=error)
    latest = rows.order_by("-start").values_list(*ERROR_COLUMNS)
    return [ErrorRow(*values) for values in latest[:MAX_ERROR_ROWS]]


@with_retries
def describe_errors(*, since: datetime, id: UUID | None = None) -> list[KnownError]:
    """Return the errors seen since a moment, and those that are still broken, the last seen first.

    With `id`, this one only.
    """
    quoted = connections[record_alias()].ops.quote_name
    errors = quoted(TaskError._meta.db_table)
    sql = (
        f"SELECT error.*, COALESCE(broken.n, 0) AS still_broken FROM {errors} error"  # noqa: S608
        " LEFT JOIN (SELECT newest.error_id, COUNT(*) AS n"
        f" FROM {_newest_broken()} newest GROUP BY newest.error_id) broken"
        " ON broken.error_id = error.id"
        f" WHERE {'error.id = %s' if id else 'broken.n IS NOT NULL OR error.last_seen >= %s'}"
        " ORDER BY error.last_seen DESC LIMIT %s"
    )
    field: Any = TaskError._meta.get_field("id" if id else "last_seen")
    value = field.get_db_prep_value(id or since, connections[record_alias()])
    found = TaskError.objects.using(record_alias()).raw(sql, [value, MAX_ERRORS])
    return [KnownError(error, error.still_broken) for error in found]  # type: ignore[attr-defined]


def _newest_broken() -> str:
    """Return the SQL of the records that are still broken, the last MAX_BROKEN, as a table."""
    table = connections[record_alias()].ops.quote_name(TaskRecord._meta.db_table)
    return (
        f"(SELECT error_id FROM {table} WHERE broken_since IS NOT NULL"  # noqa: S608
        f" ORDER BY broken_since DESC LIMIT {MAX_BROKEN})"
    )


@with_retries
def last_successes(names: Collection[str] | None) -> dict[str, datetime]:
    """Return the end of the last success of each of these tasks, or of all with None."""
    days = RunFigures.objects.using(record_alias()).filter(minutes=DAY, status=Status.SUCCESS)
    if names is not None:
        days = days.filter(task_name__in=names)
    return dict(days.order_by().values_list("task_name").annotate(Max("last_end")))


@with_retries
def still_broken(*, error: UUID | None, task: str | None, limit: int) -> list[UUID]:
    """Return the ids of records that are still broken, the latest failure first."""
    broken = all_records().filter(broken_since__isnull=False).order_by("-broken_since", "-id")
    if error is not None:
        broken = broken.filter(error_id=error)
    if task is not None:
        broken = broken.filter(task_name=task)
    return list(broken.values_list("id", flat=True)[:limit])


def acknowledge(ids: Iterable[UUID]) -> int:
    """Let these no longer count as still broken; return how many did. Works in chunks."""
    wanted = sorted(set(ids))
    return sum(
        _acknowledge(wanted[at : at + ACKNOWLEDGED_TOGETHER])
        for at in range(0, len(wanted), ACKNOWLEDGED_TOGETHER)
    )


@with_retries
def _acknowledge(ids: Sequence[UUID]) -> int:
    broken = all_records().filter(id__in=ids, broken_since__isnull=False)
    return broken.order_by().update(broken_since=None)
