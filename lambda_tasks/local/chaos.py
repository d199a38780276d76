"""The faults that `dev --chaos` plays: functions that die in mid-task, and repeated deliveries."""

import os
import random
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, Final, Self

CRASH_WITHIN_S: Final = 0.5
"""Seconds after the start of an invocation in which a crash happens."""


@dataclass(frozen=True, slots=True)
class Chaos:
    """The probability of each fault, from 0 to 1."""

    crash: float = 0.0
    """The probability that an invocation is killed."""
    duplicate: float = 0.0
    """The probability that a delivery is repeated."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `crash=5%,duplicate=5%`. Raises ValueError for anything else."""
        chances = {}
        for part in filter(None, text.split(",")):
            name, _, percent = part.partition("=")
            if name not in {each.name for each in fields(cls)} or not _is_percent(percent):
                raise ValueError(f"{part!r} is not a fault and its percentage, like crash=5%.")
            chances[name] = float(percent.rstrip("%")) / 100
        return cls(**chances)


@dataclass(slots=True)
class ChaoticFunction:
    """The handler with faults. `pids` returns the process groups that die with this process."""

    handle: Callable[[Any], Any]
    chaos: Chaos
    pids: Callable[[], list[int]]
    _repeats: list[Any] = field(default_factory=list)

    def __call__(self, event: Any) -> Any:
        """Give the event to the handler, after the records that are to be repeated from the last.

        Some of this event's records are kept, to be repeated with the next event.
        """
        if random.random() < self.chaos.crash:
            timer = threading.Timer(random.uniform(0, CRASH_WITHIN_S), self._die)
            timer.daemon = True
            timer.start()
        repeated, self._repeats = (
            self._repeats,
            [record for record in event["Records"] if random.random() < self.chaos.duplicate],
        )
        if repeated:
            print(f"chaos: {len(repeated)} delivered once more", flush=True)
            self.handle({"Records": repeated})
        return self.handle(event)

    def _die(self) -> None:
        """Kill this process and its workers at once, as the end of a sandbox does."""
        print("chaos: the function dies", flush=True)
        parent, worker_groups = os.getpid(), self.pids()
        # A child kills, and this process first: it would react to the deaths of its workers.
        if os.fork() == 0:
            os.kill(parent, signal.SIGKILL)
            for pid in worker_groups:
                os.killpg(pid, signal.SIGKILL)
            os._exit(0)


def _is_percent(text: str) -> bool:
    try:
        return text.endswith("%") and 0 <= float(text[:-1]) <= 100
    except ValueError:
        return False
