"""The rows of schedules: how far each is, and whether it is switched on."""

import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from itertools import islice, takewhile
from typing import Final, NamedTuple, TypeVar
from uuid import UUID

from django.db import DatabaseError, connections, transaction
from django.db.models import QuerySet

from ..core.lifecycle import Status
from ..core.schedules import (
    LOOK_AHEAD,
    Plan,
    Schedule,
    due_between,
    first_due,
    has_failed,
    in_words,
    plan,
)
from ..database_errors import Meaning, meaning_of
from ..errors import NotMigrated
from ..logging import log_error
from ..ports import ScheduledRun
from .clock import read_clock
from .database import all_records, record_alias
from .retrying import run_with_retries, with_retries
from .tables import ScheduleState, TaskRecord

logger = logging.getLogger("lambda_tasks")

RELEASES_ALTERNATE_AFTER: Final = timedelta(minutes=5)
"""The time for which a release leaves a rule alone that another release has just written."""

LOCKED_TOGETHER: Final = 100
"""The schedules whose due times are enqueued in one transaction."""

CANCELLED_TOGETHER: Final = 1000
"""The runs that one statement cancels."""

CLOCK_JUMP: Final = timedelta(hours=1)
"""The time that a schedule is ahead of the clock, from which on the clock was wrong before."""

SWITCHED: Final = ("is_enabled", "changed_by", "reason", "changed_at")
"""The columns that a switch writes."""

MAX_PASSED_OVER: Final = 100
"""The most runs without an end that are passed over to find those that have failed."""

MAX_VANISHED: Final = 100
"""The most schedules that the code declares no more, and that are read past."""

LAST_RUN_COLUMNS: Final = ("id", "root_id", "status", "start_time", "end_time")

ITSELF: Final = "lambda_tasks"
"""Who switches a schedule off whose runs fail."""

Declared = Mapping[str, tuple[str, Schedule]]
"""The task's name and the schedule, by the schedule's name."""

Enqueue = Callable[[Mapping[str, Sequence[ScheduledRun]]], Collection[str]]

T = TypeVar("T")


class LastRun(NamedTuple):
    """A due time of a schedule, and the last record of its lineage."""

    due: datetime
    id: UUID
    status: str | None
    """None where there is no record any more, or none yet."""
    started_at: datetime | None
    ended_at: datetime | None


class RecordSchedules:
    """See ports.ScheduleTable."""

    @property
    def alias(self) -> str:
        """See ports.ScheduleTable."""
        return record_alias()

    def advance(self, declared: Declared, enqueue: Enqueue, *, now: datetime | None = None) -> int:
        """See ports.ScheduleTable."""
        now = now or read_clock(self.alias)
        _write_rules(declared, now)
        due = _schedules().filter(is_enabled=True, next_due__lte=now + LOOK_AHEAD)
        names = [name for name in due.values_list("name", flat=True) if name in declared]
        tick = _Tick(declared, enqueue, now)
        for part in _parts(sorted(names), LOCKED_TOGETHER):
            tick.advance(part)
        if tick.task_errors:
            raise tick.task_errors[0]
        return tick.n_runs

    def note(self, declared: Declared) -> None:
        """See ports.ScheduleTable."""
        _write_rules(declared, read_clock(self.alias))

    @with_retries
    def switch(self, name: str, schedule: Schedule, *, on: bool, by: str, reason: str) -> bool:
        """See ports.ScheduleTable."""
        now = read_clock(self.alias)
        with transaction.atomic(using=self.alias):
            state = _schedules().filter(name=name).select_for_update().first()
            if state is None or state.is_enabled == on:
                return False
            if on:
                _switch_on(state, schedule, now, by=by, reason=reason)
            else:
                _switch_off(state, schedule, now, by=by, reason=reason)
        return True

    @with_retries
    def runs_between(
        self, name: str, schedule: Schedule, start: datetime, end: datetime
    ) -> list[ScheduledRun]:
        """See ports.ScheduleTable."""
        state = _schedules().filter(name=name).first()
        if state is None:
            return []
        return [
            ScheduledRun(name, due, state.run_id(due)) for due in due_between(schedule, start, end)
        ]

    @with_retries
    def states(self) -> list[ScheduleState]:
        """Return the states of all schedules, by name."""
        return list(_schedules().order_by("name"))

    @with_retries
    def due_next(self, names: Collection[str], *, limit: int) -> list[ScheduleState]:
        """Return the states of those of these schedules that are due next, the earliest first."""
        on = _schedules().filter(is_enabled=True, next_due__isnull=False).order_by("next_due")
        # Read past those that the code declares no more; there are few.
        return [each for each in on[: limit + MAX_VANISHED] if each.name in names][:limit]

    @with_retries
    def last_runs(self, name: str, schedule: Schedule, *, limit: int) -> list[LastRun]:
        """Return the last due times with the last record of each, the latest first."""
        state = _schedules().filter(name=name).first()
        if state is None:
            return []
        dues = islice(schedule.rule.until(read_clock(self.alias)), limit)
        runs = {state.run_id(due): due for due in dues}
        lineages = all_records().filter(root_id__in=runs).order_by("enqueued_at")
        last = {record.root_id: record for record in lineages.only(*LAST_RUN_COLUMNS)}
        return [_last_run(id, due, last.get(id)) for id, due in runs.items()]


