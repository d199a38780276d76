"""Runs async tasks concurrently, each on a thread and a database connection of its own.

A lane is a long-lived coroutine in a thread-sensitive context. All synchronous calls of its task
run on the lane's thread, so a transaction that is opened there holds for all of them.
"""

import asyncio
import contextvars
import functools
from collections.abc import Awaitable, Callable, Collection, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from asgiref.sync import ThreadSensitiveContext
from django.db import DatabaseError, InterfaceError, connections

from .. import hooks
from ..context import current_run
from ..core.lifecycle import Claim
from ..errors import HardTimeLimitExceeded
from ..hooks.calling import acall as acall_hook
from .attempt import Attempt
from .coroutine_limits import LimitedCoroutine
from .interruptible_thread import ThreadStuck
from .lane_thread import AnyThread, LaneThread
from .run import AttemptEnd

T = TypeVar("T")

StartAttempt = Callable[[], Awaitable[Attempt]]
"""A callback that creates an attempt once a lane is free: the task's time starts then."""

ABANDON_LIMIT_S: Final = 1.0
"""Seconds to roll back a run that is interrupted by shutdown."""


class LaneLost(Exception):
    """A lane's thread is stuck in a task. The caller has to record the task's `failure`."""

    def __init__(self, failure: BaseException) -> None:
        super().__init__(f"A lane is lost: {failure!r}")
        self.failure = failure


