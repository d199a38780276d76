"""A record's page: which fields it has, and what they show."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from django.utils.html import format_html_join
from django.utils.safestring import SafeString
from django.utils.timesince import timesince, timeuntil
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from .. import conf, registry
from ..context import SCHEDULE_HEADER
from ..core.lifecycle import Status
from ..core.redaction import REDACTED, redact, redact_value
from ..records import pauses
from ..records.database import all_records
from ..records.tables import TaskRecord
from . import lineage, shown, tracebacks
from .pages import read_once

FIELDSETS: Final = (
    (None, (
        "id", "task_shown", "status_now", "waits_for_shown", "last_error", "lineage",
        "workflow_shown", "schedule_shown",
    )),
    (_("Call"), (
        "queue_shown", "priority_shown", "group_key_shown", "backend_shown", "headers_shown",
    )),
    (_("Arguments and result"), (
        "positional_arguments", "arguments", "result_shown", "traceback_shown", "state_shown",
    )),
    (_("Times"), ("enqueued", "sent", "due", "expires", "started", "ended", "duration_shown")),
    (_("Attempts"), ("starts", "retries", "continues", "worker", "cut_off", "lease", "refused")),
)  # fmt: skip
"""The titles and fields of a record's page.

The claim token is left out. The id of the retry derives from it, so a reader who knows the token
could insert another record in the retry's place.
"""

PAYLOADS: Final = {
    "headers_shown": "headers",
    "positional_arguments": "args",
    "arguments": "kwargs",
    "result_shown": "result",
    "traceback_shown": "traceback",
    "state_shown": "state",
}
"""The fields that only a user with the permission to see payloads is shown, and what is in them."""

WITHOUT_PAYLOADS: Final = {"last_error": "error_class"}
"""The fields that say less to users without that permission, and what they see instead."""


def schedule(record: TaskRecord) -> str | None:
    """Return the name of the schedule whose run a record is; None for other calls."""
    name: str | None = (record.headers or {}).get(SCHEDULE_HEADER)
    return name


def hindrances(record: TaskRecord) -> list[str]:
    """Return what keeps a record from running, beside a time that has not come."""
    if record.status == Status.WAITING:
        return [gettext("steps of its workflow that come before")]
    if record.status != Status.QUEUED:
        return []
    found = []
    state = pauses.queue_states().get(record.queue)
    if state is not None and state.is_paused:
        found.append(gettext("its queue, which %s has paused") % state.changed_by)
    if record.limit_key is not None:
        found.append(gettext("a place of its limit"))
    elif record.reserved_for is not None:
        found.append(gettext("its moment, as its rate allows"))
    return found


def last_failed(record: TaskRecord) -> TaskRecord | None:
    """Return the record if it has an error, or else the one that it repeats, if that has one."""
    failed: TaskRecord | None = record
    if record.exception_class is None and record.retry_of is not None:
        earlier = all_records().filter(pk=record.retry_of)
        failed = earlier.only("exception_class", "traceback", "kwargs", "task_name").first()
    has_error = failed is not None and (failed.exception_class or failed.traceback)
    return failed if has_error else None


def has_family(record: TaskRecord) -> bool:
    """Return whether anything follows from the call, or whether it follows itself."""
    return len(lineage.family(record)) > 1


IF_ANY: Final[Mapping[str, str | Callable[[TaskRecord], object]]] = {
    "workflow_shown": "workflow_id",
    "schedule_shown": schedule,
    "waits_for_shown": hindrances,
    "last_error": last_failed,
    "lineage": has_family,
    "group_key_shown": "group_key",
    "backend_shown": "backend",
    "headers_shown": "headers",
    "positional_arguments": "args",
    "traceback_shown": "traceback",
    "sent": "sent_at",
    "due": "run_after",
    "expires": "expires_at",
    "started": "start_time",
    "ended": "end_time",
    "duration_shown": "duration",
    "continues": "n_continues",
    "state_shown": "state",
    "worker": "worker_ids",
    "cut_off": "cut_off_s",
    "lease": "lease_until",
    "refused": "refused_at",
}
"""The fields that are left out where a record has nothing for them: an attribute or a function."""


def fieldsets(record: TaskRecord | None, *, with_payloads: bool) -> list[tuple[Any, Any]]:
    """Return the titles and fields of a record's page."""
    found = []
    for title, names in FIELDSETS:
        kept = [each for each in names if _is_shown(record, each, with_payloads=with_payloads)]
        if not with_payloads:
            kept = [WITHOUT_PAYLOADS.get(each, each) for each in kept] or ["hidden_payloads"]
        found.append((title, {"fields": kept}))
    return found


def _is_shown(record: TaskRecord | None, name: str, *, with_payloads: bool) -> bool:
    if name in PAYLOADS and not with_payloads:
        return False
    if record is None:
        return True
    if name == "result_shown":
        return record.status == Status.SUCCESS
    source = IF_ANY.get(name)
    if source is None:
        return True
    return bool(read_once(record, source) if callable(source) else getattr(record, source))


def in_order(ids: Sequence[UUID]) -> list[TaskRecord]:
    """Return these records in this order, as short lists show them."""
    columns = ("status", "enqueued_at", "end_time", "task_name", "exception_class")
    found = {each.pk: each for each in all_records().filter(pk__in=ids).only(*columns)}
    return [found[id] for id in ids if id in found]


