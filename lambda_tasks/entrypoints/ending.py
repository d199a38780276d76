"""Ends the process of a worker, or of a job, in time, whatever hangs in it.

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

from .. import pools

logger = logging.getLogger("lambda_tasks")

T = TypeVar("T")

CUT_OFF: Final = 3
"""The exit code where tasks had to be given back unfinished."""

MARGIN_S: Final = 4.0
"""After a worker's drain: to give back what runs, and to end connections and processes."""

CLOSE_S: Final = 30.0
"""To send what is left and to close, where nobody has told the process to stop."""


TELL_S: Final = 1.0
"""To log that the process is ended: what hangs may be the log itself."""


class Ending:
    """The last of all time limits of this process; of several the earliest holds."""

    def __init__(self) -> None:
        self._timers: list[threading.Timer] = []

    def within(self, seconds: float, *, exit_code: int = CUT_OFF) -> None:
        """End the process when this time is over, unless cancel() is called before."""
        timer = threading.Timer(seconds, _end, [exit_code])
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
    pools.close()  # which the project's start may have opened
    try:
        return asyncio.run(main)
    finally:
        process_end.cancel()


def _end(exit_code: int) -> None:
    telling = threading.Thread(target=_tell, daemon=True)
    telling.start()
    telling.join(TELL_S)
    os._exit(exit_code)


def _tell() -> None:
    logger.error("The time of this process is over and something hangs in it: it is ended.")
    logging.shutdown()
    sys.stdout.flush()
