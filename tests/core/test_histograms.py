"""Histograms of seconds: a percentile is never far off, and they add up."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from lambda_tasks.core.histograms import (
    LONGEST_S,
    SHORTEST_S,
    added,
    as_text,
    bounds_of,
    bucket_of,
    from_text,
    percentile,
)

SECONDS = st.floats(0, 10 * LONGEST_S)


@given(SECONDS)
def test_a_time_is_within_the_bounds_of_its_bucket(seconds: float) -> None:
    lower_s, upper_s = bounds_of(bucket_of(seconds))

    bounded_s = min(seconds, LONGEST_S)
    assert lower_s * (1 - 1e-9) <= bounded_s <= upper_s * (1 + 1e-9)
    assert upper_s <= max(lower_s * 1.2, SHORTEST_S)


def test_a_negative_time_of_a_clock_that_jumped_counts_as_none() -> None:
    assert bucket_of(-5.0) == bucket_of(0.0) == 0


@given(st.lists(st.floats(SHORTEST_S, LONGEST_S), min_size=2, max_size=50))
def test_a_percentile_is_at_most_a_bucket_off(times: list[float]) -> None:
    histogram = Counter(map(bucket_of, times))

    found = percentile(histogram, 0.95)

    assert found is not None
    exact = sorted(times)[-(-95 * len(times) // 100) - 1]
    assert exact / 1.2 <= found <= exact * 1.2


@given(st.lists(SECONDS, min_size=1), st.floats(0, 1), st.floats(0, 1))
def test_a_higher_percentile_is_never_lower(times: list[float], one: float, other: float) -> None:
    histogram = Counter(map(bucket_of, times))
    low, high = (percentile(histogram, share) for share in sorted((one, other)))

    assert low is not None
    assert high is not None
    assert low <= high


def test_without_times_there_is_no_percentile() -> None:
    assert percentile({}, 0.5) is None


@given(st.lists(st.lists(SECONDS)))
def test_histograms_add_up_in_any_parts(parts: list[list[float]]) -> None:
    together = Counter(bucket_of(each) for part in parts for each in part)

    assert added(Counter(map(bucket_of, part)) for part in parts) == together


@given(st.dictionaries(st.integers(0, 120), st.integers(1)))
def test_a_row_keeps_a_histogram_as_it_is(histogram: dict[int, int]) -> None:
    assert from_text(as_text(histogram)) == histogram
