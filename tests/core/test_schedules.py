"""When a schedule is due: laws over random rules, zones and ticks, and the cases that surprise."""

from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise, takewhile
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lambda_tasks.core.schedules import (
    LOOK_AHEAD,
    MAX_COUNTED,
    MAX_MISSED,
    ON_TIME,
    Cron,
    Every,
    Once,
    Rule,
    Schedule,
    ambiguity,
    due_between,
    first_due,
    make_cron,
    make_every,
    plan,
)

ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"]
EXPRESSIONS = [
    "* * * * *", "*/5 * * * *", "30 2 * * *", "15 1,2 * * *", "0 0 1 * *", "0 12 * * 1-5",
    "*/20 2 * * *", "45 1 * * 0",
]  # fmt: skip
YEAR = timedelta(days=365)
MINUTE = timedelta(minutes=1)

moments = st.datetimes(datetime(2025, 1, 1), datetime(2027, 1, 1), timezones=st.just(UTC))
crons = st.builds(Cron, st.sampled_from(EXPRESSIONS), st.sampled_from(ZONES))
everies = st.builds(Every, st.timedeltas(timedelta(seconds=1), timedelta(days=3)))
rules: st.SearchStrategy[Rule] = st.one_of(crons, everies, st.builds(Once, moments))


def at(text: str, zone: str = "Europe/Berlin") -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)


# Rules


@given(rule=rules, moment=moments)
@settings(deadline=None)
def test_due_times_only_go_up_and_are_the_same_backwards(rule: Rule, moment: datetime) -> None:
    found = list(islice(rule.after(moment), 20))

    assert all(earlier < later for earlier, later in pairwise([moment, *found]))
    if found:
        backwards = list(islice(rule.until(found[-1]), len(found)))
        assert backwards == found[::-1]


@given(rule=rules, moment=moments)
@settings(deadline=None)
def test_a_moment_is_either_after_or_until(rule: Rule, moment: datetime) -> None:
    last, following = next(rule.until(moment), None), next(rule.after(moment), None)

    assert last is None or last <= moment
    assert following is None or following > moment
    if last is not None and following is not None:
        assert next(rule.after(last)) == following


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("expression", [*EXPRESSIONS, "30 * * * *", "*/20 1-3 * * *"])
def test_over_a_year_both_directions_agree_from_wherever_they_start(
    zone: str, expression: str
) -> None:
    rule = Cron(expression, zone)
    for begin, end in _spans(zone, is_dense=expression.startswith(("* ", "*/5"))):
        _assert_both_directions_agree(rule, begin, end)


def _assert_both_directions_agree(rule: Cron, begin: datetime, end: datetime) -> None:
    forward = list(takewhile(lambda due: due <= end, rule.after(begin)))

    assert forward == list(takewhile(lambda due: due > begin, rule.until(end)))[::-1]
    assert all(next(rule.after(due)) == later for due, later in pairwise(forward))


def _spans(zone: str, *, is_dense: bool) -> list[tuple[datetime, datetime]]:
    """A year; of what is due every few minutes, the days about each change of clocks in it."""
    begin = datetime(2026, 3, 1, tzinfo=UTC)
    if not is_dense:
        return [(begin, begin + YEAR)]
    days = [begin + timedelta(days=day) for day in range(YEAR.days)]
    offsets = pairwise(day.astimezone(ZoneInfo(zone)).utcoffset() for day in days)
    changes = [day for day, (before, after) in zip(days, offsets, strict=False) if before != after]
    assert len(changes) == (0 if zone == "UTC" else 2)
    return [(day - timedelta(days=1), day + timedelta(days=2)) for day in changes or days[:1]]


def test_where_clocks_change_by_half_an_hour_nothing_is_left_out() -> None:
    rule = make_cron("*/20 2 * * 0", "Australia/Lord_Howe")
    day = at("2026-04-05 00:00", "Australia/Lord_Howe")

    found = due_between(Schedule(rule=rule), day, day + timedelta(hours=6))

    assert found == [
        at(f"2026-04-05 02:{minute}", "Australia/Lord_Howe") for minute in ("00", "20", "40")
    ]


def test_a_time_that_does_not_exist_is_due_at_the_first_that_does() -> None:
    rule = make_cron("30 2 * * *", "Europe/Berlin")

    found = due_between(Schedule(rule=rule), at("2026-03-28 12:00"), at("2026-03-30 12:00"))

    assert found == [at("2026-03-29 03:00"), at("2026-03-30 02:30")]


def test_a_time_that_exists_twice_is_due_once() -> None:
    rule = make_cron("30 2 * * *", "Europe/Berlin")

    found = due_between(Schedule(rule=rule), at("2026-10-24 12:00"), at("2026-10-26 12:00"))

    assert len(found) == 2


