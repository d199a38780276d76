"""The rows that the tick makes of what has ended, so that pages need not read all records.

A tick counts the records that have ended in each of the last minutes, by the index of their ends.
It counts whole minutes, those of the last five again, as an end may become visible after its minute
was counted; so what a tick that died has left out is counted by the next one. Figures only grow:
what a minute has now beyond what was stored for it is added to its minute, ten minutes, hour and
day, in one transaction. So two ticks at a time count nothing twice, and a record that is retried
meanwhile is not taken back.

No task's transaction does any of this, and the records are only read.
"""

import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple, TypeVar
from uuid import UUID

from django.db import connections, transaction
from django.db.models import (
    Case,
    Count,
    DurationField,
    ExpressionWrapper,
    F,
    FloatField,
    Func,
    Max,
    Model,
    Q,
    QuerySet,
    Sum,
    Value,
    When,
)
from django.db.models.functions import Coalesce, Floor, Greatest, Least, Ln

from ..core.figures import DAY, KEPT, MINUTE, SPANS, RunFigure, release_of, start_of
from ..core.fingerprints import fingerprint
from ..core.histograms import (
    LONGEST_S,
    PER_DOUBLING,
    ROUNDING,
    SHORTEST_S,
    as_text,
    from_text,
)
from ..core.lifecycle import Status
from . import server
from .clock import read_clock
from .database import all_records, record_alias
from .retrying import with_retries
from .tables import ErrorFigures, LastTick, RecordQuerySet, RunFigures, TaskError, TaskRecord

LATE: Final = timedelta(minutes=5)
"""The time for which minutes are counted again. An end becomes visible with its commit, which may
take its time."""

FIRST_RANGE: Final = timedelta(days=1)
"""How far back the first tick counts."""

ENOUGH_S: Final = 5.0
"""Seconds after which a tick begins with no further minute: the next tick goes on. A tick that
comes after a long time may have many to count."""

MAX_ERRORS: Final = 200
"""The most errors of a minute that are counted, the most frequent ones. There are more only where
texts differ in ways that no fingerprint knows."""

MAX_NEW_ERRORS: Final = 20
"""The most errors that a minute may add."""

MAX_KNOWN_ERRORS: Final = 5_000
"""The most errors that are kept, those that were seen last."""

MAX_EXAMPLES: Final = 5
"""The ids of records that are kept of each error."""

MAX_RELEASES: Final = 10
"""The releases that are kept of each error."""

MAX_RELEASES_MARKED: Final = 30
"""The releases that are kept in all."""

SAMPLED: Final = 20
"""The records of a minute that tell which releases run."""

RIGHTED_TOGETHER: Final = 1000
"""The lineages that one statement looks up."""

ALL_TASKS: Final = ""
"""The name of the sum of all tasks."""

HAVE_ERRORS: Final = (Status.FAILED, Status.RETRYING)

RUN_KEY: Final = ("minutes", "start", "task_name", "queue", "status")
ERROR_KEY: Final = ("minutes", "start", "error_id", "task_name")
RUN_COLUMNS: Final = ("n", "wait_s", "run_s", "waits", "runs", "last_end")
ERROR_COLUMNS: Final = ("failed", "retried")

T = TypeVar("T", bound=Model)

Key = tuple[str, str, str]
"""The task, the queue and the status of a figure."""


class ErrorCount(NamedTuple):
    """How often an error has ended a run of a task."""

    failed: int = 0
    retried: int = 0


ErrorKey = tuple[UUID, str]
"""The error and the task."""


class Minute(NamedTuple):
    """What has ended in one minute."""

    start: datetime
    runs: Mapping[Key, RunFigure]
    errors: Mapping[ErrorKey, ErrorCount]