class Lanes:
    """Up to `count` lanes, each started when it is first needed, on the running loop."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._waiting: asyncio.Queue[_LaneRun] = asyncio.Queue()
        self._lanes: set[asyncio.Task[None]] = set()
        self._retiring: set[asyncio.Task[None]] = set()
        self._busy = 0
        self._lane_runs: set[_LaneRun] = set()

    def claims(self) -> list[Claim]:
        """Return the claims of the runs in all lanes."""
        return [lane_run.claim for lane_run in self._lane_runs if lane_run.claim is not None]

    def cancel(self, claims: Collection[Claim]) -> None:
        """Cancel the runs of these claims, each at its next await."""
        for lane_run in self._lane_runs:
            if lane_run.task is not None and lane_run.claim in claims:
                lane_run.task.cancel()

    async def run(self, start: StartAttempt) -> AttemptEnd:
        """Run one attempt in the next free lane, and return its end.

        Raises the errors of `start`, and LaneLost if the lane's thread is stuck. If it is
        cancelled, it ends the lane too, as the lane's thread may be stuck in the task's code.
        """
        lane_run = _LaneRun(start, asyncio.get_running_loop().create_future())
        self._waiting.put_nowait(lane_run)
        self._lane_runs.add(lane_run)
        self._start_one_if_needed()
        try:
            return await lane_run.ended
        except asyncio.CancelledError:
            # Cancelling this task also cancels the future that it awaits.
            has_ended = lane_run.ended.done() and not lane_run.ended.cancelled()
            if lane_run.lane is not None and not has_ended:
                self._retire(lane_run.lane)
                self._start_one_if_needed()  # for a run that waits: it may come from another batch
            raise
        finally:
            self._lane_runs.remove(lane_run)

    async def aclose(self) -> None:
        """End the lanes and their threads."""
        for lane in list(self._lanes):
            self._retire(lane)
        await asyncio.gather(*self._retiring, return_exceptions=True)

    def _start_one_if_needed(self) -> None:
        idle = len(self._lanes) - self._busy
        if idle < self._waiting.qsize() and len(self._lanes) < self.count:
            # In an empty context. All lanes would share a surrounding thread-sensitive context,
            # and with it one thread and one connection.
            lane = asyncio.get_running_loop().create_task(
                self._serve_lane(), context=contextvars.Context()
            )
            self._lanes.add(lane)

    def _retire(self, lane: "asyncio.Task[None]") -> None:
        if lane in self._lanes:
            self._lanes.remove(lane)
            self._retiring.add(lane)
            lane.add_done_callback(self._retiring.discard)
            lane.cancel()

    async def _serve_lane(self) -> None:
        thread = LaneThread()
        try:
            async with ThreadSensitiveContext(executor=thread):
                try:
                    while True:
                        await self._serve(await self._waiting.get(), thread)
                finally:
                    if not thread.is_busy:  # a busy thread closes them when its call ends
                        with suppress(ThreadStuck):
                            await thread.call(connections.close_all)
        except LaneLost:
            self._replace(asyncio.current_task())
        finally:
            thread.shutdown(wait=False)

    def _replace(self, lost: "asyncio.Task[None] | None") -> None:
        self._lanes = {lane for lane in self._lanes if lane is not lost}
        if not self._waiting.empty():
            self._start_one_if_needed()

    async def _serve(self, lane_run: "_LaneRun", thread: LaneThread | AnyThread) -> None:
        """Run one attempt. Raises LaneLost here, and to the caller that awaits the attempt."""
        if lane_run.ended.done():  # the caller was cancelled while the run waited for a lane
            return
        lane_run.lane = asyncio.current_task()
        self._busy += 1
        try:
            ended = await _run(lane_run, thread)
            if not lane_run.ended.done():
                lane_run.ended.set_result(ended)
            if thread.is_stuck:
                raise LaneLost(ThreadStuck())
        except Exception as error:
            if not lane_run.ended.done():
                lane_run.ended.set_exception(error)
            if isinstance(error, LaneLost):
                raise
        finally:
            self._busy -= 1


@dataclass(slots=True, eq=False)
class _LaneRun:
    """A run that waits for a lane or is in one."""

    start: StartAttempt
    ended: "asyncio.Future[AttemptEnd]"
    lane: "asyncio.Task[None] | None" = None
    task: "asyncio.Task[Any] | None" = None
    claim: Claim | None = None
    context: contextvars.Context = field(default_factory=contextvars.Context)
    """The context variables of the task and its hooks."""

    def create_task(self, coroutine: Coroutine[Any, Any, T], attempt: Attempt) -> "asyncio.Task[T]":
        """Start a coroutine in the context of the run."""
        self.context.run(current_run.set, attempt.context)
        return asyncio.get_running_loop().create_task(coroutine, context=self.context)


async def run_in_lane(start: StartAttempt) -> AttemptEnd:
    """Run one attempt in the current thread-sensitive context."""
    return await _run(_LaneRun(start, asyncio.get_running_loop().create_future()), AnyThread())


async def _run(lane_run: _LaneRun, thread: LaneThread | AnyThread) -> AttemptEnd:
    attempt = await lane_run.start()
    lane_run.claim = attempt.run.claim
    # A copy of the lane's context, so that no context variable reaches the next run.
    lane_run.context = attempt.variables = contextvars.copy_context()
    ended = await _run_once(lane_run, attempt, thread)
    while ended.restarts:
        ended = await _run_once(lane_run, attempt, thread)
    if (event := attempt.end_event(ended)) is not None:
        await _call_hooks(hooks.ended, event, lane_run, attempt, thread)
        with suppress(ThreadStuck):  # the attempt has ended; its lane is replaced
            await thread.call_last(attempt.clean_up_after_hooks)
    return ended


async def _run_once(
    lane_run: _LaneRun, attempt: Attempt, thread: LaneThread | AnyThread
) -> AttemptEnd:
    try:
        return await _run_to_success(lane_run, attempt, thread)
    except asyncio.CancelledError:
        await _abandon(attempt, thread)
        raise
    except ThreadStuck:
        raise LaneLost(attempt.hard_timeout()) from None
    except BaseException as error:
        failure = attempt.failure_of(error)
    if isinstance(failure, KeyboardInterrupt):
        await _abandon(attempt, thread)
        return AttemptEnd(None, interrupted=True)
    # Outside of the except block, where asgiref would add its own frames to the traceback.
    return await _fail(attempt, thread, failure)


async def _run_to_success(
    lane_run: _LaneRun, attempt: Attempt, thread: LaneThread | AnyThread
) -> AttemptEnd:
    if (event := attempt.start_event()) is not None:
        await thread.call(attempt.acquire, limit_s=attempt.left_s)
        await _call_hooks(hooks.started, event, lane_run, attempt, thread)
        await thread.call(attempt.open_transaction)
    elif isinstance(thread, LaneThread) and attempt.may_defer_begin:
        # Deferred to the task's first call on the thread. A task that makes none saves two hops.
        thread.call_first(attempt.begin)
    else:
        await thread.call(attempt.begin, limit_s=attempt.left_s)
    with thread.serving(attempt.context):
        result = await _call_in_new_task(lane_run, attempt, thread)
    if thread.cancel_begin():
        return attempt.succeed_without_begin(result)
    succeed = functools.partial(attempt.succeed, result)
    return await thread.call_last(thread.after_begin, succeed, limit_s=attempt.commit_limit_s)


async def _call_hooks(
    hook: hooks.Hook[Any],
    event: object,
    lane_run: _LaneRun,
    attempt: Attempt,
    thread: LaneThread | AnyThread,
) -> None:
    """Call a hook on the event loop, in the task's context."""

    def limited(coroutine: Coroutine[Any, Any, None]) -> LimitedCoroutine:
        limit_s = attempt.hooks_limit_s
        return LimitedCoroutine(
            coroutine, soft_s=limit_s, hard_s=limit_s, on_limit=lambda _: thread.interrupt()
        )

    with thread.serving(attempt.context):
        await lane_run.create_task(acall_hook(hook, event, limited=limited), attempt)


