"""The tick event, by the schedule that the README advises."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from tests.servers import FunctionError, FunctionTimedOut, LambdaProcess, RuntimeExited

TICK_EVERY_S: Final = 60.0


@contextmanager
def ticking(function: LambdaProcess) -> Iterator[None]:
    """In the body the function, which is started for it, gets the event now and then."""
    over = threading.Event()

    def tick() -> None:
        due_at = time.monotonic() + TICK_EVERY_S
        while not over.wait(max(due_at - time.monotonic(), 0.0)):
            due_at += TICK_EVERY_S
            # Where the database is away it raises, or is late; the next tick comes all the same.
            with suppress(FunctionError, FunctionTimedOut, RuntimeExited):
                function.start()
                function.invoke({"lambda_tasks": "tick"})

    with function:
        thread = threading.Thread(target=tick)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