def _last_run(id: UUID, due: datetime, record: TaskRecord | None) -> LastRun:
    if record is None:
        return LastRun(due, id, None, None, None)
    return LastRun(due, record.id, record.status, record.start_time, record.end_time)


class _Tick:
    """One tick. What one schedule raises, in whatever step, holds up no other one."""

    def __init__(self, declared: Declared, enqueue: Enqueue, now: datetime) -> None:
        self._declared = declared
        self._enqueue = enqueue
        self._now = now
        self.n_runs = 0
        self.task_errors: list[Exception] = []
        """What tasks have raised that ran at the commit itself, as in eager mode."""

    def advance(self, names: Sequence[str]) -> None:
        """Enqueue the due runs of these schedules; where one fails, half by half.

        Raises the errors of a database that is away or busy.
        """
        committed: list[Sequence[str]] = []
        try:
            self.n_runs += run_with_retries(
                record_alias(), partial(self._advance, names, partial(committed.append, names))
            )
        except Exception as error:
            if committed:
                self.task_errors.append(error)
            elif _is_of_database(error):
                raise
            elif len(names) == 1:
                log_error(logger, error, "The schedule %r can't run; it stays due", names[0])
            else:
                middle = len(names) // 2
                self.advance(names[:middle])
                self.advance(names[middle:])

    def _advance(self, names: Sequence[str], on_commit: Callable[[], None]) -> int:
        """Enqueue the due runs, and note how far the schedules are, in one transaction."""
        with transaction.atomic(using=record_alias()):
            # Before the hook that sends the runs, which in eager mode raises what tasks raise.
            transaction.on_commit(on_commit, using=record_alias())
            states = self._lock(names)
            plans = {
                each.name: plan(self._schedule(each), each.last_due, self._now) for each in states
            }
            runs = {each.name: _runs_of(each, plans[each.name]) for each in states}
            failed = self._enqueue({name: found for name, found in runs.items() if found})
            done = [each for each in states if each.name not in failed]
            for state in done:
                _note(state, plans[state.name])
            _schedules().bulk_update(done, ["last_due", "next_due"])
        return sum(len(runs[state.name]) for state in done)

    def _lock(self, names: Sequence[str]) -> list[ScheduleState]:
        """Lock the states that are still due, and that no other tick has locked.

        Those whose last runs have failed are switched off, and left out.
        """
        horizon = self._now + LOOK_AHEAD
        due = _schedules().filter(name__in=names, is_enabled=True, next_due__lte=horizon)
        locked = [
            state
            for state in _skip_locked(due).order_by("name")
            if state.rule == in_words(self._schedule(state))
        ]
        failing = _find_failing([(each, self._schedule(each)) for each in locked], self._now)
        for state in failing:
            _pause(state, self._schedule(state), self._now)
        return [state for state in locked if state not in failing]

    def _schedule(self, state: ScheduleState) -> Schedule:
        return self._declared[state.name][1]


def _is_of_database(error: Exception) -> bool:
    """Return whether an error says nothing about a schedule: the database is away or busy."""
    is_refusal = meaning_of(error, from_library=True) is Meaning.REFUSAL
    return isinstance(error, NotMigrated) or not is_refusal


def _note(state: ScheduleState, made: Plan) -> None:
    state.last_due, state.next_due = made.last_due, made.next_due
    if made.n_missed:
        logger.warning(
            "The schedule %r has missed %d due times, which do not run.", state.name, made.n_missed
        )


def _switch_on(
    state: ScheduleState, schedule: Schedule, now: datetime, *, by: str, reason: str
) -> None:
    """Switch a schedule on. What was due while it was off does not run."""
    state.is_enabled, state.changed_by, state.reason, state.changed_at = True, by, reason, now
    state.last_due = max(state.last_due, now)
    state.next_due = first_due(schedule, state.last_due)
    state.save(update_fields=[*SWITCHED, "last_due", "next_due"])


def _switch_off(
    state: ScheduleState, schedule: Schedule, now: datetime, *, by: str, reason: str
) -> None:
    """Switch a schedule off, and cancel the runs that were enqueued ahead and have not begun."""
    state.is_enabled, state.changed_by, state.reason, state.changed_at = False, by, reason, now
    state.save(update_fields=SWITCHED)
    since = now - schedule.offset
    ahead = takewhile(lambda due: due > since, schedule.rule.until(state.last_due))
    for part in _parts(map(state.run_id, ahead), CANCELLED_TOGETHER):
        all_records().filter(id__in=part, status=Status.QUEUED).cancel()


def _pause(state: ScheduleState, schedule: Schedule, now: datetime) -> None:
    """Switch off a schedule whose runs fail."""
    count = schedule.pause_after_failures
    _switch_off(state, schedule, now, by=ITSELF, reason=f"Its last {count} runs have failed.")
    logger.error(
        "The schedule %r is switched off: its last %d runs have failed.", state.name, count
    )


