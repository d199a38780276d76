"""The figures behind the pages: what the tick counts, what is still broken, what pages ask."""

import logging
import time
import uuid
from datetime import datetime, timedelta
from typing import Any, Final

import pytest
from asgiref.sync import async_to_sync
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils.timezone import now

from lambda_tasks import conf, operations, runtime
from lambda_tasks.core.figures import DAY, HOUR, MINUTE, SPANS, TEN_MINUTES, start_of
from lambda_tasks.core.histograms import from_text
from lambda_tasks.declared_schedules import find_declared
from lambda_tasks.errors import LambdaTasksError
from lambda_tasks.local import LocalSqs
from lambda_tasks.models import ErrorFigures, RunFigures, ScheduleState, TaskError, TaskRecord
from lambda_tasks.operations import dead_letter_counts, figures
from lambda_tasks.operations.figures import Range
from lambda_tasks.records import rollups
from tests.app import tasks
from tests.conftest import PATIENCE_S, Handle, body, record_of, wait_for, wake_up

pytestmark = pytest.mark.django_db(transaction=True)

SECOND: Final = timedelta(seconds=1)
KEPT_FOR: Final = timedelta(days=90)
ADD: Final = tasks.add.name
TRACEBACK: Final = """Traceback (most recent call last):
  File "/var/task/shop/tasks.py", line 12, in charge
    pay(order)
shop.Refused: order {number} was refused
"""


def tick() -> None:
    """Count what has ended, as a tick does, however slow the machine is."""
    rollups.roll_up(KEPT_FOR, enough_s=3600.0)


def minutes_ago(minutes: float) -> datetime:
    """The middle of a past minute, so that a test is in it, however long it takes."""
    return start_of(now() - timedelta(minutes=minutes), MINUTE) + 30 * SECOND


def ended(
    at: datetime, status: str = "SUCCESS", *, wait_s: float = 1.0, run_s: float = 2.0, **fields: Any
) -> TaskRecord:
    """A record that ended then, after it has waited and run for so long."""
    id = fields.pop("id", None) or uuid.uuid4()
    start = at - run_s * SECOND
    return TaskRecord.objects.create(
        **{
            "id": id,
            "root_id": id,
            "task_name": ADD,
            "kwargs": {},
            "status": status,
            "enqueued_at": start - wait_s * SECOND,
            "start_time": start,
            "end_time": at,
            **fields,
        }
    )


def failed(at: datetime, number: int = 7, **fields: Any) -> TaskRecord:
    """A record of a run that failed then, as the end of a run writes it."""
    from lambda_tasks.core.fingerprints import fingerprint

    traceback = TRACEBACK.format(number=number)
    return ended(
        at,
        "FAILED",
        **{
            "exception_class": "shop.Refused",
            "traceback": traceback,
            "error_id": fingerprint("shop.Refused", traceback).id,
            "broken_since": at,
            **fields,
        },
    )


def counted(minutes: int, task_name: str = ADD) -> dict[tuple[datetime, str], int]:
    """The counts by span and status."""
    rows = RunFigures.objects.filter(minutes=minutes, task_name=task_name)
    return {(row.start, row.status): row.n for row in rows}


# What the tick counts


def test_a_tick_counts_each_end_in_its_minute_ten_minutes_hour_and_day() -> None:
    at = minutes_ago(10)
    for _ in range(3):
        ended(at)
    ended(at, "CANCELLED", start_time=None)
    ended(at, queue="other", task_name="shop.tasks.other")

    tick()

    for minutes in SPANS:
        start = start_of(at, minutes)
        assert counted(minutes) == {(start, "SUCCESS"): 3, (start, "CANCELLED"): 1}
        assert counted(minutes, "shop.tasks.other") == {(start, "SUCCESS"): 1}
        in_all = RunFigures.objects.filter(minutes=minutes, task_name="")
        assert sorted(in_all.values_list("queue", "status", "n")) == [
            ("default", "CANCELLED", 1),
            ("default", "SUCCESS", 3),
            ("other", "SUCCESS", 1),
        ]


