"""The faults of AWS that a test can simulate."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal

from ..errors import HardTimeLimitExceeded, Suspended
from ..execution.attempt import Attempt
from ..execution.run import AttemptEnd

Fault = Literal["crash", "duplicate", "timeout"]

FAULTS: tuple[str, ...] = ("crash", "duplicate", "timeout")

_simulated: ContextVar["_Simulation | None"] = ContextVar(
    "lambda_tasks_simulated_fault", default=None
)


@dataclass(frozen=True, slots=True)
class _Simulation:
    """A fault, and where it has happened."""

    fault: Fault
    points: set[tuple[object, ...]] = field(default_factory=set)
    """Where workers have died, each once."""


class _WorkerDies(BaseException):
    """The end of a worker, as the code of its task sees it: as close as a living process can."""


@contextmanager
def simulate(fault: Fault) -> Iterator[None]:
    """Let each run of run_enqueued() in the body meet a fault.

    "crash": the worker dies after the function has returned and before its writes are committed.
    The message is delivered again and the task runs again. In a durable function it dies once
    before the commit of each step, too, and once behind it. "duplicate": each message is delivered
    three times, two of these in one event. "timeout": the hard timeout ends each run after the
    function has returned. Raises ValueError for any other fault.
    """
    if fault not in FAULTS:
        raise ValueError(f"simulate({fault!r}): use one of {', '.join(map(repr, FAULTS))}.")
    token = _simulated.set(_Simulation(fault))
    try:
        yield
    finally:
        _simulated.reset(token)


def simulated_fault() -> Fault | None:
    """Return the fault of the surrounding simulate(); None outside of one."""
    simulation = _simulated.get()
    return None if simulation is None else simulation.fault


class FaultyAttempt(Attempt):
    """An attempt that meets the simulated fault after its function has returned."""

    _is_dead = False
    """Whether its worker has died in a step."""

    def succeed(self, result: object) -> AttemptEnd:
        """See Attempt."""
        fault = simulated_fault()
        if fault == "timeout":
            raise HardTimeLimitExceeded("The simulated hard timeout has passed.")
        if fault == "crash" and self._dies_at("end"):
            return self._die()
        return super().succeed(result)

    def fail(self, error: BaseException) -> AttemptEnd:
        """See Attempt."""
        if isinstance(error, Suspended) and simulated_fault() == "crash":
            self._is_dead = self._is_dead or self._dies_at("suspended")
        return self._die() if self._is_dead else super().fail(error)

    def commit_step(self, name: str, write: Callable[[], None]) -> None:
        """See Attempt."""
        for at, commit in (("before", None), ("behind", super().commit_step)):
            if commit is not None:
                commit(name, write)
            if simulated_fault() == "crash" and self._dies_at(at, name):
                self._is_dead = True
                raise _WorkerDies

    def _dies_at(self, *point: object) -> bool:
        """Return whether the worker dies here: the first time that it comes by."""
        simulation = _simulated.get()
        of_run = self.run.message.invocation_id, *point
        if simulation is None or of_run in simulation.points:
            return False
        simulation.points.add(of_run)
        return True

    def _die(self) -> AttemptEnd:
        self.abandon()
        # A lease in the past: the next delivery takes the run over without waiting.
        self.finisher.claims.extend([self.run.claim], timedelta(seconds=-1))
        return AttemptEnd(None)