def test_every_counts_real_seconds_over_a_change_of_clocks() -> None:
    found = list(islice(Every(timedelta(hours=6)).after(at("2026-10-24 12:00")), 12))

    assert {later - earlier for earlier, later in pairwise(found)} == {timedelta(hours=6)}


# Ticks


@given(
    rule=rules,
    start=moments,
    waits=st.lists(st.timedeltas(timedelta(seconds=1), timedelta(seconds=125)), max_size=30),
    missed=st.sampled_from(["once", "all", "skip"]),
)
@settings(deadline=None)
def test_ticks_in_time_enqueue_each_due_time_once_and_before_it_is_due(
    rule: Rule, start: datetime, waits: list[timedelta], missed: Any
) -> None:
    schedule = Schedule(rule=rule, missed=missed)
    now, last_due = start, start
    found: list[datetime] = []
    for wait in [timedelta(0), *waits]:
        now += wait
        made = plan(schedule, last_due, now)
        assert all(due > now - ON_TIME for due in made.due)
        assert made.last_due >= last_due
        assert made.n_missed == 0
        found += made.due
        last_due = made.last_due

    assert found == due_between(schedule, start + timedelta(microseconds=1), now + LOOK_AHEAD)


@given(
    rule=st.one_of(crons, everies),
    start=moments,
    pauses=st.lists(st.timedeltas(timedelta(0), timedelta(hours=5)), min_size=1, max_size=6),
    missed=st.sampled_from(["once", "all", "skip"]),
    grace=st.timedeltas(MINUTE * 2, timedelta(days=1)),
)
@settings(deadline=None)
def test_after_a_pause_what_was_missed_runs_as_the_schedule_says(
    rule: Rule, start: datetime, pauses: list[timedelta], missed: Any, grace: timedelta
) -> None:
    schedule = Schedule(rule=rule, missed=missed, grace=grace)
    now, last_due = start, start
    for pause in pauses:
        now += pause
        all_due = due_between(schedule, last_due + timedelta(microseconds=1), now + LOOK_AHEAD)
        late = [due for due in all_due if due <= now - ON_TIME]

        made = plan(schedule, last_due, now)

        on_time = all_due[len(late) :]
        kept = {"once": late[-1:], "all": late[-MAX_MISSED:], "skip": []}[missed]
        kept = [due for due in kept if due >= now - grace]
        if len(all_due) < MAX_COUNTED:
            assert list(made.due) == kept + on_time
            assert made.n_missed == len(late) - len(kept)
        assert made.next_due is None or made.next_due > made.last_due
        last_due = made.last_due


def test_a_schedule_neither_begins_before_its_start_nor_goes_on_after_its_end() -> None:
    start, end = at("2026-05-01 12:00"), at("2026-05-01 12:10")
    schedule = Schedule(rule=Every(MINUTE), starts_at=start, ends_at=end, missed="all")

    found: list[datetime] = []
    last_due = start - timedelta(hours=1)
    for minute in range(-60, 60):
        made = plan(schedule, last_due, start + minute * MINUTE)
        found += made.due
        last_due = made.last_due

    assert found == [start + minute * MINUTE for minute in range(11)]
    assert made.next_due is None
    assert first_due(schedule, start - YEAR) == start


def test_two_moments_of_one_time_are_two_schedules() -> None:
    moment = at("2026-05-01 12:00")
    plans = [plan(Schedule(rule=Once(moment), name=name), moment - YEAR, moment) for name in "ab"]

    assert [each.due for each in plans] == [(moment,), (moment,)]


# Checks


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("0 0 30 2 *", "'0 0 30 2 \\*'"),
        ("0 12 * * ? *", "six fields of Amazon EventBridge. Use cron's five: '0 12 \\* \\* \\*'"),
        ("0 12 ?", "has 3 fields. A cron expression has five"),
        ("0 12 ? * 2-6 *", "cron's five: '0 12 \\* \\* 1-5'"),
        ("* * *", "has 3 fields"),
        ("61 * * * *", "no cron expression: Bad minute"),
    ],
)
def test_an_expression_that_is_wrong_is_refused_with_the_fix(expression: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make_cron(expression, "UTC")


def test_an_unknown_zone_is_refused_with_the_fix() -> None:
    with pytest.raises(ValueError, match=r"'Berlin' is no time zone\. Use a name of the IANA"):
        make_cron("* * * * *", "Berlin")


def test_less_than_a_second_is_refused() -> None:
    with pytest.raises(ValueError, match="Use a second or more"):
        make_every(timedelta(milliseconds=500), None)


@pytest.mark.parametrize(
    ("expression", "word"),
    [("0 0 1 * *", None), ("0 0 * * 1", None), ("0 0 1 * 1", " or "), ("0 0 */2 * 1", " and ")],
)
def test_day_fields_that_libraries_read_differently_are_told(
    expression: str, word: str | None
) -> None:
    told = ambiguity(make_cron(expression, "UTC"))

    assert told is None if word is None else word in (told or "")
