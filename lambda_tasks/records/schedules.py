"""The rows of schedules: how far each is, and whether it is switched on."""

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from itertools import islice, takewhile
from typing import Final
from uuid import UUID

from django.db import connections, transaction
from django.db.models import QuerySet

from ..core.lifecycle import UNFINISHED, Status
from ..core.schedules import LOOK_AHEAD, Plan, Schedule, due_between, first_due, plan
from ..ports import ScheduledRun
from .clock import read_clock
from .database import all_records, record_alias
from .retrying import run_with_retries, with_retries
from .tables import ScheduleState

logger = logging.getLogger("lambda_tasks")

RELEASES_ALTERNATE_AFTER: Final = timedelta(minutes=5)
"""The time for which a release leaves a rule alone that another release has just written."""

LOCKED_TOGETHER: Final = 100
"""The schedules whose due times are enqueued in one transaction."""

ITSELF: Final = "lambda_tasks"
"""Who switches a schedule off whose runs fail."""

Declared = Mapping[str, tuple[str, Schedule]]
"""The task's name and the schedule, by the schedule's name."""

Enqueue = Callable[[Mapping[str, Sequence[ScheduledRun]]], Collection[str]]


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
        n_runs = 0
        for part in _parts(sorted(names)):
            advance = partial(_advance, part, declared, now, enqueue)
            n_runs += run_with_retries(self.alias, advance)
        return n_runs

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


def _switch_on(
    state: ScheduleState, schedule: Schedule, now: datetime, *, by: str, reason: str
) -> None:
    """Switch a schedule on. What was due while it was off does not run."""
    state.is_enabled, state.changed_by, state.reason, state.changed_at = True, by, reason, now
    state.last_due = max(state.last_due, now)
    state.next_due = first_due(schedule, state.last_due)
    state.save()


def _switch_off(
    state: ScheduleState, schedule: Schedule, now: datetime, *, by: str, reason: str
) -> None:
    """Switch a schedule off, and cancel the runs that were enqueued ahead and have not begun."""
    state.is_enabled, state.changed_by, state.reason, state.changed_at = False, by, reason, now
    state.save()
    ahead = [state.run_id(due) for due in due_between(schedule, now, state.last_due)]
    all_records().filter(id__in=ahead, status=Status.QUEUED).cancel()


def _advance(names: Sequence[str], declared: Declared, now: datetime, enqueue: Enqueue) -> int:
    """Enqueue the due runs of these schedules, and note how far they are, in one transaction."""
    with transaction.atomic(using=record_alias()):
        states = [each for each in _lock(names, now) if each.rule == _rule(declared, each.name)]
        states = [each for each in states if not _pause(each, declared[each.name][1], now)]
        plans = {each.name: plan(declared[each.name][1], each.last_due, now) for each in states}
        runs = {each.name: _runs_of(each, plans[each.name]) for each in states}
        failed = enqueue({name: found for name, found in runs.items() if found})
        done = [each for each in states if each.name not in failed]
        for state in done:
            made = plans[state.name]
            state.last_due, state.next_due = made.last_due, made.next_due
            if made.n_missed:
                logger.warning(
                    "The schedule %r has missed %d due times, which do not run.",
                    state.name, made.n_missed,
                )  # fmt: skip
        _schedules().bulk_update(done, ["last_due", "next_due"])
    return sum(len(runs[state.name]) for state in done)


def _pause(state: ScheduleState, schedule: Schedule, now: datetime) -> bool:
    """Switch a schedule off whose last runs have all failed; return whether it was."""
    limit = schedule.pause_after_failures
    if limit is None:
        return False
    since = max(filter(None, [state.changed_at, state.rule_at]))
    past = takewhile(lambda due: due > since, schedule.rule.until(now))
    ids = [state.run_id(due) for due in islice(past, limit)]
    if len(ids) < limit or not all(_has_failed(id) for id in ids):
        return False
    _switch_off(state, schedule, now, by=ITSELF, reason=f"Its last {limit} runs have failed.")
    logger.error(
        "The schedule %r is switched off: its last %d runs have failed.", state.name, limit
    )
    return True


def _has_failed(id: UUID) -> bool:
    """Return whether a run has ended as FAILED, with all its retries."""
    statuses = set(all_records().filter(root_id=id).values_list("status", flat=True))
    return Status.FAILED in statuses and not statuses & {*UNFINISHED, Status.SUCCESS}


def _lock(names: Sequence[str], now: datetime) -> list[ScheduleState]:
    """Lock the states that are still due and that no other tick has locked."""
    due = _schedules().filter(name__in=names, is_enabled=True, next_due__lte=now + LOOK_AHEAD)
    if connections[record_alias()].features.has_select_for_update_skip_locked:
        due = due.select_for_update(skip_locked=True)
    return list(due.order_by("name"))


def _runs_of(state: ScheduleState, made: Plan) -> list[ScheduledRun]:
    return [ScheduledRun(state.name, due, state.run_id(due)) for due in made.due]


@with_retries
def _write_rules(declared: Declared, now: datetime) -> None:
    """Add the schedules that are new, and write the rules that have changed.

    Both start now: what was due before does not run.
    """
    known = {
        name: (rule, rule_at)
        for name, rule, rule_at in _schedules().values_list("name", "rule", "rule_at")
    }
    new = [
        _new_state(name, task_name, schedule, now)
        for name, (task_name, schedule) in declared.items()
        if name not in known
    ]
    _schedules().bulk_create(new, ignore_conflicts=True)
    for name, (task_name, schedule) in declared.items():
        if name not in known or known[name][0] == _rule(declared, name):
            continue
        # Two releases that run side by side must not rewrite each other's rules at each tick.
        if now - known[name][1] > RELEASES_ALTERNATE_AFTER:
            _rewrite(name, task_name, schedule, now)


def _new_state(name: str, task_name: str, schedule: Schedule, now: datetime) -> ScheduleState:
    return ScheduleState(
        name=name,
        task_name=task_name,
        rule=str(schedule.rule),
        rule_at=now,
        last_due=now,
        next_due=first_due(schedule, now),
    )


def _rewrite(name: str, task_name: str, schedule: Schedule, now: datetime) -> None:
    with transaction.atomic(using=record_alias()):
        for state in _schedules().filter(name=name).select_for_update():
            state.task_name, state.rule, state.rule_at = task_name, str(schedule.rule), now
            state.last_due = max(state.last_due, now)
            state.next_due = first_due(schedule, state.last_due)
            state.save()


def _rule(declared: Declared, name: str) -> str:
    return str(declared[name][1].rule)


def _parts(names: Sequence[str]) -> Iterator[Sequence[str]]:
    remaining = iter(names)
    while part := list(islice(remaining, LOCKED_TOGETHER)):
        yield part


def _schedules() -> "QuerySet[ScheduleState]":
    return ScheduleState.objects.using(record_alias())
