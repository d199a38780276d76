"""The steps of a durable function: what each has done or waits for, and where it may go on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext

from ..core.durable import FOREVER, Kind
from ..core.lifecycle import Status
from ..core.redaction import REDACTED, redact, redact_value
from ..durable import DurableRun, StepState
from ..records import checkpoints
from ..records.database import record_alias
from ..records.steering import RETRYABLE
from ..records.tables import TaskRecord, Workflow
from . import charts, pages, record_page, shown, words
from .charts import Bar

MAX_SHOWN: Final = 100
MAX_BARS: Final = 40
"""The most steps of a function that a page lists, and that it draws: the last ones."""

CLASSES: Final = {"done": "lt-ok", "failed": "lt-failed", "waiting": "lt-waits"}
"""The classes of a step's bar."""

WAITS: Final = (Kind.SLEEP, Kind.WAIT, Kind.RUN, Kind.GATHER)
"""The kinds of steps in which no code of the function runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Viewer:
    """What somebody may see of a function, and do with it."""

    site: str
    sees_payloads: bool
    """Whether names, values and errors are shown, which may have arguments in them."""
    sees_workflows: bool
    may_go_on: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One step, as a page shows it."""

    number: int
    name: str
    kind: str
    state: SafeString
    waits_for: SafeString | str | None
    value: SafeString | str
    began: str | None
    took: str
    may_go_on: bool


def viewer(request: HttpRequest, site: str) -> Viewer:
    """Return what the user may see of functions, and do with them."""
    return Viewer(
        site=site,
        sees_payloads=pages.may(request, "view_payload", "taskrecord"),
        sees_workflows=pages.may_view(request, "workflow"),
        may_go_on=pages.may(request, "replay", "taskrecord"),
    )


def last_run(call_id: UUID) -> TaskRecord | None:
    """Return the last run of a function, whose status is the function's; None for none."""
    return checkpoints.last_run(call_id).first()


def context(call_id: UUID, viewer: Viewer) -> dict[str, Any] | None:
    """Return what the template of a function's steps shows; None for a call without a record."""
    last = last_run(call_id)
    if last is None:
        return None
    about = {"last": last, "sees_payloads": viewer.sees_payloads}
    try:
        steps = DurableRun(call_id).steps()
    except ValueError as error:
        return about | {"error": str(error)}
    n_before = max(len(steps) - MAX_SHOWN, 0)
    rows = list(_Function(last, steps, viewer).rows(n_before))
    return about | {
        "rows": rows,
        "n_before": n_before,
        "chart": _chart(steps[n_before:], rows),
        "go_on_url": reverse(f"{viewer.site}:lambda_tasks_go_on", args=[last.pk]),
    }


