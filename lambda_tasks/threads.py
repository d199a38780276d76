"""Threads for what the executor itself must do, however many the tasks keep busy.

Tasks share the event loop's default executor with asyncio: forty look-ups that hang fill it.
"""

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, Final, TypeVar

T = TypeVar("T")

RESERVED_THREADS: Final = 8


async def in_reserved_thread(function: Callable[..., T], *args: Any) -> T:
    """Call a function in a thread that no task can occupy."""
    return await asyncio.get_running_loop().run_in_executor(_threads(), function, *args)


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(RESERVED_THREADS, thread_name_prefix="lambda_tasks-own")


os.register_at_fork(after_in_child=_threads.cache_clear)