def roll_up(kept_for: timedelta, *, enough_s: float = ENOUGH_S) -> int:
    """Count what has ended since the last tick, and delete old figures; return the minutes counted.

    Figures of days and errors are kept for the time `kept_for`. After `enough_s` seconds it begins
    with no further minute.
    """
    ends_at = time.monotonic() + enough_s
    now = _clock()
    this_minute = start_of(now, MINUTE)
    n_minutes = 0
    found = _next_minute(_first_minute(now))
    while found is not None and found <= this_minute:
        _count_minute(found)
        n_minutes += 1
        found = _next_minute(found + timedelta(minutes=MINUTE))
        if time.monotonic() > ends_at:
            break
    _finish_tick(this_minute if found is None else min(found, this_minute), now)
    _delete_old(now, kept_for)
    return n_minutes


def _count_minute(start: datetime) -> None:
    ended = _ended_in(start)
    runs = _count_runs(ended)
    has_errors = any(status in HAVE_ERRORS for _, _, status in runs)
    errors = _count_errors(ended) if has_errors else {}
    _store(Minute(start, runs, errors), ended)
    _put_right(ended)


@with_retries
def _clock() -> datetime:
    return read_clock(record_alias())


@with_retries
def _first_minute(now: datetime) -> datetime:
    """Return the minute with which to begin: a day ago at the first tick.

    Those go first that the last tick has left, and those that were young when it counted them.
    """
    ticks = _rows(LastTick)
    for counted_until, at in ticks.values_list("counted_until", "at"):
        return start_of(min(counted_until, (at or counted_until) - LATE, now), MINUTE)
    first = LastTick(id=1, counted_until=start_of(now - FIRST_RANGE, MINUTE))
    ticks.bulk_create([first], ignore_conflicts=True)
    return first.counted_until


@with_retries
def _next_minute(start: datetime) -> datetime | None:
    """Return the first minute from `start` on in which something has ended; None for none."""
    ended = all_records().filter(end_time__gte=start).order_by("end_time")
    found = ended.values_list("end_time", flat=True).first()
    return None if found is None else start_of(found, MINUTE)


def _ended_in(start: datetime) -> RecordQuerySet:
    end = start + timedelta(minutes=MINUTE)
    ended: RecordQuerySet = all_records().filter(end_time__gte=start, end_time__lt=end).order_by()
    return ended


class _Seconds(Func):
    """The seconds of a duration, which is a number of microseconds but on PostgreSQL."""

    template = "(%(expressions)s) / 1e6"
    output_field: Any = FloatField()

    def as_postgresql(self, compiler: Any, connection: Any, **extra: Any) -> Any:
        """See Func."""
        template = "EXTRACT(EPOCH FROM (%(expressions)s))::double precision"
        return self.as_sql(compiler, connection, template=template, **extra)


def _seconds(start: Any, end: Any) -> Any:
    """Return the seconds from one time to another; 0 if a clock has jumped back."""
    duration = ExpressionWrapper(end - start, output_field=DurationField())
    return Greatest(_Seconds(duration), Value(0.0), output_field=FloatField())


def _bucket(name: str) -> Case:
    """Return the number of the bucket of an annotated time: see core.histograms.bucket_of()."""
    bounded = Least(F(name), Value(LONGEST_S), output_field=FloatField())
    doublings = Ln(bounded / Value(SHORTEST_S)) / Ln(Value(2.0))
    number = Floor(doublings * Value(float(PER_DOUBLING)) + Value(1.0 + ROUNDING))
    return Case(
        When(Q((f"{name}__isnull", True)), then=None),
        When(Q((f"{name}__lt", SHORTEST_S)), then=Value(0.0)),
        default=number,
        output_field=FloatField(),
    )


def _timed(records: RecordQuerySet) -> RecordQuerySet:
    """Annotate records with the seconds that they waited and ran, None without a start."""
    # GREATEST ignores NULL on PostgreSQL, and is NULL with it elsewhere.
    due = Greatest(Coalesce(F("run_after"), F("enqueued_at")), F("enqueued_at"))
    has_start = Q(start_time__isnull=False)
    was_called = has_start & Q(enqueued_at__isnull=False)
    return records.annotate(
        wait=Case(When(was_called, then=_seconds(due, F("start_time"))), default=None),
        run=Case(When(has_start, then=_seconds(F("start_time"), F("end_time"))), default=None),
    )


