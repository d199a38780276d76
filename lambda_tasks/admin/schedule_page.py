"""How the admin shows a schedule: its rule in words, and its last and next due times."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, Final

from cronsim import CronSim
from django.db import router
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import get_language, gettext, ngettext

from ..core.lifecycle import Status
from ..core.schedules import Cron, Every, Once, Rule, Schedule, first_due
from ..declared_schedules import DeclaredSchedule, declared
from ..operations import figures
from ..records.tables import ScheduleState, TaskRecord
from . import charts, shown

N_PAST: Final = 10
"""The last due times of which a page shows what became of them."""

N_TREND: Final = 30
"""The last runs of which a page draws how long they took."""

N_NEXT: Final = 3
"""The next due times that a page names."""

UNITS_S: Final = (86_400, 3_600, 60)
"""The seconds of the units in which a time span is told, the largest first."""


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a schedule besides its row."""

    declared: DeclaredSchedule | None
    """Its declaration; None where the code has none any more."""
    past: list[tuple[datetime, TaskRecord | None]]
    """The last due times, latest first, with their records."""

    @property
    def zone(self) -> str:
        """The time zone of its rule; nothing for a rule that has none."""
        rule = self.declared.schedule.rule if self.declared else None
        return rule.timezone if isinstance(rule, Cron) else ""


def look_up(states: Collection[ScheduleState]) -> dict[str, Known]:
    """Return what is known of these schedules by their names, in one query for all."""
    schedules, now = declared(), datetime.now(UTC)
    past: dict[str, list[datetime]] = {}
    for state in states:
        found = schedules.get(state.name)
        past[state.name] = list(islice(found.schedule.rule.until(now), N_PAST)) if found else []
    ids = [state.run_id(due) for state in states for due in past[state.name]]
    records = TaskRecord.objects.using(router.db_for_write(TaskRecord)).filter(pk__in=ids)
    runs = {record.pk: record for record in records.only("status")}
    return {
        state.name: Known(
            schedules.get(state.name),
            [(due, runs.get(state.run_id(due))) for due in past[state.name]],
        )
        for state in states
    }


def in_words(rule: Rule) -> str:
    """Return when a rule is due, as people say it."""
    match rule:
        case Cron():
            return _explained(rule)
        case Every():
            return gettext("Every %s") % _span(rule.interval)
        case Once():
            return gettext("Once, at %s") % shown.moment(rule.moment)
        case _:
            return str(rule)


def _explained(rule: Cron) -> str:
    """Return a cron rule in words to who reads English, as there are no others; else as it is."""
    if not (get_language() or "en").startswith("en"):
        return rule.expression
    return CronSim(rule.expression, datetime(2024, 1, 1, tzinfo=UTC)).explain()


def when(state: ScheduleState, known: Known) -> SafeString:
    """Return the rule in words, as it is written, and its time zone."""
    if known.declared is None:
        return shown.lines([state.rule])
    rule = known.declared.schedule.rule
    told = in_words(rule)
    written = rule.expression if isinstance(rule, Cron) and rule.expression != told else ""
    remark = " ".join(filter(None, [written, known.zone]))
    return shown.lines([told, remark and shown.quiet(remark)])


def on_or_off(state: ScheduleState, known: Known) -> SafeString:
    """Return whether it is on, and who has switched it, when and why."""
    word, kind = (gettext("on"), "success") if state.is_enabled else (gettext("off"), "failed")
    if known.declared is None:
        word, kind = gettext("gone from the code"), "cancelled"
    at = shown.minute(state.changed_at) if state.changed_at else ""
    remarks = (shown.quiet(each) for each in (state.changed_by, at, state.reason) if each)
    return shown.lines([shown.badge(word, kind), *remarks])


def last_and_next(state: ScheduleState, known: Known, site: str) -> SafeString:
    """Return the last due time that has a record, with what became of it, and the next ones."""
    runs = (_run(known, due, record, site) for due, record in known.past if record is not None)
    following = coming(state, known)
    return shown.lines([next(runs, ""), following and shown.quiet(gettext("next:")), following])


def last_runs(state: ScheduleState, known: Known, site: str) -> SafeString:
    """Return the last due times, with what became of each, below a line of how long they ran."""
    ran = figures.schedule_runs(state.name, limit=N_TREND)
    values = [each.run_s or 0.0 for each in reversed(ran)]
    trend = charts.spark_line(gettext("Seconds of the last runs"), values) if any(values) else ""
    n_failed = sum(each.status == Status.FAILED for each in ran)
    told = ngettext(
        "%(n)d of the last %(all)d has failed", "%(n)d of the last %(all)d have failed", n_failed
    )
    failed = shown.quiet(told % {"n": n_failed, "all": len(ran)}) if n_failed else ""
    first = format_html("{} {}", trend, failed)
    return shown.lines([first, *(_run(known, due, record, site) for due, record in known.past)])


def coming(state: ScheduleState, known: Known) -> SafeString | str:
    """Return the next due times; nothing for a schedule that is off or gone."""
    if known.declared is None or not state.is_enabled:
        return ""
    due_times = islice(_due_times(known.declared.schedule), N_NEXT)
    return shown.lines(shown.due_time(due, known.zone) for due in due_times)


def policy(state: ScheduleState, known: Known) -> SafeString | str:
    """Return what else its declaration says, and how many runs were skipped for it."""
    if known.declared is None:
        return ""
    schedule = known.declared.schedule
    said: dict[str, Any] = {
        "missed": schedule.missed,
        "grace": _span(schedule.grace),
        "overlap": schedule.overlap,
        "skipped": state.n_skipped,
        "spread": schedule.spread and _span(schedule.spread),
        "starts_at": shown.moment(schedule.starts_at),
        "ends_at": shown.moment(schedule.ends_at),
        "pause_after_failures": schedule.pause_after_failures,
    }
    return shown.lines(
        format_html("{} {}", shown.quiet(f"{name}:"), value)
        for name, value in said.items()
        if value
    )


def _run(known: Known, due: datetime, record: TaskRecord | None, site: str) -> SafeString:
    at = shown.due_time(due, known.zone)
    if record is None:
        return format_html("{} {}", at, shown.quiet(gettext("did not run")))
    status, link = shown.badge(record.status, record.status), shown.record_link(record.pk, site)
    return format_html("{} {} {}", at, status, link)


def _due_times(schedule: Schedule) -> Iterator[datetime]:
    due = first_due(schedule, datetime.now(UTC))
    while due is not None:
        yield due
        due = first_due(schedule, due)


def _span(span: timedelta) -> str:
    """Return a time span in the largest unit that fits it exactly."""
    seconds = span.total_seconds()
    fitting = (each for each in UNITS_S if seconds and not seconds % each)
    unit_s = next(fitting, 1)
    n = seconds / unit_s
    form = 1 if n == 1 else 2  # of a fraction, too
    units = {
        86_400: ngettext("%s day", "%s days", form),
        3_600: ngettext("%s hour", "%s hours", form),
        60: ngettext("%s minute", "%s minutes", form),
        1: ngettext("%s second", "%s seconds", form),
    }
    return units[unit_s] % f"{n:g}"
