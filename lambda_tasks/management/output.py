"""What verbs print: JSON, one object a line, or text for people. And their exit codes."""

import json
from datetime import datetime
from typing import Any, Final

from django.core.management.base import OutputWrapper
from django.utils.timezone import localtime

from lambda_tasks import console
from lambda_tasks.core.lifecycle import Status
from lambda_tasks.models import TaskRecord
from lambda_tasks.operations.describing import last_line, redacted_kwargs

DONE: Final = 0
FAILED: Final = 1
USAGE: Final = 2
EMPTY: Final = 3
UNHEALTHY: Final = 4
"""The exit codes: it was done; a task failed; the arguments make no sense; there was nothing to do;
the system is not well."""

SHORT_ERROR: Final = 120
"""The most characters of an error in a list."""


def counted(number: int, noun: str, *, would: bool | None = None) -> str:
    """Return "1 call" or "2 calls"; with `would`, what comes before a participle, too."""
    text = f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
    if would is None:
        return text
    return f"{text} would be" if would else f"{text} {'was' if number == 1 else 'were'}"


def shown_time(moment: datetime) -> str:
    """Return a time in the project's time zone, with its offset from UTC."""
    return localtime(moment).isoformat(sep=" ", timespec="seconds")


def write_json(stdout: OutputWrapper, kind: str, values: dict[str, Any]) -> None:
    """Write an object as one line of JSON, in ASCII where the output has no other letters."""
    is_unicode = (getattr(stdout, "encoding", None) or "utf-8").lower().startswith("utf")
    stdout.write(json.dumps({"kind": kind, **values}, ensure_ascii=not is_unicode))


def describe(record: TaskRecord) -> str:
    """Return a record as one line."""
    status = Status(record.status)
    when = record.end_time if status.is_finished else record.start_time or record.enqueued_at
    time = shown_time(when) if when else "-" * 25
    text = f"{time}  {status:9}  {record.id}  {describe_call(record)}"
    if record.duration is not None:
        text += f" after {record.duration.total_seconds():.3f} s"
    error = last_line(record.traceback)
    return f"{text}: {error[:SHORT_ERROR]}" if error else text


def describe_call(record: TaskRecord) -> str:
    """Return a call as Python writes it, with what is secret redacted."""
    record.kwargs = redacted_kwargs(record)
    return console.describe_call(record)
