"""What waits for a place or a moment: it is cancelled in time, and no place is idle beside it."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection, connections, transaction
from django.db.models import F

from lambda_tasks import runtime
from lambda_tasks.local import LocalSqs
from lambda_tasks.models import LimitPace, LimitPlace, TaskRecord
from lambda_tasks.queues import database
from lambda_tasks.records import limits
from lambda_tasks.records.clock import Now
from tests.app import limited
from tests.app.models import Effect
from tests.conftest import PATIENCE_S, Handle, Task, bodies_in, wait_for
from tests.test_limits import claim_due, due, end, enqueue, names, table, waiting
from tests.test_table_queue import worker
from tests.test_unique import another_transaction, waits_for_a_lock

__all__ = ["table"]

pytestmark = pytest.mark.django_db(transaction=True)

OVER = timedelta(hours=1)

locks_rows = pytest.mark.skipif(connection.vendor == "sqlite", reason="it locks no rows")


def unique(task: Task) -> Task:
    return task.using(unique_by=("name",), unique_while="queued")


def let_expire(name: str) -> None:
    """Let the time pass for one record."""
    expiring = TaskRecord.objects.filter(kwargs__name=name, expires_at__isnull=False)
    assert expiring.update(expires_at=F("expires_at") - OVER, look_at=F("look_at") - OVER)


def record(name: str) -> TaskRecord:
    return TaskRecord.objects.get(kwargs__name=name)


def assert_expired(expired: TaskRecord, words: str = "had not begun") -> None:
    assert (expired.status, expired.n_attempts, expired.look_at) == ("CANCELLED", 0, None)
    assert expired.exception_class == "lambda_tasks.errors.TaskExpired"
    assert expired.traceback is not None
    assert words in expired.traceback
    assert (expired.limit_key, expired.unique_key) == (None, None)


def test_what_waits_for_a_place_is_cancelled_when_it_expires(table: None) -> None:
    enqueue(limited.alone, "held")
    claim_due()
    late = unique(limited.alone).using(expires=60)
    enqueue(late, "late")
    claim_due()
    assert waiting() == ["late"]
    assert record("late").look_at == record("late").expires_at

    let_expire("late")
    assert len(due()) == 1
    assert claim_due() == []

    assert_expired(record("late"))
    assert due() == [], "nobody looks at it again"
    assert late.execute_on_commit(name="late").created, "its key is free"


def test_what_has_begun_once_waits_for_a_place_beyond_its_expiry(table: None) -> None:
    enqueue(limited.alone.using(expires=60), "lost")
    claim_due()
    let_expire("lost")
    TaskRecord.objects.update(lease_until=Now() - OVER, look_at=Now() - OVER)
    LimitPlace.objects.all().delete()
    enqueue(limited.alone, "other", priority=1)
    assert names(claim_due()) == ["other"]

    look_at = record("lost").look_at

    assert waiting() == ["lost"]
    assert look_at is not None
    assert TaskRecord.objects.filter(look_at__gt=Now() + OVER / 2, kwargs__name="lost").exists()


def test_a_place_is_not_handed_to_one_that_has_expired(table: None) -> None:
    enqueue(limited.alone, "held")
    (held,) = claim_due()
    enqueue(limited.alone.using(expires=60), "late")
    enqueue(limited.alone, "next")
    claim_due()
    let_expire("late")

    end(held)

    assert waiting() == ["late"]
    assert names(claim_due()) == ["next"]
    assert_expired(record("late"))


def test_one_that_expires_with_its_place_hands_it_on_at_once(
    queue: str, sqs: LocalSqs, handle: Handle
) -> None:
    tasks = limited.alone, limited.alone.using(expires=60), limited.alone
    for task, name in zip(tasks, ("first", "late", "next"), strict=True):
        enqueue(task, name)
    handle(*[json.dumps(each) for each in bodies_in(sqs, queue)])
    (woken,) = bodies_in(sqs, queue)
    assert woken["invocation_id"] == str(record("late").id)
    let_expire("late")

    assert handle(json.dumps(woken)) == []

    assert_expired(record("late"))
    (woken,) = bodies_in(sqs, queue)
    assert woken["invocation_id"] == str(record("next").id)
    assert handle(json.dumps(woken)) == []
    assert record("next").status == "SUCCESS"


def test_what_would_have_expired_by_its_moment_is_cancelled_and_reserves_none(table: None) -> None:
    hourly: Any = limited.both
    enqueue(hourly, "now")
    (now,) = claim_due()
    before = LimitPace.objects.get().next_at
    enqueue(hourly.using(expires=60), "late")
    enqueue(hourly, "next")
    claim_due()
    end(now)

    assert claim_due() == []
    assert_expired(record("late"), "no start for it")
    assert LimitPace.objects.get().next_at == before, "its moment is left to others"
    runtime.current().limits.rescue(thorough=False)
    assert claim_due() == []

    assert record("next").reserved_for == before


def test_a_rate_that_is_booked_up_for_longer_than_its_calls_wait_still_starts_some(
    table: None,
) -> None:
    for _ in range(20):
        limited.ten_a_minute.using(expires=15).execute_on_commit(tenant="a")

    claim_due()

    statuses = sorted(TaskRecord.objects.values_list("status", flat=True))
    assert statuses == ["CANCELLED"] * 17 + ["QUEUED"] * 2 + ["RUNNING"]
    booked = LimitPace.objects.filter(next_at__lt=Now() + timedelta(seconds=20))
    assert booked.exists(), "what comes later finds a moment within its time"


@locks_rows
def test_a_place_stays_free_for_one_that_a_transaction_has_locked(table: None) -> None:
    enqueue(limited.alone, "a")
    (first,) = claim_due()
    enqueue(unique(limited.alone), "b")
    claim_due()

    with another_transaction(lambda: enqueue(unique(limited.alone), "b")):
        end(first)
        runtime.current().limits.rescue(thorough=False)
        assert waiting() == ["b"]
        assert LimitPlace.objects.count() == 1
    runtime.current().limits.rescue(thorough=False)

    (second,) = claim_due()
    assert names([second]) == ["b"]
    end(second)
    assert not LimitPlace.objects.exists()


@locks_rows
def test_a_place_that_stays_free_for_a_locked_one_is_there_for_others(table: None) -> None:
    enqueue(limited.alone, "a")
    (first,) = claim_due()
    enqueue(unique(limited.alone), "b")
    claim_due()

    with another_transaction(lambda: enqueue(unique(limited.alone), "b")):
        end(first)
        enqueue(limited.alone, "c")
        assert names(claim_due()) == ["c"]
    runtime.current().limits.rescue(thorough=False)

    assert waiting() == ["b"]
    assert claim_due() == []


def test_what_has_begun_gets_a_moment_beyond_its_expiry(table: None) -> None:
    enqueue(limited.both.using(expires=60), "lost")
    claim_due()
    let_expire("lost")
    TaskRecord.objects.update(lease_until=Now() - OVER, look_at=Now() - OVER, reserved_for=None)
    LimitPlace.objects.all().delete()

    assert claim_due() == []

    assert record("lost").reserved_for is not None


def test_who_arrives_late_takes_its_place_back_from_those_behind(table: None) -> None:
    """Else nobody runs while messages take longer than a place is kept."""
    enqueue(limited.alone, "held")
    (held,) = claim_due()
    enqueue(limited.alone, "b", "c")
    claim_due()
    end(held)
    LimitPlace.objects.update(held_until=Now() - OVER)
    runtime.current().limits.rescue(thorough=False)
    assert LimitPlace.objects.get().record_id == record("c").id

    TaskRecord.objects.filter(kwargs__name="c").update(look_at=Now() + OVER)
    assert names(claim_due()) == ["b"]
    TaskRecord.objects.filter(kwargs__name="c").update(look_at=Now())
    assert claim_due() == []
    assert waiting() == ["c"]


def test_of_several_who_arrive_late_the_first_of_the_line_runs(table: None) -> None:
    enqueue(limited.alone, "held")
    (held,) = claim_due()
    enqueue(limited.alone, "b", "c")
    enqueue(limited.alone, "urgent", priority=1)
    claim_due()
    end(held)
    LimitPlace.objects.update(record_id=record("c").id)
    TaskRecord.objects.exclude(limit_key=None).update(limit_key=None, look_at=Now())

    assert names(claim_due()) == ["urgent"]

    assert waiting() == ["b", "c"]


def test_a_place_that_is_kept_for_a_moment_is_not_taken_over(table: None) -> None:
    enqueue(limited.both, "a")
    (first,) = claim_due()
    enqueue(limited.both, "b")
    claim_due()
    end(first)
    assert claim_due() == [], "b has the place, and waits for its moment"

    enqueue(limited.both, "urgent", priority=1)

    assert claim_due() == []
    assert waiting() == ["urgent"]
    assert LimitPlace.objects.get().record_id == record("b").id


@locks_rows
def test_a_place_that_was_handed_over_meanwhile_is_locked_like_the_others(
    table: None, monkeypatch: Any
) -> None:
    """Else its run could end, and find nobody waiting, before this one begins to wait."""
    enqueue(limited.alone, "a", "b", "c")
    (first,) = claim_due()
    TaskRecord.objects.filter(kwargs__name="c").update(limit_key=None, look_at=Now())
    handing, handed, deciding, freed = (threading.Event() for _ in range(4))
    wake, let_wait = limits._wake, limits._let_wait

    def slow_wake(*args: Any) -> None:
        wake(*args)
        handing.set()
        assert handed.wait(PATIENCE_S)

    def slow_wait(*args: Any) -> None:
        deciding.set()
        assert not freed.wait(0.3), "who ends waits for who is about to wait"
        let_wait(*args)

    monkeypatch.setattr(limits, "_wake", slow_wake)
    monkeypatch.setattr(limits, "_let_wait", slow_wait)

    def hand_over_and_end_the_next() -> None:
        try:
            end(first)
            assert deciding.wait(PATIENCE_S)
            LimitPlace.objects.all().delete()
            freed.set()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(1) as thread:
        ending = thread.submit(hand_over_and_end_the_next)
        assert handing.wait(PATIENCE_S)
        with ThreadPoolExecutor(1) as other:
            admitting = other.submit(admit_in_thread, "c")
            while not waits_for_a_lock():
                time.sleep(0.01)
            handed.set()
            admitting.result(PATIENCE_S)
        ending.result(PATIENCE_S)

    assert waiting() == ["c"]


def admit_in_thread(name: str) -> None:
    try:
        with transaction.atomic():
            runtime.current().limits.admit(
                [each for each in due() if each.message.invocation_id == record(name).id]
            )
    finally:
        connections.close_all()


def test_a_worker_looks_at_each_moment_of_a_rate_and_not_with_its_next_poll(
    table: None, monkeypatch: Any
) -> None:
    monkeypatch.setattr(database, "POLL_EVERY_S", 600)
    enqueue(limited.five_a_second, *"abcde")

    with worker(["default"]):
        wait_for(lambda: Effect.objects.count() == 5)


def test_what_waited_for_a_limit_that_its_task_has_no_more_is_claimed_like_any_other(
    table: None, monkeypatch: Any
) -> None:
    enqueue(limited.two_at_once, "a", "b", "c")
    claim_due()
    assert waiting() == ["c"]
    options = replace(limited.two_at_once.options, limit=None, limit_by=())
    monkeypatch.setattr(limited.two_at_once, "options", options)
    TaskRecord.objects.filter(kwargs__name="c").update(look_at=Now())

    assert names(claim_due()) == ["c"]

    assert waiting() == [], "nothing says of a run that it waits"


def test_what_is_due_later_reserves_no_moment_before(table: None) -> None:
    limited.ten_a_minute.using(delay=30).execute_on_commit(tenant="a")
    limited.ten_a_minute.execute_on_commit(tenant="a")

    assert len(claim_due()) == 1

    assert LimitPace.objects.filter(next_at__lt=Now() + timedelta(seconds=7)).exists()
    assert TaskRecord.objects.get(status="QUEUED").reserved_for is None
