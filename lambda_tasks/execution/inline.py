"""One attempt run on the current thread: in a worker process, and in eager mode."""

import contextvars
import math
from typing import Any

from asgiref.sync import async_to_sync

from .. import interrupts
from ..context import current_run
from .alarm import Alarm
from .attempt import Attempt
from .run import AttemptEnd


def run_inline(
    attempt: Attempt, *, with_limits: bool, may_leave_record: bool = False
) -> AttemptEnd:
    """Run an attempt, and return its end.

    `with_limits` enforces the task's time limits, and needs the process's main thread. With
    `may_leave_record`, the caller writes the record if there is nothing else to commit.
    Raises KeyboardInterrupt after a rollback if the task raises it.
    """
    while True:
        try:
            attempt.begin()
            result = contextvars.copy_context().run(_call, attempt, with_limits)
            with interrupts.interrupt_after(attempt.commit_limit_s if with_limits else math.inf):
                return attempt.succeed(result, may_leave_record=may_leave_record)
        except KeyboardInterrupt:
            attempt.abandon()
            raise
        except BaseException as error:
            failure = attempt.failure_of(error) if with_limits else error
        with interrupts.interrupt_after(
            interrupts.LIBRARY_STATEMENT_LIMIT_S if with_limits else math.inf
        ):
            ended = attempt.fail(failure)
        if not ended.restarts:
            return ended


def _call(attempt: Attempt, with_limits: bool) -> Any:
    current_run.set(attempt.context)
    if not with_limits:
        return _call_to_end(attempt)
    with Alarm(*attempt.limits_s):
        return _call_to_end(attempt)


def _call_to_end(attempt: Attempt) -> Any:
    if not attempt.task.is_async:
        return attempt.call()

    async def call() -> Any:
        return await attempt.call()

    return async_to_sync(call)()
