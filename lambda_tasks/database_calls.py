"""The library's own database calls, made from coroutines."""

from collections.abc import Callable
from typing import Any, TypeVar

from asgiref.sync import sync_to_async

from .interrupts import LIBRARY_STATEMENT_LIMIT_S, interrupt_after
from .pools import borrowed_connections

T = TypeVar("T")


async def call_database(
    function: Callable[..., T],
    *args: Any,
    limit_s: float = LIBRARY_STATEMENT_LIMIT_S,
    **kwargs: Any,
) -> T:
    """Call a function on this context's database thread, and interrupt it after `limit_s` seconds.

    The connections that it acquires from pools are returned when it ends.
    """

    def call_within_limit() -> T:
        with borrowed_connections(), interrupt_after(limit_s):
            return function(*args, **kwargs)

    return await sync_to_async(call_within_limit)()
