"""Queues that are the table: who is woken, and what goes first."""

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from django.db import connection, connections, transaction
from django.db.models import Count
from django.utils import timezone

from lambda_tasks import hooks, runtime
from lambda_tasks.entrypoints import worker as worker_module
from lambda_tasks.entrypoints.worker import FIRST_BATCH, Worker, worker_of
from lambda_tasks.execution import executor, leases, turns
from lambda_tasks.hooks import beside
from lambda_tasks.models import SQSLambdaTask, TaskRecord
from lambda_tasks.queues import database
from lambda_tasks.records import notify
from lambda_tasks.records.clock import Now
from tests import environment
from tests.app import gated, resuming, tasks
from tests.app.models import Effect
from tests.conftest import PATIENCE_S, Task, wait_for

pytestmark = pytest.mark.django_db(transaction=True)

in_table = tasks.leave_effect.using(queue="table")
ain_table = tasks.aleave_effect.using(queue="table")


@contextmanager
def worker(queues: Sequence[str] = ("table",), **options: Any) -> Iterator[None]:
    """One in this process, on a loop and a thread of its own, that ends with the body."""
    ended = threading.Event()

    async def work() -> None:
        async with worker_of(runtime.Runtime(), queues, drain_s=10, **options) as worker:
            started.set()
            asyncio.get_running_loop().call_soon(asyncio.ensure_future, stop(worker))
            await worker.run()

    async def stop(worker: Worker) -> None:
        await asyncio.to_thread(ended.wait)
        worker.stop()

    started = threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(work()))
    thread.start()
    assert started.wait(PATIENCE_S)
    try:
        yield
    finally:
        ended.set()
        thread.join()


@pytest.fixture
def seldom(monkeypatch: Any) -> None:
    """A table that is looked at once in ten minutes, were it not for what wakes the worker."""
    monkeypatch.setattr(database, "POLL_EVERY_S", 600)
    if connection.vendor != "postgresql":
        pytest.skip("only PostgreSQL tells of new rows")


def listeners() -> list[int]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pid FROM pg_stat_activity WHERE query = 'LISTEN lambda_tasks'")
        return [row[0] for row in cursor.fetchall()]


needs_listen = pytest.mark.skipif(
    environment.engine == "pgbouncer", reason="LISTEN ends with its transaction; the worker polls"
)


@needs_listen
def test_a_worker_is_woken_by_a_commit(queue: str, seldom: None) -> None:
    with worker():
        wait_for(listeners)
        with transaction.atomic():
            ain_table.execute_on_commit(name="a")
        wait_for(lambda: Effect.objects.count() == 1)
        asyncio.run(ain_table.aexecute_on_commit(name="b"))
        wait_for(lambda: Effect.objects.count() == 2)


def test_a_call_for_the_table_starts_no_thread_to_send_it(queue: str) -> None:
    runtime.close()
    before = threading.enumerate()

    ain_table.execute_on_commit(name="a")
    asyncio.run(ain_table.aexecute_on_commit(name="b"))

    assert TaskRecord.objects.filter(status="QUEUED").count() == 2
    started = [thread.name for thread in threading.enumerate() if thread not in before]
    assert "lambda_tasks-portal" not in started


@needs_listen
def test_what_another_had_locked_at_the_first_look_is_found_soon(queue: str, seldom: None) -> None:
    """A worker with busy lanes locks what it finds, and leaves it to others."""
    with worker():
        wait_for(listeners)
        with transaction.atomic():
            ain_table.execute_on_commit(name="a")
            TaskRecord.objects.update(look_at=Now() + timedelta(hours=1))
        with transaction.atomic():
            TaskRecord.objects.update(look_at=Now())
            notifying = threading.Thread(target=notify_elsewhere)
            notifying.start()
            notifying.join()
            time.sleep(0.2)  # by then the worker has looked; else it finds the record at once

        wait_for(lambda: Effect.objects.count() == 1)


def notify_elsewhere() -> None:
    notify.notify("default")
    connections.close_all()


def test_a_task_that_asks_for_more_is_followed_at_once(queue: str, seldom: None) -> None:
    with worker():
        count: Task = resuming.count_to_three
        count.using(queue="table").execute_on_commit()
        wait_for(lambda: TaskRecord.objects.filter(status="SUCCESS").count() == 3)


@needs_listen
def test_a_worker_that_can_not_listen_any_more_polls_and_listens_again(
    queue: str, monkeypatch: Any
) -> None:
    if connection.vendor != "postgresql":
        pytest.skip("only PostgreSQL tells of new rows")
    monkeypatch.setattr(database, "LISTEN_RETRY_S", 3.0)
    with worker():
        wait_for(listeners)
        (old,) = listeners()
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(%s)", [old])
        ain_table.execute_on_commit(name="polled")
        wait_for(lambda: Effect.objects.count() == 1)
        wait_for(lambda: listeners() and listeners() != [old])