def test_waits_and_runs_are_summed_and_counted_in_buckets() -> None:
    at = minutes_ago(10)
    ended(at, wait_s=0.5, run_s=4.0)
    ended(at, wait_s=60.0, run_s=4.1)
    called_at = at - timedelta(hours=3)
    ended(at, run_s=4.0, enqueued_at=called_at, run_after=at - 10 * SECOND)
    ended(at, enqueued_at=None)  # as django-lambda-tasks has left it
    ended(at, run_s=-1.0, wait_s=-1.0)  # a clock has jumped

    tick()

    row = RunFigures.objects.get(minutes=MINUTE, task_name=ADD)
    assert row.n == 5
    assert row.wait_s == pytest.approx(0.5 + 60 + 6, abs=0.1)
    assert row.run_s == pytest.approx(4 + 4.1 + 4 + 2, abs=0.1)
    assert sum(from_text(row.waits).values()) == 4
    assert sum(from_text(row.runs).values()) == 5
    assert row.last_end == at


def test_what_ended_without_a_start_is_in_no_histogram() -> None:
    ended(minutes_ago(10), "CANCELLED", start_time=None)

    tick()

    row = RunFigures.objects.get(minutes=MINUTE, task_name=ADD)
    assert (row.n, row.waits, row.runs, row.wait_s, row.run_s) == (1, "", "", 0, 0)


def test_buckets_are_those_of_the_core() -> None:
    from lambda_tasks.core.histograms import bucket_of

    times = [0.0, 0.0005, 0.003, 0.02, 0.7, 1.3, 59.0, 4000.0, 90_000.0, 2e7]
    for run_s in times:
        ended(minutes_ago(10), run_s=run_s)

    tick()

    row = RunFigures.objects.get(minutes=MINUTE, task_name=ADD)
    assert from_text(row.runs).keys() == {bucket_of(each) for each in times}


def test_a_tick_that_runs_twice_counts_nothing_twice() -> None:
    ended(minutes_ago(3))
    failed(minutes_ago(2))

    for _ in range(3):
        tick()

    assert sum(counted(MINUTE).values()) == sum(counted(DAY).values()) == 2
    assert ErrorFigures.objects.get(minutes=DAY).failed == 1


def test_an_end_that_becomes_visible_late_is_counted_by_the_next_tick() -> None:
    at = minutes_ago(3)
    ended(at)
    tick()

    ended(at)
    tick()

    for minutes in SPANS:
        assert counted(minutes) == {(start_of(at, minutes), "SUCCESS"): 2}


def test_a_tick_that_dies_is_made_up_for_by_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for minutes in (9, 8, 7):
        ended(minutes_ago(minutes))
    add, added = rollups._add, []

    def die_at_the_second(minute: Any) -> None:
        added.append(minute)
        if len(added) == 2:
            raise SystemExit
        add(minute)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(rollups, "_add", die_at_the_second)
        tick()
    assert sum(counted(DAY).values()) == 1
    tick()

    assert sum(counted(MINUTE).values()) == sum(counted(DAY).values()) == 3


def test_a_minute_is_added_to_all_spans_or_to_none(monkeypatch: pytest.MonkeyPatch) -> None:
    ended(minutes_ago(9))
    failed(minutes_ago(9))
    upsert, upserted = rollups._upsert, []

    def die_between(rows: Any) -> None:
        if rows and isinstance(rows[0], ErrorFigures):
            raise SystemExit
        upsert(rows)
        upserted.append(rows)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(rollups, "_upsert", die_between)
        tick()

    assert any(isinstance(each, RunFigures) for rows in upserted for each in rows)
    assert not RunFigures.objects.exists()


def test_a_record_that_is_retried_meanwhile_stays_counted(queue: str) -> None:
    at = minutes_ago(3)
    lost = failed(at)
    tick()

    operations.retry(ids=[lost.id])
    tick()

    assert counted(MINUTE) == {(start_of(at, MINUTE), "FAILED"): 1}


def test_a_tick_goes_on_where_the_last_one_ran_out_of_time() -> None:
    for minutes in (9, 8, 7):
        ended(minutes_ago(minutes))

    done = [rollups.roll_up(KEPT_FOR, enough_s=0.0) for _ in range(3)]

    assert done == [1, 1, 1]
    assert sum(counted(DAY).values()) == 3


