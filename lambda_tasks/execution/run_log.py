"""The log lines of runs: how each ended, and after how long.

They go to the logger `lambda_tasks.task`, so that whatever the project's LOGGING does with errors,
it does with those of tasks: a file, an e-mail, Sentry. Final failures are errors; what runs again
is a warning.
"""

import logging
import re
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Final

from ..core.lifecycle import (
    Claim,
    Continued,
    Failed,
    Outcome,
    Raised,
    Retried,
    Skipped,
    Status,
)
from ..core.message import Message
from ..logging import end_attributes, run_attributes
from ..ports import TaskCall

logger = logging.getLogger("lambda_tasks.task")

ESCAPED: Final = re.compile(r"\\(x00|ud[89a-f])")
"""What a traceback may have in place of characters that nobody can write."""

PACKAGE_DIR: Final = str(Path(__file__).parents[1])
"""The library's directory; tracebacks leave out its frames."""


def log_start(message: Message, claim: Claim, queue: str) -> None:
    """Log the start of an attempt, for debugging."""
    if logger.isEnabledFor(logging.DEBUG):
        logger.debug(
            "[%s] %s starts, attempt %d",
            message.invocation_id, message.task_name, claim.attempt,
            extra=run_attributes(message, claim.attempt, queue),
        )  # fmt: skip


def log_success(message: Message, claim: Claim, queue: str, outcome: Outcome, ran_s: float) -> None:
    """Log an outcome that is no failure."""
    if not logger.isEnabledFor(logging.INFO):
        return
    extra = end_attributes(message, claim, queue, outcome, ran_s)
    if isinstance(outcome, Skipped):
        logger.info(
            "[%s] %s was skipped, as the run of %r before it still runs",
            message.invocation_id, message.task_name, outcome.schedule,
            extra=extra,
        )  # fmt: skip
        return
    verb = "continues in another run" if isinstance(outcome, Continued) else "succeeded"
    despite = ""
    if outcome.raised is not None:
        despite = f", despite {outcome.raised.exception_class}, which the task ignores,"
    logger.info(
        "[%s] %s %s%s after %.3f s",
        message.invocation_id, message.task_name, verb, despite, ran_s,
        extra=extra,
    )  # fmt: skip


def log_failure(
    call: TaskCall,
    message: Message,
    claim: Claim,
    outcome: Outcome,
    error: BaseException | None,
    *,
    queue: str,
    ran_for: timedelta | None = None,
) -> None:
    """Log an outcome that is a failure, or a retry after one. `error` has the traceback, if known.

    An exception may hold secret arguments anywhere, or characters that a log file refuses. Then the
    line has the text of the record instead, with these redacted and escaped.
    """
    ran_s = None if ran_for is None else ran_for.total_seconds()
    extra = end_attributes(message, claim, queue, outcome, ran_s)
    name_and_id = message.invocation_id, message.task_name
    after = "" if ran_s is None else f" after {ran_s:.3f} s"
    if isinstance(outcome, Retried):
        logger.warning(
            "[%s] %s failed%s and is retried in %.0f s (due to %s)",
            *name_and_id, after, outcome.delay.total_seconds(), outcome.raised.exception_class,
            extra=extra,
        )  # fmt: skip
    elif isinstance(outcome, Failed) and call.logs_failures:
        # The framework of the task has logged the error. This line has its figures.
        logger.info("[%s] %s failed%s", *name_and_id, after, extra=extra)
    elif isinstance(outcome, Failed):
        text = outcome.raised.traceback
        if error is None or message.secret or ESCAPED.search(text):
            logger.error("[%s] %s failed%s:\n%s", *name_and_id, after, text, extra=extra)
            return
        exc_info = type(error), error, skip_library_frames(error)
        logger.error("[%s] %s failed%s", *name_and_id, after, exc_info=exc_info, extra=extra)


def log_lost_attempt(message: Message, claim: Claim, queue: str, reason: Raised) -> None:
    """Log an attempt that ended through no fault of the task, and is repeated."""
    logger.warning(
        "[%s] %s has lost an attempt and runs again:\n%s",
        message.invocation_id, message.task_name, reason.traceback,
        extra=run_attributes(message, claim.attempt, queue)
        | {"error_class": reason.exception_class},
    )  # fmt: skip


def log_given_up(message: Message, queue: str, reason: Raised) -> None:
    """Log the failure of an invocation that no release could run."""
    logger.error(
        "[%s] %s failed:\n%s",
        message.invocation_id, message.task_name, reason.traceback,
        extra=run_attributes(message, None, queue)
        | {"status": Status.FAILED.value, "error_class": reason.exception_class},
    )  # fmt: skip


def skip_library_frames(error: BaseException) -> TracebackType | None:
    """Return the traceback of an error from the task's own code on."""
    step = error.__traceback__
    while step is not None and step.tb_frame.f_code.co_filename.startswith(PACKAGE_DIR):
        step = step.tb_next
    return step or error.__traceback__
