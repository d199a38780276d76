"""The Lambda handler: it runs the records of an event and reports those that failed to Lambda.

It is a plain function, as awslambdaric requires. The event loop, the worker processes and the
database connections are kept from one event to the next.
"""

import asyncio
import contextvars
import gc
import logging
import os
import random
import sys
from collections.abc import Coroutine
from typing import Any, Final

from . import cold_start

IN_LAMBDA: Final = "AWS_LAMBDA_RUNTIME_API" in os.environ
"""Whether this process runs in AWS Lambda."""

FORK_SERVER_MIN_MIB: Final = 512
"""The memory in MiB from which a function starts its fork server in the cold start.

A smaller function starts it with its first sync task.
"""

HOOKS_FLUSH_S: Final = 0.5
"""Seconds for hooks that are called beside to end before the function answers."""

THREAD_FREE_LIMIT_S: Final = 3.0
"""Seconds for an interrupted statement of an earlier event to end. Then its thread is given up."""


def handler(event: Any, context: Any) -> dict[str, Any]:
    """Answer an event, as AWS Lambda's entry point.

    Raises ValueError for an event of an unknown kind.
    """
    return _warm_handler().handle(event, context)


def main() -> int:
    """Run the message of an AWS Batch job, as its entry point, and return the exit code."""
    from .entrypoints.batch_job import run_job

    return run_job()


class LambdaHandler:
    """The objects that a function keeps from one event to the next."""

    def __init__(self) -> None:
        cold_start.set_up()
        from . import pools, runtime
        from .entrypoints.lambda_events import EventHandler
        from .execution.interruptible_thread import InterruptibleThread
        from .hooks.beside import flush
        from .threads import switch_often

        pools.close()  # the project may have opened them as it was loaded
        switch_often()
        self._runner = asyncio.Runner()
        # An empty one, so that events don't inherit the context variables of the caller.
        self._context = contextvars.Context()
        self._database_thread = InterruptibleThread("lambda_tasks-handler")
        self._runner.run(self._enter_thread_context(), context=self._context)
        self._runtime = runtime.current()
        self._flush_hooks = flush
        if IN_LAMBDA:
            # Only in Lambda: elsewhere, code may enqueue between two events, while this loop does
            # not run.
            self._runtime.portal.adopt(self._runner.get_loop())
        self._executor = self._runtime.executor()
        self._events = EventHandler(self._runtime, self._executor)
        if _memory_mib() >= FORK_SERVER_MIN_MIB:
            self._executor.prepare()
        if IN_LAMBDA:
            _register_snapshot_hooks(self)
            _warn_without_queue()

    def handle(self, event: Any, context: Any) -> dict[str, Any]:
        """Answer one event."""
        if not self._database_thread.is_free_within(THREAD_FREE_LIMIT_S):
            self._database_thread.give_up()
        try:
            return self._run(self._events.handle(event, context))
        finally:
            self._flush_hooks(HOOKS_FLUSH_S)  # the function freezes once it has answered
            self._database_thread.interrupt()  # a statement that still runs, which nobody awaits

    def _run(self, answer: Coroutine[Any, Any, dict[str, Any]]) -> dict[str, Any]:
        if not IN_LAMBDA:
            return self._runner.run(answer, context=self._context)
        # For each run the Runner sets a handler of SIGINT and takes it away, which takes five times
        # as long as the rest of it. Lambda sends no SIGINT.
        loop = self._runner.get_loop()
        return loop.run_until_complete(loop.create_task(answer, context=self._context))

    def interrupt(self) -> bool:
        """Interrupt the runs of the current event, and return whether there are any.

        A signal handler may call it.
        """
        if not self._events.has_runs:
            return False
        self._runner.get_loop().call_soon_threadsafe(self._events.interrupt)
        return True

    def pids(self) -> list[int]:
        """Return the process ids of the worker processes."""
        return self._executor.pids()

    def before_snapshot(self) -> None:
        """Close all connections and processes: SnapStart makes many copies of this process."""
        from django.db import connections

        connections.close_all()
        self._runner.run(self._disconnect(), context=self._context)

    def after_restore(self) -> None:
        """Reset the random seed and the time of the next relay, which all copies would share."""
        random.seed()
        self._runtime.relay_shifts.start_over()

    def close(self) -> None:
        """End the lanes and worker processes, and close the connections."""
        self._runner.run(self._close(), context=self._context)
        self._runner.close()
        self._database_thread.shutdown(wait=False)

    async def _enter_thread_context(self) -> None:
        """Make all events use the database on the handler's thread."""
        from .execution.interruptible_thread import DatabaseCalls

        # The context is never left: it lasts as long as the handler.
        await DatabaseCalls(self._database_thread).__aenter__()

    async def _disconnect(self) -> None:
        await self._executor.aclose()
        await self._runtime.disconnect()

    async def _close(self) -> None:
        await self._executor.aclose()
        from . import runtime

        await runtime.aclose(self._runtime)


_handlers: dict[str, LambdaHandler] = {}


def _warm_handler() -> LambdaHandler:
    """Return the handler of this process. If its cold start fails, the next event tries again."""
    pid = str(os.getpid())
    if pid not in _handlers:
        _handlers[pid] = LambdaHandler()
        # The loaded objects stay. Without this, garbage collections would go through them again
        # and again, which takes a tenth of the time of short tasks.
        gc.freeze()
    return _handlers[pid]


def close() -> None:
    """Close the handler of this process. The next event is a cold start."""
    warm = _handlers.pop(str(os.getpid()), None)
    if warm is not None:
        warm.close()
        gc.unfreeze()


def interrupt() -> bool:
    """Interrupt the runs of the current event, which go back to their queues.

    Return whether there are any. For a local function that is stopped: Lambda itself stops none in
    the middle of an event.
    """
    warm = _handlers.get(str(os.getpid()))
    return warm is not None and warm.interrupt()


def pids() -> list[int]:
    """Return the ids of this function's worker processes, for simulations of its end."""
    warm = _handlers.get(str(os.getpid()))
    return [] if warm is None else warm.pids()


def _memory_mib() -> int:
    size = os.environ.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "")
    return int(size) if size.isdecimal() else 0


def _warn_without_queue() -> None:
    from . import conf

    if not conf.current().is_fed_by_aws:
        logging.getLogger("lambda_tasks").warning(
            "LAMBDA_TASKS_QUEUES has no queue of SQS, so this function runs no task: tasks wait in "
            "the table of the records for `manage.py lambda_tasks worker`. Name the queue's URL "
            "there, on the function and wherever tasks are called."
        )


def _register_snapshot_hooks(warm: LambdaHandler) -> None:
    try:
        from snapshot_restore_py import register_after_restore, register_before_snapshot
    except ModuleNotFoundError:
        return  # this runtime takes no snapshots
    register_before_snapshot(warm.before_snapshot)
    register_after_restore(warm.after_restore)


def _is_the_function() -> bool:
    """Return whether Lambda starts this module itself, in the function's main process.

    A project may have a handler module that imports this one, and worker processes import it too.
    """
    multiprocessing = sys.modules.get("multiprocessing")
    is_child = multiprocessing is not None and multiprocessing.parent_process() is not None
    if not IN_LAMBDA or is_child:
        return False
    ours = f"{__name__}.{handler.__name__}"
    return os.environ.get("_HANDLER", ours).replace("/", ".") == ours


if __name__ == "__main__":
    sys.exit(main())
elif _is_the_function():
    # At import, in Lambda's init phase: that one has a full CPU, and SnapStart's snapshot follows.
    _warm_handler()
