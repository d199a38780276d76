"""Schedules through the real tick: each due time once, whoever ticks, whatever is down."""

import io
import json
import random
import sys
import threading
from collections.abc import Mapping
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from typing import Any, Final

import pytest
from asgiref.sync import async_to_sync
from django.conf import settings
from django.core.management import call_command
from django.core.management.base import CommandError, SystemCheckError
from django.db import OperationalError, connection, connections
from django.db.models import QuerySet
from django.test import override_settings

from lambda_tasks import handler, operations, registry, runtime, scheduling
from lambda_tasks.core.schedules import LOOK_AHEAD, Schedule, plan
from lambda_tasks.declared_schedules import declared
from lambda_tasks.decorators import lambda_task
from lambda_tasks.errors import SingletonLockUnknown
from lambda_tasks.execution.locks import SingletonLocks
from lambda_tasks.local import LambdaContext
from lambda_tasks.models import ScheduleState, TaskRecord
from lambda_tasks.records import schedules as rows
from lambda_tasks.runtime import Runtime
from lambda_tasks.schedules import at, cron, every
from tests.app import tasks
from tests.conftest import Handle, record_of, wake_up

pytestmark = pytest.mark.django_db(transaction=True)

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
NOON = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)


class Clock:
    """The database's clock, which the test moves."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self, alias: str) -> datetime:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    moved = Clock()
    monkeypatch.setattr(rows, "read_clock", moved)
    return moved


def scheduled(**schedules: Any) -> Any:
    """Settings with these schedules of the task `add`."""
    entries = {
        name: {"task": tasks.add.name, "kwargs": {"a": 1}, **entry}
        for name, entry in schedules.items()
    }
    return override_settings(LAMBDA_TASKS_SCHEDULES=entries)


def tick() -> int:
    return async_to_sync(runtime.current().scheduler.tick)().scheduled


def due_times(name: str | None = None) -> list[datetime]:
    """The due times of all runs that were enqueued."""
    headers: list[Any] = list(TaskRecord.objects.values_list("headers", flat=True))
    return sorted(
        datetime.fromisoformat(each["lambda_tasks.scheduled_for"])
        for each in headers
        if name is None or each["lambda_tasks.schedule"] == name
    )


def minutes(*numbers: int) -> list[datetime]:
    return [NOON + number * MINUTE for number in numbers]


# Each due time once


@pytest.mark.usefixtures("queue")
def test_a_new_schedule_starts_now_and_is_enqueued_before_it_is_due(clock: Clock) -> None:
    with scheduled(minutely={"cron": "* * * * *"}):
        assert tick() == 2
        assert tick() == 0

    assert due_times() == minutes(1, 2)
    record = TaskRecord.objects.order_by("run_after").first()
    assert record is not None
    assert record.run_after == NOON + MINUTE


@pytest.mark.usefixtures("queue")
def test_ticks_a_minute_apart_enqueue_each_due_time_once(clock: Clock) -> None:
    with scheduled(minutely={"cron": "* * * * *"}, often={"every": 20}):
        for _ in range(10):
            tick()
            clock.now += MINUTE

    assert due_times("minutely") == minutes(*range(1, 12))
    assert due_times("often") == [NOON + 20 * SECOND * n for n in range(1, 34)]


@pytest.mark.usefixtures("queue")
@pytest.mark.skipif(connection.vendor == "sqlite", reason="one writer at a time")
def test_many_that_tick_at_once_enqueue_each_due_time_once(clock: Clock) -> None:
    schedules = {f"every {n}": {"every": 10 + n} for n in range(40)}
    with scheduled(**schedules):
        tick()
        for _ in range(3):
            clock.now += MINUTE
            _tick_in_threads(5)
            tick()

        found = due_times()

        with scheduled(**schedules):
            expected = sum(
                len([d for d in _multiples(10 + n) if NOON < d <= clock.now + 130 * SECOND])
                for n in range(40)
            )
    assert len(found) == expected


def _multiples(seconds: int) -> list[datetime]:
    epoch = datetime.fromtimestamp(0, UTC)
    first = (NOON - epoch) // timedelta(seconds=seconds)
    return [epoch + timedelta(seconds=seconds) * (first + n) for n in range(60)]


def _tick_in_threads(count: int) -> None:
    errors: list[BaseException] = []

    def run() -> None:
        try:
            tick()
        except BaseException as error:
            errors.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


@pytest.mark.usefixtures("queue")
def test_a_tick_that_dies_before_its_commit_is_repeated_by_the_next(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with scheduled(minutely={"cron": "* * * * *"}):
        with monkeypatch.context() as patch:
            patch.setattr("django.db.models.query.QuerySet.bulk_update", _die)
            with pytest.raises(Killed):
                tick()
        assert due_times() == []

        assert tick() == 2

    assert due_times() == minutes(1, 2)


class Killed(BaseException):
    """The end of a process in the middle of a tick."""


def _die(*args: Any, **kwargs: Any) -> None:
    raise Killed


@pytest.mark.usefixtures("queue")
def test_a_due_time_does_not_run_again_after_its_record_was_cleaned_up(clock: Clock) -> None:
    with scheduled(minutely={"cron": "* * * * *"}):
        tick()
        TaskRecord.objects.all().delete()

        assert tick() == 0


ZONES: Final = ("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe")

YEAR: Final = {
    f"{expression} in {zone}": {"cron": expression, "timezone": zone}
    for zone in ZONES
    for expression in ("30 2 * * *", "15 1,2 * * *", "*/20 2 * * 0")
}


@pytest.mark.usefixtures("queue")
def test_in_a_year_each_due_time_runs_once_however_ticks_come(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is drawn follows from the run's seed, which pytest prints."""
    begin = clock.now
    everything = {"missed": "all", "grace": 400 * 24 * 3600}
    with scheduled(**{name: entry | everything for name, entry in YEAR.items()}):
        tick()
        while clock.now < begin + timedelta(days=365):
            waits_s = [20, 60, 100, 4000, 60_000, 200_000, 400_000]
            clock.now += timedelta(seconds=random.choice(waits_s))
            for _ in range(random.randint(1, 5)):
                if random.random() < 0.1:
                    _tick_and_die(monkeypatch)
                else:
                    tick()
        tick()
        found = {name: due_times(name) for name in YEAR}
        rules = {name: each.schedule.rule for name, each in declared().items()}

    end = clock.now + LOOK_AHEAD
    for name, times in found.items():
        assert times == list(takewhile(lambda due: due <= end, rules[name].after(begin))), name


