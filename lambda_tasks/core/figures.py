"""The figures of runs that have ended, the spans of time in which they are counted, and ranges."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Final, Self

from .histograms import Histogram, added
from .quick import quick_dataclass

MINUTE: Final = 1
TEN_MINUTES: Final = 10
HOUR: Final = 60
DAY: Final = 1440

SPANS: Final = (MINUTE, TEN_MINUTES, HOUR, DAY)
"""The lengths, in minutes, of the spans in which an end counts, each time."""

KEPT: Final[Mapping[int, timedelta]] = {
    MINUTE: timedelta(hours=3),
    TEN_MINUTES: timedelta(days=2),
    HOUR: timedelta(days=9),
}
"""For how long the figures of each span are kept, as long as a page shows them and somewhat longer.
Those of days follow LAMBDA_TASKS_KEEP_FIGURES."""

MIN_KEEP_DAYS: Final = 9
"""The fewest days for which figures of days are kept: a page shows a week."""

MAX_KEEP_DAYS: Final = 1000
"""The most: the last success of each task is looked for in all of them."""


@quick_dataclass(frozen=True, slots=True)
class RunFigure:
    """How many runs have ended, and how long they waited and ran."""

    n: int = 0
    wait_s: float = 0.0
    run_s: float = 0.0
    waits: Histogram = field(default_factory=dict)
    runs: Histogram = field(default_factory=dict)
    last_end: datetime | None = None

    @classmethod
    def total(cls, figures: Iterable[Self]) -> Self:
        """Return the sum of figures."""
        parts = list(figures)
        return cls(
            sum(each.n for each in parts),
            sum(each.wait_s for each in parts),
            sum(each.run_s for each in parts),
            added(each.waits for each in parts),
            added(each.runs for each in parts),
            max((each.last_end for each in parts if each.last_end is not None), default=None),
        )

    def beyond(self, other: Self) -> Self:
        """Return what this has more than the other: other + self.beyond(other) == self."""
        return type(self)(
            self.n - other.n,
            self.wait_s - other.wait_s,
            self.run_s - other.run_s,
            added([self.waits, _negative(other.waits)]),
            added([self.runs, _negative(other.runs)]),
            self.last_end,
        )


def _negative(histogram: Histogram) -> Histogram:
    return {bucket: -count for bucket, count in histogram.items()}


@dataclass(frozen=True, slots=True)
class _Range:
    length: timedelta
    step: int
    coarse: int


class Range(Enum):
    """A range of time that pages show, up to now."""

    LAST_HOUR = "1h"
    LAST_DAY = "24h"
    LAST_WEEK = "7d"

    @property
    def length(self) -> timedelta:
        """How far back it goes."""
        return _RANGES[self].length

    @property
    def step(self) -> int:
        """The minutes of a span of its charts: one bar, point or column."""
        return _RANGES[self].step

    @property
    def coarse(self) -> int:
        """The minutes of the spans that are summed by task or error.

        They are few, and the first of them may begin a little before the range.
        """
        return _RANGES[self].coarse


_RANGES: Final = {
    Range.LAST_HOUR: _Range(timedelta(hours=1), MINUTE, TEN_MINUTES),
    Range.LAST_DAY: _Range(timedelta(days=1), TEN_MINUTES, HOUR),
    Range.LAST_WEEK: _Range(timedelta(days=7), HOUR, DAY),
}


def start_of(moment: datetime, minutes: int) -> datetime:
    """Return the start of the span in which a moment is, in UTC."""
    midnight = moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    length = timedelta(minutes=minutes)
    return midnight + (moment - midnight) // length * length


def starts(since: datetime, until: datetime, minutes: int) -> Iterator[datetime]:
    """Yield the starts of the spans that a range of time touches, the earliest first."""
    start = start_of(since, minutes)
    while start < until:
        yield start
        start += timedelta(minutes=minutes)


def release_of(worker_ids: str | None) -> str | None:
    """Return the release that ran a record last, as the id of its worker tells; None for unknown.

    The id has the name of the release behind a space. A published version of a function is one,
    too: `2026/11/27/[42]3f...` is a log stream of version 42.
    """
    last = (worker_ids or "").rstrip("\n").rpartition("\n")[2]
    process, _, release = last.partition(" ")
    if release:
        return release
    version = process.partition("[")[2].partition("]")[0]
    return None if version in ("", "$LATEST") else version
