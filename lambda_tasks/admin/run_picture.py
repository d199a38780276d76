"""The picture of a run's life: its waits and runs, and those of its lineage."""

import json
import shlex
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from django.utils.safestring import SafeString
from django.utils.translation import gettext, ngettext

from .. import registry
from ..core.lifecycle import Status
from ..core.redaction import REDACTED, redact_value
from ..ports import Task
from ..records.tables import TaskRecord
from . import charts, function_steps, lineage, log_lines, record_page, shown, words
from .charts import Bar
from .function_steps import Viewer

RUN_CLASSES: Final = {
    Status.SUCCESS: "lt-ok", Status.FAILED: "lt-failed", Status.RETRYING: "lt-retried",
    Status.CANCELLED: "lt-cancelled", Status.RUNNING: "lt-1",
}  # fmt: skip
"""The classes of a run's bar."""

MAX_BARS: Final = 40
"""The most bars of one picture."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of a run's life, from one moment to another."""

    label: str
    css: str
    start: datetime
    end: datetime
    is_wait: bool = False

    def bar(self, zero: datetime) -> Bar:
        """Return its bar, in a picture that begins at `zero`."""
        start_s, end_s = ((each - zero).total_seconds() for each in (self.start, self.end))
        title = f"{self.label}: {words.span(max(end_s - start_s, 0.0))}"
        return Bar(self.label, self.css, start_s, max(end_s, start_s), title, self.is_wait)


def context(record: TaskRecord, viewer: Viewer) -> dict[str, Any]:
    """Return what the picture's template shows."""
    call_id = record.call_id
    return {
        "part": "picture",
        "refreshes": not Status(record.status).is_finished,
        "status": record_page.status_now(record),
        "chart": draw(record),
        "put_right_by": put_right_by(record),
        "function": None if call_id is None else function_steps.context(call_id, viewer),
        "texts": list(_texts(record)) if viewer.sees_payloads else [],
    }


def draw(record: TaskRecord) -> SafeString | str:
    """Draw the life of a record, with the lives of what it repeats, and of what follows."""
    now = datetime.now(UTC)
    family = lineage.family(record)
    stretches = [each for member in family for each in stretches_of(member, now)][:MAX_BARS]
    if not stretches:
        return ""
    zero, end = min(each.start for each in stretches), max(each.end for each in stretches)
    total_s = max((end - zero).total_seconds(), 0.001)
    said = gettext("From the call to the end: %s. Waits are hatched.") % words.span(total_s)
    bars = [each.bar(zero) for each in stretches]
    return charts.gantt(gettext("Its life"), said, bars, total_s=total_s)


def stretches_of(record: TaskRecord, now: datetime) -> Iterator[Stretch]:
    """Yield the parts of a record's life until now, the first one first."""
    if record.enqueued_at is None:
        return
    name = str(record.pk)[: shown.ID_DIGITS]
    at, end = record.enqueued_at, record.end_time or now
    began = record.start_time or end
    if record.run_after is not None and at < record.run_after:
        due = min(record.run_after, began)
        yield Stretch(gettext("%s is due later") % name, "lt-waits", at, due, is_wait=True)
        at = due
    if record.sent_at is not None and at < record.sent_at <= began:
        yield Stretch(gettext("%s is stored") % name, "lt-waits", at, record.sent_at, is_wait=True)
        at = record.sent_at
    if at < began:
        yield Stretch(_wait_label(record, name), "lt-waits", at, began, is_wait=True)
    if record.start_time is not None:
        css = RUN_CLASSES.get(Status(record.status), "lt-1")
        yield Stretch(gettext("%s runs") % name, css, record.start_time, end)


def _wait_label(record: TaskRecord, name: str) -> str:
    """Return what a record waited for: a worker, or a takeover from workers that were lost."""
    n_lost = record.n_attempts - 1
    if n_lost < 1 or record.start_time is None:
        return gettext("%s waits for a worker") % name
    told = ngettext(
        "%(name)s waits, and loses %(n)d worker", "%(name)s waits, and loses %(n)d workers", n_lost
    )
    return told % {"name": name, "n": n_lost}


def put_right_by(record: TaskRecord) -> TaskRecord | None:
    """Return the later record of the lineage that has succeeded where this one failed."""
    if record.status not in (Status.FAILED, Status.RETRYING, Status.CANCELLED):
        return None
    later = (
        each
        for each in lineage.family(record)
        if each.status == Status.SUCCESS and _is_later(each, record)
    )
    return next(later, None)


def _is_later(other: TaskRecord, record: TaskRecord) -> bool:
    return bool(
        other.enqueued_at and record.enqueued_at and other.enqueued_at >= record.enqueued_at
    )


def _texts(record: TaskRecord) -> Iterator[dict[str, Any]]:
    """Yield texts to copy: a command, a test, and a query of CloudWatch's logs."""
    task = _task_of(record)
    kwargs = _named_arguments(record, task)
    if kwargs is not None:
        command = as_command(record, kwargs, task)
        yield {"title": gettext("As a command"), "text": command}
        yield {"title": gettext("As a test"), "text": as_test(record.task_name, kwargs)}
    yield {
        "title": gettext("Its log lines, in CloudWatch Logs Insights"),
        "text": log_lines.query(record),
        "url": log_lines.link(record),
    }


def _task_of(record: TaskRecord) -> Task | None:
    """Return the task; None for one that this release does not have, or can't import."""
    with suppress(Exception, SystemExit):
        return registry.resolve(record.task_name, record.backend)
    return None


def _named_arguments(record: TaskRecord, task: Task | None) -> dict[str, Any] | None:
    """Return all arguments by name, redacted; None where those by position have no names."""
    hidden = record_page.secret_names_of(record.task_name) & record.kwargs.keys()
    kwargs = record.kwargs | dict.fromkeys(hidden, REDACTED)
    if not record.args:
        return kwargs
    if task is None:
        return None
    names = [each.name for each in task.describe().parameters]
    args = redact_value(record.args, record_page.secret_values(record))
    return dict(zip(names, args, strict=False)) | kwargs


def as_command(record: TaskRecord, kwargs: dict[str, Any], task: Task | None) -> str:
    """Return the command that makes the same call."""
    arguments = json.dumps(kwargs, ensure_ascii=False)
    words = ["python", "manage.py", "lambda_tasks", "enqueue", record.task_name]
    words += ["--arguments", arguments]
    if task is None or record.queue != task.options.queue:
        words += ["--queue", record.queue]
    if record.priority:
        words += [f"--priority={record.priority}"]
    if record.group_key is not None:
        words += ["--group-key", record.group_key]
    return shlex.join(words)


def as_test(task_name: str, kwargs: dict[str, Any]) -> str:
    """Return a test that makes the same call, with the arguments as JSON values."""
    name = task_name.rpartition(".")[2]
    body: Sequence[str] = (
        "import pytest",
        "",
        "from lambda_tasks import operations",
        "from lambda_tasks.testing import run_enqueued",
        "",
        "",
        "@pytest.mark.django_db(transaction=True)",
        f"def test_{name}_runs():",
        f'    operations.enqueue("{task_name}", {kwargs!r})',
        "",
        "    (record,) = run_enqueued()",
        "",
        '    assert record.status == "SUCCESS"',
    )
    return "\n".join(body)