def test_the_statements_of_a_tick_do_not_grow_with_the_records() -> None:
    tick()
    found = []
    for n in (2, 40):
        for number in range(n):
            ended(minutes_ago(2), task_name=f"shop.tasks.task_{number % 4}")
        with CaptureQueriesContext(connection) as statements:
            tick()
        found.append(len(statements))
        long_ago = [ended(minutes_ago(10_000 + number)) for number in range(30)]
        assert long_ago

    # A minute or so more may have begun meanwhile.
    assert found[1] <= found[0] + 8
    assert found[0] < 40


def test_figures_are_kept_for_their_time_only() -> None:
    for age in (timedelta(hours=2), timedelta(hours=4), timedelta(days=3), timedelta(days=10)):
        at = now() - age
        for minutes in SPANS:
            RunFigures.objects.create(
                minutes=minutes, start=start_of(at, minutes), task_name=f"{age}", queue="default",
                status="SUCCESS", n=1, wait_s=0, run_s=0, waits="", runs="", last_end=at,
            )  # fmt: skip
    TaskError.objects.create(
        id=uuid.uuid4(), first_seen=now(), last_seen=now() - timedelta(days=10)
    )

    rollups.roll_up(timedelta(days=9))

    left = {minutes: RunFigures.objects.filter(minutes=minutes).count() for minutes in SPANS}
    assert left == {MINUTE: 1, TEN_MINUTES: 2, HOUR: 3, DAY: 3}
    assert not TaskError.objects.exists()


def test_the_first_tick_counts_a_day_back() -> None:
    ended(now() - timedelta(hours=20))
    ended(now() - timedelta(hours=30))

    tick()

    assert sum(counted(DAY).values()) == 1