def test_what_has_priority_runs_first_and_then_what_is_older(queue: str) -> None:
    for name, priority in [("b", 0), ("d", -100), ("a", 100), ("c", 0)]:
        ain_table.using(priority=priority).execute_on_commit(name=name)

    with worker(once=True, concurrency=1, processes=1):
        wait_for(lambda: Effect.objects.count() == 4)

    assert list(Effect.objects.order_by("pk").values_list("name", flat=True)) == list("abcd")


def test_a_worker_that_ends_when_idle_does_not_leave_what_had_to_wait(
    queue: str, monkeypatch: Any
) -> None:
    """What runs while it claims may have ended when it looks whether it is idle."""
    judge = turns.Turns.starting_soon
    busy = iter([True])

    def judged(self: turns.Turns, resolved: Any) -> Any:
        return ((), resolved) if next(busy, False) else judge(self, resolved)

    monkeypatch.setattr(turns.Turns, "starting_soon", judged)
    ain_table.execute_on_commit(name="a")

    with worker(once=True):
        wait_for(lambda: Effect.objects.count() == 1)


def test_within_a_priority_the_oldest_is_the_first(queue: str) -> None:
    ages = {"c": 1, "a": 3, "d": 0, "b": 2}
    names: dict[UUID, str] = {}
    for name, hours in ages.items():
        invocation = ain_table.execute_on_commit(name=name)
        names[invocation.id] = name
        due_at = timezone.now() - timedelta(hours=hours)
        TaskRecord.objects.filter(id=invocation.id).update(look_at=due_at)

    with transaction.atomic():
        if connection.vendor == "postgresql":
            # An index would bring them in their order whether that is asked for or not.
            with connection.cursor() as cursor:
                cursor.execute("SET LOCAL enable_indexscan = off")
                cursor.execute("SET LOCAL enable_bitmapscan = off")
        with runtime.current().table_queue.lock_due(["table"], limit=3) as due:
            oldest = [names[each.invocation_id] for each in due]

    assert oldest == ["a", "b", "c"]


def test_the_lease_of_what_waits_for_its_turn_is_begun_anew_and_that_of_what_runs_is_not(
    queue: str, monkeypatch: Any, tmp_path: Path
) -> None:
    monkeypatch.setattr(leases, "EXTEND_EVERY_S", 0.1)
    monkeypatch.setattr(executor, "HELD_FOR_S", 600)
    gate = tmp_path / "open"
    gated.await_gate.using(queue="table").execute_many_on_commit([{"gate": gate}] * 2)
    # Each may be poison and runs alone, so that the second waits although there is a lane for it.
    TaskRecord.objects.update(n_attempts=1)
    running = TaskRecord.objects.filter(status="RUNNING")

    def lease_until(*, waits: bool) -> Any:
        return running.get(start_time__isnull=waits).lease_until

    with worker(concurrency=2, processes=1):
        wait_for(lambda: running.exclude(start_time=None).count() == 1)
        wait_for(lambda: running.filter(start_time=None).count() == 1)
        of_what_runs, of_what_waits = lease_until(waits=False), lease_until(waits=True)
        wait_for(lambda: lease_until(waits=True) > of_what_waits + timedelta(seconds=1))
        assert lease_until(waits=False) == of_what_runs
        gate.touch()
        wait_for(lambda: TaskRecord.objects.filter(status="SUCCESS").count() == 2)


def test_short_tasks_are_claimed_in_ever_larger_batches(queue: str) -> None:
    tasks.aadd.using(queue="table").execute_many_on_commit({"a": n} for n in range(150))

    with worker(once=True):
        wait_for(lambda: TaskRecord.objects.filter(status="SUCCESS").count() == 150)

    claims = TaskRecord.objects.values("claim_token").annotate(size=Count("id"))
    assert max(each["size"] for each in claims) > FIRST_BATCH


def test_what_would_wait_behind_a_task_is_left_to_another_worker(
    queue: str, tmp_path: Path
) -> None:
    gate = tmp_path / "open"
    gated.await_gate.using(queue="table").execute_many_on_commit([{"gate": gate}] * 2)
    running = TaskRecord.objects.filter(status="RUNNING")

    with worker(concurrency=1, processes=1):
        wait_for(lambda: running.exclude(start_time=None).count() == 1)
        with worker(concurrency=1, processes=1):
            wait_for(lambda: running.exclude(start_time=None).count() == 2)
            gate.touch()
            wait_for(lambda: TaskRecord.objects.filter(status="SUCCESS").count() == 2)


