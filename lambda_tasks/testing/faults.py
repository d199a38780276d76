"""The faults of AWS that a test can simulate."""

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
    """Let each run of run_enqueued() in the body meet a fault.

    "crash": the worker dies after the function has returned and before its writes are committed.
    The message is delivered again and the task runs again. "duplicate": each message is delivered
    three times, two of these in one event. "timeout": the hard timeout ends each run after the
    function has returned. Raises ValueError for any other fault.
    """
    if fault not in FAULTS:
        raise ValueError(f"simulate({fault!r}): use one of {', '.join(map(repr, FAULTS))}.")
    token = _simulated.set(fault)
    try:
        yield
    finally:
        _simulated.reset(token)


def simulated_fault() -> Fault | None:
    """Return the fault of the surrounding simulate(); None outside of one."""
    return _simulated.get()


class FaultyAttempt(Attempt):
    """An attempt that meets the simulated fault after its function has returned."""

    def succeed(self, result: object) -> AttemptEnd:
        """See Attempt."""
        fault = simulated_fault()
        if fault == "timeout":
            raise HardTimeLimitExceeded("The simulated hard timeout has passed.")
        if fault == "crash" and self.run.claim.attempt == 1:
            self.abandon()
            # A lease in the past: the next delivery takes the run over without waiting.
            self.finisher.claims.extend([self.run.claim], timedelta(seconds=-1))
            return AttemptEnd(None)
        return super().succeed(result)
