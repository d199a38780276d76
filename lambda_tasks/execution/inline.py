"""One attempt run on the current thread: in a worker process, and in eager mode."""

import contextvars
import math
from contextlib import nullcontext
from functools import partial
from typing import Any

from asgiref.sync import async_to_sync

from .. import hooks, interrupts
from ..context import current_run
from ..hooks.calling import call as call_hook
from .alarm import Alarm
from .attempt import Attempt
from .run import AttemptEnd


def run_inline(attempt: Attempt, *, with_limits: bool) -> AttemptEnd:
    """Run an attempt, and return its end.

    `with_limits` enforces the task's time limits, and needs the process's main thread. Raises
    KeyboardInterrupt after a rollback if the task raises it.
    """
    # One context for all of it: what a hook sets at the start, the task and the end must see.
    context = attempt.variables = contextvars.copy_context()
    run = partial(_run_once, attempt, context, with_limits)
    ended = run()
    while ended.restarts:
        ended = run()
    if (event := attempt.end_event(ended)) is not None:
        context.run(_call_hooks, hooks.ended, event, attempt, with_limits)
        attempt.clean_up_after_hooks()
    return ended


def _run_once(attempt: Attempt, context: contextvars.Context, with_limits: bool) -> AttemptEnd:
    try:
        attempt.acquire()
        if (event := attempt.start_event()) is not None:
            context.run(_call_hooks, hooks.started, event, attempt, with_limits)
        attempt.open_transaction()
        result = context.run(_call, attempt, with_limits)
        with interrupts.interrupt_after(attempt.commit_limit_s if with_limits else math.inf):
            return attempt.succeed(result)
    except KeyboardInterrupt:
        attempt.abandon()
        raise
    except BaseException as error:
        failure = attempt.failure_of(error) if with_limits else error
    with interrupts.interrupt_after(
        interrupts.LIBRARY_STATEMENT_LIMIT_S if with_limits else math.inf
    ):
        return attempt.fail(failure)


def _call_hooks(hook: hooks.Hook[Any], event: object, attempt: Attempt, with_limits: bool) -> None:
    """Call a hook in the task's context."""
    current_run.set(attempt.context)
    limit_s = attempt.hooks_limit_s
    call_hook(hook, event, limited=partial(Alarm, limit_s, limit_s) if with_limits else nullcontext)


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
