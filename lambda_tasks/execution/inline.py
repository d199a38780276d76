"""Runs one attempt here, on this thread: in a worker process, and in eager mode."""

import contextvars
from typing import Any

from asgiref.sync import async_to_sync

from ..context import TaskContext, current_run
from .attempt import Attempt, Ended
from .timeouts import alarm


def run_inline(
    attempt: Attempt, context: TaskContext, *, with_limits: bool, may_leave_record: bool = False
) -> Ended:
    """From its beginning to its record. The limits need the process's main thread.

    A record with which there is nothing to commit may be left to the caller.
    """
    attempt.start_clock()
    try:
        attempt.begin()
        result = contextvars.copy_context().run(_call, attempt, context, with_limits)
        return attempt.succeed(result, may_leave_record=may_leave_record)
    except KeyboardInterrupt:
        attempt.abandon()
        raise
    except BaseException as error:
        return attempt.fail(error)


def _call(attempt: Attempt, context: TaskContext, with_limits: bool) -> Any:
    current_run.set(context)
    if not with_limits:
        return _finished(attempt, context)
    with alarm(attempt.run.soft_s, attempt.run.hard_s):
        return _finished(attempt, context)


def _finished(attempt: Attempt, context: TaskContext) -> Any:
    if not attempt.task.is_async:
        return attempt.call(context)

    async def call() -> Any:
        return await attempt.call(context)

    return async_to_sync(call)()
