"""Runs one attempt here, on this thread: in a worker process, and in eager mode."""

import contextvars
import math
from typing import Any

from asgiref.sync import async_to_sync

from .. import interrupts
from ..context import current_run
from .alarm import Alarm
from .attempt import Attempt
from .run import Ended


def run_inline(attempt: Attempt, *, with_limits: bool, may_leave_record: bool = False) -> Ended:
    """From its beginning to its record. The limits need the process's main thread.

    A record with which there is nothing to commit may be left to the caller.
    """
    while True:
        try:
            attempt.begin()
            result = contextvars.copy_context().run(_call, attempt, with_limits)
            with interrupts.interrupt_after(attempt.end_s if with_limits else math.inf):
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
        if not ended.again:
            return ended


def _call(attempt: Attempt, with_limits: bool) -> Any:
    current_run.set(attempt.context)
    if not with_limits:
        return _finished(attempt)
    with Alarm(*attempt.limits_s):
        return _finished(attempt)


def _finished(attempt: Attempt) -> Any:
    if not attempt.task.is_async:
        return attempt.call()

    async def call() -> Any:
        return await attempt.call()

    return async_to_sync(call)()