class _Function:
    """A durable function with its steps, on one page."""

    def __init__(self, last: TaskRecord, steps: Sequence[StepState], viewer: Viewer) -> None:
        self._steps = steps
        self._viewer = viewer
        self._now = datetime.now(UTC)
        self._status = Status(last.status)
        self._secrets = record_page.secret_values(last)
        self._workflows = _workflows(last.call_id) if viewer.sees_workflows else {}
        undone = (
            number
            for number, each in enumerate(steps)
            if each.kind == Kind.UNDO and each.ended_at is not None
        )
        may_go_on = viewer.may_go_on and viewer.sees_payloads and last.status in RETRYABLE
        # Behind what was undone it can't go on: see DurableRun.retry_from().
        self._last_way_back = next(undone, len(steps)) if may_go_on else -1

    def rows(self, first: int) -> Iterator[Row]:
        """Yield the steps from a number on, which counts from 0."""
        for number, each in enumerate(self._steps[first:], first):
            yield Row(
                number=number + 1,
                name=redact(each.name, self._secrets) if self._viewer.sees_payloads else "",
                kind=each.kind,
                state=self._state(each),
                waits_for=self._waits_for(each),
                value=self._value(each) if self._viewer.sees_payloads else "",
                began=shown.moment(each.began_at),
                took=self._took(each),
                may_go_on=number <= self._last_way_back and each.kind != Kind.UNDO,
            )

    def _state(self, step: StepState) -> SafeString:
        if step.kind == Kind.UNDO and step.status != "failed":
            has_run = step.status == "done"
            word = gettext("has run") if has_run else gettext("kept")
            return shown.badge(word, "retrying" if has_run else "waiting")
        if step.status == "waiting" and self._status.is_finished:
            return shown.badge(gettext("cut off"), "cancelled")
        word, kind = {
            "done": (gettext("done"), "success"),
            "failed": (gettext("failed"), "failed"),
            "waiting": (gettext("waits"), "queued"),
        }[step.status]
        return shown.badge(word, kind)

    def _waits_for(self, step: StepState) -> SafeString | str | None:
        """Return until when a step waits; for tasks of their own, a link to these."""
        if step.name in self._workflows and step.kind in (Kind.RUN, Kind.GATHER):
            return shown.workflow_link(self._workflows[step.name], self._viewer.site)
        if step.status != "waiting" or self._status.is_finished:
            return None
        if (due := _due(step)) is not None:
            return format_html(gettext("until {}"), shown.moment_and_age(due, self._now))
        return gettext("for its signal") if step.kind == Kind.WAIT else None

    def _value(self, step: StepState) -> SafeString | str:
        """Return what a step has returned, or its error; of a compensation its arguments."""
        if step.error is not None:
            return shown.unfolding(redact(step.error, self._secrets))
        # What else is kept of a step that waits says only for what, and of a sleep until when.
        has_value = step.kind == Kind.UNDO or (step.kind != Kind.SLEEP and step.status == "done")
        if not has_value or step.value is None:
            return ""
        return shown.unfolding_json(redact_value(step.value, self._secrets))

    def _took(self, step: StepState) -> str:
        """Return how long a step has run or waited; nothing for one that never ended."""
        is_cut_off = step.ended_at is None and self._status.is_finished
        has_time = step.kind != Kind.UNDO and not is_cut_off
        return words.span(_seconds(step, self._now)) if has_time else ""


def _workflows(call_id: UUID | None) -> dict[str, UUID]:
    """Return the workflows of the tasks that a function has waited for, by the step's name."""
    found = Workflow.objects.using(record_alias()).filter(call_id=call_id).order_by("created_at")
    return {name.partition(": ")[2]: id for name, id in found.values_list("name", "id")}


def _due(step: StepState) -> datetime | None:
    """Return when a sleep ends, or a wait has its timeout; None for others, and for none."""
    is_due = step.kind == Kind.SLEEP or (step.kind == Kind.WAIT and step.status == "waiting")
    if not is_due or step.value == REDACTED:
        return None
    due = datetime.fromisoformat(step.value)
    return None if due == FOREVER else due


def _end(step: StepState, now: datetime) -> datetime:
    """Return the end of a step; of one that waits, now."""
    if step.ended_at is None:
        return now
    # A sleep's end is written with the next step.
    due = _due(step)
    return step.ended_at if due is None else min(due, step.ended_at)


def _seconds(step: StepState, now: datetime) -> float:
    return max((_end(step, now) - step.began_at).total_seconds(), 0.0)


def _chart(steps: Sequence[StepState], rows: Sequence[Row]) -> SafeString:
    """Draw when each step has run or waited; of many, the last ones."""
    now = datetime.now(UTC)
    timed = [(step, row) for step, row in zip(steps, rows, strict=True) if step.kind != Kind.UNDO][
        -MAX_BARS:
    ]
    if not timed:
        return SafeString()
    zero = min(step.began_at for step, _ in timed)
    bars = [_bar(step, row, zero, now) for step, row in timed]
    total_s = max(*(each.end_s for each in bars), 0.001)
    said = gettext("From the first step to the last: %s. Waits are hatched.") % words.span(total_s)
    return charts.gantt(gettext("When each ran or waited"), said, bars, total_s=total_s)


def _bar(step: StepState, row: Row, zero: datetime, now: datetime) -> Bar:
    label = row.name or f"{row.number} {row.kind}"
    start_s, took_s = (step.began_at - zero).total_seconds(), _seconds(step, now)
    is_wait = step.kind in WAITS
    css = CLASSES["waiting"] if is_wait and step.status == "done" else CLASSES[step.status]
    title = f"{label}: {words.span(took_s)}"
    return Bar(label, css, start_s, start_s + took_s, title, is_wait)