@pytest.fixture
def eager_claims(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that claim what can't begin soon, and leave it to others after half a second."""
    monkeypatch.setattr(executor, "HELD_FOR_S", 0.5)
    monkeypatch.setattr(turns, "STARTS_SOON_S", 600)
    monkeypatch.setattr(worker_module, "LOOK_AHEAD_S", 600)


def test_what_waits_in_vain_for_a_task_that_is_short_as_a_rule_is_left_to_another_worker(
    queue: str, eager_claims: None, tmp_path: Path
) -> None:
    ajar, gate = tmp_path / "ajar", tmp_path / "open"
    ajar.touch()
    await_gate = gated.await_gate.using(queue="table")
    records = TaskRecord.objects

    with worker(concurrency=1, processes=1):
        await_gate.execute_on_commit(gate=ajar)
        wait_for(lambda: records.filter(status="SUCCESS").count() == 1)
        await_gate.execute_many_on_commit([{"gate": gate}] * 2)
        given_back = records.filter(status="QUEUED", n_waits__gt=0, n_attempts=0)
        wait_for(lambda: given_back.count() == 1)
        with worker(concurrency=1, processes=1):
            wait_for(lambda: records.filter(status="RUNNING", n_attempts=1).count() == 2)
            gate.touch()
            wait_for(lambda: records.filter(status="SUCCESS").count() == 3)


def test_what_is_left_to_another_worker_is_given_back_once(
    queue: str, eager_claims: None, tmp_path: Path
) -> None:
    """Although it is all that its batch had, so that this ends as well."""
    ajar, gate = tmp_path / "ajar", tmp_path / "open"
    ajar.touch()
    await_gate = gated.await_gate.using(queue="table")
    records = TaskRecord.objects
    back: list[hooks.GivenBack] = []
    receiver = hooks.given_back.connect(back.append)

    try:
        with worker(concurrency=1, processes=1):
            await_gate.execute_on_commit(gate=ajar)
            wait_for(lambda: records.filter(status="SUCCESS").count() == 1)
            await_gate.execute_on_commit(gate=gate)
            wait_for(lambda: records.filter(status="RUNNING", n_attempts=1).exists())
            waiting = await_gate.execute_on_commit(gate=gate)
            wait_for(lambda: records.get(id=waiting.id).n_waits > 0)
            gate.touch()
            wait_for(lambda: records.filter(status="SUCCESS").count() == 3)
        assert beside.flush(PATIENCE_S)
    finally:
        hooks.given_back.disconnect(receiver)

    assert len(back) == records.get(id=waiting.id).n_waits


def test_a_retry_and_a_payload_keep_their_priority(queue: str) -> None:
    urgent = tasks.limited.using(queue="table", priority=7)
    SQSLambdaTask.model_validate(urgent.serialize(name="x")).execute_on_commit()

    with worker(once=True):
        wait_for(lambda: TaskRecord.objects.filter(n_retries=1).exists())

    assert set(TaskRecord.objects.values_list("priority", flat=True)) == {7}


@pytest.mark.parametrize("priority", [101, -101, 1.5, True, "high"])
def test_a_priority_out_of_range_is_refused(priority: Any) -> None:
    with pytest.raises(ValueError, match="whole number from -100 to 100"):
        ain_table.using(priority=priority)


def test_a_priority_is_refused_where_the_queue_has_none(queue: str) -> None:
    with pytest.raises(ValueError, match="SQS and AWS Batch do not support them"):
        tasks.add.using(priority=5).execute_on_commit(a=1)


def test_a_long_queue_is_not_read_to_find_its_first_ones(queue: str) -> None:
    """The statement follows its index; a sort of all that waits would grow with the queue."""
    if connection.vendor != "postgresql":
        pytest.skip("the plan is PostgreSQL's")
    TaskRecord.objects.bulk_create(
        TaskRecord(task_name="x", kwargs={}, queue="table", status="QUEUED", look_at=Now())
        for _ in range(5000)
    )
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE lambda_tasks_taskrecord")
    plans: list[str] = []
    with connection.execute_wrapper(explain(plans)):
        with runtime.current().table_queue.lock_due(["table"], limit=10):
            pass
    assert plans
    assert not any("Sort" in plan for plan in plans), plans


def explain(plans: list[str]) -> Any:
    def execute_explained(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if "ORDER BY" in sql:
            with connections["default"].connection.cursor() as cursor:
                cursor.execute("EXPLAIN " + sql, params)
                plans.append("\n".join(row[0] for row in cursor.fetchall()))
        return execute(sql, params, many, context)

    return execute_explained
