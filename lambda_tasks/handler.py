"""The Lambda handler: takes an event, runs its records, tells Lambda which must come back.

A plain function, as awslambdaric calls it, with one event loop, the worker processes and the
database connections kept from one invocation to the next.
"""

import asyncio
import contextvars
import gc
import os
import random
import sys
import time
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

from asgiref.sync import ThreadSensitiveContext

from . import cold_start

IN_LAMBDA: Final = "AWS_LAMBDA_RUNTIME_API" in os.environ

AMPLE_MIB: Final = 512
"""From here on there is room for a fork server from the start. A smaller function gets one with its
first sync task."""


FREE_S: Final = 3.0
"""Seconds for what an earlier event has left in the database, which is being interrupted; then its
thread is given up for another."""


def handler(event: Any, context: Any) -> dict[str, Any]:
    """AWS Lambda's entry point. Raises ValueError for an event of another kind."""
    return _warm().handle(event, context)


class LambdaHandler:
    """What stays from one invocation to the next."""

    def __init__(self) -> None:
        cold_start.set_up()
        from . import pools, runtime
        from .entrypoints.lambda_events import EventHandler
        from .execution.own_thread import OwnThread

        pools.close()  # which the project's start may have opened
        self._runner = asyncio.Runner()
        # Its events have no context in common with whatever has called for the first of them.
        contextvars.Context().run(self._runner.get_loop)
        self._own_thread = OwnThread("lambda_tasks-handler")
        self._runner.run(self._ask_there())
        self._runtime = runtime.current()
        if IN_LAMBDA:
            # Elsewhere somebody may enqueue between two events, when this loop stands still.
            self._runtime.portal.adopt(self._runner.get_loop())
        self._executor = self._runtime.executor()
        self._events = EventHandler(self._runtime, self._executor)
        if _memory_mib() >= AMPLE_MIB:
            self._executor.prepare()
        if IN_LAMBDA:
            _register_snapshot_hooks(self)

    def handle(self, event: Any, context: Any) -> dict[str, Any]:
        """Answer one event."""
        if not self._own_thread.is_free_within(FREE_S):
            self._own_thread.give_up()
        try:
            return self._runner.run(self._events.handle(event, context))
        finally:
            self._own_thread.interrupt()  # what has not answered by now, and nobody waits for

    def pids(self) -> list[int]:
        """The worker processes that run."""
        return self._executor.pids()

    def before_snapshot(self) -> None:
        """Close what must not be open in two places: SnapStart makes many of this process."""
        from django.db import connections

        connections.close_all()
        self._runner.run(self._disconnect())

    def after_restore(self) -> None:
        """Begin anew what every copy would else have in common."""
        random.seed()
        self._events.relayed_at = time.monotonic()

    def close(self) -> None:
        """End lanes, worker processes and connections."""
        self._runner.run(self._close())
        self._runner.close()
        self._own_thread.shutdown(wait=False)

    async def _ask_there(self) -> None:
        """Let all of its events ask the database on this thread; there is no other end to that than
        the handler's own."""
        asks: AbstractAsyncContextManager[Any] = ThreadSensitiveContext(executor=self._own_thread)
        await asks.__aenter__()

    async def _disconnect(self) -> None:
        await self._executor.aclose()
        await self._runtime.disconnect()

    async def _close(self) -> None:
        await self._executor.aclose()
        from . import runtime

        await runtime.aclose(self._runtime)


_kept: dict[str, LambdaHandler] = {}


def _warm() -> LambdaHandler:
    """The handler of this process; a cold start that fails is tried again by the next event."""
    pid = str(os.getpid())
    if pid not in _kept:
        _kept[pid] = LambdaHandler()
        # What is loaded by now stays: the collector of garbage need not look at it again and again,
        # which takes a tenth of the time of short tasks.
        gc.freeze()
    return _kept[pid]


def close() -> None:
    """End what a handler in this process has kept; the next event is a cold start."""
    warm = _kept.pop(str(os.getpid()), None)
    if warm is not None:
        warm.close()
        gc.unfreeze()


def pids() -> list[int]:
    """The worker processes of this function, for who plays its end."""
    warm = _kept.get(str(os.getpid()))
    return [] if warm is None else warm.pids()


def _memory_mib() -> int:
    size = os.environ.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "")
    return int(size) if size.isdecimal() else 0


def _register_snapshot_hooks(warm: LambdaHandler) -> None:
    try:
        from snapshot_restore_py import register_after_restore, register_before_snapshot
    except ModuleNotFoundError:
        return  # a runtime that takes no snapshots
    register_before_snapshot(warm.before_snapshot)
    register_after_restore(warm.after_restore)


def _is_the_function() -> bool:
    """This module is what Lambda starts, and no project's own that imports it; nor is this one of
    its worker processes."""
    multiprocessing = sys.modules.get("multiprocessing")
    is_child = multiprocessing is not None and multiprocessing.parent_process() is not None
    if not IN_LAMBDA or is_child:
        return False
    ours = f"{__name__}.{handler.__name__}"
    return os.environ.get("_HANDLER", ours).replace("/", ".") == ours


if __name__ == "__main__":
    from .entrypoints.batch_job import run_job

    sys.exit(run_job())
elif _is_the_function():
    # In Lambda's init phase, which has a CPU to itself and is what SnapStart takes a snapshot of.
    _warm()