def task_in_list(record: TaskRecord) -> SafeString:
    """Return the task's name, and below it the id, the queue and the priority."""
    parts = [shown.short_id(record.pk), record.queue]
    if record.priority:
        parts.append(f"{gettext('priority')} {record.priority}")
    name = shown.dotted(record.task_name)
    return shown.lines([name, shown.quiet(format_html_join(" · ", "{}", ((x,) for x in parts)))])


def status_now(record: TaskRecord) -> SafeString:
    """Return the status, and what it waits for or how far it is."""
    parts: list[Any] = [shown.badge(record.status, record.status), waits_for(record)]
    if record.n_retries:
        told = ngettext("after %d retry", "after %d retries", record.n_retries)
        parts.append(shown.quiet(told % record.n_retries))
    if record.status == Status.RUNNING or record.progress:
        parts.append(shown.progress_bar(record.progress))
    return shown.lines(parts)


def waits_for(record: TaskRecord) -> SafeString | None:
    """Return when a QUEUED record with a time of its own is due; None for others."""
    if record.status != Status.QUEUED or record.run_after is None:
        return None
    now = datetime.now(UTC)
    if record.run_after <= now:
        return shown.quiet(gettext("due since %s") % timesince(record.run_after, now, depth=1))
    return shown.quiet(gettext("due in %s") % timeuntil(record.run_after, now, depth=1))


def last_error(record: TaskRecord) -> str | None:
    """Return the last error of the record, or of the one that it repeats."""
    failed = read_once(record, last_failed)
    if failed is None:
        return None
    error = redact(shown.last_line(failed.traceback), secret_values(failed))
    return error or failed.exception_class or ""


def error_class(record: TaskRecord) -> str | None:
    """Return the class of the last error, which tells nothing of the arguments."""
    failed = read_once(record, last_failed)
    return None if failed is None else failed.exception_class or gettext("hidden")


def worker(record: TaskRecord) -> SafeString:
    """Return who ran it last, and who before."""
    last, *earlier = reversed((record.worker_ids or "").splitlines() or [""])
    return shown.lines([last, *map(shown.quiet, earlier)])


def arguments(record: TaskRecord) -> SafeString:
    """Return the arguments by name, with those redacted that are secret by now."""
    hidden = dict.fromkeys(_secret_names(record), REDACTED)
    return shown.as_json(record.kwargs | hidden)


def positional_arguments(record: TaskRecord) -> SafeString:
    """Return the arguments without a name."""
    return shown.as_json(redact_value(record.args, secret_values(record)))


def result(record: TaskRecord) -> SafeString:
    """Return the result, or why it can't be read."""
    return shown.as_json(redact_value(readable_result(record), secret_values(record)))


def readable_result(record: TaskRecord) -> object:
    """Return a record's result; the reason, as text, where it can't be decrypted."""
    try:
        return record.result
    except ValueError as error:
        return f"The result can't be read: {error}."


def traceback(record: TaskRecord) -> SafeString:
    """Return the traceback as Python prints it."""
    return tracebacks.folded(redacted_traceback(record))


def redacted_traceback(record: TaskRecord) -> str:
    """Return the traceback without the values of secret arguments."""
    return redact(record.traceback or "", secret_values(record))


def state(record: TaskRecord) -> SafeString:
    """Return what the runs have saved."""
    return shown.as_json(redact_value(record.state, secret_values(record)))


def arguments_in_list(record: TaskRecord) -> SafeString:
    """Return the first arguments by name, as far as the list has read them."""
    hidden = dict.fromkeys(secret_names_of(record.task_name), REDACTED)
    items, is_whole = leading_items(getattr(record, "arguments_start", None) or "{}")
    shown_items = [f"{name}={_written(hidden.get(name, value))}" for name, value in items]
    text = " ".join(shown_items if is_whole else [*shown_items, "…"])
    return shown.outcome(text)


def leading_items(text: str) -> tuple[list[tuple[str, Any]], bool]:
    """Return the items of a JSON object whose text may be cut off, and whether it is whole."""
    items: list[tuple[str, Any]] = []
    read, at = json.JSONDecoder().raw_decode, text.find("{") + 1
    while text[at:].strip() not in ("", "}"):
        try:
            name, at = read(text, _next(text, at, ","))
            value, at = read(text, _next(text, at, ":"))
        except ValueError:
            return items, False
        if not text[at:].strip():  # a number may go on after the end
            return items, False
        items.append((name, value))
    return items, bool(text[at:].strip())


def _next(text: str, at: int, separator: str) -> int:
    """Return where the next value begins."""
    return len(text) - len(text[at:].lstrip(f"{separator} \n\t\r"))


def _written(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _secret_names(record: TaskRecord) -> Iterable[str]:
    return secret_names_of(record.task_name) & record.kwargs.keys()


def secret_names_of(task_name: str) -> frozenset[str]:
    """Return the arguments that are secret by today's settings, which may be newer than a row."""
    names = conf.current().redact
    # The page of a task whose module can't be imported must not fail, too.
    with suppress(Exception, SystemExit):
        names |= registry.secret_names(task_name)
    return names


def secret_values(record: TaskRecord) -> list[Any]:
    """Return the values in a record that are secret by today's settings."""
    values = (record.kwargs[name] for name in _secret_names(record))
    return [each for each in values if each != REDACTED]
