"""The spans of time, and the sums of figures."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lambda_tasks.core.figures import (
    KEPT,
    MIN_KEEP_DAYS,
    SPANS,
    Range,
    RunFigure,
    release_of,
    start_of,
    starts,
)

MOMENTS = st.datetimes(
    datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(timezone(timedelta(hours=5.5)))
)
FIGURES = st.builds(
    RunFigure,
    n=st.integers(0, 9),
    wait_s=st.integers(0, 99).map(float),
    run_s=st.integers(0, 99).map(float),
    waits=st.dictionaries(st.integers(0, 9), st.integers(1, 9)),
    runs=st.dictionaries(st.integers(0, 9), st.integers(1, 9)),
    last_end=MOMENTS,
)


@given(MOMENTS, st.sampled_from(SPANS))
def test_each_moment_is_in_one_span_which_is_in_one_of_each_longer_length(
    moment: datetime, minutes: int
) -> None:
    start = start_of(moment, minutes)

    assert start <= moment < start + timedelta(minutes=minutes)
    assert start.tzinfo is UTC
    for longer in SPANS:
        if longer >= minutes:
            assert start_of(start, longer) == start_of(moment, longer)


@given(MOMENTS, st.sampled_from(Range))
def test_the_spans_of_a_range_follow_each_other_from_its_start_to_now(
    now: datetime, range: Range
) -> None:
    found = list(starts(now - range.length, now, range.step))

    assert found[0] <= now - range.length < found[0] + timedelta(minutes=range.step)
    assert found[-1] < now <= found[-1] + timedelta(minutes=range.step)
    assert len(found) in (range.length // timedelta(minutes=range.step) + more for more in (0, 1))


@pytest.mark.parametrize("range", Range)
def test_figures_are_kept_for_as_long_as_a_page_shows_them(range: Range) -> None:
    longest = dict(KEPT) | {SPANS[-1]: timedelta(days=MIN_KEEP_DAYS)}

    for minutes in (range.step, range.coarse):
        assert longest[minutes] >= range.length + timedelta(minutes=minutes)


@given(FIGURES, FIGURES)
def test_what_a_figure_has_beyond_another_adds_up_to_it(stored: RunFigure, now: RunFigure) -> None:
    assert RunFigure.total([stored, now.beyond(stored)]) == RunFigure.total(
        [now, RunFigure(last_end=stored.last_end)]
    )


@pytest.mark.parametrize(
    ("worker_ids", "release"),
    [
        (None, None),
        ("", None),
        ("host:7\n", None),
        ("host:7 v1\nhost:8 v2\n", "v2"),
        ("2026/11/27/[$LATEST]3f2a\n", None),
        ("2026/11/27/[42]3f2a\n", "42"),
        ("2026/11/27/[42]3f2a v7\n", "v7"),
    ],
)
def test_the_id_of_the_last_worker_tells_the_release(
    worker_ids: str | None, release: str | None
) -> None:
    assert release_of(worker_ids) == release
