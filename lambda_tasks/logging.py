"""Log lines that name the run of the task that wrote them.

`task_logger` puts the invocation id before each message. For every record of any logger,
TaskContextFilter adds attributes for a format of your own, JSONFormatter writes one JSON object in
the format of Lambda's own lines, and `add_run` is a processor for structlog.
"""

import copy
import json
import logging
import traceback
from collections.abc import MutableMapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from .context import SCHEDULE_HEADER, TaskContext, run_of_this_code
from .core.lifecycle import STATUS_OF, Claim, Outcome
from .core.message import Message
from .core.redaction import REDACTED, redact, redact_value
from .errors import NotMigrated


def log_error(logger: logging.Logger, error: BaseException, message: str, *args: object) -> None:
    """Log a caught error: with its traceback, or in one line if its text names the fix."""
    if isinstance(error, NotMigrated):
        logger.error(f"{message}: %s", *args, error)
    else:
        logger.error(message, *args, exc_info=error)


class _TaskLogger(logging.LoggerAdapter[logging.Logger]):
    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - logging's name
        run = run_of_this_code()
        # What a durable function says again, as it comes by once more, was written before.
        is_said = run is not None and run.journal is not None and run.journal.is_replaying
        return not is_said and super().isEnabledFor(level)

    def process(
        self, msg: Any, kwargs: MutableMapping[str, Any]
    ) -> tuple[Any, MutableMapping[str, Any]]:
        run = run_of_this_code()
        return (msg if run is None else f"{_prefix(run)}{msg}"), kwargs


def _prefix(run: TaskContext) -> str:
    return f"[{run.invocation_id}] "


LIBRARY_PREFIX: Final = "[%s] "
"""The prefix of the library's own lines about runs, before their arguments are filled in."""

# The attributes of log records

RUN_FIELDS: Final = (
    "invocation_id", "root_id", "task_name", "attempt", "queue", "workflow", "step", "schedule"
)  # fmt: skip
"""The attributes by which each log record of a run names it."""

END_FIELDS: Final = ("status", "duration_ms", "error_class", "worker_id")
"""The attributes that the library's own line about the end of a run has as well."""


def run_attributes(message: Message, attempt: int | None, queue: str) -> dict[str, Any]:
    """Return the attributes by which the library's own line names a run."""
    place = message.place
    return {
        "invocation_id": str(message.invocation_id),
        "root_id": str(message.root_id or message.invocation_id),
        "task_name": message.task_name,
        "attempt": attempt,
        "queue": queue,
        "workflow": "" if place is None else str(place.workflow_id),
        "step": "" if place is None else place.step,
        "schedule": message.headers.get(SCHEDULE_HEADER, ""),
    }


def end_attributes(
    message: Message, claim: Claim, queue: str, outcome: Outcome, ran_s: float | None
) -> dict[str, Any]:
    """Return the attributes of the library's own line about the end of a run."""
    raised = outcome.raised
    return run_attributes(message, claim.attempt, queue) | {
        "status": str(STATUS_OF[type(outcome)].value),
        "duration_ms": "" if ran_s is None else round(ran_s * 1000, 3),
        "error_class": "" if raised is None else raised.exception_class,
        "worker_id": claim.worker_ids[-1] if claim.worker_ids else "",
    }


def attributes_of(run: TaskContext) -> dict[str, Any]:
    """Return the attributes by which a log line of a run's code names the run."""
    return {
        "invocation_id": str(run.invocation_id),
        "root_id": str(run.idempotency_key),
        "task_name": run.task_name,
        "attempt": run.attempt,
        "queue": run.queue,
        "workflow": "" if run.workflow_id is None else str(run.workflow_id),
        "step": "" if run.step is None else run.step,
        "schedule": run.schedule or "",
    }


# Redaction


