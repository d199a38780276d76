"""Reserved threads for the library, which tasks can't occupy.

The event loop's default executor won't do: tasks use it too, and forty name look-ups that hang
fill it.
"""

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, Final, TypeVar

T = TypeVar("T")

RESERVED_THREADS: Final = 8
"""The most threads that a process keeps reserved."""


async def in_reserved_thread(function: Callable[..., T], *args: Any) -> T:
    """Call a function in one of the reserved threads."""
    return await asyncio.get_running_loop().run_in_executor(_threads(), function, *args)


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(RESERVED_THREADS, thread_name_prefix="lambda_tasks-reserved")


os.register_at_fork(after_in_child=_threads.cache_clear)
