"""The library's own database calls, made from coroutines."""

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from typing import Any, Final, Protocol, TypeVar

from asgiref.sync import sync_to_async

from .interrupts import LIBRARY_STATEMENT_LIMIT_S, interrupt_after
from .pools import borrowed_connections

T = TypeVar("T")


class DatabaseThread(Protocol):
    """A thread that makes the library's calls for coroutines of one context."""

    def start_call(self, function: Callable[[], T], limit_s: float) -> "asyncio.Future[T]":
        """Call a function on the thread, and interrupt it after `limit_s` seconds."""
        ...


database_thread: Final[ContextVar[DatabaseThread | None]] = ContextVar(
    "lambda_tasks_database_thread", default=None
)
"""The thread of this context's calls. With none, asgiref chooses it, as for sync_to_async()."""


async def call_database(
    function: Callable[..., T],
    *args: Any,
    limit_s: float = LIBRARY_STATEMENT_LIMIT_S,
    **kwargs: Any,
) -> T:
    """Call a function on this context's database thread, and interrupt it after `limit_s` seconds.

    The connections that it acquires from pools are returned when it ends.
    """

    def call() -> T:
        with borrowed_connections():
            return function(*args, **kwargs)

    if (thread := database_thread.get()) is not None:
        # At half the cost of sync_to_async(), which each event pays several times.
        return await thread.start_call(call, limit_s)
    return await sync_to_async(partial(_call_within, limit_s, call))()


def _call_within(limit_s: float, call: Callable[[], T]) -> T:
    with interrupt_after(limit_s):
        return call()