@with_retries
def _count_runs(ended: RecordQuerySet) -> dict[Key, RunFigure]:
    """Count the ends by task, queue and status, with the sums of all tasks."""
    groups = (
        _timed(ended)
        .annotate(wait_bucket=_bucket("wait"), run_bucket=_bucket("run"))
        .values_list("task_name", "queue", "status", "wait_bucket", "run_bucket")
        .annotate(n=Count("id"), waited=Sum("wait"), ran=Sum("run"), last_end=Max("end_time"))
    )
    found: defaultdict[Key, list[RunFigure]] = defaultdict(list)
    for task_name, queue, status, wait_bucket, run_bucket, n, waited, ran, last_end in groups:
        figure = RunFigure(
            n,
            waited or 0.0,
            ran or 0.0,
            {} if wait_bucket is None else {int(wait_bucket): n},
            {} if run_bucket is None else {int(run_bucket): n},
            last_end,
        )
        for name in (task_name, ALL_TASKS):
            found[name, queue, status].append(figure)
    return {key: RunFigure.total(figures) for key, figures in found.items()}


@with_retries
def _count_errors(ended: RecordQuerySet) -> dict[ErrorKey, ErrorCount]:
    """Count the failures and retries by error and task, of the most frequent errors."""
    groups = (
        ended.filter(error_id__isnull=False, status__in=HAVE_ERRORS)
        .values_list("error_id", "task_name")
        .annotate(
            failed=Count("id", filter=Q(status=Status.FAILED)),
            retried=Count("id", filter=Q(status=Status.RETRYING)),
            n=Count("id"),
        )
        .order_by("-n", "error_id", "task_name")
    )
    return {
        (error_id, task_name): ErrorCount(failed, retried)
        for error_id, task_name, failed, retried, _ in groups[:MAX_ERRORS]
        if error_id is not None
    }


def _store(minute: Minute, ended: RecordQuerySet) -> None:
    """Add to the figures what the minute has now beyond what is stored for it."""
    stored = _read_stored(minute.start, (MINUTE,))
    grown = _grown(minute, *stored)
    if not grown.runs:
        return
    known = _describe_errors(ended, {error_id for error_id, _ in grown.errors})
    errors = {key: count for key, count in minute.errors.items() if key[0] in known}
    _add(Minute(minute.start, minute.runs, errors))


@with_retries
def _add(minute: Minute) -> None:
    with transaction.atomic(using=record_alias()):
        # Locks the row, before anything is read: who adds at the same time waits.
        _rows(LastTick).update(counted_until=F("counted_until"))
        runs, errors = _read_stored(minute.start, SPANS)
        grown = _grown(minute, runs, errors)
        spans = [(minutes, start_of(minute.start, minutes)) for minutes in SPANS]
        _upsert(
            [
                _run_row(span, key, runs.get((span[0], key), RunFigure()), figure)
                for span in spans
                for key, figure in grown.runs.items()
            ]
        )
        _upsert(
            [
                _error_row(span, key, errors.get((span[0], key), ErrorCount()), count)
                for span in spans
                for key, count in grown.errors.items()
            ]
        )


StoredRuns = dict[tuple[int, Key], RunFigure]
"""The stored figures by the length of their span, in minutes, and their key."""

StoredErrors = dict[tuple[int, ErrorKey], ErrorCount]


