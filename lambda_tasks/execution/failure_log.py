"""The log lines of runs that fail: errors for final failures, warnings for what runs again.

They go to the logger `lambda_tasks.task`, so that whatever the project's LOGGING does with errors,
it does with those of tasks: a file, an e-mail, Sentry.
"""

import logging
import re
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from ..core.lifecycle import Claim, Failed, Outcome, Raised, Retried
from ..core.message import Message
from ..ports import TaskCall

logger = logging.getLogger("lambda_tasks.task")

ESCAPED: Final = re.compile(r"\\(x00|ud[89a-f])")
"""What a traceback may have in place of characters that nobody can write."""

PACKAGE_DIR: Final = str(Path(__file__).parents[1])
"""The library's directory; tracebacks leave out its frames."""


def log_failure(
    call: TaskCall, message: Message, claim: Claim, outcome: Outcome, error: BaseException | None
) -> None:
    """Log an outcome that is a failure, or a retry after one. `error` has the traceback, if known.

    An exception may hold secret arguments anywhere, or characters that a log file refuses. Then the
    line has the text of the record instead, with these redacted and escaped.
    """
    extra, name_and_id = _extra(message, claim), (message.task_name, message.invocation_id)
    if isinstance(outcome, Retried):
        logger.warning(
            "%s %s failed with %s and is retried in %.0f s",
            *name_and_id, outcome.raised.exception_class, outcome.delay.total_seconds(),
            extra=extra,
        )  # fmt: skip
    elif isinstance(outcome, Failed) and not call.logs_failures:
        text = outcome.raised.traceback
        if error is None or message.secret or ESCAPED.search(text):
            logger.error("%s %s failed:\n%s", *name_and_id, text, extra=extra)
            return
        exc_info = type(error), error, skip_library_frames(error)
        logger.error("%s %s failed", *name_and_id, exc_info=exc_info, extra=extra)


def log_lost_attempt(message: Message, claim: Claim, reason: Raised) -> None:
    """Log an attempt that ended through no fault of the task, and is repeated."""
    logger.warning(
        "%s %s has lost an attempt and runs again:\n%s",
        message.task_name, message.invocation_id, reason.traceback,
        extra=_extra(message, claim),
    )  # fmt: skip


def skip_library_frames(error: BaseException) -> TracebackType | None:
    """Return the traceback of an error from the task's own code on."""
    step = error.__traceback__
    while step is not None and step.tb_frame.f_code.co_filename.startswith(PACKAGE_DIR):
        step = step.tb_next
    return step or error.__traceback__


def _extra(message: Message, claim: Claim) -> dict[str, Any]:
    """Return the attributes that TaskContextFilter adds to the lines of a running task."""
    return {
        "invocation_id": str(message.invocation_id),
        "task_name": message.task_name,
        "attempt": claim.attempt,
    }