def _tick_and_die(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tick, and die before the commit, if there is anything to commit."""
    with monkeypatch.context() as patch, suppress(Killed):
        patch.setattr("django.db.models.query.QuerySet.bulk_update", _die)
        tick()


@pytest.mark.usefixtures("queue")
@pytest.mark.parametrize(
    "day", [datetime(2026, 3, 28, tzinfo=UTC), datetime(2026, 10, 24, tzinfo=UTC)]
)
def test_where_clocks_change_a_nightly_run_comes_neither_twice_nor_never(
    clock: Clock, day: datetime
) -> None:
    clock.now = day
    with scheduled(
        nightly={"cron": "30 2 * * *", "timezone": "Europe/Berlin"},
        hourly={"cron": "0 * * * *", "timezone": "Europe/Berlin"},
    ):
        for _ in range(96):
            tick()
            clock.now += HOUR / 2

    assert len(due_times("nightly")) == 2
    hours = due_times("hourly")
    assert hours == [day + HOUR * n for n in range(1, 48)]


@pytest.mark.usefixtures("queue")
def test_a_restart_delays_nothing_in_a_zone_whose_clocks_have_changed(clock: Clock) -> None:
    clock.now = datetime(2026, 8, 28, 12, 0, 30, tzinfo=UTC)
    entry = {"cron": "* * * * *", "timezone": "Europe/London"}
    with scheduled(minutely=entry):
        tick()
    clock.now += MINUTE
    restarted = Runtime()
    with closing(restarted), runtime.replace_current(restarted), scheduled(minutely=entry):
        assert tick() == 1

    first = datetime(2026, 8, 28, 12, 1, tzinfo=UTC)
    assert due_times() == [first + n * MINUTE for n in range(3)]


@pytest.mark.usefixtures("queue")
def test_a_database_that_goes_away_within_a_tick_loses_and_doubles_nothing(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "LOCKED_TOGETHER", 2)
    schedules = {f"s{n}": {"every": 60} for n in range(6)}
    calls = iter(range(100))
    write = QuerySet.bulk_update

    def write_or_fail(self: Any, *args: Any) -> int:
        if next(calls) > 0:
            raise OperationalError("the connection is closed")
        return write(self, *args)

    with scheduled(**schedules):
        with monkeypatch.context() as patch:
            patch.setattr(QuerySet, "bulk_update", write_or_fail)
            with pytest.raises(OperationalError):
                tick()
        assert len(due_times()) == 2 * 2
        assert next(calls) == 2, "no other one is tried on a database that is away"
        assert tick() == 4 * 2

    assert [due_times(name) for name in schedules] == [minutes(1, 2)] * 6


# What was missed


@pytest.mark.usefixtures("queue")
@pytest.mark.parametrize(
    ("missed", "late"), [("once", [58]), ("all", list(range(3, 59))), ("skip", [])]
)
def test_after_an_outage_what_was_missed_runs_as_the_schedule_says(
    clock: Clock, missed: str, late: list[int]
) -> None:
    with scheduled(minutely={"cron": "* * * * *", "missed": missed}):
        tick()
        clock.now += 59 * MINUTE + 30 * SECOND
        tick()

    assert due_times() == minutes(1, 2, *late, 59, 60, 61)


@pytest.mark.usefixtures("queue")
def test_what_is_older_than_the_grace_does_not_run_and_the_log_says_so(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    with scheduled(daily={"cron": "0 0 * * *", "grace": 3600}):
        tick()
        clock.now += timedelta(days=2)
        tick()

    assert due_times() == []
    assert "'daily' has missed 2 due times" in caplog.text


# Changes


@pytest.mark.usefixtures("queue")
def test_a_changed_expression_starts_now_and_sends_nothing_of_the_past(clock: Clock) -> None:
    with scheduled(report={"cron": "0 18 * * *"}):
        tick()
        clock.now += HOUR
        tick()
    clock.now += 10 * MINUTE
    with scheduled(report={"cron": "30 * * * *", "missed": "all"}):
        tick()
        clock.now += 20 * MINUTE
        tick()

    assert due_times() == [NOON + HOUR + 30 * MINUTE]


@pytest.mark.usefixtures("queue")
def test_a_changed_time_zone_sends_nothing_of_the_past(clock: Clock) -> None:
    for zone in ("Pacific/Auckland", "America/Los_Angeles", "UTC"):
        entry = {"cron": "*/10 * * * *", "timezone": zone, "missed": "all"}
        with scheduled(report=entry):
            tick()
            clock.now += 10 * MINUTE

    assert due_times() == []


@pytest.mark.usefixtures("queue")
def test_two_single_moments_at_one_time_both_run(clock: Clock) -> None:
    with scheduled(one={"at": NOON + MINUTE}, other={"at": NOON + MINUTE}):
        tick()
        clock.now += HOUR
        tick()

    assert due_times() == minutes(1, 1)


@pytest.mark.usefixtures("queue")
def test_a_moment_that_is_past_when_its_schedule_is_declared_does_not_run(clock: Clock) -> None:
    with scheduled(late={"at": NOON - MINUTE}):
        assert tick() == 0
        clock.now += HOUR
        assert tick() == 0


@pytest.mark.usefixtures("queue")
def test_two_releases_side_by_side_do_not_rewrite_each_other_at_each_tick(clock: Clock) -> None:
    old, new = scheduled(report={"cron": "0 * * * *"}), scheduled(report={"cron": "30 * * * *"})
    with old:
        tick()
    written = set()
    for _ in range(4):
        clock.now += MINUTE
        for release in (new, old):
            with release:
                tick()
            written.add(ScheduleState.objects.get().rule)

    assert written == {f"0 * * * * {settings.TIME_ZONE}"}


@pytest.mark.usefixtures("queue")
def test_a_schedule_that_vanished_from_the_code_does_not_run(clock: Clock) -> None:
    with scheduled(minutely={"cron": "* * * * *"}):
        tick()
    with override_settings(LAMBDA_TASKS_SCHEDULES={}):
        assert tick() == 0

    assert ScheduleState.objects.filter(name="minutely").exists()


@pytest.mark.usefixtures("queue")
def test_a_schedule_that_can_not_run_holds_up_no_other_and_stays_due(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    broken = {"cron": "* * * * *", "kwargs": {"a": "no number"}}
    with scheduled(broken=broken, good={"cron": "* * * * *"}):
        assert tick() == 2
        assert "The schedule 'broken' can't run" in caplog.text
    with scheduled(broken={"cron": "* * * * *"}, good={"cron": "* * * * *"}):
        assert tick() == 2

    assert due_times("broken") == minutes(1, 2)


@pytest.mark.usefixtures("queue")
def test_a_module_that_can_not_be_imported_holds_up_no_schedule_of_others(
    clock: Clock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules = [*settings.LAMBDA_TASKS_MODULES, "tests.app.broken"]
    monkeypatch.setitem(registry._state, "discovered", False)
    monkeypatch.setitem(registry._next_import, "at", 0)
    told = "The schedules of 'tests.app.broken' don't run"
    with override_settings(LAMBDA_TASKS_MODULES=modules), scheduled(good={"every": 60}):
        assert tick() == 2
        assert told in caplog.text
        assert "ZeroDivisionError" in caplog.text

        caplog.clear()
        clock.now += MINUTE
        assert tick() == 1
        assert told not in caplog.text, "it is not imported anew at each tick"

        monkeypatch.setitem(registry._next_import, "at", 0)
        tick()
        assert told in caplog.text


@pytest.mark.usefixtures("queue")
def test_a_schedule_that_fails_in_any_step_of_a_tick_holds_up_no_other(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def plan_all_but_one(schedule: Schedule, *rest: Any) -> Any:
        if schedule.name == "s3":
            raise OverflowError("date value out of range")
        return plan(schedule, *rest)

    monkeypatch.setattr(rows, "plan", plan_all_but_one)
    with scheduled(**{f"s{n}": {"every": 60} for n in range(5)}):
        assert tick() == 4 * 2

    assert "The schedule 's3' can't run; it stays due" in caplog.text


@pytest.mark.usefixtures("queue")
def test_a_task_that_raises_in_eager_mode_ends_no_tick_early(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "LOCKED_TOGETHER", 1)
    entries = {
        name: {"task": tasks.write_and_fail.name, "kwargs": {"name": name}, "at": NOON + MINUTE}
        for name in ("first", "second", "third")
    }
    with override_settings(
        LAMBDA_TASKS_SCHEDULES=entries, LAMBDA_TASKS_EAGER=True, LAMBDA_TASKS_EAGER_RAISES=True
    ):
        with pytest.raises(ValueError, match="failed after writing first"):
            tick()
        assert tick() == 0

    assert list(TaskRecord.objects.values_list("status", flat=True)) == ["FAILED"] * 3


@pytest.mark.usefixtures("queue")
def test_a_changed_start_or_end_takes_effect(clock: Clock) -> None:
    with scheduled(sale={"every": 60, "ends_at": NOON - MINUTE}):
        assert tick() == 0
    clock.now += HOUR
    with scheduled(sale={"every": 60, "ends_at": NOON + 2 * HOUR}):
        assert tick() == 2
    clock.now += 10 * MINUTE
    with scheduled(sale={"every": 60, "starts_at": NOON + 5 * HOUR}):
        assert tick() == 0

    assert ScheduleState.objects.get().next_due == NOON + 5 * HOUR


@pytest.mark.usefixtures("queue")
def test_a_clock_that_was_wrong_for_a_moment_stops_no_schedule(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    with scheduled(minutely={"cron": "* * * * *", "missed": "skip"}):
        tick()
        clock.now += timedelta(days=3650)
        tick()
        clock.now = NOON + MINUTE
        tick()

    assert "The schedule 'minutely' starts anew" in caplog.text
    assert due_times()[:3] == minutes(1, 2, 3)


# On, off, by hand


@pytest.mark.usefixtures("queue")
def test_switched_off_it_does_not_run_what_was_enqueued_ahead(clock: Clock) -> None:
    with scheduled(minutely={"cron": "* * * * *"}):
        tick()
        table, schedule = runtime.current().schedule_table, Schedule(rule=_rule("minutely"))
        assert table.switch("minutely", schedule, on=False, by="ann", reason="too loud")
        assert not table.switch("minutely", schedule, on=False, by="ann", reason="again")
        clock.now += HOUR
        assert tick() == 0
        assert table.switch("minutely", schedule, on=True, by="bob", reason="")
        assert tick() == 2

    assert set(TaskRecord.objects.values_list("status", flat=True)[2:]) == {"CANCELLED"}
    assert due_times()[2:] == minutes(61, 62)
    state = ScheduleState.objects.get()
    assert (state.changed_by, state.is_enabled) == ("bob", True)


@pytest.mark.usefixtures("queue")
def test_switched_off_it_does_not_run_what_spread_puts_off(clock: Clock) -> None:
    with scheduled(later={"every": 60, "spread": 7200}):
        for _ in range(3):
            tick()
            clock.now += MINUTE
        assert scheduling.disable_schedule("later", by="ann")

    assert set(TaskRecord.objects.values_list("status", flat=True)) == {"CANCELLED"}


def _rule(name: str) -> Any:
    return declared()[name].schedule.rule


# Runs


@pytest.mark.usefixtures("queue")
def test_a_run_knows_what_it_is_scheduled_for(handle: Handle, clock: Clock) -> None:
    task: Any = tasks.tell_schedule
    entry = {"moment": {"task": task.name, "kwargs": {}, "at": NOON + 2 * SECOND}}
    with override_settings(LAMBDA_TASKS_SCHEDULES=entry):
        tick()
        message = wake_up(TaskRecord.objects.get().id, task.name)
        assert handle(message) == []

    assert record_of(message).result == (NOON + 2 * SECOND).isoformat()


def _do() -> None:
    """Do nothing, as a task."""


@pytest.mark.usefixtures("queue")
def test_the_decorator_takes_a_cron_expression_or_several_schedules(clock: Clock) -> None:
    lambda_task(schedule="0 * * * *")(_do)
    one = declared()[f"{__name__}._do"]
    lambda_task(schedule=[every(30, name="often"), cron("0 4 * * *", name="nightly")])(_do)

    assert str(one.schedule.rule) == f"0 * * * * {settings.TIME_ZONE}"
    assert {"often", "nightly"} <= declared().keys()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: "no cron", "schedule: 'no cron' has 2 fields"),
        (lambda: 5, "schedule is 5. Use a cron expression"),
        (lambda: [every(5), every(6)], "Give each a name"),
    ],
)
def test_a_wrong_schedule_is_refused_at_the_decoration(make: Any, words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        lambda_task(schedule=make())(_do)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: every(5, missed="never"), "missed is 'never'"),  # type: ignore[arg-type]
        (lambda: every(5, overlaps="skip"), "no 'overlaps'"),  # type: ignore[call-arg]
        (lambda: at(datetime(2026, 1, 1)), "time zone"),
        (lambda: every(5, spread=-1), "spread is"),
        (lambda: every(5, pause_after_failures=0), "pause_after_failures is 0"),
        (lambda: every(float("inf")), "every is inf"),
        (lambda: every(5, grace=timedelta.max), "grace is .* 36500 days"),
        (lambda: every(5, name="x" * 256), "name is .* up to 255"),
        (lambda: every(5, name="a\0b"), "name is"),
        (lambda: every(5, kwargs={1: 2}), "kwargs is"),  # type: ignore[dict-item]
        (lambda: every(5, starts_at=NOON, ends_at=NOON - SECOND), "before starts_at"),
        (lambda: at(datetime.max.replace(tzinfo=UTC)), "outside the years 1970 to 8999"),
    ],
)
def test_a_wrong_policy_is_refused_with_the_fix(call: Any, words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        call()


def test_the_check_reports_all_mistakes_at_once() -> None:
    schedules: Mapping[str, Any] = {
        "unknown": {"task": "tests.app.tasks.nothing", "cron": "* * * * *"},
        "refused": {"task": tasks.add.name, "cron": "* * * * *", "kwargs": {"b": 1}},
        "odd": {"task": tasks.add.name, "cron": "0 0 1 * 1", "kwargs": {"a": 1}},
        "Café": {"task": tasks.add.name, "every": 60, "kwargs": {"a": 1}},
        "cafe": {"task": tasks.add.name, "every": 60, "kwargs": {"a": 1}},
    }
    with (
        override_settings(LAMBDA_TASKS_SCHEDULES=schedules),
        pytest.raises(SystemCheckError) as raised,
    ):
        call_command("check", "--tag", "lambda_tasks", "--fail-level", "WARNING")

    text = str(raised.value)
    assert "E010" in text
    assert "W012" in text
    assert all(name in text for name in schedules)
    assert "take the names 'Café', 'cafe' for one" in text


@pytest.mark.usefixtures("queue", "_warm_handler")
def test_a_tick_event_runs_the_schedules() -> None:
    with scheduled(often={"every": 5}):
        answer = handler.handler({"lambda_tasks": "tick"}, LambdaContext())

    assert answer["scheduled"] > 20


# The policies


@pytest.mark.usefixtures("queue")
@pytest.mark.parametrize(
    ("overlap", "status"), [("skip", "CANCELLED"), ("queue", "QUEUED"), ("allow", "SUCCESS")]
)
def test_a_run_meets_the_one_before_it(
    handle: Handle, clock: Clock, overlap: str, status: str
) -> None:
    task: Any = tasks.tell_schedule
    entry = {"each": {"task": task.name, "every": 60, "overlap": overlap}}
    with override_settings(LAMBDA_TASKS_SCHEDULES=entry):
        tick()
    message = wake_up(TaskRecord.objects.earliest("run_after").id, task.name)
    TaskRecord.objects.update(run_after=None)
    key = "lambda_tasks.schedule_lock.each"

    with runtime.current().locks.hold(key, timeout_s=60):
        handle(message)

    record = record_of(message)
    assert record.status == status
    is_skipped = overlap == "skip"
    assert (record.exception_class == "lambda_tasks.errors.RunSkipped") == is_skipped
    assert ("The schedule 'each' has skipped this run" in (record.traceback or "")) == is_skipped
    assert ScheduleState.objects.get().n_skipped == is_skipped
    with override_settings(LAMBDA_TASKS_SCHEDULES=entry):
        assert (" 1 skipped" in command("schedules")) == is_skipped
        assert json.loads(command("schedules", "list", "--json"))["n_skipped"] == is_skipped


@pytest.mark.usefixtures("queue")
def test_while_the_lock_can_not_be_asked_no_run_is_skipped(
    handle: Handle, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = tasks.aadd  # in this process, where the lock is replaced
    entry = {"each": {"task": task.name, "every": 60, "overlap": "skip", "kwargs": {"a": 1}}}
    with override_settings(LAMBDA_TASKS_SCHEDULES=entry):
        tick()
    message = wake_up(TaskRecord.objects.earliest("run_after").id, task.name)
    TaskRecord.objects.update(run_after=None)
    monkeypatch.setattr(SingletonLocks, "hold", _redis_is_away)

    handle(message)

    assert record_of(message).status == "QUEUED"
    assert ScheduleState.objects.get().n_skipped == 0


def _redis_is_away(self: SingletonLocks, key: str, *, timeout_s: float) -> Any:
    raise SingletonLockUnknown(f"Redis can't be asked for {key}.", delay=15)


@pytest.mark.usefixtures("queue")
def test_a_backfill_skips_none_of_its_runs(clock: Clock) -> None:
    with scheduled(hourly={"cron": "0 * * * *", "overlap": "skip"}):
        scheduling.backfill_schedule("hourly", NOON - 3 * HOUR, NOON)

    headers: list[Any] = list(TaskRecord.objects.values_list("headers", flat=True))
    assert [each["lambda_tasks.overlap"] for each in headers] == ["queue"] * 4


@pytest.mark.usefixtures("queue")
def test_a_schedule_whose_runs_fail_is_switched_off_and_the_log_says_so(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    with scheduled(flaky={"cron": "* * * * *", "pause_after_failures": 3}):
        tick()
        clock.now += 2 * MINUTE
        tick()
        TaskRecord.objects.update(status="FAILED", look_at=None)
        clock.now += 90 * SECOND
        assert tick() == 0
        state = ScheduleState.objects.get()
        assert (state.is_enabled, state.changed_by) == (False, "lambda_tasks")
        assert "'flaky' is switched off: its last 3 runs have failed" in caplog.text

        scheduling.enable_schedule("flaky", by="ann")
        assert tick() == 1, "failures from before count no more"


@pytest.mark.usefixtures("queue")
@pytest.mark.parametrize(
    ("last", "is_on"),
    [
        (["FAILED", "FAILED", "RUNNING", "QUEUED"], False),
        (["FAILED", "CANCELLED", "FAILED", "RUNNING"], False),
        (["FAILED", "SUCCESS", "FAILED", "RUNNING"], True),
        (["SUCCESS", "FAILED", "RUNNING", "QUEUED"], True),
    ],
)
def test_failures_in_a_row_are_those_of_runs_that_have_ended(
    clock: Clock, last: list[str], is_on: bool
) -> None:
    with scheduled(flaky={"cron": "* * * * *", "pause_after_failures": 2}):
        for _ in range(3):
            tick()
            clock.now += MINUTE
        ids = TaskRecord.objects.order_by("run_after").values_list("id", flat=True)
        for id, status in zip(list(ids), last, strict=False):
            TaskRecord.objects.filter(id=id).update(status=status)
        clock.now += MINUTE
        tick()

    assert ScheduleState.objects.get().is_enabled == is_on


@pytest.mark.usefixtures("queue")
def test_spread_puts_runs_off_by_the_same_share_each_time(clock: Clock) -> None:
    with scheduled(**{f"s{n}": {"cron": "* * * * *", "spread": 40} for n in range(20)}):
        tick()

    offsets: dict[str, set[float]] = {}
    for record in TaskRecord.objects.all():
        assert record.headers is not None
        assert record.run_after is not None
        due = datetime.fromisoformat(record.headers["lambda_tasks.scheduled_for"])
        seconds = (record.run_after - due).total_seconds()
        offsets.setdefault(record.headers["lambda_tasks.schedule"], set()).add(seconds)
    assert all(len(each) == 1 for each in offsets.values())
    assert len({min(each) for each in offsets.values()}) > 15
    assert all(0 <= min(each) < 40 for each in offsets.values())


# By hand


def command(*arguments: str) -> str:
    out = io.StringIO()
    call_command("lambda_tasks", *arguments, stdout=out)
    return out.getvalue()


SPAN = ("2026-05-01T00:00", "2026-05-01T05:00")
"""A span with six full hours."""


def code_of(*arguments: str) -> int:
    """Run the command in this process; return its exit code."""
    try:
        command(*arguments)
    except SystemExit as ended:
        assert isinstance(ended.code, int)
        return ended.code
    return 0


@pytest.mark.usefixtures("queue")
def test_the_command_lists_schedules_for_people_and_for_machines(clock: Clock) -> None:
    assert code_of("schedules") == 3
    with scheduled(hourly={"cron": "0 * * * *"}), override_settings(TIME_ZONE="Europe/Berlin"):
        [line] = command("schedules").splitlines()
        lists = [command("schedules", *words) for words in (["--json"], ["list", "--json"])]

    assert line.startswith("hourly: 0 * * * * Europe/Berlin, tests.app.tasks.add, next 20")
    assert ":00:00+0" in line  # the offset from UTC
    assert lists[0] == lists[1]
    listed = json.loads(lists[0])
    assert (listed["kind"], listed["name"], listed["is_enabled"]) == ("schedule", "hourly", True)
    assert all("T" in due and due.endswith("+00:00") for due in listed["next_due"])


@pytest.mark.usefixtures("queue")
def test_the_command_switches_and_runs_several_at_a_time(clock: Clock) -> None:
    with scheduled(hourly={"cron": "0 * * * *"}, daily={"cron": "0 4 * * *"}):
        off = ["schedules", "disable", "daily", "hourly", "--by", "ann"]
        assert "daily would be off." in command(*off, "--dry-run")
        assert command(*off).splitlines() == ["daily is off.", "hourly is off."]
        assert command("schedules").count("off, by ann") == 2
        assert code_of(*off) == 3
        assert code_of(*off, "--empty-exit-code", "0") == 0
        [on, _] = command("schedules", "enable", "hourly", "daily", "--json").splitlines()
        assert "would be enqueued" in command("schedules", "run", "hourly", "--dry-run")
        [ran, _] = command("schedules", "run", "hourly", "daily", "--json").splitlines()
        with pytest.raises(CommandError, match=r"'weekly'\. The code declares 'daily', 'hourly'"):
            command("schedules", "run", "weekly")

    about = {"name": "hourly", "is_enabled": True, "is_changed": True, "dry_run": False}
    assert json.loads(on) == {"kind": "switched", **about}
    assert json.loads(ran)["schedule"] == "hourly"
    assert TaskRecord.objects.count() == 2


@pytest.mark.usefixtures("queue")
def test_the_command_backfills_a_span_once(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    backfill = ["schedules", "backfill", "hourly", *SPAN]
    with scheduled(hourly={"cron": "0 * * * *"}):
        assert "6 runs would be enqueued." in command(*backfill, "--dry-run")
        *due, summary = command(*backfill, "--dry-run", "--json").splitlines()
        assert [json.loads(each)["kind"] for each in due] == ["backfilled"] * 6
        assert json.loads(summary)["done"] == 6
        monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
        with pytest.raises(CommandError, match="Add --yes"):
            command(*backfill)
        assert not TaskRecord.objects.exists()
        assert "6 runs were enqueued." in command(*backfill, "--yes")
        assert code_of(*backfill, "--yes") == 3

    assert TaskRecord.objects.count() == 6


@pytest.mark.usefixtures("queue")
def test_a_backfill_does_not_make_the_system_unwell(clock: Clock) -> None:
    async_to_sync(runtime.current().relay_shifts.take)(always=True)
    with scheduled(hourly={"cron": "0 * * * *"}):
        command("schedules", "backfill", "hourly", *SPAN, "--yes")

    health = operations.health()

    assert (health.status, health.stats.total.waiting) == ("ok", 6)
    assert operations.stuck() == []


@pytest.mark.usefixtures("queue")
@pytest.mark.parametrize(
    "words",
    [["list"], ["disable", "hourly"], ["enable", "hourly"], ["run", "hourly"],
     ["backfill", "hourly", *SPAN, "--yes"]],
)  # fmt: skip
def test_each_action_takes_djangos_options(words: list[str]) -> None:
    with scheduled(hourly={"cron": "0 * * * *"}):
        options = ["--traceback", "--no-color", "-v", "0", "--empty-exit-code", "0"]
        said = command("schedules", *words, *options)

    assert said == "" or words == ["list"]


@pytest.mark.usefixtures("queue")
def test_with_an_unknown_name_among_several_nothing_is_done() -> None:
    with scheduled(hourly={"cron": "0 * * * *"}):
        for action in ("disable", "run"):
            with pytest.raises(CommandError, match="'weekly'") as raised:
                command("schedules", action, "hourly", "weekly")
            assert raised.value.returncode == 2
        assert "off" not in command("schedules")

    assert not TaskRecord.objects.exists()


@pytest.mark.usefixtures("queue")
@pytest.mark.parametrize(
    ("end", "words"),
    [("2026-05-01T12:00", "more than 1,000 due times.*end at 2026-05-01 "),
     ("2026-04-01T00:00", "is before the start")],
)  # fmt: skip
def test_a_backfill_that_would_leave_something_out_is_refused(end: str, words: str) -> None:
    with scheduled(often={"every": 10}), pytest.raises(CommandError, match=words):
        command("schedules", "backfill", "often", "2026-05-01T00:00", end, "--yes")

    assert not TaskRecord.objects.exists()


def test_a_span_that_is_no_span_is_told_with_an_example() -> None:
    with pytest.raises(CommandError, match=r"'yesterday' is not a date.* such as 2026-05-01T08:00"):
        command("schedules", "backfill", "often", "yesterday", "2026-05-01")


@pytest.mark.usefixtures("queue")
def test_the_command_ticks() -> None:
    with scheduled(often={"every": 10}):
        assert command("tick").startswith("13 runs were enqueued by schedules, 0 messages were")


@pytest.mark.usefixtures("queue")
def test_a_django_task_can_be_scheduled(clock: Clock) -> None:
    entry = {"task": "tests.app.django_tasks.add", "every": 60, "kwargs": {"a": 1, "b": 2}}
    with override_settings(LAMBDA_TASKS_SCHEDULES={"django's": entry}):
        assert tick() == 2

    assert set(TaskRecord.objects.values_list("backend", flat=True)) == {"default"}
