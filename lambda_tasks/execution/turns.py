"""The decision which claimed deliveries start at once, and which wait for their turn.

It depends on the free slots, and on how long the last runs of each task took.
"""

import math
from collections import Counter, defaultdict, deque
from collections.abc import Mapping, Sequence
from typing import Final
from uuid import UUID

from ..ports import ClaimedDelivery, ResolvedDelivery, Task

STARTS_SOON_S: Final = 0.1
"""Seconds within which a delivery counts as started with its claim, which saves a statement.

If its worker dies before the start, the delivery is possible poison without reason, and so its
next run is alone. A task that may not run again is counted early only if a slot is free.
"""

N_LAST_RUNS: Final = 10
"""The number of runs of each task whose durations are kept."""

LIKELY_FACTOR: Final = 1.5
"""The likely longest duration of a run, as a multiple of the longest of the last runs."""


class Durations:
    """The durations of each task's last runs in this process."""

    def __init__(self) -> None:
        self._last: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=N_LAST_RUNS))
        self._typical_s: dict[str, float] = {}

    def add(self, task_name: str, seconds: float) -> None:
        """Add the duration of a run that ended or was interrupted."""
        last = self._last[task_name]
        last.append(seconds)
        self._typical_s[task_name] = sorted(last)[len(last) // 2]

    def typical_s(self, task_name: str) -> float:
        """Return the median duration of a task's last runs; infinity if there are none."""
        return self._typical_s.get(task_name, math.inf)

    def likely_s(self, task_name: str) -> float | None:
        """Return the seconds that a run will probably take at most; None without earlier runs."""
        last = self._last.get(task_name)
        return LIKELY_FACTOR * max(last) if last else None


class Turns:
    """The waiting line of a process with so many lanes and worker processes."""

    def __init__(self, durations: Durations, *, lanes: int, processes: int) -> None:
        self._durations = durations
        self._slots = {True: max(lanes, 1), False: max(processes, 1)}
        self._active: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}

    def enter(self, tasks: Sequence[Task]) -> None:
        """Add claimed runs of these tasks."""
        for task in tasks:
            self._active[task.is_async][task.name] += 1

    def leave(self, task: Task) -> None:
        """Remove a run of a task, which has ended or goes back."""
        self._active[task.is_async][task.name] -= 1

    def waiting_ids(self, resolved: Sequence[ResolvedDelivery]) -> set[UUID]:
        """Return the invocations that would have to wait if all deliveries were claimed now."""
        lines = {is_async: self._line(is_async) for is_async in self._slots}
        ahead_s: dict[str, float] = {}
        waiting = set()
        for each in resolved:
            line, order = lines[each.task.is_async], each.delivery.order_key
            wait_s = max(line.wait_s, ahead_s.get(order, 0.0) if order else 0.0)
            if wait_s > (STARTS_SOON_S if each.may_rerun else 0.0):
                waiting.add(each.message.invocation_id)
            typical_s = self._durations.typical_s(each.task.name)
            line.append(typical_s)
            if order:
                ahead_s[order] = wait_s + typical_s
        return waiting

    def starting_with(
        self, first: ClaimedDelivery, line: Mapping[str, ClaimedDelivery]
    ) -> list[ClaimedDelivery]:
        """Return the first, and the waiting ones that probably start within STARTS_SOON_S of it."""
        starting = [first]
        if first.delivery.id not in line:
            return starting
        is_async, wait_s = first.task.is_async, 0.0
        for each in line.values():
            if each.task.is_async is not is_async or each is first:
                continue
            wait_s += self._durations.typical_s(each.task.name) / self._slots[is_async]
            if wait_s > STARTS_SOON_S:
                break
            starting.append(each)
        return starting

    def _line(self, is_async: bool) -> "_Line":
        line = _Line(self._slots[is_async])
        for task_name, count in list(self._active[is_async].items()):
            for _ in range(count):
                line.append(self._durations.typical_s(task_name))
        return line


class _Line:
    """The line of runs that share so many slots, running or waiting."""

    def __init__(self, slots: int) -> None:
        self._slots = self._free = slots
        self._seconds = 0.0

    @property
    def wait_s(self) -> float:
        """The seconds that the next run waits."""
        return 0.0 if self._free > 0 else self._seconds / self._slots

    def append(self, typical_s: float) -> None:
        self._free -= 1
        self._seconds += typical_s