async def _fail(
    attempt: Attempt, thread: LaneThread | AnyThread, failure: BaseException
) -> AttemptEnd:
    try:
        if thread.is_busy:  # a call that the task did not await is still running
            await thread.call(_do_nothing, limit_s=attempt.left_s)
        return await thread.call_last(thread.after_failure, attempt.fail, failure)
    except ThreadStuck:
        raise LaneLost(failure) from None


def _do_nothing() -> None:
    """Do nothing. A call of this on a thread ends when the calls before it have ended."""


async def _abandon(attempt: Attempt, thread: LaneThread | AnyThread) -> None:
    if not thread.cancel_begin():
        thread.interrupt()
        # If begin() failed or the thread is stuck, the database rolls back with the connection.
        with suppress(DatabaseError, InterfaceError, ThreadStuck):
            await thread.call_last(thread.after_failure, attempt.abandon, limit_s=ABANDON_LIMIT_S)


async def _call_in_new_task(
    lane_run: _LaneRun, attempt: Attempt, thread: LaneThread | AnyThread
) -> Any:
    """Call the task in a new asyncio task, and return its result."""
    captured = _call_with_limits(attempt, thread)
    task = lane_run.task = lane_run.create_task(captured, attempt)
    try:
        # The inner task returns a cancellation as a value. Without the shield, a cancellation of
        # the lane would end up there, and the lane would go on.
        result, error = await asyncio.shield(task)
    except asyncio.CancelledError as cancelled:
        lane = asyncio.current_task()
        if lane is not None and not lane.cancelling():
            # The inner task was cancelled before its first step, so it returned no value.
            raise _as_outcome(cancelled) from None
        task.cancel()
        await asyncio.wait([task])
        raise
    if error is not None:
        raise error
    return result


async def _call_with_limits(
    attempt: Attempt, thread: LaneThread | AnyThread
) -> tuple[Any, BaseException | None]:
    """Call the task within its limits, and return its result and its error.

    The error is a value, because asyncio lets a SystemExit of a task end the whole loop.
    """

    def interrupt(limit: BaseException) -> None:
        """Interrupt the thread; only the hard limit may cut the connection too."""
        thread.interrupt(hang_up=isinstance(limit, HardTimeLimitExceeded))

    try:
        coroutine: Coroutine[Any, Any, Any] = attempt.call()
        soft_s, hard_s = attempt.limits_s
        limited = LimitedCoroutine(coroutine, soft_s=soft_s, hard_s=hard_s, on_limit=interrupt)
        return await limited, None
    except BaseException as error:
        return None, _as_outcome(error)


def _as_outcome(error: BaseException) -> BaseException:
    """Return the error, or a RuntimeError in place of a CancelledError.

    A task that cancels itself has failed. A lane that sees a CancelledError would end itself.
    """
    if not isinstance(error, asyncio.CancelledError):
        return error
    failure = RuntimeError("The task was cancelled from within.")
    failure.__cause__ = error
    return failure
