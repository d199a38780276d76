"""Limits of tasks: how many runs of a key there may be at once, and how fast they may begin."""

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Self
from uuid import UUID

from .quick import quick_dataclass

RATE_PATTERN: Final = re.compile(r"(\d{1,9})/(s|m|h|d)", re.ASCII)

UNITS_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
"""The seconds of each unit of a rate."""

MAX_LIMIT: Final = 1000
"""The highest limit of one key. Each claim of the key reads its places."""

LOOK_AGAIN_S: Final = 3600.0
"""Seconds after which somebody looks in any case at a record that waits for a place.

The task may have no limit any more, so that no run of it has a place to hand over.
"""

RATE_WORDS: Final = '"10/s", "10/m", "10/h" or "10/d"'


@dataclass(frozen=True, slots=True)
class Rate:
    """So many starts in a time, evenly spaced: one each `interval_s` seconds."""

    interval_s: float

    @classmethod
    def parse(cls, text: object) -> Self:
        """Return the rate of a text like "10/m". Raises ValueError, with the fix, for another."""
        match = RATE_PATTERN.fullmatch(text) if isinstance(text, str) else None
        if match is None or not int(match[1]):
            raise ValueError(f"{text!r} is no rate. Use {RATE_WORDS}, with 1 or more.")
        return cls(UNITS_S[match[2]] / int(match[1]))


@dataclass(frozen=True, slots=True)
class Places:
    """The places of one key: as many runs of it may hold one at a time."""

    key: str
    limit: int


@dataclass(frozen=True, slots=True)
class Pace:
    """The moments of one key at which runs may begin, one after the other."""

    key: str
    rate: Rate


@quick_dataclass(frozen=True, slots=True)
class Needs:
    """What one invocation needs before it may begin: a place, and a moment of each pace."""

    places: Places | None = None
    paces: tuple[Pace, ...] = ()


@dataclass(frozen=True, slots=True)
class Held:
    """A place that somebody has: a run, or an invocation for which it is kept for a moment."""

    number: int
    by: UUID
    is_live: bool
    """Whether its time is not over."""


@dataclass(frozen=True, slots=True)
class Asking:
    """An invocation that asks for a moment of each of its paces."""

    id: UUID
    paces: tuple[Pace, ...]
    until_s: float = math.inf
    """Seconds from now until it expires."""


def assign(wanted: Iterable[UUID], held: Sequence[Held], limit: int) -> dict[UUID, int]:
    """Return the number of the place of each invocation that gets one, the first ones first.

    Who has a place keeps it. Places beyond the limit, which was higher once, are given to nobody.
    """
    live = {each.number: each.by for each in held if each.is_live}
    kept = {by: number for number, by in live.items() if number < limit}
    free = free_numbers(live, limit)
    given: dict[UUID, int] = {}
    for id in wanted:
        if id in kept:
            given[id] = kept[id]
        elif free:
            given[id] = free.pop(0)
    return given


def free_numbers(live: Collection[int], limit: int) -> list[int]:
    """Return the numbers of the places that may be given away, with these ones in use.

    Places beyond the limit count, too: their runs go on.
    """
    free = [number for number in range(limit) if number not in live]
    return free[: max(limit - len(live), 0)]


def moments(asking: Iterable[Asking], free_s: Mapping[Pace, float]) -> dict[UUID, float]:
    """Return the seconds from now until the moment of each, the first ones first.

    `free_s` is when the first free moment of each pace is, in seconds from now. Who would have
    expired by its moment gets none, and leaves it to the next one: else a rate that is booked up
    for longer than its calls may wait would start none of them.
    """
    next_s = dict(free_s)
    given: dict[UUID, float] = {}
    for each in asking:
        moment_s = max(next_s[pace] for pace in each.paces)
        if moment_s < each.until_s:
            given[each.id] = moment_s
            for pace in each.paces:
                next_s[pace] += pace.rate.interval_s
    return given


def key_of(kind: str, task_name: str, values: Mapping[str, str]) -> str:
    """Return the key of a task's limit for these values of its parameters, as texts."""
    return ".".join([f"lambda_tasks.{kind}", task_name, *map("=".join, values.items())])


def wait_words(seconds: float) -> str:
    """Return a wait in words, for log lines."""
    return f"{math.ceil(seconds * 10) / 10:g} s"
