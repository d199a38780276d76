"""The fork server of the worker processes: multiprocessing's, with the project preloaded.

A process with threads can't be forked safely, so a process without threads does it.
"""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from types import ModuleType


def context() -> ForkServerContext:
    """Return the multiprocessing context that creates worker processes and their pipes."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([f"{__package__}.preload"])
    return context


def prepare() -> None:
    """Start the fork server, which loads the project by itself. Don't wait for it."""
    context()
    forkserver.ensure_running()


def kill() -> None:
    """Kill the fork server. The next start of a process starts another one.

    Threads that wait for the fork server get an error. The processes that it started go on.
    """
    pid = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
    if pid is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@contextmanager
def start_alone(limit_s: float) -> Iterator[None]:
    """Start a process in the body, while no other thread starts one.

    Raises TimeoutError if other starts take longer than `limit_s` seconds.
    """
    if not _starting.acquire(timeout=limit_s):
        raise TimeoutError("Another start is still under way.")
    try:
        # multiprocessing would import this process's main module in the child. One without
        # `if __name__ == "__main__"` would start a second worker there, so the child gets an empty
        # one. The lock keeps two starts from restoring each other's module.
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = main
    finally:
        _starting.release()


_starting = threading.Lock()
