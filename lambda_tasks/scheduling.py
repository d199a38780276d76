"""Schedules at run time: how each stands, on and off, a run now, and runs of past times."""

import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final
from uuid import UUID

from asgiref.sync import sync_to_async

from . import runtime
from .core.schedules import MAX_COUNTED, due_between, in_words, next_dues
from .declared_schedules import DeclaredSchedule, declared, find_declared
from .enqueue.scheduler import message_of
from .invocation import Invocation
from .models import ScheduleState, TaskRecord
from .ports import ScheduledRun
from .twins import sync_form

if TYPE_CHECKING:
    from .records.tables import RecordQuerySet

N_NEXT: Final = 3
"""The due times that a status names."""

READ_TOGETHER: Final = 1000
"""The runs that one query reads."""


@dataclass(frozen=True, slots=True)
class ScheduleStatus:
    """How a schedule stands."""

    name: str
    task_name: str
    rule: str
    """The rule in words, as the code has it; for one that vanished from the code, as it had it."""
    is_declared: bool
    """Whether the code still declares it. Otherwise it does not run."""
    is_enabled: bool
    changed_by: str
    """Who has switched it on or off last; empty for nobody."""
    reason: str
    next_due: tuple[datetime, ...]
    """The next due times."""
    last_status: str | None
    """The status of the record of the last due time; None for none."""
    n_skipped: int
    """The runs that `overlap="skip"` has skipped."""


@sync_form("alist_schedules()")
def list_schedules() -> list[ScheduleStatus]:
    """Return how each schedule stands, by name: those of the code, and those that vanished."""
    schedules = declared()
    states = {state.name: state for state in runtime.current().schedule_table.states()}
    names = sorted(schedules.keys() | states.keys())
    last = _last_statuses(schedules, states)
    return [_status(name, schedules.get(name), states.get(name), last.get(name)) for name in names]


async def alist_schedules() -> list[ScheduleStatus]:
    """See list_schedules()."""
    return await sync_to_async(list_schedules)()


@sync_form("adisable_schedule(...)")
def disable_schedule(name: str, *, by: str, reason: str = "") -> bool:
    """Switch a schedule off, and cancel what was enqueued ahead; return False if it is off already.

    Raises UnknownSchedule, with the names that there are.
    """
    return _switch(name, on=False, by=by, reason=reason)


async def adisable_schedule(name: str, *, by: str, reason: str = "") -> bool:
    """See disable_schedule()."""
    return await sync_to_async(disable_schedule)(name, by=by, reason=reason)


@sync_form("aenable_schedule(...)")
def enable_schedule(name: str, *, by: str, reason: str = "") -> bool:
    """Switch a schedule on; return False if it is on already. What was due meanwhile does not run.

    Raises UnknownSchedule, with the names that there are.
    """
    return _switch(name, on=True, by=by, reason=reason)


async def aenable_schedule(name: str, *, by: str, reason: str = "") -> bool:
    """See enable_schedule()."""
    return await sync_to_async(enable_schedule)(name, by=by, reason=reason)


@sync_form("arun_schedule(...)")
def run_schedule(name: str) -> Invocation[object]:
    """Enqueue a run of a schedule now, whether it is on or off.

    Raises UnknownSchedule, with the names that there are.
    """
    run = ScheduledRun(name, datetime.now(UTC), uuid.uuid4())
    return _enqueue(find_declared(name), [run])[0]


async def arun_schedule(name: str) -> Invocation[object]:
    """See run_schedule()."""
    return await sync_to_async(run_schedule)(name)


