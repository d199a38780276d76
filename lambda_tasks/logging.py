"""Log lines that name the run of the task that wrote them.

`task_logger` puts the invocation id before each message. TaskContextFilter adds `invocation_id`,
`task_name` and `attempt` to every record of any logger instead, for a formatter of your own.
"""

import logging
from collections.abc import MutableMapping, Sequence
from typing import Any, Final

from .context import TaskContext, current_run
from .core.redaction import REDACTED, redact, redact_value
from .errors import NotMigrated


def log_error(logger: logging.Logger, error: BaseException, message: str, *args: object) -> None:
    """Log a caught error: with its traceback, or in one line if its text names the fix."""
    if isinstance(error, NotMigrated):
        logger.error(f"{message}: %s", *args, error)
    else:
        logger.error(message, *args, exc_info=error)


class _TaskLogger(logging.LoggerAdapter[logging.Logger]):
    def process(
        self, msg: Any, kwargs: MutableMapping[str, Any]
    ) -> tuple[Any, MutableMapping[str, Any]]:
        run = current_run.get()
        return (msg if run is None else f"{_prefix(run)}{msg}"), kwargs


def _prefix(run: TaskContext) -> str:
    return f"[{run.invocation_id}] "


LIBRARY_PREFIX: Final = "[%s] "
"""The prefix of the library's own lines about runs, before their arguments are filled in."""


def run_attributes(task_name: str, invocation_id: object, attempt: object) -> dict[str, Any]:
    """Return the attributes by which a log record names a run."""
    return {"invocation_id": str(invocation_id), "task_name": task_name, "attempt": attempt}


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
        if hasattr(record, "invocation_id"):
            _remove_library_prefix(record)  # the library's line names the run itself
            return True
        if run is not None and isinstance(record.msg, str):
            # The attribute names the run, so the line itself need not do so again.
            record.msg = record.msg.removeprefix(_prefix(run))
        if run is None:
            vars(record).update(run_attributes("", "", ""))
        else:
            vars(record).update(run_attributes(run.task_name, run.invocation_id, run.attempt))
        return True


def _remove_library_prefix(record: logging.LogRecord) -> None:
    args = record.args
    if str(record.msg).startswith(LIBRARY_PREFIX) and isinstance(args, tuple) and args:
        record.msg, record.args = record.msg.removeprefix(LIBRARY_PREFIX), args[1:]
