"""Ends a worker's process in time, whatever hangs in it.

A thread that is stuck in a library's code can be neither interrupted nor left behind: asyncio and
Python wait for it at their ends. Its records come back by their leases.
"""

import asyncio
import logging
import os
import sys
import threading
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

logger = logging.getLogger("lambda_tasks")

T = TypeVar("T")

CUT_OFF: Final = 3
"""The exit code where tasks had to be given back unfinished."""

MARGIN_S: Final = 4.0
"""After a worker's drain: to give back what runs, and to end connections and processes."""

CLOSE_S: Final = 30.0
"""For a worker that nobody has told to stop, to send what it still has and to close."""


class Ending:
    """The last of all time limits of this process; of several the earliest holds."""

    def __init__(self) -> None:
        self._timers: list[threading.Timer] = []

    def within(self, seconds: float) -> None:
        """End the process when this time is over, unless cancel() is called before."""
        timer = threading.Timer(seconds, _end)
        timer.daemon = True
        timer.start()
        self._timers.append(timer)

    def cancel(self) -> None:
        """Let the process go on."""
        while self._timers:
            self._timers.pop().cancel()


process_end: Final = Ending()


def run_process(main: Coroutine[Any, Any, T]) -> T:
    """asyncio.run() that ends when its time is over; see Ending."""
    try:
        return asyncio.run(main)
    finally:
        process_end.cancel()


def _end() -> None:
    logger.error("The worker's time is over and something hangs in it: its process is ended.")
    logging.shutdown()
    sys.stdout.flush()
    os._exit(CUT_OFF)
