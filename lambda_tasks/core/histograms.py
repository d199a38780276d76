"""Histograms of seconds in buckets that grow by a constant factor, and percentiles of them.

Each bucket is a quarter of a doubling wide, so a percentile is at most some 10% off, whether tasks
take milliseconds or days. Histograms add up, which percentiles don't.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Final

PER_DOUBLING: Final = 4
"""The buckets from a time to the double of it."""

SHORTEST_S: Final = 2.0**-10
"""The seconds where the second bucket begins, about a millisecond, so that one begins at 1 s. The
first one has what is shorter."""

LONGEST_S: Final = 100 * 86_400.0
"""The seconds where the last bucket begins."""

Histogram = Mapping[int, int]
"""The counts by the number of their bucket; buckets without any are left out."""


def bucket_of(seconds: float) -> int:
    """Return the number of the bucket of a time. Negative times, of clocks that jump, are in 0."""
    bounded_s = min(seconds, LONGEST_S)
    if bounded_s < SHORTEST_S:
        return 0
    return 1 + math.floor(PER_DOUBLING * math.log2(bounded_s / SHORTEST_S) + ROUNDING)


ROUNDING: Final = 1e-9
"""Added to a logarithm, so that a time on the edge of two buckets is always in the upper one."""


def bounds_of(bucket: int) -> tuple[float, float]:
    """Return the seconds from which on, and before which, times are in a bucket."""
    upper_s = SHORTEST_S * 2.0 ** (bucket / PER_DOUBLING)
    return (0.0 if bucket <= 0 else upper_s / 2.0 ** (1 / PER_DOUBLING)), upper_s


def added(histograms: Iterable[Histogram]) -> dict[int, int]:
    """Return the sum of histograms. Counts may be negative, as long as the sum has none that is."""
    total: dict[int, int] = {}
    for histogram in histograms:
        for bucket, count in histogram.items():
            total[bucket] = total.get(bucket, 0) + count
    return {bucket: count for bucket, count in total.items() if count}


def percentile(histogram: Histogram, share: float) -> float | None:
    """Return the seconds that a share, from 0 to 1, of the times does not exceed; None for none.

    Within its bucket, times count as spread evenly.
    """
    total = sum(histogram.values())
    if not total:
        return None
    rank = share * total
    below = 0
    for bucket in sorted(histogram):
        count = histogram[bucket]
        if below + count >= rank:
            lower_s, upper_s = bounds_of(bucket)
            return lower_s + (upper_s - lower_s) * (rank - below) / count
        below += count
    return bounds_of(max(histogram))[1]


def as_text(histogram: Histogram) -> str:
    """Return a histogram as a row keeps it: `12:5 13:40`."""
    return " ".join(f"{bucket}:{histogram[bucket]}" for bucket in sorted(histogram))


def from_text(text: str) -> dict[int, int]:
    """Return the histogram that as_text() has written."""
    pairs = (each.split(":") for each in text.split())
    return {int(bucket): int(count) for bucket, count in pairs}