@sync_form("abackfill_schedule(...)")
def backfill_schedule(
    name: str, start: datetime, end: datetime, *, dry_run: bool = False
) -> list[datetime]:
    """Enqueue the runs of the due times from `start` to `end`; return these times.

    A due time that has a record already is left out, so it runs once however often you call this.
    Runs of a schedule with `overlap="skip"` wait for each other here, as none is to be left out.
    With `dry_run`, nothing is enqueued. Raises UnknownSchedule, with the names that there are, and
    ValueError for a datetime without a time zone, a span that ends before it starts, and one of
    more than 1,000 due times.
    """
    if start.tzinfo is None or end.tzinfo is None:
        raise ValueError(f"start is {start!r} and end is {end!r}. Use datetimes with a time zone.")
    if end < start:
        raise ValueError(f"The end, {end}, is before the start, {start}.")
    found = find_declared(name)
    table = runtime.current().schedule_table
    table.note({name: (found.task_name, found.schedule)})
    runs = table.runs_between(name, found.schedule, start, end)
    if len(runs) == MAX_COUNTED and _are_due_after(found, runs[-1].due, end):
        raise ValueError(
            f"{name!r} has more than {MAX_COUNTED:,} due times from {start} to {end}. Do it in "
            f"parts: the first {MAX_COUNTED:,} end at {runs[-1].due}."
        )
    done = set(_records([run.id for run in runs]).values_list("id", flat=True))
    missing = [run for run in runs if run.id not in done]
    if missing and not dry_run:
        _enqueue(_without_skipping(found), missing)
    return [run.due for run in missing]


async def abackfill_schedule(
    name: str, start: datetime, end: datetime, *, dry_run: bool = False
) -> list[datetime]:
    """See backfill_schedule()."""
    return await sync_to_async(backfill_schedule)(name, start, end, dry_run=dry_run)


def _are_due_after(found: DeclaredSchedule, moment: datetime, end: datetime) -> bool:
    return bool(due_between(found.schedule, moment + timedelta.resolution, end))


def _without_skipping(found: DeclaredSchedule) -> DeclaredSchedule:
    """Return a schedule whose runs wait for each other if they would skip each other."""
    if found.schedule.overlap != "skip":
        return found
    return replace(found, schedule=replace(found.schedule, overlap="queue"))


def _switch(name: str, *, on: bool, by: str, reason: str) -> bool:
    found, table = find_declared(name), runtime.current().schedule_table
    table.note({name: (found.task_name, found.schedule)})
    return table.switch(name, found.schedule, on=on, by=by, reason=reason)


def _enqueue(found: DeclaredSchedule, runs: Sequence[ScheduledRun]) -> list[Invocation[object]]:
    here = runtime.current()
    messages = [message_of(found, run) for run in runs]
    joins = here.enqueuer.enqueue(messages, using=here.schedule_table.alias)
    ids = [each.message.invocation_id for each in messages]
    return [
        Invocation(joins[id].invocation_id, found.task_name, created=False)
        if id in joins
        else Invocation(id, found.task_name)
        for id in ids
    ]


def _status(
    name: str,
    found: DeclaredSchedule | None,
    state: ScheduleState | None,
    last_status: str | None,
) -> ScheduleStatus:
    is_enabled = state is None or state.is_enabled
    next_due: tuple[datetime, ...] = ()
    if found is not None and is_enabled:
        next_due = tuple(next_dues(found.schedule, datetime.now(UTC), N_NEXT))
    return ScheduleStatus(
        name=name,
        task_name=found.task_name if found else state.task_name if state else "",
        rule=in_words(found.schedule) if found else state.rule if state else "",
        is_declared=found is not None,
        is_enabled=is_enabled,
        changed_by=state.changed_by if state else "",
        reason=state.reason if state else "",
        next_due=next_due,
        last_status=last_status,
        n_skipped=state.n_skipped if state else 0,
    )


def _last_statuses(
    schedules: Mapping[str, DeclaredSchedule], states: Mapping[str, ScheduleState]
) -> dict[str, str]:
    """Return the status of each schedule's last run, by name, in few queries."""
    now = datetime.now(UTC)
    last = {
        states[name].run_id(due): name
        for name in schedules.keys() & states.keys()
        if (due := next(schedules[name].schedule.rule.until(now), None)) is not None
    }
    ids = list(last)
    parts = [ids[start : start + READ_TOGETHER] for start in range(0, len(ids), READ_TOGETHER)]
    return {
        last[id]: status
        for part in parts
        for id, status in _records(part).order_by().values_list("id", "status")
    }


def _records(ids: Collection[UUID]) -> "RecordQuerySet":
    """Return a query of the records with these ids, where they are written: a replica may lag."""
    return TaskRecord.objects.using(runtime.current().schedule_table.alias).filter(id__in=ids)
