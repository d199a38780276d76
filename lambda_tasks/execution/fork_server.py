"""The fork server that worker processes come from: multiprocessing's own, which has loaded the
project.

A process with threads must not be forked, so another does it.
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
    """What makes processes, and pipes to them."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([f"{__package__}.preload"])
    return context


def prepare() -> None:
    """Start the fork server, which loads the project by itself; without waiting for it."""
    context()
    forkserver.ensure_running()


def kill() -> None:
    """Kill the fork server: who waits for it goes on, and the next start begins another one.

    The processes that it has started go on, too.
    """
    pid = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
    if pid is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@contextmanager
def start_alone(limit_s: float) -> Iterator[None]:
    """In the body a process may be started. Raises TimeoutError where other starts last for longer.

    It does not run this process's main module, which may lack its `if __name__ == "__main__"` and
    would start a second worker there.
    """
    if not _starting.acquire(timeout=limit_s):
        raise TimeoutError("Another start is still under way.")
    try:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = main
    finally:
        _starting.release()


_starting = threading.Lock()
