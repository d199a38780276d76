"""Ends the process of a worker or a job in time, even if something hangs in it.

A thread that is stuck in a library's code can't be interrupted, and asyncio and Python wait for it
when they exit. The process is killed instead, and its runs are repeated when their leases are
over.
"""

import asyncio
import logging
import os
import sys
import threading
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

from .. import pools
from ..threads import switch_often

logger = logging.getLogger("lambda_tasks")

T = TypeVar("T")

EXIT_UNFINISHED: Final = 3
"""The exit code of a process that returned unfinished tasks to their queues."""

DRAIN_MARGIN_S: Final = 4.0
"""Seconds after a worker's drain to return unfinished runs, and to end processes."""

CLOSE_LIMIT_S: Final = 30.0
"""Seconds to send the remaining messages and to close, if no signal stopped the process."""

LOG_LIMIT_S: Final = 1.0
"""Seconds to log that the process is killed: the log itself may hang."""


class Ending:
    """The final time limit of this process. If there are several, the earliest applies."""

    def __init__(self) -> None:
        self._timers: list[threading.Timer] = []

    def within(self, seconds: float, *, exit_code: int = EXIT_UNFINISHED) -> None:
        """End the process after so many seconds, unless cancel() is called before."""
        timer = threading.Timer(seconds, _end, [exit_code])
        timer.daemon = True
        timer.start()
        self._timers.append(timer)

    def cancel(self) -> None:
        """Cancel all time limits, so that the process goes on."""
        while self._timers:
            self._timers.pop().cancel()


process_end: Final = Ending()
"""The final time limit of this process."""


def run_process(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine with asyncio.run(), under the time limits of `process_end`."""
    pools.close()  # the project may have opened them as it was loaded
    switch_often()
    try:
        return asyncio.run(main)
    finally:
        process_end.cancel()


def _end(exit_code: int) -> None:
    logging_end = threading.Thread(target=_log_end, daemon=True)
    logging_end.start()
    logging_end.join(LOG_LIMIT_S)
    os._exit(exit_code)


def _log_end() -> None:
    logger.error("The process is killed: its time is over, and something in it hangs.")
    logging.shutdown()
    sys.stdout.flush()