def test_a_round_counts_even_where_the_relay_fails(
    queue: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail() -> int:
        raise LambdaTasksError("no way out")

    ended(minutes_ago(3))
    monkeypatch.setattr(runtime.current().relay, "run_once", fail)
    runtime.current().__dict__.pop("round", None)
    try:
        with pytest.raises(LambdaTasksError):
            async_to_sync(runtime.current().round.run)()
    finally:
        runtime.current().__dict__.pop("round", None)

    assert sum(counted(MINUTE).values()) == 1


def test_a_round_goes_on_where_ends_can_not_be_counted(
    queue: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(kept_for: timedelta) -> int:
        raise RuntimeError("no figures")

    monkeypatch.setattr(rollups, "roll_up", fail)

    with caplog.at_level(logging.ERROR, "lambda_tasks"):
        async_to_sync(runtime.current().round.run)()

    assert "Ends could not be counted" in caplog.text


# Errors


def test_failures_that_differ_in_numbers_are_one_error() -> None:
    at = minutes_ago(10)
    records = [failed(at - number * SECOND, number) for number in range(3)]
    failed(at, 9, worker_ids="host:1 v1\nhost:2 v2\n")

    tick()

    error = TaskError.objects.get()
    assert (error.exception_class, error.message) == ("shop.Refused", "order # was refused")
    assert error.raised_in == "shop/tasks.py in charge"
    assert (error.first_seen, error.last_seen) == (records[-1].end_time, at)
    assert error.releases == ["v2"]
    assert len(error.examples) == 4
    for minutes in SPANS:
        row = ErrorFigures.objects.get(minutes=minutes)
        assert (row.start, row.task_name, row.failed) == (start_of(at, minutes), ADD, 4)


def test_an_error_is_told_apart_by_its_run_and_by_its_retry(handle: Handle) -> None:
    bodies = [body(tasks.write_and_fail, name=f"number {each}") for each in (1, 2)]
    other = body(tasks.awrite_and_fail, name="number 3")

    handle(*bodies, other)

    one, two, three = (record_of(each) for each in (*bodies, other))
    assert one.error_id == two.error_id is not None
    assert three.error_id not in (None, one.error_id)
    assert all(each.broken_since for each in (one, two, three))
    tick()
    assert set(TaskError.objects.values_list("message", flat=True)) == {
        "failed after writing number #"
    }


def test_of_a_flood_of_different_errors_the_most_frequent_are_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rollups, "MAX_ERRORS", 2)
    monkeypatch.setattr(rollups, "MAX_NEW_ERRORS", 1)
    at = minutes_ago(10)
    often, seldom = uuid.uuid4(), uuid.uuid4()
    for id in (often, often, often, seldom, seldom, uuid.uuid4()):
        failed(at, error_id=id)

    tick()

    assert TaskError.objects.count() == 1
    assert ErrorFigures.objects.filter(minutes=MINUTE).count() == 1
    assert counted(MINUTE) == {(start_of(at, MINUTE), "FAILED"): 6}


# Still broken


def test_a_failure_is_broken_until_its_retry_and_not_after_it(queue: str, handle: Handle) -> None:
    message = body(tasks.write_and_fail, name="a")
    handle(message)
    record = record_of(message)
    assert record.status == "FAILED"
    assert figures.still_broken_ids(limit=10) == [record.id]

    operations.retry(ids=[record.id])
    assert figures.still_broken_ids(limit=10) == []

    handle(wake_up(record.id, tasks.write_and_fail.name))
    assert figures.still_broken_ids(limit=10) == [record.id]


def test_a_failure_is_put_right_by_a_replay_that_succeeds(queue: str, handle: Handle) -> None:
    record = failed(minutes_ago(3), kwargs={"a": 1})
    other = failed(minutes_ago(2), kwargs={"a": 1})

    new = operations.replay(ids=[record.id]).new[record.id]
    tick()
    assert figures.still_broken_ids(limit=10) == [other.id, record.id]
    handle(wake_up(new))
    tick()

    assert figures.still_broken_ids(limit=10) == [other.id]
    record.refresh_from_db()
    assert record.status == "FAILED"


def test_a_success_puts_right_only_what_was_called_before_it() -> None:
    root = uuid.uuid4()
    ended(minutes_ago(9), id=root)
    ended(minutes_ago(8), root_id=root)
    later = failed(minutes_ago(7), root_id=root)

    tick()

    assert figures.still_broken_ids(limit=10) == [later.id]


def test_what_is_acknowledged_is_no_longer_broken_also_after_a_tick() -> None:
    one, two = failed(minutes_ago(3)), failed(minutes_ago(2))

    assert figures.acknowledge([one.id, uuid.uuid4()]) == 1
    assert figures.acknowledge([one.id]) == 0
    tick()

    assert figures.still_broken_ids(limit=10) == [two.id]


def test_runs_that_do_not_fail_are_not_broken(handle: Handle) -> None:
    bodies = [body(tasks.add, a=1), body(tasks.ignored, name="a")]

    handle(*bodies)

    assert [record_of(each).broken_since for each in bodies] == [None, None]
    assert [record_of(each).error_id for each in bodies] == [None, None]


def test_broken_records_are_found_by_error_and_task_the_latest_first() -> None:
    error = uuid.uuid4()
    first = failed(minutes_ago(9), error_id=error)
    second = failed(minutes_ago(8), error_id=error, task_name="shop.tasks.other")
    third = failed(minutes_ago(7))

    assert figures.still_broken_ids(limit=10) == [third.id, second.id, first.id]
    assert figures.still_broken_ids(error=error, limit=10) == [second.id, first.id]
    assert figures.still_broken_ids(error=error, task=ADD, limit=10) == [first.id]
    assert figures.still_broken_ids(limit=1) == [third.id]


# What pages ask


@pytest.fixture
def a_day() -> dict[str, Any]:
    """Some runs, of which the last hour has a slow task and a failing one."""
    for number in range(20):
        ended(minutes_ago(20 + number), run_s=0.1, task_name="shop.tasks.quick", queue="other")
    for number in range(4):
        ended(minutes_ago(20 + number), wait_s=120.0, run_s=30.0, task_name="shop.tasks.slow")
    broken = [failed(minutes_ago(15 + number), number) for number in range(3)]
    ended(now() - timedelta(hours=5))
    TaskRecord.objects.create(
        id=(id := uuid.uuid4()), root_id=id, task_name=ADD, kwargs={}, queue="other",
        enqueued_at=now() - timedelta(minutes=3), look_at=now(),
    )  # fmt: skip
    async_to_sync(runtime.current().relay_shifts.take)(always=True)
    tick()
    return {"broken": broken}


def test_the_overview_takes_few_statements_and_tells_all(a_day: Any) -> None:
    with CaptureQueriesContext(connection) as statements:
        found = figures.overview()

    if connection.vendor == "postgresql":
        assert len(statements) <= 7
    facts = found.facts
    assert facts.last_tick_s == pytest.approx(0, abs=300)
    assert facts.counted_s == pytest.approx(0, abs=300)
    assert facts.oldest_waiting_s == pytest.approx(180, abs=120)
    assert (facts.oldest_waiting_queue, facts.still_broken) == ("other", 3)
    if connection.vendor != "sqlite":
        assert 0 < (facts.connections or 0) <= (facts.max_connections or 0)
    assert found.series.total.outcomes.total == 27
    assert sum(each.outcomes.failed for each in found.series.moments) == 3
    assert len(found.series.moments) in (60, 61)
    queues = {each.name: each for each in found.queues}
    assert queues["other"].counts.waiting == 1
    assert queues["other"].outcomes.succeeded == sum(queues["other"].throughput) == 20
    assert set(conf.current().queues) <= set(queues)
    assert found.slowest[0].name == "shop.tasks.slow"
    assert found.costliest[0].share > 0.9
    assert found.costliest[0].run.p95_s == pytest.approx(30, rel=0.2)
    (error,) = found.errors
    assert (error.failed, error.still_broken, sum(error.trend)) == (3, 3, 3)
    assert error.task_names == [ADD]
    assert set(error.examples) == {each.id for each in a_day["broken"]}


def test_the_heat_map_has_each_wait_in_its_row(a_day: Any) -> None:
    total = figures.overview().series.total

    assert dict(total.waits) == {2: 23, 4: 4}  # of a second or so, and of two minutes
    assert total.wait.p50_s == pytest.approx(1.0, rel=0.2)
    assert total.wait.p95_s == pytest.approx(120, rel=0.2)


@pytest.mark.parametrize("range", Range)
def test_each_range_has_all_that_has_ended_in_it(a_day: Any, range: Range) -> None:
    expected = 27 if range is Range.LAST_HOUR else 28

    assert figures.overview(range).series.total.outcomes.total == expected
    assert sum(each.outcomes.total for each in figures.tasks(range).values()) == expected


def test_the_failure_rate_is_compared_with_the_same_hour_of_past_days() -> None:
    this_hour = start_of(now(), HOUR)
    for hours in (0, 1):  # whichever is judged
        for days in (0, 3, 5):
            for status, n in (("SUCCESS", 30), ("FAILED", 10 if days else 30)):
                start = this_hour - timedelta(hours=hours, days=days)
                RunFigures.objects.create(
                    minutes=HOUR, start=start, task_name="", queue="default", status=status, n=n,
                    wait_s=0, run_s=0, waits="", runs="", last_end=start,
                )  # fmt: skip

    facts = figures.overview().facts

    assert (facts.failure_rate, facts.usual_failure_rate) == (0.5, 0.25)


def test_before_the_first_tick_there_are_no_figures() -> None:
    found = figures.overview()

    assert (found.facts.last_tick_s, found.facts.counted_s) == (None, None)
    assert found.facts.failure_rate is None
    assert found.series.total.outcomes.total == 0
    assert found.series.total.run.p95_s is None


def test_the_story_of_a_task_has_its_errors_and_its_last_success(a_day: Any) -> None:
    story = figures.task(ADD)
    nothing = figures.task("shop.tasks.unknown")

    assert (story.figures.outcomes.failed, story.figures.outcomes.succeeded) == (3, 1)
    assert story.figures.outcomes.failure_rate == 0.75
    assert story.series.total.outcomes.failed == 3
    assert story.last_success == TaskRecord.objects.get(task_name=ADD, status="SUCCESS").end_time
    assert len(story.errors) == 1
    assert (nothing.last_success, nothing.errors, nothing.figures.run.p95_s) == (None, [], None)
    assert figures.last_successes()["shop.tasks.slow"] is not None


def test_errors_that_are_still_broken_come_first_and_can_be_chosen(a_day: Any) -> None:
    other = uuid.uuid4()
    for _ in range(9):
        failed(minutes_ago(5), error_id=other, broken_since=None, task_name="shop.tasks.other")
    tick()

    assert [each.still_broken for each in figures.errors()] == [3, 0]
    assert [each.still_broken for each in figures.errors(still_broken=True)] == [3]
    assert [each.id for each in figures.errors(task="shop.tasks.other")] == [other]
    one = figures.error(other)
    assert one is not None
    assert one.failed == 9
    assert figures.error(uuid.uuid4()) is None


def test_the_queues_alone_are_those_of_the_overview(a_day: Any) -> None:
    assert [each.name for each in figures.queues()] == [
        each.name for each in figures.overview().queues
    ]


def test_a_new_release_is_marked_when_it_first_ran() -> None:
    ended(minutes_ago(1), worker_ids="host:1 v1\n")
    tick()
    at = ended(minutes_ago(0) - 30 * SECOND, worker_ids="host:1 v1\nhost:2 v2\n").end_time
    tick()

    marks = figures.overview().series.releases
    assert [each.name for each in marks] == ["v1", "v2"]
    assert marks[1].first_seen == at


def test_runs_note_the_release_of_the_settings(handle: Handle, settings: Any) -> None:
    settings.LAMBDA_TASKS_RELEASE = "v42"

    assert runtime.worker_id().endswith(" v42")


def test_the_last_runs_of_a_schedule_are_those_of_its_due_times(queue: str, settings: Any) -> None:
    settings.LAMBDA_TASKS_SCHEDULES = {"minutely": {"task": ADD, "cron": "* * * * *"}}
    declared = find_declared("minutely").schedule
    runtime.current().schedule_table.note({"minutely": (ADD, declared)})
    due = start_of(minutes_ago(2), MINUTE)
    id = ScheduleState.objects.get().run_id(due)
    ended(minutes_ago(2), "RETRYING", id=id)
    retry = ended(minutes_ago(1), run_s=3.0, root_id=id)

    runs = figures.schedule_runs("minutely", limit=5)

    assert len(runs) == 5
    assert [each.due for each in runs] == sorted((each.due for each in runs), reverse=True)
    found = {each.due: each for each in runs}
    assert (found[due].record_id, found[due].status) == (retry.id, "SUCCESS")
    assert found[due].run_s == pytest.approx(3.0)
    assert [each.status for each in runs].count(None) == 4
    assert figures.schedule_runs("no such schedule") == []


def test_the_overview_has_the_schedules_that_are_due_next(queue: str, settings: Any) -> None:
    settings.LAMBDA_TASKS_SCHEDULES = {
        name: {"task": ADD, "cron": cron}
        for name, cron in {"daily": "0 3 * * *", "minutely": "* * * * *"}.items()
    }
    table = runtime.current().schedule_table
    table.note({each: (ADD, find_declared(each).schedule) for each in ("daily", "minutely")})
    ScheduleState.objects.create(
        name="vanished", task_name=ADD, rule="", rule_at=now(), last_due=now(), next_due=now()
    )

    found = figures.overview().next_due

    assert [(each.name, each.task_name) for each in found] == [("minutely", ADD), ("daily", ADD)]
    assert found[0].due - now() < timedelta(minutes=2)


@pytest.fixture
def uncounted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no dead letters be counted yet in this process."""
    monkeypatch.setattr(dead_letter_counts._Last, "at_s", None)
    monkeypatch.setattr(dead_letter_counts._Last, "counts", {})


def test_dead_letters_are_unknown_where_nobody_tells(
    uncounted: None, settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    settings.LAMBDA_TASKS_QUEUES = {"default": "http://127.0.0.1:9/000000000000/nobody"}

    with caplog.at_level(logging.WARNING, "lambda_tasks"):
        assert dead_letter_counts.dead_letter_counts(wait_s=PATIENCE_S) == {}
        assert dead_letter_counts.dead_letter_counts() == {}

    assert caplog.text.count("could not be counted") == 1


def test_only_the_first_count_of_dead_letters_is_waited_for(
    uncounted: None, sqs: LocalSqs, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = sqs.create_queue(f"test-{uuid.uuid4().hex}", max_receive_count=5)
    settings.LAMBDA_TASKS_QUEUES = {"default": queue, "table": {"database": True}}
    url = operations.count_dead_letters("default")[0].url
    count = dead_letter_counts.dead_letter_counts
    assert count(wait_s=PATIENCE_S) == {"default": 0}

    sqs.client.send_message(QueueUrl=url, MessageBody="x")
    assert count() == {"default": 0}, "it is kept for a minute"
    old_s = time.monotonic() - 2 * dead_letter_counts.KEPT_S
    monkeypatch.setattr(dead_letter_counts._Last, "at_s", old_s)
    count(wait_s=PATIENCE_S)

    wait_for(lambda: count() == {"default": 1})
