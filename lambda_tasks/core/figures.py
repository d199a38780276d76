"""The spans of time in which ends of runs are counted, and the ranges that pages show."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Final

MINUTE: Final = 1
TEN_MINUTES: Final = 10
HOUR: Final = 60
DAY: Final = 1440

SPANS: Final = (MINUTE, TEN_MINUTES, HOUR, DAY)
"""The lengths, in minutes, of the spans in which an end counts, each time."""


@dataclass(frozen=True, slots=True)
class _Range:
    length: timedelta
    step: int
    """The spans, in minutes, of which charts show one after the other."""
    coarse: int
    """The spans, in minutes, that are summed by task or error. They are few, and the first of them
    may begin a little before the range."""


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
        """The minutes of the spans that are summed by task or error."""
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
