"""The decision which deliveries start at once, and which wait for their turn.

It depends on the free slots, on how long the last runs of each task took, and on how long the
current ones have run.
"""

import heapq
import math
import time
from collections import defaultdict, deque
from collections.abc import Collection, Iterable, Mapping, Sequence
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
    """The waiting lines of a process with so many lanes and worker processes: async and sync."""

    def __init__(self, durations: Durations, *, lanes: int, processes: int) -> None:
        self._durations = durations
        self._slots = {True: max(lanes, 1), False: max(processes, 1)}
        self._waiting: dict[bool, dict[int, str]] = {True: {}, False: {}}
        """The task names of the runs that wait."""
        self._running: dict[bool, dict[int, tuple[str, float]]] = {True: {}, False: {}}
        """The task names and start times of the runs in a slot."""

    def enter(self, claimed: Iterable[ResolvedDelivery]) -> None:
        """Add claimed deliveries to their lines."""
        for each in claimed:
            self._waiting[each.task.is_async][id(each.delivery)] = each.task.name

    def begin(self, claimed: ResolvedDelivery) -> None:
        """Note that a delivery's run is in a slot now."""
        is_async, key = claimed.task.is_async, id(claimed.delivery)
        self._waiting[is_async].pop(key, None)
        self._running[is_async][key] = claimed.task.name, time.monotonic()

    def leave(self, claimed: ResolvedDelivery) -> None:
        """Remove a delivery, whose run has ended or which goes back."""
        is_async, key = claimed.task.is_async, id(claimed.delivery)
        self._waiting[is_async].pop(key, None)
        self._running[is_async].pop(key, None)

    def wait_s(self, kinds: Collection[bool]) -> float:
        """Return the seconds until the next run of one of these kinds, async or not, may start."""
        return min((self._line(is_async).wait_s for is_async in kinds), default=0.0)

    @property
    def is_alone(self) -> bool:
        """Whether there is at most one run, which waits or is in a slot."""
        waiting, running = self._waiting, self._running
        n_waiting = len(waiting[True]) + len(waiting[False])
        return n_waiting + len(running[True]) + len(running[False]) <= 1

    def is_occupied(self, task: Task) -> bool:
        """Return whether all slots for such a task have runs in them; a start is none yet."""
        return len(self._running[task.is_async]) >= self._slots[task.is_async]

    def waiting_ids(self, resolved: Sequence[ResolvedDelivery]) -> set[UUID]:
        """Return the invocations that would have to wait if all deliveries were claimed now."""
        if all(each.delivery.is_of_table and each.may_rerun for each in resolved):
            return set()  # what would have to wait stays in the table
        return self._plan(resolved)[0]

    def starting_soon(
        self, resolved: Sequence[ResolvedDelivery]
    ) -> tuple[Sequence[ResolvedDelivery], Sequence[ResolvedDelivery]]:
        """Return the deliveries to claim, and those that stay in the table.

        What would have to wait here stays there: another worker may start it earlier.
        """
        if not any(each.delivery.is_of_table for each in resolved):
            return resolved, ()
        staying_ids = self._plan(resolved)[1]
        if not staying_ids:
            return resolved, ()
        soon: list[ResolvedDelivery] = []
        staying: list[ResolvedDelivery] = []
        for each in resolved:
            (staying if each.message.invocation_id in staying_ids else soon).append(each)
        return soon, staying

    def _plan(self, resolved: Sequence[ResolvedDelivery]) -> tuple[set[UUID], set[UUID]]:
        """Return the invocations that would have to wait, and those that may stay in the table."""
        lines = {is_async: self._line(is_async) for is_async in self._slots}
        ahead_s: dict[str, float] = {}
        waiting, staying = set(), set()
        for each in resolved:
            line, order = lines[each.task.is_async], each.delivery.order_key
            wait_s = max(line.wait_s, ahead_s.get(order, 0.0) if order else 0.0)
            if wait_s > STARTS_SOON_S and each.delivery.is_of_table:
                staying.add(each.message.invocation_id)
                continue
            if wait_s > (STARTS_SOON_S if each.may_rerun else 0.0):
                waiting.add(each.message.invocation_id)
            typical_s = self._durations.typical_s(each.task.name)
            line.append(typical_s)
            if order:
                ahead_s[order] = wait_s + typical_s
        return waiting, staying

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
        now, typical_s = time.monotonic(), self._durations.typical_s
        running = list(self._running[is_async].values())
        line = _Line(
            [_left_s(typical_s(name), now - started_at) for name, started_at in running],
            slots=self._slots[is_async],
        )
        for name in list(self._waiting[is_async].values()):
            line.append(typical_s(name))
        return line


class _Line:
    """The line of runs that share so many slots, some of which are free in `left_s` seconds."""

    def __init__(self, left_s: Sequence[float], slots: int) -> None:
        self._free_in_s = [*left_s, *[0.0] * (slots - len(left_s))]
        heapq.heapify(self._free_in_s)

    @property
    def wait_s(self) -> float:
        """The seconds that the next run waits."""
        return self._free_in_s[0]

    def append(self, typical_s: float) -> None:
        heapq.heapreplace(self._free_in_s, self._free_in_s[0] + typical_s)


def _left_s(typical_s: float, ran_s: float) -> float:
    """Return the likely rest of a run: one that takes longer than others may take much longer."""
    return typical_s - ran_s if ran_s < typical_s else ran_s
