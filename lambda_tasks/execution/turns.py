"""Which of the claimed begin at once, and which wait for their turn: by the places that are free,
and by how long tasks have run."""

import math
from collections import Counter, defaultdict, deque
from collections.abc import Mapping, Sequence
from typing import Final
from uuid import UUID

from ..ports import ClaimedDelivery, ResolvedDelivery, Task

AT_ONCE_S: Final = 0.1
"""What probably begins within so long is counted with its claim, which saves a statement. Where its
worker dies before, it is a suspect once without reason, and so runs alone. Where it may not run
again, only what has a free place is counted so."""

LAST_RUNS: Final = 10

MARGIN: Final = 1.5
"""What a run may take, of the longest of the last ones."""


class Durations:
    """For how long the last runs of each task had their places in this process."""

    def __init__(self) -> None:
        self._last: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=LAST_RUNS))
        self._typical_s: dict[str, float] = {}

    def add(self, task_name: str, seconds: float) -> None:
        """Note a run that has ended, or was cut off."""
        last = self._last[task_name]
        last.append(seconds)
        self._typical_s[task_name] = sorted(last)[len(last) // 2]

    def typical_s(self, task_name: str) -> float:
        """What a run takes as a rule; infinity where none is known."""
        return self._typical_s.get(task_name, math.inf)

    def likely_s(self, task_name: str) -> float | None:
        """What a run will probably take at most; None where none is known."""
        last = self._last.get(task_name)
        return MARGIN * max(last) if last else None


class Turns:
    """Who waits in this process, which has so many lanes and worker processes."""

    def __init__(self, durations: Durations, *, lanes: int, processes: int) -> None:
        self._durations = durations
        self._places = {True: max(lanes, 1), False: max(processes, 1)}
        self._in_work: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}

    def enter(self, tasks: Sequence[Task]) -> None:
        """Runs of these were claimed."""
        for task in tasks:
            self._in_work[task.is_async][task.name] += 1

    def leave(self, task: Task) -> None:
        """A run of this has come to its end, or goes back."""
        self._in_work[task.is_async][task.name] -= 1

    def waiting(self, resolved: Sequence[ResolvedDelivery]) -> set[UUID]:
        """The invocations that do not begin at once, if all of these are claimed now."""
        lines = {is_async: self._line(is_async) for is_async in self._places}
        ahead_s: dict[str, float] = {}
        waiting = set()
        for each in resolved:
            line, order = lines[each.task.is_async], each.delivery.order_key
            wait_s = max(line.wait_s, ahead_s.get(order, 0.0) if order else 0.0)
            if wait_s > (AT_ONCE_S if each.may_rerun else 0.0):
                waiting.add(each.message.invocation_id)
            typical_s = self._durations.typical_s(each.task.name)
            line.append(typical_s)
            if order:
                ahead_s[order] = wait_s + typical_s
        return waiting

    def beginning_with(
        self, first: ClaimedDelivery, line: Mapping[str, ClaimedDelivery]
    ) -> list[ClaimedDelivery]:
        """List the waiting ones that probably begin within AT_ONCE_S of the first, with it."""
        beginning = [first]
        if first.delivery.id not in line:
            return beginning
        is_async, wait_s = first.task.is_async, 0.0
        for each in line.values():
            if each.task.is_async is not is_async or each is first:
                continue
            wait_s += self._durations.typical_s(each.task.name) / self._places[is_async]
            if wait_s > AT_ONCE_S:
                break
            beginning.append(each)
        return beginning

    def _line(self, is_async: bool) -> "_Line":
        line = _Line(self._places[is_async])
        for task_name, count in list(self._in_work[is_async].items()):
            for _ in range(count):
                line.append(self._durations.typical_s(task_name))
        return line


class _Line:
    """What runs, or waits to run, at so many places."""

    def __init__(self, places: int) -> None:
        self._places = self._free = places
        self._seconds = 0.0

    @property
    def wait_s(self) -> float:
        """How long the next one waits."""
        return 0.0 if self._free > 0 else self._seconds / self._places

    def append(self, typical_s: float) -> None:
        self._free -= 1
        self._seconds += typical_s