def _read_stored(moment: datetime, lengths: Iterable[int]) -> tuple[StoredRuns, StoredErrors]:
    """Return what is stored for the spans of these lengths in which a moment is."""
    of_spans = Q()
    for minutes in lengths:
        of_spans |= Q(minutes=minutes, start=start_of(moment, minutes))
    runs = {
        (minutes, (task_name, queue, status)): RunFigure(
            n, wait_s, run_s, from_text(waits), from_text(ran), last_end
        )
        for minutes, task_name, queue, status, n, wait_s, run_s, waits, ran, last_end in _rows(
            RunFigures
        )
        .filter(of_spans)
        .values_list("minutes", "task_name", "queue", "status", *RUN_COLUMNS)
    }
    found = _rows(ErrorFigures).filter(of_spans)
    errors = {
        (minutes, (error_id, task_name)): ErrorCount(failed, retried)
        for minutes, error_id, task_name, failed, retried in found.values_list(
            "minutes", "error_id", "task_name", *ERROR_COLUMNS
        )
    }
    return runs, errors


def _grown(minute: Minute, runs: StoredRuns, errors: StoredErrors) -> Minute:
    """Return what the minute has beyond what is stored for it, of what has become more."""
    more_runs = {
        key: figure.beyond(known)
        for key, figure in minute.runs.items()
        if figure.n > (known := runs.get((MINUTE, key), RunFigure())).n
    }
    more_errors = {
        key: ErrorCount(count.failed - before.failed, count.retried - before.retried)
        for key, count in minute.errors.items()
        if sum(count) > sum(before := errors.get((MINUTE, key), ErrorCount()))
    }
    return Minute(minute.start, more_runs, more_errors)


def _run_row(
    span: tuple[int, datetime], key: Key, stored: RunFigure, more: RunFigure
) -> RunFigures:
    total = RunFigure.total([stored, more])
    assert total.last_end is not None
    return RunFigures(
        **dict(zip(RUN_KEY, (*span, *key), strict=True)),
        n=total.n,
        wait_s=total.wait_s,
        run_s=total.run_s,
        waits=as_text(total.waits),
        runs=as_text(total.runs),
        last_end=total.last_end,
    )


def _error_row(
    span: tuple[int, datetime], key: ErrorKey, stored: ErrorCount, more: ErrorCount
) -> ErrorFigures:
    return ErrorFigures(
        **dict(zip(ERROR_KEY, (*span, *key), strict=True)),
        failed=stored.failed + more.failed,
        retried=stored.retried + more.retried,
    )


@with_retries
def _describe_errors(ended: RecordQuerySet, ids: Collection[UUID]) -> set[UUID]:
    """Write what is known of these errors, and return those that have a row now."""
    errors = {error.id: error for error in _rows(TaskError).filter(id__in=ids)}
    new = sorted(id for id in ids if id not in errors)[:MAX_NEW_ERRORS]
    for id in [*errors, *new]:
        examples = list(ended.filter(error_id=id).order_by("-end_time")[:MAX_EXAMPLES])
        if examples:  # and not all of them retried meanwhile
            errors[id] = _with_examples(errors.get(id), examples)
    _upsert(list(errors.values()))
    return set(errors)


def _with_examples(error: TaskError | None, examples: Sequence[TaskRecord]) -> TaskError:
    """Return the row of an error with what these records tell of it, the latest first."""
    latest, earliest = examples[0], examples[-1]
    assert latest.error_id is not None
    assert latest.end_time is not None
    assert earliest.end_time is not None
    if error is None:
        made = fingerprint(latest.exception_class or "", latest.traceback or "")
        error = TaskError(
            id=latest.error_id,
            exception_class=made.exception_class,
            message=made.message,
            raised_in=made.raised_in,
            first_seen=earliest.end_time,
            last_seen=latest.end_time,
        )
    error.task_name = latest.task_name
    error.first_seen = min(error.first_seen, earliest.end_time)
    error.last_seen = max(error.last_seen, latest.end_time)
    releases = [release_of(each.worker_ids) for each in reversed(examples)]
    named = [each for each in releases if each is not None]
    error.releases = list(dict.fromkeys([*error.releases, *named]))[-MAX_RELEASES:]
    ids = [str(each.id) for each in examples]
    error.examples = list(dict.fromkeys([*ids, *error.examples]))[:MAX_EXAMPLES]
    return error