class _Redaction(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        run = run_of_this_code()
        if run is not None and run.secrets:
            try:
                _redact(record, run.secrets)
            except Exception as error:
                _hide(record, error)
        return True


def _redact(record: logging.LogRecord, secrets: Sequence[object]) -> None:
    """Redact secrets in a record's message, traceback, stack and extra attributes.

    The traceback becomes text, as a handler would format the exception itself again.
    """
    record.msg, record.args = redact(record.getMessage(), secrets), ()
    if record.exc_info and record.exc_info[0] is not None:
        text = record.exc_text or _formatter.formatException(record.exc_info)
        record.exc_text, record.exc_info = redact(text, secrets), None
    if record.stack_info:
        record.stack_info = redact(record.stack_info, secrets)
    for name in vars(record).keys() - _STANDARD_ATTRIBUTES:  # what a caller's `extra` has added
        setattr(record, name, redact_value(getattr(record, name), secrets))


def _hide(record: logging.LogRecord, error: Exception) -> None:
    """Replace the content of a record that can't be redacted, as it may hold a secret.

    As with any other logger, a mistake in a log call does not fail the task.
    """
    record.msg, record.args = f"A log line can't be redacted: {type(error).__name__}", ()
    record.exc_info = record.exc_text = record.stack_info = None
    for name in vars(record).keys() - _STANDARD_ATTRIBUTES:
        setattr(record, name, REDACTED)


_formatter = logging.Formatter()

_STANDARD_ATTRIBUTES = vars(logging.makeLogRecord({})).keys() | {"message", "asctime", "taskName"}


task_logger = _TaskLogger(logging.getLogger("lambda_tasks.task"))
"""The logger for tasks: `task_logger.info("sent to %s", address)`."""

task_logger.logger.addFilter(_Redaction())


# What a project puts into its LOGGING


class TaskContextFilter(_Redaction):
    """A logging filter that adds the attributes of the current run to each record.

    They are `invocation_id`, `root_id`, `task_name`, `attempt`, `queue`, `workflow`, `step` and
    `schedule`. The library's own line about the end of a run also has `status`, `duration_ms`,
    `error_class` and `worker_id`. Where one does not apply, it is an empty string.

    Add it to a handler in LOGGING. Lines of `task_logger` lose the id at their beginning, which the
    attribute names. The filter also redacts the values of the running task's secret arguments.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the attributes to a record. Returns True: no record is dropped."""
        super().filter(record)
        run, attributes = run_of_this_code(), vars(record)
        if "root_id" in attributes:
            _remove_library_prefix(record)  # the library's line names the run itself
        elif run is not None:
            if isinstance(record.msg, str):
                # The attribute names the run, so the line itself need not do so again.
                record.msg = record.msg.removeprefix(_prefix(run))
            for name, value in attributes_of(run).items():
                attributes.setdefault(name, value)
        for name in (*RUN_FIELDS, *END_FIELDS):
            attributes.setdefault(name, "")
        return True


def _remove_library_prefix(record: logging.LogRecord) -> None:
    args = record.args
    if str(record.msg).startswith(LIBRARY_PREFIX) and isinstance(args, tuple) and args:
        record.msg, record.args = record.msg.removeprefix(LIBRARY_PREFIX), args[1:]


class JSONFormatter(logging.Formatter):
    """A log formatter that writes one JSON object a line, with the keys of Lambda's own JSON lines.

    These are `timestamp`, `level`, `message`, `logger` and `requestId`; for an exception
    `errorType`, `errorMessage`, `stackTrace` and `location`. The attributes of TaskContextFilter
    and those of a caller's `extra` follow under their names. It needs no filter beside it.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as JSON. Other handlers see the record unchanged."""
        record = copy.copy(record)
        _context_filter.filter(record)
        extra = {
            name: value
            for name, value in vars(record).items()
            if name not in _NOT_EXTRA and not _is_empty(value)
        }
        return _encode(_lambda_keys(record), extra)


def _is_empty(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value)


_context_filter = TaskContextFilter()

_NOT_EXTRA: Final = _STANDARD_ATTRIBUTES | {"aws_request_id", "_frame_type"}
"""The attributes that become no key of their own: Python's, and those of Lambda's runtime."""


def _lambda_keys(record: logging.LogRecord) -> dict[str, Any]:
    at = datetime.fromtimestamp(record.created, UTC)
    keys: dict[str, Any] = {
        "timestamp": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "level": record.levelname,
        "message": record.getMessage(),
        "logger": record.name,
    }
    if request_id := _request_id(record):
        keys["requestId"] = request_id
    if record.exc_info and record.exc_info[1] is not None:
        described = traceback.TracebackException(*record.exc_info)
        keys["errorType"] = type(record.exc_info[1]).__name__
        keys["errorMessage"] = str(described)
        keys["stackTrace"] = list(described.format())
        keys["location"] = f"{record.pathname}:{record.funcName}:{record.lineno}"
    elif record.exc_text:  # redacted
        keys["stackTrace"] = record.exc_text.splitlines(keepends=True)
    if record.stack_info:
        keys["stackInfo"] = record.stack_info
    return keys


def _request_id(record: logging.LogRecord) -> str | None:
    """Return the id of Lambda's request: from its runtime, or in a worker process from the run."""
    id: str | None = getattr(record, "aws_request_id", None)
    run = run_of_this_code()
    return id or (None if run is None else run.metadata.get("aws_request_id"))


def _encode(keys: dict[str, Any], extra: dict[str, Any]) -> str:
    try:
        text = _json.encode(extra | keys)
    except (TypeError, ValueError, RecursionError):
        # NaN, a key that is no text, a circle: the value becomes text, and the line is not lost.
        text = _json.encode({name: _text_of(each) for name, each in extra.items()} | keys)
    # A lone surrogate, which no file takes, becomes its escape, which JSON has, too.
    return text.encode(errors="backslashreplace").decode()


def _text_of(value: object) -> object:
    try:
        _json.encode(value)
    except (TypeError, ValueError, RecursionError):
        return repr(value)
    return value


_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=str)


def add_run(
    logger: object, method_name: str, event_dict: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Add the attributes of the current run to an event of structlog, as one of its processors.

    They are those of TaskContextFilter. Values of secret arguments are redacted. Put it before the
    processor that renders.
    """
    run = run_of_this_code()
    if run is None:
        return event_dict
    if run.secrets:
        event_dict = dict(redact_value(event_dict, run.secrets))
    for name, value in attributes_of(run).items():
        if value != "":
            event_dict.setdefault(name, value)
    return event_dict
