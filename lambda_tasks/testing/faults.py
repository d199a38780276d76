"""What can happen to a run on AWS, to see in a test what becomes of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import Literal

from ..errors import HardTimeLimitExceeded
from ..execution.attempt import Attempt
from ..execution.run import AttemptEnd

Fault = Literal["crash", "duplicate", "timeout"]

FAULTS: tuple[str, ...] = ("crash", "duplicate", "timeout")

_simulated: ContextVar[Fault | None] = ContextVar("lambda_tasks_simulated_fault", default=None)


@contextmanager
def simulate(fault: Fault) -> Iterator[None]:
    """Let run_enqueued() in the body meet a fault.

    "crash": the worker dies when the function has returned, before its writes are committed; the
    message is delivered again and the task runs again. "duplicate": each message is delivered
    three times, twice of these in one event. "timeout": the hard timeout ends each run at its
    last moment. Raises ValueError for another.
    """
    if fault not in FAULTS:
        raise ValueError(f"simulate({fault!r}): use one of {', '.join(map(repr, FAULTS))}.")
    token = _simulated.set(fault)
    try:
        yield
    finally:
        _simulated.reset(token)


def simulated() -> Fault | None:
    """The fault of the surrounding simulate()."""
    return _simulated.get()


class FaultyAttempt(Attempt):
    """An attempt that meets the fault at its last moment."""

    def succeed(self, result: object, *, may_leave_record: bool = False) -> AttemptEnd:
        """See Attempt."""
        fault = simulated()
        if fault == "timeout":
            raise HardTimeLimitExceeded("The simulated hard timeout is over.")
        if fault == "crash" and self.run.claim.attempt == 1:
            self.abandon()
            # As if its lease had run out meanwhile.
            self.finisher.claims.extend([self.run.claim], timedelta(seconds=-1))
            return AttemptEnd(None)
        return super().succeed(result, may_leave_record=may_leave_record)