def _find_failing(
    states: Sequence[tuple[ScheduleState, Schedule]], now: datetime
) -> list[ScheduleState]:
    """Return those whose last runs have all failed, as many as `pause_after_failures` says."""
    runs = {
        state.name: _last_runs(state, schedule, now)
        for state, schedule in states
        if schedule.pause_after_failures
    }
    if not runs:
        return []
    statuses: defaultdict[UUID | None, set[str]] = defaultdict(set)
    # With the retries of each, which have its id as root.
    roots = all_records().filter(root_id__in=[id for ids in runs.values() for id in ids])
    for root_id, status in roots.order_by().values_list("root_id", "status"):
        statuses[root_id].add(status)
    return [
        state
        for state, schedule in states
        if state.name in runs and has_failed(schedule, [statuses[id] for id in runs[state.name]])
    ]


def _last_runs(state: ScheduleState, schedule: Schedule, now: datetime) -> list[UUID]:
    """Return the ids of the last runs, the latest first, of which some may not have ended."""
    since = max(filter(None, [state.changed_at, state.rule_at]))
    past = takewhile(lambda due: due > since, schedule.rule.until(now))
    count = (schedule.pause_after_failures or 0) + MAX_PASSED_OVER
    return [state.run_id(due) for due in islice(past, count)]


def _runs_of(state: ScheduleState, made: Plan) -> list[ScheduledRun]:
    return [ScheduledRun(state.name, due, state.run_id(due)) for due in made.due]


@with_retries
def _write_rules(declared: Declared, now: datetime) -> None:
    """Add the schedules that are new, and write the rules that have changed.

    Both start now: what was due before does not run.
    """
    # Two columns of each, as there may be thousands; the rest only of those that differ.
    known = dict(_schedules().values_list("name", "rule"))
    new = [
        state
        for name, (task_name, schedule) in declared.items()
        if name not in known and (state := _new_state(name, task_name, schedule, now)) is not None
    ]
    _create(new)
    changed = [
        name
        for name, (_, schedule) in declared.items()
        if name in known and known[name] != in_words(schedule)
    ]
    # Two releases that run side by side must not rewrite each other's rules at each tick.
    recently = (now - RELEASES_ALTERNATE_AFTER, now + RELEASES_ALTERNATE_AFTER)
    for part in _parts(changed, LOCKED_TOGETHER):
        for state in _schedules().filter(name__in=part).exclude(rule_at__range=recently):
            _rewrite(state, *declared[state.name], now, last_due=max(state.last_due, now))
    for state in _schedules().filter(last_due__gt=now + LOOK_AHEAD + CLOCK_JUMP):
        if state.name in declared:
            logger.warning(
                "The schedule %r starts anew: the clock was ahead, at %s.",
                state.name, state.last_due,
            )  # fmt: skip
            _rewrite(state, *declared[state.name], now, last_due=now)


def _create(new: Sequence[ScheduleState]) -> None:
    """Insert the rows of new schedules; one that the database refuses holds up no other one."""
    try:
        _schedules().bulk_create(new, ignore_conflicts=True)
    except DatabaseError as error:
        if _is_of_database(error) or not new:
            raise
        if len(new) == 1:
            log_error(logger, error, "The schedule %r can't start", new[0].name)
            return
        for state in new:
            _create([state])


def _new_state(
    name: str, task_name: str, schedule: Schedule, now: datetime
) -> ScheduleState | None:
    """Return the row of a new schedule; None, with an error in the log, where there can't be one.

    One whose times can't be computed must not hold up the others.
    """
    try:
        next_due = first_due(schedule, now)
    except Exception as error:
        log_error(logger, error, "The schedule %r can't start", name)
        return None
    return ScheduleState(
        name=name,
        task_name=task_name,
        rule=in_words(schedule),
        rule_at=now,
        last_due=now,
        next_due=next_due,
    )


def _rewrite(
    found: ScheduleState, task_name: str, schedule: Schedule, now: datetime, *, last_due: datetime
) -> None:
    with transaction.atomic(using=record_alias()):
        # Not waiting for a lock: a frozen function may hold it, and the next tick comes soon.
        for state in _skip_locked(_schedules().filter(pk=found.pk, rule_at=found.rule_at)):
            state.task_name, state.rule, state.rule_at = task_name, in_words(schedule), now
            state.last_due, state.next_due = last_due, first_due(schedule, last_due)
            state.save(update_fields=["task_name", "rule", "rule_at", "last_due", "next_due"])


def _skip_locked(states: "QuerySet[ScheduleState]") -> "QuerySet[ScheduleState]":
    """Return a query that locks these rows and leaves out those that others have locked."""
    if connections[record_alias()].features.has_select_for_update_skip_locked:
        return states.select_for_update(skip_locked=True)
    return states


def _parts(values: Iterable[T], size: int) -> Iterator[list[T]]:
    remaining = iter(values)
    while part := list(islice(remaining, size)):
        yield part


def _schedules() -> "QuerySet[ScheduleState]":
    return ScheduleState.objects.using(record_alias())
