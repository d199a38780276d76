"""Plays what happens to functions in AWS now and then: they die in mid-task, and SQS delivers a
message twice."""

import os
import random
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, Final, Self

CRASH_WITHIN_S: Final = 0.5
"""After the beginning of an invocation."""


@dataclass(frozen=True, slots=True)
class Chaos:
    """How often, from 0 to 1: `crash` for each invocation, `duplicate` for each delivery."""

    crash: float = 0.0
    duplicate: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `crash=5%,duplicate=5%`. Raises ValueError that names the faults there are."""
        chances = {}
        for part in filter(None, text.split(",")):
            name, _, percent = part.partition("=")
            if name not in {each.name for each in fields(cls)} or not _is_percent(percent):
                raise ValueError(f"{part!r} is no part of a chaos like crash=5%,duplicate=5%.")
            chances[name] = float(percent.rstrip("%")) / 100
        return cls(**chances)


@dataclass(slots=True)
class ChaoticFunction:
    """Stands before a handler. `pids` tells which processes die with this one."""

    handle: Callable[[Any], Any]
    chaos: Chaos
    pids: Callable[[], list[int]]
    _again: list[Any] = field(default_factory=list)

    def __call__(self, event: Any) -> Any:
        """Give the event to the handler, and some of its records once more with the next one."""
        if random.random() < self.chaos.crash:
            timer = threading.Timer(random.uniform(0, CRASH_WITHIN_S), self._die)
            timer.daemon = True
            timer.start()
        repeated, self._again = (
            self._again,
            [record for record in event["Records"] if random.random() < self.chaos.duplicate],
        )
        if repeated:
            print(f"chaos: {len(repeated)} delivered once more", flush=True)
            self.handle({"Records": repeated})
        return self.handle(event)

    def _die(self) -> None:
        """All at once, as a sandbox does: this process must not live to see others' deaths."""
        print("chaos: the function dies", flush=True)
        here, others = os.getpid(), self.pids()
        if os.fork() == 0:
            os.kill(here, signal.SIGKILL)
            for pid in others:
                os.killpg(pid, signal.SIGKILL)
            os._exit(0)


def _is_percent(text: str) -> bool:
    try:
        return text.endswith("%") and 0 <= float(text[:-1]) <= 100
    except ValueError:
        return False