def _put_right(ended: RecordQuerySet) -> None:
    """Let failures no longer count as broken whose lineage has succeeded later."""
    succeeded = _succeeded_lineages(ended)
    for at in range(0, len(succeeded), RIGHTED_TOGETHER):
        _put_right_lineages(dict(succeeded[at : at + RIGHTED_TOGETHER]))


@with_retries
def _succeeded_lineages(ended: RecordQuerySet) -> list[tuple[UUID, datetime]]:
    """Return the root of each lineage of several records that has succeeded, and the last call."""
    followers = ended.filter(~Q(root_id=F("id")), root_id__isnull=False, status=Status.SUCCESS)
    return [
        (root_id, called_at)
        for root_id, called_at in followers.values_list("root_id").annotate(Max("enqueued_at"))
        if root_id is not None and called_at is not None
    ]


@with_retries
def _put_right_lineages(succeeded: Mapping[UUID, datetime]) -> None:
    broken = all_records().filter(root_id__in=succeeded, broken_since__isnull=False).order_by()
    ids = [
        id
        for id, root_id, called_at in broken.values_list("id", "root_id", "enqueued_at")
        if called_at is None or (root_id is not None and called_at < succeeded[root_id])
    ]
    if ids:
        all_records().filter(id__in=ids).order_by().update(broken_since=None)


@with_retries
def _finish_tick(counted_until: datetime, now: datetime) -> None:
    """Write how far this tick has come, and what else it has found."""
    tick = _rows(LastTick).get(id=1)
    found = server.describe()
    _rows(LastTick).filter(id=1).update(
        counted_until=counted_until,
        at=now,
        n_connections=found.n_connections,
        max_connections=found.max_connections,
        releases=_with_new_releases(tick.releases, now),
    )


def _with_new_releases(
    known: Sequence[Mapping[str, str]], now: datetime
) -> list[Mapping[str, str]]:
    """Return the known releases, and those that run now."""
    ended = all_records().filter(end_time__gte=now - LATE).order_by("-end_time")
    sample = ended.values_list("worker_ids", "end_time")[:SAMPLED]
    names = {each["name"] for each in known}
    new: dict[str, str] = {}
    for worker_ids, end_time in sample:
        name = release_of(worker_ids)
        if name is not None and name not in names and end_time is not None:
            new[name] = end_time.isoformat()  # the earliest, as it comes last
    added = [{"name": name, "first_seen": new[name]} for name in reversed(new)]
    return [*known, *added][-MAX_RELEASES_MARKED:]


@with_retries
def _delete_old(now: datetime, kept_for: timedelta) -> None:
    """Delete the figures that no page shows any more, and errors that were not seen for long."""
    is_old = Q(minutes=DAY, start__lt=now - kept_for)
    for minutes, span in KEPT.items():
        is_old |= Q(minutes=minutes, start__lt=now - span)
    _rows(RunFigures).filter(is_old).delete()
    _rows(ErrorFigures).filter(is_old).delete()
    errors = _rows(TaskError).order_by("-last_seen").values_list("last_seen", flat=True)
    before = [now - kept_for, *errors[MAX_KNOWN_ERRORS : MAX_KNOWN_ERRORS + 1]]
    _rows(TaskError).filter(last_seen__lt=max(before)).delete()


def _rows(model: type[T]) -> "QuerySet[T]":
    rows: QuerySet[T] = model.objects.using(record_alias())  # type: ignore[attr-defined]
    return rows


def _upsert(rows: Sequence[Model]) -> None:
    """Insert rows, or write their values into those that have their keys already."""
    if not rows:
        return
    model = type(rows[0])
    key = [field.name for field in model._meta.pk_fields]
    others = [field.name for field in model._meta.concrete_fields if field.name not in key]
    names_its_key = connections[record_alias()].features.supports_update_conflicts_with_target
    _rows(model).bulk_create(
        rows,
        update_conflicts=True,
        update_fields=others,
        unique_fields=key if names_its_key else None,
    )
