"""Limits: never more at once than allowed, nothing idle while somebody waits, and nothing lost."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from random import Random
from typing import Any
from uuid import UUID

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, connection, connections, transaction
from django.test.utils import CaptureQueriesContext

from lambda_tasks import conf, hooks, operations, registry, runtime
from lambda_tasks.core.lifecycle import Claim, End, Refused, Release, Succeeded
from lambda_tasks.core.limits import Places
from lambda_tasks.core.message import Message
from lambda_tasks.database_errors import code_of
from lambda_tasks.execution.intake import Intake
from lambda_tasks.execution.time_budget import TimeBudget
from lambda_tasks.execution.turns import Durations, Turns
from lambda_tasks.local import LocalSqs
from lambda_tasks.models import LimitPace, LimitPlace, TaskRecord
from lambda_tasks.ports import Admitted, Delivery, ResolvedDelivery
from lambda_tasks.records import limits
from lambda_tasks.records.clock import Now
from tests.app import django_tasks, limited, tasks
from tests.app.models import Effect
from tests.conftest import Handle, Task, bodies_in, body, wait_for
from tests.test_table_queue import worker

pytestmark = pytest.mark.django_db(transaction=True)

TABLE = {"default": {"database": True}}
LEASE = timedelta(minutes=5)
LONG_AGO = timedelta(days=2)


@pytest.fixture
def table(settings: Any) -> None:
    settings.LAMBDA_TASKS_QUEUES = TABLE


def delivery_of(message: Message) -> Delivery:
    return Delivery(
        id=str(message.invocation_id),
        source="",
        fallback_id=message.invocation_id,
        message=message,
        is_redelivered=False,
    )


@contextmanager
def arriving() -> Iterator[Sequence[Delivery]]:
    """What a worker finds in the table now."""
    with runtime.current().table_queue.lock_due(["default"], limit=100) as messages:
        yield [delivery_of(message) for message in messages]


def intake() -> Intake:
    here = runtime.current()
    turns = Turns(Durations(), lanes=100, processes=100)
    return Intake(
        here.claims, conf.current, registry.resolve, turns, limits=here.limits, lock=here.locks
    )


def due() -> list[ResolvedDelivery]:
    with arriving() as deliveries:
        return intake()._resolve_all(deliveries, {})[0]


def claim_due() -> list[Claim]:
    batch = intake().claim_batch(arriving(), TimeBudget(time.monotonic(), None))
    return [each.claim for each in batch.claimed]


def end(claimed: Claim) -> None:
    runtime.current().claims.finish(End(claimed, Succeeded()))
    runtime.current().limits.free([claimed])


def enqueue(task: Task, *names: str, **options: Any) -> list[UUID]:
    return [task.using(**options).execute_on_commit(name=name).id for name in names]


def names(claims: Sequence[Claim]) -> list[str]:
    by_id = {record.id: record.kwargs["name"] for record in TaskRecord.objects.all()}
    return sorted(by_id[each.invocation_id] for each in claims)


def waiting() -> list[str]:
    """The names of those that wait for a place, the first one first."""
    records = TaskRecord.objects.exclude(limit_key=None).order_by("-priority", "enqueued_at")
    return [record.kwargs["name"] for record in records]


def test_no_more_run_than_there_are_places_and_the_others_wait_in_their_rows(table: None) -> None:
    enqueue(limited.two_at_once, "a", "b", "c", "d")

    claims = claim_due()

    assert names(claims) == ["a", "b"]
    assert waiting() == ["c", "d"]
    assert due() == [], "nobody looks at those that wait"
    row = TaskRecord.objects.get(id__in=TaskRecord.objects.filter(kwargs__name="c"))
    assert (row.status, row.n_attempts, row.n_retries) == ("QUEUED", 0, 0)
    assert claim_due() == []


def test_the_end_of_a_run_wakes_one_the_oldest_and_by_priority_first(table: None) -> None:
    enqueue(limited.two_at_once, "a", "b", "c", "d")
    first, _ = claim_due()
    enqueue(limited.two_at_once, "urgent", priority=10)
    claim_due()
    assert waiting() == ["urgent", "c", "d"]

    end(first)

    assert waiting() == ["c", "d"], "one place, one that wakes"
    assert names(claim_due()) == ["urgent"]


def test_a_place_is_kept_for_the_one_that_it_was_handed_to(table: None) -> None:
    enqueue(limited.two_at_once, "a", "b", "old")
    first, _ = claim_due()
    end(first)
    enqueue(limited.two_at_once, "new")

    TaskRecord.objects.filter(kwargs__name="new").update(look_at=Now() - 2 * LONG_AGO)
    assert names(claim_due()) == ["old"], "although the new one is first"
    assert waiting() == ["new"]


def test_each_value_has_places_of_its_own_and_a_default_is_a_value(table: None) -> None:
    for tenant in ("a", "b"):
        for n in range(3):
            limited.two_at_once.execute_on_commit(tenant=tenant, name=f"{tenant}{n}")
    limited.two_at_once.execute_on_commit(name="of the default, a")

    assert names(claim_due()) == ["a0", "a1", "b0", "b1"]


def test_a_run_whose_worker_died_frees_its_place_when_its_lease_is_over(table: None) -> None:
    enqueue(limited.two_at_once, "a", "b", "c", "d")
    claims = claim_due()
    LimitPlace.objects.filter(record_id=claims[0].invocation_id).update(held_until=Now() - LONG_AGO)

    assert runtime.current().limits.rescue(thorough=False) == []

    assert waiting() == ["d"]
    assert names(claim_due()) == ["c"]


def test_a_worker_that_died_before_it_gave_its_place_back_keeps_nobody_waiting(
    table: None,
) -> None:
    enqueue(limited.two_at_once, "a", "b", "c")
    claims = claim_due()
    runtime.current().claims.finish(End(claims[0], Succeeded()))

    runtime.current().limits.rescue(thorough=False)

    assert names(claim_due()) == ["c"]


def test_one_that_was_woken_and_cancelled_makes_way_for_the_next(table: None) -> None:
    enqueue(limited.two_at_once, "a", "b", "c", "d")
    first, _ = claim_due()
    end(first)
    TaskRecord.objects.filter(kwargs__name="c").cancel()

    runtime.current().limits.rescue(thorough=False)

    assert names(claim_due()) == ["d"]


def test_one_that_is_cancelled_while_it_waits_is_skipped(table: None) -> None:
    enqueue(limited.two_at_once, "a", "b", "c", "d")
    first, _ = claim_due()
    TaskRecord.objects.filter(kwargs__name="c").cancel()

    end(first)

    assert names(claim_due()) == ["d"]


def test_a_cancelled_run_keeps_its_place_until_it_has_ended(table: None) -> None:
    enqueue(limited.two_at_once, "a", "b", "c")
    first, _ = claim_due()
    TaskRecord.objects.filter(id=first.invocation_id).cancel()

    runtime.current().limits.rescue(thorough=True)
    assert claim_due() == [], "its code may still run"
    runtime.current().limits.free([first])

    assert names(claim_due()) == ["c"]


def test_a_worker_that_lost_its_place_can_not_give_away_the_next_ones(table: None) -> None:
    enqueue(limited.two_at_once, "a", "b", "c", "d")
    claims = claim_due()
    LimitPlace.objects.all().update(held_until=Now() - LONG_AGO)
    runtime.current().limits.rescue(thorough=False)
    assert names(claim_due()) == ["c", "d"]

    runtime.current().limits.free(claims)

    assert LimitPlace.objects.filter(held_until__gt=Now()).count() == 2


def test_one_that_lost_its_place_before_its_claim_does_not_run(table: None) -> None:
    enqueue(limited.two_at_once, "a")
    (delivery,) = due()
    admitted = runtime.current().limits.admit([delivery])[delivery.message.invocation_id]
    assert isinstance(admitted, Admitted)
    LimitPlace.objects.all().delete()

    delivery = replace(delivery, places=admitted.places)
    claims = runtime.current().claims
    (verdict,) = claims.claim([delivery], lease=LEASE, max_attempts=5).values()

    assert verdict == limits.LOST_RACE
    assert TaskRecord.objects.get().n_attempts == 0
    assert len(claim_due()) == 1


def test_what_is_given_back_unbegun_gives_its_place_back(table: None) -> None:
    enqueue(limited.two_at_once, "a", "b", "c")
    first, _ = claim_due()

    runtime.current().claims.release([first], Release(counts=False, is_redelivered=False))
    runtime.current().limits.free([first])

    TaskRecord.objects.filter(kwargs__name="a").update(look_at=Now() + LONG_AGO)
    assert names(claim_due()) == ["c"]
    TaskRecord.objects.filter(kwargs__name="a").update(look_at=Now())
    assert claim_due() == []
    assert waiting() == ["a"]


def test_a_lost_run_waits_for_a_place_again(table: None) -> None:
    enqueue(limited.two_at_once, "a", "b", "c", "d")
    claims = claim_due()
    TaskRecord.objects.filter(status="RUNNING").update(
        lease_until=Now() - LONG_AGO, look_at=Now() - LONG_AGO
    )
    LimitPlace.objects.all().update(held_until=Now() - LONG_AGO)
    runtime.current().limits.rescue(thorough=False)

    again = claim_due()

    assert names(again) == ["c", "d"]
    assert waiting() == ["a", "b"]
    assert {record.n_attempts for record in TaskRecord.objects.filter(limit_key__gt="")} == {1}
    for each in again:
        end(each)
    assert names(claim_due()) == names(claims)


def test_a_limit_that_was_lowered_holds_for_those_that_wait(table: None, monkeypatch: Any) -> None:
    enqueue(limited.two_at_once, "a", "b", "c", "d")
    first, second = claim_due()
    monkeypatch.setattr(
        limited.two_at_once, "options", replace(limited.two_at_once.options, limit=1)
    )
    key = first.places.key if first.places else ""
    first, second = (replace(each, places=Places(key, 1)) for each in (first, second))

    end(first)
    assert claim_due() == [], "one still runs"
    end(second)

    assert names(claim_due()) == ["c"]


def test_those_that_wait_for_a_limit_that_is_gone_are_found(table: None) -> None:
    enqueue(limited.two_at_once, "a", "b", "c", "d")
    claims = claim_due()
    for each in claims:
        runtime.current().claims.finish(End(each, Succeeded()))
    LimitPlace.objects.all().delete()

    runtime.current().limits.rescue(thorough=True)

    assert names(claim_due()) == ["c"]
    assert TaskRecord.objects.get(kwargs__name="d").look_at is not None, "sooner or later"


def test_a_waiting_one_that_is_claimed_keeps_nothing_of_its_wait(table: None) -> None:
    enqueue(limited.two_at_once, "a", "b", "c")
    claims = claim_due()
    LimitPlace.objects.all().delete()
    TaskRecord.objects.filter(kwargs__name="c").update(look_at=Now())

    assert names(claim_due()) == ["c"]
    assert waiting() == []
    assert len(claims) == 2


@pytest.mark.skipif(connection.vendor == "sqlite", reason="it has one writer at a time")
def test_one_that_begins_to_wait_while_the_last_place_is_given_back_is_woken(table: None) -> None:
    enqueue(limited.alone, "a", "b")
    first = claim_due()[0]
    TaskRecord.objects.filter(kwargs__name="b").update(limit_key=None, look_at=Now())
    freed = threading.Event()

    def free() -> None:
        try:
            end(first)
        finally:
            freed.set()
            connections.close_all()

    ending = threading.Thread(target=free)
    with transaction.atomic():
        (verdict,) = runtime.current().limits.admit(due()).values()
        ending.start()
        assert not freed.wait(0.3), "who ends waits for who is about to wait"
    ending.join()

    assert isinstance(verdict, Refused)
    assert names(claim_due()) == ["b"]


@pytest.mark.skipif(connection.vendor == "sqlite", reason="it locks no rows")
def test_places_that_somebody_has_locked_hold_up_no_other_key(
    table: None, monkeypatch: Any
) -> None:
    monkeypatch.setattr(limits, "ADMIT_LIMIT_S", 0.3)
    enqueue(limited.alone, "held", "b")
    claim_due()
    TaskRecord.objects.update(look_at=Now())
    locked, done = threading.Event(), threading.Event()

    def lock() -> None:
        try:
            with transaction.atomic():
                list(LimitPlace.objects.select_for_update())
                locked.set()
                done.wait(60)
        finally:
            connections.close_all()

    stranger = threading.Thread(target=lock)
    stranger.start()
    assert locked.wait(60)
    try:
        with transaction.atomic():
            verdicts = runtime.current().limits.admit(due())
        assert set(verdicts.values()) == {limits.LOST_RACE}
        assert due() == [], "for a moment"
    finally:
        done.set()
        stranger.join()


def test_many_workers_never_let_a_third_in_and_leave_nobody_waiting(table: None) -> None:
    for n in range(30):
        limited.two_at_once.execute_on_commit(name=f"n{n}")
    crew = Crew()

    crew.work_off()

    assert crew.most == 2
    assert set(TaskRecord.objects.values_list("status", "n_attempts")) == {("SUCCESS", 1)}


@pytest.mark.skipif(connection.vendor != "postgresql", reason="MariaDB ends a deadlock at once")
def test_workers_of_many_keys_never_wait_for_each_other_in_a_circle(table: None) -> None:
    for n in range(200):
        limited.two_at_once.execute_on_commit(tenant=f"t{n % 8}", name=f"n{n}")
    crew = Crew()

    crew.work_off()

    assert crew.n_deadlocks == 0
    assert set(TaskRecord.objects.values_list("status", "n_attempts")) == {("SUCCESS", 1)}


@pytest.mark.skipif(connection.vendor != "postgresql", reason="MariaDB ends a deadlock at once")
def test_one_that_has_made_new_places_waits_for_nobody_who_holds_others(
    table: None, monkeypatch: Any
) -> None:
    for tenant in "xxxyy":
        limited.two_at_once.execute_on_commit(tenant=tenant)
    x, y = ([each for each in due() if tenant_of(each) == tenant] for tenant in "xy")
    crew = Crew()
    has_looked, may_write, looks_again = (threading.Event() for _ in range(3))
    n_looks: Counter[str] = Counter()
    look, write = limits._lock_places, limits._replace

    def noting_look(*arguments: Any, **options: Any) -> list[Any]:
        here = threading.current_thread().name
        n_looks[here] += 1
        if (here, n_looks[here]) == ("first", 2):
            looks_again.set()
        return look(*arguments, **options)

    def noting_write(*arguments: Any) -> bool:
        here = threading.current_thread().name
        if (here, n_looks[here]) == ("first", 1):
            has_looked.set()
            assert may_write.wait(60)
        if here == "second":
            may_write.set()
            assert looks_again.wait(60)
        return write(*arguments)

    def admit(deliveries: Sequence[ResolvedDelivery]) -> None:
        try:
            with connection.execute_wrapper(crew.count_deadlocks):
                runtime.current().limits.admit(deliveries)
        finally:
            connections.close_all()

    monkeypatch.setattr(limits, "_lock_places", noting_look)
    monkeypatch.setattr(limits, "_replace", noting_write)
    first = threading.Thread(target=admit, args=[[x[0], y[0]]], name="first")
    second = threading.Thread(target=admit, args=[[x[1], y[1]]], name="second")
    first.start()
    assert has_looked.wait(60)
    runtime.current().limits.admit(x[2:])
    second.start()
    first.join()
    second.join()

    assert crew.n_deadlocks == 0
    assert LimitPlace.objects.count() == 4


def tenant_of(delivery: ResolvedDelivery) -> str:
    return str(TaskRecord.objects.get(id=delivery.message.invocation_id).kwargs["tenant"])


class Crew:
    """Workers, as threads that claim and end, and some of which die before they free a place."""

    def __init__(self) -> None:
        self.most = self._n_running = 0
        self.n_deadlocks = 0
        self._guard = threading.Lock()

    def work_off(self) -> None:
        threads = [threading.Thread(target=self._work, args=[Random(seed)]) for seed in range(3)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()

    def count_deadlocks(self, execute: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return execute(*arguments)
        except DatabaseError as error:
            self.n_deadlocks += code_of(error) == "40P01"
            raise

    def _work(self, chance: Random) -> None:
        with connection.execute_wrapper(self.count_deadlocks):
            self._work_off(chance)

    def _work_off(self, chance: Random) -> None:
        try:
            while TaskRecord.objects.exclude(status="SUCCESS").exists():
                claims = claim_due()
                self._note(len(claims))
                for claimed in claims:
                    self._note(-1)
                    runtime.current().claims.finish(End(claimed, Succeeded()))
                    if chance.random() < 0.7:
                        runtime.current().limits.free([claimed])
                runtime.current().limits.rescue(thorough=False)
        finally:
            connections.close_all()

    def _note(self, change: int) -> None:
        with self._guard:
            self._n_running += change
            self.most = max(self.most, self._n_running)


def test_a_worker_keeps_a_limit_and_works_all_off(table: None) -> None:
    for n in range(6):
        limited.alone.execute_on_commit(name=f"n{n}")
        limited.two_at_once.execute_on_commit(name=f"n{n}")

    with worker(["default"]):
        wait_for(lambda: Effect.objects.count() == 12)
        wait_for(lambda: not LimitPlace.objects.exists())

    assert set(TaskRecord.objects.values_list("status", "n_attempts")) == {("SUCCESS", 1)}


def test_what_waits_is_told(table: None) -> None:
    reasons: list[tuple[str, str | None]] = []
    enqueue(limited.alone, "a")
    claim_due()
    enqueue(limited.alone, "b")
    told = hooks.given_back.connect(lambda event: reasons.append((event.reason, event.task_name)))
    try:
        with worker(["default"]):
            wait_for(lambda: reasons)
    finally:
        hooks.given_back.disconnect(told)

    assert reasons == [("waits for a place", limited.alone.name)]


def moments() -> list[float]:
    """The moments that are reserved, in seconds from the first one."""
    found = TaskRecord.objects.exclude(reserved_for=None).order_by("reserved_for")
    times = [record.reserved_for for record in found if record.reserved_for]
    return [round((each - times[0]).total_seconds(), 3) for each in times]


def test_starts_are_evenly_spaced_and_each_moment_is_reserved_once(table: None) -> None:
    for _ in range(4):
        limited.ten_a_minute.execute_on_commit(tenant="a")
    limited.ten_a_minute.execute_on_commit(tenant="b")

    claims = claim_due()

    assert len(claims) == 2, "the first of each tenant"
    assert moments()[-3:] == pytest.approx([6, 12, 18], abs=1)
    assert due() == []
    before = LimitPace.objects.latest("next_at").next_at
    TaskRecord.objects.filter(status="QUEUED").update(
        run_after=Now(), look_at=Now(), reserved_for=Now()
    )
    assert len(claim_due()) == 3
    after = LimitPace.objects.latest("next_at").next_at
    assert before == after, "whose moment has come reserves no other"


def test_what_waits_for_its_moment_has_used_up_nothing(table: None) -> None:
    for _ in range(2):
        limited.ten_a_minute.execute_on_commit(tenant="a")
    claim_due()

    row = TaskRecord.objects.get(status="QUEUED")

    assert (row.n_attempts, row.n_retries, row.n_waits, row.limit_key) == (0, 0, 0, None)
    assert row.run_after == row.look_at == row.reserved_for


def test_with_both_a_place_is_taken_first_so_that_few_moments_are_reserved(table: None) -> None:
    enqueue(limited.both, "a", "b", "c")
    (first,) = claim_due()
    assert TaskRecord.objects.exclude(reserved_for=None).count() == 1

    end(first)
    assert claim_due() == []

    assert waiting() == ["c"], "the other has the place, and waits for its moment"
    assert LimitPlace.objects.filter(held_until__gt=Now() + timedelta(minutes=59)).count() == 1
    TaskRecord.objects.filter(kwargs__name="b").cancel()
    runtime.current().limits.rescue(thorough=False)
    assert waiting() == [], "a place that nobody will use is handed on"


def test_a_queue_has_a_rate_for_all_its_tasks(settings: Any) -> None:
    settings.LAMBDA_TASKS_QUEUES = {"default": {"database": True, "rate": "1/m"}}
    tasks.add.execute_on_commit(a=1)
    tasks.aleave_effect.execute_on_commit(name="x")

    assert len(claim_due()) == 1

    assert TaskRecord.objects.get(status="QUEUED").reserved_for is not None


@pytest.mark.parametrize("rate", ["1/x", 5, None])
def test_a_queue_whose_rate_is_none_is_refused(settings: Any, rate: object) -> None:
    settings.LAMBDA_TASKS_QUEUES = {"default": {"database": True, "rate": rate}}

    with pytest.raises(ImproperlyConfigured, match=r'is no rate. Use "10/s"'):
        conf.current()


def test_a_direct_message_of_a_queue_with_a_rate_waits_in_its_row(
    queue: str, settings: Any, sqs: LocalSqs, handle: Handle
) -> None:
    settings.LAMBDA_TASKS_QUEUES = {"default": {"queue_url": queue, "rate": "1/h"}}
    first, second = (body(tasks.aadd, a=a) for a in (1, 2))

    assert handle(first, second) == []

    statuses = sorted(TaskRecord.objects.values_list("status", "n_attempts"))
    assert statuses == [("QUEUED", 0), ("SUCCESS", 1)]
    parked = TaskRecord.objects.get(status="QUEUED")
    assert parked.sent_at is None, "the relay sends it in time"
    assert bodies_in(sqs, queue) == []


def test_on_sqs_what_waits_is_acknowledged_and_sent_when_it_has_a_place(
    queue: str, sqs: LocalSqs, handle: Handle
) -> None:
    calls = [limited.alone.execute_on_commit(name=name) for name in "ab"]
    messages = [json.dumps(each) for each in bodies_in(sqs, queue)]

    assert handle(*messages) == []

    left = TaskRecord.objects.exclude(status="SUCCESS").get()
    assert (left.limit_key, left.n_attempts, left.n_retries) == (None, 0, 0)
    (again,) = bodies_in(sqs, queue)
    assert again["invocation_id"] == str(left.id)
    assert handle(json.dumps(again)) == []
    assert {TaskRecord.objects.get(id=each.id).status for each in calls} == {"SUCCESS"}


def test_a_task_of_djangos_interface_has_limits_too(table: None) -> None:
    for n in range(3):
        django_tasks.two_at_once.enqueue("a", n)
    django_tasks.two_at_once.enqueue(tenant="b", number=1)

    claims = claim_due()

    args = [TaskRecord.objects.get(id=each.invocation_id) for each in claims]
    assert len(args) == 3
    assert TaskRecord.objects.exclude(limit_key=None).get().args == ["a", 2]


def test_a_task_without_limits_costs_no_statement_more(table: None) -> None:
    def n_statements() -> int:
        tasks.aleave_effect.execute_on_commit(name="x")
        batch = intake()
        with CaptureQueriesContext(connection) as captured:
            claimed = batch.claim_batch(arriving(), TimeBudget(time.monotonic(), None)).claimed
            assert len(claimed) == 1
        about_limits = [each for each in captured if "lambda_tasks_limit" in each["sql"]]
        assert about_limits == []
        return len(captured)

    n_statements()
    before = n_statements()
    enqueue(limited.two_at_once, "a", "b", "c")
    claim_due()

    assert n_statements() == before, "nobody pays for those that wait"


def test_a_batch_of_one_key_costs_no_more_statements_than_one(table: None) -> None:
    def n_statements(count: int) -> int:
        TaskRecord.objects.all().delete()
        LimitPlace.objects.all().delete()
        enqueue(limited.two_at_once, *[str(n) for n in range(count)])
        with CaptureQueriesContext(connection) as captured:
            claim_due()
        return len(captured)

    n_statements(1)
    assert n_statements(50) <= n_statements(1) + 1, "one lets all of them wait"


def test_one_that_is_made_due_keeps_its_moment_and_is_not_looked_at_all_the_time(
    table: None,
) -> None:
    for _ in range(2):
        limited.ten_a_minute.execute_on_commit(tenant="a")
    claim_due()
    record = TaskRecord.objects.get(status="QUEUED")
    TaskRecord.objects.filter(id=record.id).update(run_after=Now(), look_at=Now())

    assert claim_due() == []
    assert due() == []

    again = TaskRecord.objects.get(id=record.id)
    assert (again.reserved_for, again.look_at) == (record.reserved_for, record.reserved_for)
    assert again.waits_for == "its moment, as its rate allows"


def test_what_waits_for_a_place_says_so_and_is_not_stuck(table: None) -> None:
    enqueue(limited.alone, "a", "b")
    claim_due()
    TaskRecord.objects.filter(status="QUEUED").update(enqueued_at=Now() - LONG_AGO)

    (left,) = TaskRecord.objects.filter(status="QUEUED")

    assert left.waits_for == "a place of its limit"
    assert operations.requeue(older_than=timedelta(hours=1), dry_run=True).done == []


def test_an_invocation_that_starts_over_reserves_a_new_moment(table: None) -> None:
    call = limited.ten_a_minute.execute_on_commit(tenant="a")
    (first,) = claim_due()
    TaskRecord.objects.filter(id=first.invocation_id).update(status="FAILED", end_time=Now())

    operations.retry(ids=[call.id])

    assert TaskRecord.objects.get(id=call.id).reserved_for is None
