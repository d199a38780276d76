"""Log lines that name the run of the task that wrote them.

`task_logger` puts the invocation id before each message. TaskContextFilter adds `invocation_id`,
`task_name` and `attempt` to every record of any logger instead, for a formatter of your own.
"""

import logging
from collections.abc import MutableMapping, Sequence
from typing import Any

from .context import TaskContext, current_run
from .core.redaction import REDACTED, redact, redact_value


class _TaskLogger(logging.LoggerAdapter[logging.Logger]):
    def process(
        self, msg: Any, kwargs: MutableMapping[str, Any]
    ) -> tuple[Any, MutableMapping[str, Any]]:
        run = current_run.get()
        return (msg if run is None else f"{_prefix(run)}{msg}"), kwargs


def _prefix(run: TaskContext) -> str:
    return f"[{run.invocation_id}] "


class _Redaction(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        run = current_run.get()
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

_STANDARD_ATTRIBUTES = vars(logging.makeLogRecord({})).keys() | {"message", "asctime"}


task_logger = _TaskLogger(logging.getLogger("lambda_tasks.task"))
"""The logger for tasks: `task_logger.info("sent to %s", address)`."""

task_logger.logger.addFilter(_Redaction())


class TaskContextFilter(_Redaction):
    """A logging filter that adds `invocation_id`, `task_name` and `attempt` to each record.

    Add it to a handler in LOGGING. Outside of a task the three attributes are empty strings. Lines
    of `task_logger` lose the id at their beginning, which the attribute names. The filter also
    redacts the values of the running task's secret arguments.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the attributes to a record. Returns True: no record is dropped."""
        super().filter(record)
        run = current_run.get()
        if run is None and hasattr(record, "invocation_id"):
            return True  # the line of a run's end names the run itself
        if run is not None and isinstance(record.msg, str):
            # The attribute names the run, so the line itself need not do so again.
            record.msg = record.msg.removeprefix(_prefix(run))
        record.invocation_id = str(run.invocation_id) if run else ""
        record.task_name = run.task_name if run else ""
        record.attempt = run.attempt if run else ""
        return True
