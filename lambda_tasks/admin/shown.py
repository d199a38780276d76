"""Values as the admin's pages show them: HTML with classes, and without a style or a script."""

import json
import re
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID
from zoneinfo import ZoneInfo

from django.contrib.admin.utils import quote
from django.urls import reverse
from django.utils.formats import date_format
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe
from django.utils.timesince import timesince, timeuntil
from django.utils.timezone import localtime
from django.utils.translation import gettext

from ..records.tables import TaskRecord

SHOWN_CHARS: Final = 120
"""The most characters of a value in the list."""

MAX_TOOLTIP: Final = 500
"""The most characters of a value's tooltip."""

ID_DIGITS: Final = 8
"""The digits of an id that the list shows."""


def badge(word: str, kind: str) -> SafeString:
    """Return a word in a colour of its kind: the status of a record, or `on` and `off`."""
    return format_html('<span class="lt-badge lt-{}">{}</span>', kind.lower(), word)


def quiet(text: str) -> SafeString:
    """Return a remark to a value."""
    return format_html('<span class="lt-quiet">{}</span>', text)


def lines(parts: Iterable[Any]) -> SafeString:
    """Return values one below the other, without the empty ones."""
    inner = format_html_join("\n", "<div>{}</div>", ((each,) for each in parts if each))
    # In one element: some themes put the elements of a cell side by side.
    return format_html('<div class="lt-lines">{}</div>', inner) if inner else inner


def moment(value: datetime | None) -> str | None:
    """Return a time in the reader's time zone, with its seconds."""
    return None if value is None else date_format(localtime(value), "Y-m-d H:i:s")


def time_and_day(value: datetime | None) -> SafeString | None:
    """Return a time, and below it the day, for a narrow column."""
    if value is None:
        return None
    local = localtime(value)
    return lines([date_format(local, "H:i:s"), quiet(date_format(local, "Y-m-d"))])


def minute(value: datetime) -> SafeString:
    """Return a time to the minute, in one line."""
    at = date_format(localtime(value), "Y-m-d H:i")
    return format_html('<span class="lt-due">{}</span>', at)


def due_time(value: datetime, zone: str) -> SafeString:
    """Return a due time in the zone of its schedule, or else in the reader's."""
    local = value.astimezone(ZoneInfo(zone)) if zone else localtime(value)
    form = "Y-m-d H:i" if not local.second else "Y-m-d H:i:s"
    return format_html(
        '<span class="lt-due">{} {}</span>', date_format(local, form), quiet(local.tzname() or "")
    )


def moment_and_age(value: datetime | None, now: datetime) -> SafeString | None:
    """Return a time, and how long it is away from now."""
    if value is None:
        return None
    away = (
        gettext("in %s") % timeuntil(value, now, depth=1)
        if value > now
        else gettext("%s ago") % timesince(value, now, depth=1)
    )
    return format_html("{} {}", moment(value), quiet(f"({away})"))


def seconds(duration: timedelta | None) -> str | None:
    """Return a duration in seconds, as text."""
    return None if duration is None else f"{duration.total_seconds():.3f} s"


def preformatted(text: str) -> SafeString:
    """Return text with its own line breaks."""
    return format_html('<pre class="lt-text">{}</pre>', text)


def as_json(value: Any) -> SafeString:
    """Return a value as indented JSON."""
    return preformatted(json.dumps(value, indent=2, ensure_ascii=False))


def unfolding(text: str) -> SafeString | str:
    """Return a text; of a long one, or one of several lines, the beginning, which unfolds it."""
    if len(text) <= SHOWN_CHARS and "\n" not in text:
        return text
    return _more(text.partition("\n")[0], preformatted(text))


def unfolding_json(value: Any) -> SafeString | str:
    """Return a value as JSON in one line; of a long one the beginning, which unfolds it."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN_CHARS else _more(text, as_json(value))


def _more(line: str, whole: SafeString) -> SafeString:
    beginning = start_of(line) if len(line) > SHOWN_CHARS else f"{line} …"
    return format_html("<details><summary>{}</summary>{}</details>", beginning, whole)


def start_of(text: str) -> str:
    """Return as much of a text as the list has room for."""
    return text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}…"


def outcome(text: str) -> SafeString:
    """Return the beginning of a result or error, with more of it as the tooltip."""
    return format_html('<span title="{}">{}</span>', text[:MAX_TOOLTIP], start_of(text))


def error(text: str) -> SafeString:
    """Return the last line of a traceback, with its class as short as in the code."""
    module = re.match(r"(?:\w+\.)+(?=\w+(?::|$))", text)
    return outcome(text[module.end() :] if module else text)


def breakable(name: str) -> SafeString:
    """Return a name whose lines break after a dot."""
    parts = re.split(r"(?<=[.])", name)
    return format_html_join(mark_safe("<wbr>"), "{}", ((part,) for part in parts if part))


def dotted(name: str) -> SafeString:
    """Return a dotted name whose last part stands out."""
    module, dot, last = name.rpartition(".")
    before = quiet(breakable(f"{module}{dot}")) if module else ""
    return format_html("{}<b>{}</b>", before, last)


def last_line(text: str | None) -> str:
    """Return the last line of a traceback, which names the error."""
    return next((line for line in reversed((text or "").splitlines()) if line.strip()), "").strip()


def progress_bar(progress: Any) -> SafeString | None:
    """Return the progress that a run has shown, with a bar where its total is known."""
    if not isinstance(progress, dict):
        return None
    done, total, text = (progress.get(name) for name in ("done", "total", "text"))
    if not total:
        counted = "" if done is None else str(done)
        return quiet(" ".join(filter(None, [counted, text])))
    return format_html(
        '<progress class="lt-progress" value="{}" max="{}"></progress> {}',
        done, total, quiet(" ".join(filter(None, [f"{done} / {total}", text]))),
    )  # fmt: skip


def short_id(id: UUID) -> SafeString:
    """Return the first digits of an id, with the whole id as the tooltip."""
    return format_html('<code title="{}">{}</code>', id, str(id)[:ID_DIGITS])


def link(url: str, text: str) -> SafeString:
    """Return a link that every theme shows as one."""
    return format_html('<a class="lt-link" href="{}">{}</a>', url, text)


def record_link(id: UUID, site: str) -> SafeString:
    """Return a link to a record's page in an admin site."""
    url = reverse(f"{site}:lambda_tasks_taskrecord_change", args=[id])
    return format_html('<a href="{}">{}</a>', url, short_id(id))


def workflow_link(id: UUID | None, site: str) -> SafeString | None:
    """Return a link to a workflow's page in an admin site; None for no id."""
    if id is None:
        return None
    url = reverse(f"{site}:lambda_tasks_workflow_change", args=[id])
    return format_html('<a href="{}">{}</a>', url, short_id(id))


def schedule_link(name: str, site: str) -> SafeString:
    """Return a link to a schedule's page in an admin site."""
    url = reverse(f"{site}:lambda_tasks_schedulestate_change", args=[quote(name)])
    return link(url, name)


def record_line(record: TaskRecord, site: str, remark: str = "") -> SafeString:
    """Return a record in one line: its status, its id as a link, and when it was enqueued."""
    status = badge(record.status, record.status)
    at = moment(record.enqueued_at) or ""
    return format_html("{} {} {} {}", status, record_link(record.pk, site), at, quiet(remark))
