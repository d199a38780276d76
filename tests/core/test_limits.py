"""Who gets a place, and when a run may begin: decisions, compared with a plain model."""

import math
import uuid
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lambda_tasks.core.limits import Asking, Held, Pace, Rate, assign, free_numbers, moments

IDS = [uuid.UUID(int=n) for n in range(8)]

helds = st.lists(
    st.builds(
        Held,
        number=st.integers(0, 5),
        by=st.sampled_from(IDS),
        is_live=st.booleans(),
    ),
    unique_by=(lambda each: each.number, lambda each: each.by),
)
wanteds = st.lists(st.sampled_from(IDS), unique=True)


@given(wanteds, helds, st.integers(1, 5))
def test_places_are_given_like_seats_to_a_line(
    wanted: list[UUID], held: list[Held], limit: int
) -> None:
    given = assign(wanted, held, limit)

    seats = {each.number: each.by for each in held if each.is_live}
    for id in wanted:  # each takes its own seat, or else the first free one, if not all are taken
        mine = [number for number, by in seats.items() if by == id and number < limit]
        if mine:
            assert given[id] == mine[0]
        elif len(seats) < limit:
            number = min(set(range(limit)) - seats.keys())
            seats[number] = id
            assert given[id] == number
        else:
            assert id not in given
    assert given.keys() <= set(wanted)


@given(st.sets(st.integers(0, 5)), st.integers(1, 5))
def test_free_places_and_those_in_use_are_never_more_than_the_limit(
    live: set[int], limit: int
) -> None:
    free = free_numbers(live, limit)

    assert not live & set(free)
    assert len(live) + len(free) <= max(limit, len(live))
    assert all(0 <= number < limit for number in free)


@pytest.mark.parametrize(
    ("text", "interval"),
    [("1/s", 1), ("10/s", 0.1), ("10/m", 6), ("1/h", 3600), ("2/d", 43200), ("100/s", 0.01)],
)
def test_a_rate_is_a_start_in_each_interval(text: str, interval: float) -> None:
    assert Rate.parse(text) == Rate(interval)


@pytest.mark.parametrize(
    "text",
    ["", "10", "10/x", "0/s", "-1/s", "1.5/s", "10/ s", "10/s ", "\uff11/s", 10, None, "1/1/s"],
)
def test_a_rate_that_is_none_is_refused_with_the_ones_that_are(text: object) -> None:
    with pytest.raises(ValueError, match=r'is no rate. Use "10/s", "10/m", "10/h" or "10/d"'):
        Rate.parse(text)


@given(
    st.floats(0, 1e4),
    st.sampled_from(["10/s", "7/m", "3/h"]),
    st.lists(st.one_of(st.just(math.inf), st.floats(0, 1e5)), max_size=8),
)
def test_moments_are_one_interval_apart_and_who_would_be_too_late_leaves_them_to_the_next(
    free_s: float, text: str, untils: list[float]
) -> None:
    pace = Pace("a", Rate.parse(text))
    asking = [Asking(id, (pace,), until) for id, until in zip(IDS, untils, strict=False)]

    given = moments(asking, {pace: free_s})

    next_s = free_s
    for each in asking:
        if next_s < each.until_s:
            assert given.pop(each.id) == pytest.approx(next_s)
            next_s += pace.rate.interval_s
    assert not given


def test_a_moment_of_two_paces_is_that_of_the_slower_one() -> None:
    fast, slow = Pace("fast", Rate(1)), Pace("slow", Rate(60))

    given = moments([Asking(id, (fast, slow)) for id in IDS[:3]], {fast: 5, slow: 0})

    assert list(given.values()) == [5, 60, 120]
