"""Unique calls: one row for equal calls, whatever their transactions do."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, cast

import pydantic
import pytest
from asgiref.sync import async_to_sync
from django.db import OperationalError, connection, connections, transaction
from django.db.models import F
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils.timezone import now
from hypothesis import given
from hypothesis import settings as settings_of_laws
from hypothesis import strategies as st

from lambda_tasks import Invocation, hooks, interrupts, lambda_task, operations, runtime
from lambda_tasks.backends import compat
from lambda_tasks.backends import task as task_with_options
from lambda_tasks.errors import TaskExpired, UniqueConflict, UniqueKeyBusy
from lambda_tasks.local import LocalSqs
from lambda_tasks.models import SQSLambdaTask, TaskRecord
from lambda_tasks.testing import assert_enqueued, capture_tasks
from tests.app import django_tasks, tasks, unique
from tests.app.models import Effect
from tests.conftest import PATIENCE_S, Handle, Task, bodies_in, sqs_event, wait_for, wake_up

pytestmark = pytest.mark.django_db(transaction=True)

elsewhere = pytest.mark.skipif(connection.vendor == "sqlite", reason="it has one writer at a time")


def run(handle: Handle, invocation: Invocation[Any]) -> str:
    """Deliver the message of an invocation; return the status of its record."""
    record = TaskRecord.objects.get(id=invocation.id)
    handle(wake_up(record.id, record.task_name))
    return TaskRecord.objects.get(id=invocation.id).status


def run_last(handle: Handle) -> TaskRecord:
    """Deliver the message of the record that is queued."""
    record = TaskRecord.objects.get(status="QUEUED")
    TaskRecord.objects.filter(id=record.id).update(run_after=None)
    handle(wake_up(record.id, record.task_name))
    return TaskRecord.objects.get(id=record.id)


@contextmanager
def another_transaction(make: Callable[[], object], *, rolls_back: bool = False) -> Iterator[Any]:
    """Make a call in another thread's transaction, which ends when the event is set."""
    made, release = threading.Event(), threading.Event()

    def call() -> None:
        try:
            with transaction.atomic():
                make()
                made.set()
                assert release.wait(PATIENCE_S)
                transaction.set_rollback(rolls_back)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(1) as thread:
        calling = thread.submit(call)
        assert made.wait(PATIENCE_S)
        try:
            yield release
        finally:
            release.set()
            calling.result(PATIENCE_S)


def waits_for_a_lock() -> bool:
    """Return whether a connection waits for another's lock."""
    question = {
        "postgresql": "SELECT count(*) FROM pg_locks WHERE NOT granted",
        "mysql": "SELECT count(*) FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'",
    }
    if connection.vendor == "mysql":
        time.sleep(0.2)  # MariaDB answers anew only 0.1 s after the last question
    with connection.cursor() as cursor:
        cursor.execute(question[connection.vendor])
        return bool(cursor.fetchone()[0])


@pytest.fixture
def short_wait(monkeypatch: Any) -> None:
    monkeypatch.setattr("lambda_tasks.records.unique.WAIT_LIMIT_S", 0.5)


# The second call


def test_a_second_call_joins_the_first(sqs: LocalSqs, queue: str) -> None:
    first = unique.bill.execute_on_commit(order_id=1)
    second = unique.bill.execute_on_commit(order_id=1, cents=7)
    other = unique.bill.execute_on_commit(order_id=2)

    assert (first.created, second.created, other.created) == (True, False, True)
    assert second == first
    assert TaskRecord.objects.count() == 2
    sent = [each["invocation_id"] for each in bodies_in(sqs, queue)]
    assert sorted(sent) == sorted([str(first.id), str(other.id)])


def test_a_second_async_call_joins_the_first(queue: str) -> None:
    async def call() -> list[Invocation[int]]:
        return [await unique.abill.aexecute_on_commit(order_id=1) for _ in range(2)]

    first, second = async_to_sync(call)()

    assert (second.id, second.created) == (first.id, False)


def test_the_second_of_one_transaction_joins_the_first(sqs: LocalSqs, queue: str) -> None:
    with transaction.atomic():
        first = unique.bill.execute_on_commit(order_id=1)
        second = unique.bill.execute_on_commit(order_id=1)

    assert (second.id, second.created) == (first.id, False)
    assert len(bodies_in(sqs, queue)) == 1


def test_a_savepoint_that_is_rolled_back_takes_its_key_along(sqs: LocalSqs, queue: str) -> None:
    with transaction.atomic():
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            unique.bill.execute_on_commit(order_id=1)
            raise ZeroDivisionError
        second = unique.bill.execute_on_commit(order_id=1)

    assert second.created
    (body,) = bodies_in(sqs, queue)
    assert body["invocation_id"] == str(second.id)


def test_many_calls_join_each_other_and_an_earlier_one(queue: str) -> None:
    earlier = unique.bill.execute_on_commit(order_id=2)

    found = unique.bill.execute_many_on_commit([{"order_id": each} for each in (1, 2, 1, 3)])

    assert [each.created for each in found] == [True, False, False, True]
    assert found[2].id == found[0].id
    assert found[1].id == earlier.id
    assert TaskRecord.objects.count() == 3


def test_the_key_is_free_when_the_run_has_ended(handle: Handle, queue: str) -> None:
    first = unique.bill.execute_on_commit(order_id=1)
    assert run(handle, first) == "SUCCESS"

    assert unique.bill.execute_on_commit(order_id=1).created


@pytest.mark.parametrize("task", [unique.bill, unique.remind])
def test_the_key_is_free_when_the_run_has_failed(handle: Handle, queue: str, task: Task) -> None:
    first = task.execute_on_commit(order_id=1, fails=True)
    assert run(handle, first) == "FAILED"

    assert task.execute_on_commit(order_id=1).created


@pytest.mark.parametrize("task", [unique.bill, unique.index, unique.remind])
def test_the_key_is_free_when_the_call_is_cancelled(queue: str, task: Task) -> None:
    task.execute_on_commit(order_id=1)
    assert TaskRecord.objects.get().cancel()

    assert task.execute_on_commit(order_id=1).created


def test_ends_that_are_written_together_free_their_keys(handle: Handle, queue: str) -> None:
    calls = [{"order_id": each} for each in range(5)]
    first = unique.abill.execute_many_on_commit(calls)
    handle(*[wake_up(each.id, "tests.app.unique.abill") for each in first])
    assert set(TaskRecord.objects.values_list("status", flat=True)) == {"SUCCESS"}

    assert all(each.created for each in unique.abill.execute_many_on_commit(calls))


def test_a_retry_takes_the_key_over(handle: Handle, queue: str) -> None:
    first = unique.retry_once.execute_on_commit(order_id=1)
    assert run(handle, first) == "RETRYING"

    second = unique.retry_once.execute_on_commit(order_id=1)
    retry = run_last(handle)

    assert (second.id, second.created) == (retry.id, False)
    assert retry.status == "FAILED"
    assert unique.retry_once.execute_on_commit(order_id=1).created


def test_a_run_that_continues_takes_the_key_over(handle: Handle, queue: str) -> None:
    assert run(handle, unique.go_on.execute_on_commit()) == "SUCCESS"

    second = unique.go_on.execute_on_commit()
    last = run_last(handle)

    assert (second.id, second.created) == (last.id, False)
    assert (last.status, last.result) == ("SUCCESS", 2)
    assert unique.go_on.execute_on_commit().created


def test_a_retry_of_a_call_that_was_unique_while_queued_is_stored_beside_the_next(
    handle: Handle, queue: str
) -> None:
    task = unique.retry_once.using(unique_while="queued")
    first = task.execute_on_commit(order_id=1)
    TaskRecord.objects.update(status="RUNNING")  # as a worker sees it that has just claimed it
    TaskRecord.objects.update(status="QUEUED")
    assert run(handle, first) == "RETRYING"

    assert task.execute_on_commit(order_id=1).created
    assert TaskRecord.objects.filter(status="QUEUED").count() == 2


def test_a_call_that_is_unique_while_queued_is_free_once_it_is_claimed(
    handle: Handle, queue: str
) -> None:
    """So a run may enqueue the next one of its own key."""
    assert run(handle, unique.reindex.execute_on_commit(order_id=1)) == "SUCCESS"

    assert run_last(handle).kwargs == {"order_id": 1, "again": False}


def test_a_call_that_is_unique_for_a_time_counts_after_its_success(
    handle: Handle, queue: str
) -> None:
    first = unique.remind.execute_on_commit(order_id=1)
    assert run(handle, first) == "SUCCESS"
    second = unique.remind.execute_on_commit(order_id=1)
    TaskRecord.objects.update(unique_until=F("unique_until") - timedelta(hours=2))

    third = unique.remind.execute_on_commit(order_id=1)

    assert (second.id, second.created) == (first.id, False)
    assert third.created


def test_a_call_whose_time_is_over_still_counts_until_it_has_ended(queue: str) -> None:
    first = unique.remind.execute_on_commit(order_id=1)
    TaskRecord.objects.update(unique_until=F("unique_until") - timedelta(hours=2))

    assert unique.remind.execute_on_commit(order_id=1) == first


# Conflicts


def test_a_conflict_is_raised_and_the_transaction_goes_on(queue: str) -> None:
    first = unique.bill_strictly.execute_on_commit(order_id=1)

    with transaction.atomic():
        with pytest.raises(UniqueConflict, match=str(first.id)) as raised:
            unique.bill_strictly.execute_on_commit(order_id=1)
        Effect.objects.create(name="after it")

    assert raised.value.invocation_id == first.id
    assert Effect.objects.count() == 1


@pytest.mark.parametrize("orders", [(2, 1, 3), (2, 3, 2)])
def test_a_conflict_among_many_calls_enqueues_none(queue: str, orders: tuple[int, ...]) -> None:
    unique.bill_strictly.execute_on_commit(order_id=1)

    with pytest.raises(UniqueConflict):
        unique.bill_strictly.execute_many_on_commit([{"order_id": each} for each in orders])

    assert TaskRecord.objects.count() == 1


def test_a_call_replaces_the_arguments_of_a_queued_one(handle: Handle, queue: str) -> None:
    first = unique.index_last.using(headers={"a": 1, "b": 1}).execute_on_commit(order_id=1)
    second = unique.index_last.using(headers={"b": 2}).execute_on_commit(order_id=1, text="new")

    assert (second.id, second.created) == (first.id, False)
    record = TaskRecord.objects.get()
    assert record.headers == {"a": 1, "b": 2}
    assert run(handle, first) == "SUCCESS"
    assert TaskRecord.objects.get().result == "new"


def test_a_call_does_not_join_one_that_has_expired(queue: str) -> None:
    first = unique.bill.using(expires=60).execute_on_commit(order_id=1)
    TaskRecord.objects.update(expires_at=now() - timedelta(seconds=1))

    second = unique.bill.execute_on_commit(order_id=1)

    assert second.created
    expected = {first.id: "CANCELLED", second.id: "QUEUED"}
    assert dict(TaskRecord.objects.values_list("id", "status")) == expected


def test_a_call_that_is_replaced_loses_its_reserved_start_and_its_place_in_line(queue: str) -> None:
    unique.index_last.execute_on_commit(order_id=1)
    TaskRecord.objects.update(reserved_for=now(), limit_key="key")

    unique.index_last.using(delay=60).execute_on_commit(order_id=1)

    assert TaskRecord.objects.values_list("reserved_for", "limit_key").get() == (None, None)


def test_each_call_pushes_the_time_of_a_queued_one(sqs: LocalSqs, queue: str) -> None:
    later = [unique.index_last.using(delay=delay) for delay in (60, 600)]
    moments = []
    for task in later:
        task.execute_on_commit(order_id=1)
        moments.append(TaskRecord.objects.get().run_after)
    first, second = cast("list[datetime]", moments)

    assert second - first > timedelta(minutes=8)
    assert TaskRecord.objects.get().sent_at is not None


def test_a_call_that_is_due_earlier_is_sent_again(sqs: LocalSqs, queue: str) -> None:
    first = unique.index_last.using(delay=600).execute_on_commit(order_id=1)
    assert bodies_in(sqs, queue) == []

    unique.index_last.execute_on_commit(order_id=1)

    (body,) = bodies_in(sqs, queue)
    assert body["invocation_id"] == str(first.id)
    assert TaskRecord.objects.get().run_after is None


def test_the_last_of_many_calls_replaces_those_before_it(queue: str) -> None:
    calls = [{"order_id": 1, "text": text} for text in "abc"]

    found = unique.index_last.execute_many_on_commit(calls)

    assert [each.created for each in found] == [True, False, False]
    assert TaskRecord.objects.get().kwargs["text"] == "c"


# Transactions


@elsewhere
@pytest.mark.parametrize("rolls_back", [False, True])
def test_a_call_waits_for_an_equal_one_whose_transaction_is_open(
    queue: str, rolls_back: bool
) -> None:
    def call() -> Invocation[int]:
        try:
            return unique.bill.execute_on_commit(order_id=1)
        finally:
            connections.close_all()

    with (
        ThreadPoolExecutor(1) as thread,
        another_transaction(
            lambda: unique.bill.execute_on_commit(order_id=1), rolls_back=rolls_back
        ) as release,
    ):
        second = thread.submit(call)
        wait_for(waits_for_a_lock)
        release.set()
        assert second.result(PATIENCE_S).created is rolls_back

    assert TaskRecord.objects.count() == 1


@elsewhere
def test_a_wait_for_another_transaction_ends_with_a_clear_error(
    queue: str, short_wait: None
) -> None:
    with another_transaction(lambda: unique.bill.execute_on_commit(order_id=1)):
        with pytest.raises(UniqueKeyBusy, match="neither been committed nor rolled back"):
            unique.bill.execute_on_commit(order_id=1)
        with pytest.raises(UniqueKeyBusy), transaction.atomic():
            unique.bill.execute_on_commit(order_id=1)

    assert TaskRecord.objects.count() == 1


@elsewhere
def test_what_is_joined_while_it_is_queued_does_not_begin_before_the_commit(
    handle: Handle, queue: str
) -> None:
    """Its run would miss what the transaction has written."""
    first = unique.index.execute_on_commit(order_id=1)

    with another_transaction(lambda: unique.index.execute_on_commit(order_id=1)):
        assert run(handle, first) == "QUEUED"

    assert run(handle, first) == "SUCCESS"


@pytest.mark.skipif(connection.vendor != "mysql", reason="others lock the record alone")
def test_a_join_locks_the_record_by_its_id_as_claims_do(queue: str) -> None:
    """A lock by the key and a claim would lock index and record in different orders."""
    unique.index.execute_on_commit(order_id=1)

    with transaction.atomic(), CaptureQueriesContext(connection) as statements:
        assert not unique.index.execute_on_commit(order_id=1).created

    (locking,) = [each["sql"] for each in statements if "FOR UPDATE" in each["sql"]]
    assert "unique_key" not in locking.partition("WHERE")[2]


@elsewhere
def test_a_run_ends_although_a_transaction_has_joined_it(handle: Handle, queue: str) -> None:
    first = unique.bill.execute_on_commit(order_id=1)

    with another_transaction(lambda: unique.bill.execute_on_commit(order_id=1)):
        assert run(handle, first) == "SUCCESS"


@pytest.mark.skipif(connection.vendor != "postgresql", reason="its levels of isolation")
@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_a_snapshot_that_cannot_see_the_other_call_is_a_conflict(queue: str, level: str) -> None:
    def call_elsewhere() -> None:
        try:
            unique.bill.execute_on_commit(order_id=1)
        finally:
            connections.close_all()

    with pytest.raises(OperationalError, match="could not serialize"), transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute(f"SET TRANSACTION ISOLATION LEVEL {level}")
        assert not TaskRecord.objects.exists()
        with ThreadPoolExecutor(1) as thread:
            thread.submit(call_elsewhere).result(PATIENCE_S)
        unique.bill.execute_on_commit(order_id=1)


def test_a_thousand_calls_of_one_key_make_one_row_and_one_run(
    handle: Handle, queue: str, settings: Any
) -> None:
    """Threads of this process call, and their transactions are committed and rolled back."""
    n_threads, n_calls = (2, 40) if connection.vendor == "sqlite" else (8, 125)

    def call(thread: int) -> set[Any]:
        held = set()
        try:
            for number in range(n_calls):
                with transaction.atomic():
                    invocation = unique.bill.using(queue="table").execute_on_commit(order_id=1)
                    rolls_back = (thread + number) % 3 == 0
                    transaction.set_rollback(rolls_back)
                if not rolls_back:
                    held.add(invocation.id)
        finally:
            connections.close_all()
        return held

    with ThreadPoolExecutor(n_threads) as threads:
        ids = set().union(*threads.map(call, range(n_threads)))

    assert ids == set(TaskRecord.objects.values_list("id", flat=True))
    (id,) = ids
    for _ in range(2):
        handle(wake_up(id, "tests.app.unique.bill"))
    assert Effect.objects.count() == 1


# Keys


def test_equal_arguments_make_equal_calls_however_they_are_given(queue: str) -> None:
    at = datetime(2030, 1, 2, tzinfo=UTC)
    pairs: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({}, {"number": 1, "size": unique.Size.SMALL, "price": Decimal("1.5")}),
        ({"at": at}, {"number": 1, "at": at}),
        (
            {"tags": frozenset("abcdefgh")},
            {"tags": frozenset(reversed("abcdefgh"))},
        ),
    ]
    for first, second in pairs:
        assert unique.count.execute_on_commit(**first).created
        assert not unique.count.execute_on_commit(**second).created

    assert unique.count.execute_on_commit(number=2).created
    assert unique.count.execute_on_commit(price=Decimal("2.5")).created


def test_a_set_has_one_key_whatever_its_order() -> None:
    complete = unique.count.arguments.complete

    assert complete({"tags": ["b", "a"]}) == complete({"tags": ["a", "b"]})


def test_keys_of_different_tasks_differ(queue: str) -> None:
    assert unique.bill.execute_on_commit(order_id=1).created
    assert unique.bill_strictly.execute_on_commit(order_id=1).created


def test_a_call_may_be_unique_although_its_task_is_not(queue: str) -> None:
    task = tasks.add.using(unique_by=("a",))

    assert task.execute_on_commit(a=1, b=1).created
    assert not task.execute_on_commit(a=1, b=2).created
    assert tasks.add.execute_on_commit(a=1).created


def test_a_payload_keeps_what_makes_its_call_unique(queue: str) -> None:
    payload = tasks.add.using(unique_by=("a",), expires=60).serialize(a=1)
    SQSLambdaTask.model_validate(payload).execute_on_commit()

    record = TaskRecord.objects.get()
    assert record.expires_at is not None
    assert not tasks.add.using(unique_by=("a",)).execute_on_commit(a=1).created


def test_a_payload_that_is_enqueued_twice_is_one_call(queue: str) -> None:
    payload = SQSLambdaTask.model_validate(unique.bill.serialize(order_id=1))
    payload.execute_on_commit()
    payload.execute_on_commit()

    assert TaskRecord.objects.count() == 1


# What else knows of it


def test_hooks_hear_of_new_calls_only_and_their_headers_are_stored(queue: str) -> None:
    heard: list[Any] = []

    def hear(event: hooks.Enqueued) -> None:
        heard.append(event.invocation_id)
        event.headers["trace"] = str(len(heard))

    hooks.enqueued.connect(hear)
    try:
        first = unique.bill.execute_on_commit(order_id=1)
        unique.bill.execute_on_commit(order_id=1)
        async_to_sync(unique.bill.aexecute_on_commit)(order_id=1)
    finally:
        hooks.enqueued.disconnect(hear)

    assert heard == [first.id]
    assert TaskRecord.objects.get().headers == {"trace": "1"}


def test_captured_calls_have_no_call_that_joined(queue: str) -> None:
    with capture_tasks() as captured, transaction.atomic():
        unique.bill.execute_on_commit(order_id=1)
        unique.bill.execute_on_commit(order_id=1, cents=5)
        unique.index_last.execute_on_commit(order_id=1, text="old")
        unique.index_last.execute_on_commit(order_id=1, text="new")

        assert len(captured) == 2
        assert_enqueued(unique.index_last, text="new")
        records = captured.run()

    assert [each.result for each in records] == [1, "new"]


def test_in_eager_mode_a_call_joins_one_that_waits_for_the_commit(settings: Any) -> None:
    settings.LAMBDA_TASKS_EAGER = True
    with transaction.atomic():
        first = unique.bill.using(delay=60).execute_on_commit(order_id=1)
        second = unique.bill.execute_on_commit(order_id=1)
    third = unique.bill.execute_on_commit(order_id=1)

    assert (second.id, second.created) == (first.id, False)
    assert third.created
    assert set(TaskRecord.objects.values_list("status", flat=True)) == {"SUCCESS"}
    assert Effect.objects.count() == 2


def test_where_calls_are_dropped_none_is_joined(settings: Any) -> None:
    settings.LAMBDA_TASKS_NOOP_EXECUTION = True

    assert all(unique.bill.execute_on_commit(order_id=1).created for _ in range(2))


def test_a_call_of_a_task_that_is_not_unique_costs_no_statement_more(queue: str) -> None:
    """And a unique one costs none more on PostgreSQL, where there is no conflict."""
    calls = [tasks.add_durable.using(queue="table"), unique.bill.using(queue="table")]
    arguments: list[dict[str, Any]] = [{"a": 1}, {"order_id": 1}]
    counts = []
    for task, kwargs in zip(calls, arguments, strict=True):
        with transaction.atomic(), CaptureQueriesContext(connection) as statements:
            cast("Any", task).execute_on_commit(**kwargs)
            assert TaskRecord.objects.exists()  # else it may be written at the end
            counts.append(len(statements) - 1)

    assert counts[0] == 1
    assert counts[1] == {"postgresql": 1, "sqlite": 2, "mysql": 3}[connection.vendor]


def test_a_schedule_joins_a_run_that_has_not_ended(queue: str, settings: Any) -> None:
    entry = {"task": unique.bill_strictly.name, "kwargs": {"order_id": 1}, "cron": "* * * * *"}
    settings.LAMBDA_TASKS_SCHEDULES = {"strictly": entry}
    tick = async_to_sync(runtime.current().scheduler.tick)

    assert tick().scheduled > 0
    assert tick().scheduled == 0

    assert TaskRecord.objects.count() == 1


def test_a_replay_joins_the_call_that_holds_its_key(
    handle: Handle, queue: str, admin_client: Client
) -> None:
    first = unique.bill.execute_on_commit(order_id=1)
    assert run(handle, first) == "SUCCESS"
    holder = unique.bill.execute_on_commit(order_id=1)

    answer = admin_client.post(
        "/admin/lambda_tasks/taskrecord/",
        {"action": "replay", "_selected_action": [str(first.id)], "confirmed": "yes"},
        follow=True,
    )

    assert f"{holder.id} holds its unique key" in answer.content.decode()
    assert TaskRecord.objects.count() == 2


def test_a_replay_runs_although_its_call_is_still_unique_for_a_time(
    handle: Handle, queue: str
) -> None:
    """Whoever asks for it means it. From then on equal calls join the replay."""
    first = unique.remind.execute_on_commit(order_id=1)
    assert run(handle, first) == "SUCCESS"

    replays = operations.replay(ids=[first.id])

    assert replays.skipped == {}
    (new,) = replays.new.values()
    joined = unique.remind.execute_on_commit(order_id=1)
    assert (joined.id, joined.created) == (new, False)
    assert run_last(handle).status == "SUCCESS"
    again = operations.replay(ids=[first.id], again=True)
    assert len(again.done) == 1, "the replay's own key, too"
    unfinished = operations.replay(ids=[first.id], again=True).skipped[first.id]
    assert unfinished == f"{again.new[first.id]} holds its unique key, and has not ended"


def test_a_replay_of_all_calls_of_a_key_makes_one_run(handle: Handle, queue: str) -> None:
    failed = unique.remind.execute_on_commit(order_id=1, fails=True)
    run(handle, failed)
    succeeded = unique.remind.execute_on_commit(order_id=1)
    run(handle, succeeded)
    last = unique.remind.using(unique_by=None).execute_on_commit(order_id=1, fails=True)
    run(handle, last)

    replays = operations.replay(ids=[failed.id, succeeded.id, last.id], change={"fails": False})

    (made,) = replays.new.values()
    assert TaskRecord.objects.filter(status="QUEUED").count() == 1
    assert {str(made)} == {reason[:36] for reason in replays.skipped.values()}
    assert all(reason.endswith("has not ended") for reason in replays.skipped.values())


def test_a_replay_with_other_arguments_leaves_the_key_of_its_call(
    handle: Handle, queue: str
) -> None:
    first = unique.remind.execute_on_commit(order_id=1)
    run(handle, first)

    replays = operations.replay(ids=[first.id], change={"order_id": 2})

    assert len(replays.done) == 1
    assert not unique.remind.execute_on_commit(order_id=1).created


def test_a_replay_is_refused_while_the_success_of_another_call_counts(
    handle: Handle, queue: str
) -> None:
    failed = unique.remind.execute_on_commit(order_id=1, fails=True)
    assert run(handle, failed) == "FAILED"
    other = unique.remind.execute_on_commit(order_id=1)
    assert run(handle, other) == "SUCCESS"

    replays = operations.replay(ids=[failed.id], change={"fails": False})

    reason = replays.skipped[failed.id]
    assert reason.startswith(f"{other.id} has succeeded since, and holds its unique key until 2")
    assert reason.endswith("replay that one")
    assert TaskRecord.objects.count() == 2


# Django's own tasks


def test_a_second_call_of_djangos_task_returns_the_first_result(queue: str) -> None:
    task: Any = django_tasks.bill
    enqueued: list[str] = []

    def hear(sender: type, task_result: Any, **_: Any) -> None:
        enqueued.append(task_result.id)

    compat.task_enqueued.connect(hear)
    try:
        first = task.enqueue(1)
        second = task.enqueue(order_id=1, cents=7)
        third = async_to_sync(task.aenqueue)(1)
        many = task.enqueue_many([(1,), (2,)])
    finally:
        compat.task_enqueued.disconnect(hear)

    assert {first.id, second.id, third.id, many[0].id} == {first.id}
    assert second.args == [1]
    assert enqueued == [first.id, many[1].id]
    assert TaskRecord.objects.count() == 2


def test_a_conflict_of_djangos_tasks_is_raised(queue: str) -> None:
    task: Any = django_tasks.bill_strictly
    task.enqueue(1)

    with pytest.raises(UniqueConflict):
        task.enqueue(order_id=1, cents=1)
    task.enqueue(1, cents=2)


def test_djangos_task_that_has_expired_has_failed(handle: Handle, queue: str) -> None:
    task: Any = django_tasks.bill
    result = task.enqueue(1)
    TaskRecord.objects.update(expires_at=F("expires_at") - timedelta(hours=1))
    handle(wake_up(result.id, "tests.app.django_tasks.bill", backend="default"))

    result.refresh()

    assert str(result.status) == "FAILED"
    assert [each.exception_class for each in result.errors] == [TaskExpired]


def plain(order_id: int) -> None:
    """A function that is no task yet."""


def test_a_wrong_option_of_djangos_task_is_refused(queue: str) -> None:
    wrong: tuple[tuple[dict[str, Any], str], ...] = (
        ({"unique_by": ("order",)}, "unique_by names 'order'"),
        ({"unique_for": 3}, "set without unique_by"),
        ({"expires": 0}, "more than 0 seconds"),
    )
    for options, problem in wrong:
        with pytest.raises(compat.InvalidTask, match=problem):
            task_with_options(**options)(plain)


# Any order of events


@settings_of_laws(max_examples=15)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["bill", "index", "remind", "retry_once"]),
            st.sampled_from(["call", "roll back", "run", "cancel", "call twice"]),
            st.integers(1, 2),
        ),
        max_size=12,
    )
)
def test_whatever_happens_a_call_is_new_where_no_other_holds_its_key(
    steps: list[tuple[str, str, int]],
) -> None:
    """The model has the id that holds each key, and for each call who must have been returned."""
    TaskRecord.objects.all().delete()
    holders: dict[tuple[str, int], Any] = {}
    waiting: dict[tuple[str, int], list[Any]] = {}
    with capture_tasks():  # nobody runs them by himself
        for name, event, order_id in steps:
            task, key = getattr(unique, name), (name, order_id)
            if event in ("call", "call twice"):
                invocation = task.execute_on_commit(order_id=order_id)
                assert invocation.created is (key not in holders)
                assert invocation.id == holders.setdefault(key, invocation.id)
                if invocation.created:
                    waiting.setdefault(key, []).append(invocation.id)
                if event == "call twice":
                    assert task.execute_on_commit(order_id=order_id) == invocation
            elif event == "roll back":
                with transaction.atomic():
                    task.execute_on_commit(order_id=order_id)
                    transaction.set_rollback(True)
            elif waiting.get(key):
                id = waiting[key].pop(0)
                follower = _end(TaskRecord.objects.get(id=id), event)
                frees = event == "cancel" or name != "remind"
                if holders.get(key) == id and frees:
                    del holders[key]
                if follower:
                    waiting[key].append(follower)
                    holders[key] = follower
            held = TaskRecord.objects.exclude(unique_key=None).values_list("id", flat=True)
            assert set(held) == set(holders.values())


def _end(record: TaskRecord, event: str) -> Any:
    """Run or cancel what a record asks for; return the id of its retry, if it has one."""
    if event == "cancel":
        record.cancel()
        return None
    id, known = record.id, set(TaskRecord.objects.values_list("id", flat=True))
    TaskRecord.objects.filter(id=id).update(run_after=None)
    message = {"task_name": record.task_name, "invocation_id": str(id), "durable": True}
    runtime_now: Any = runtime.current()
    async_to_sync(runtime_now.handle)(sqs_event(json.dumps(message)))
    new = set(TaskRecord.objects.values_list("id", flat=True)) - known
    return new.pop() if new else None


# At decoration


def declare(**options: Any) -> None:
    def job(*, order_id: int, token: pydantic.SecretStr) -> None: ...

    job.__qualname__ = "job"
    cast("Any", lambda_task)(**options)(job)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"unique_by": ("order",)}, "unique_by names 'order'"),
        ({"unique_by": "order_id"}, "Use a tuple of names"),
        ({"unique_by": True}, "Use a tuple of names"),
        ({"unique_by": ("token",)}, "'token', whose values are secret"),
        ({"unique_by": "all"}, "'token', whose values are secret"),
        ({"unique_by": ("order_id",), "durable": False}, "Remove durable=False"),
        ({"unique_by": ("order_id",), "unique_while": "running"}, "Use 'queued'"),
        ({"unique_by": ("order_id",), "on_conflict": "join"}, "Use 'return', 'replace'"),
        ({"unique_by": ("order_id",), "on_conflict": "replace"}, "Set unique_while='queued'"),
        (
            {"unique_by": ("order_id",), "unique_while": "queued", "unique_for": 3},
            "Remove one of the two",
        ),
        ({"unique_by": ("order_id",), "unique_for": 0}, "more than 0 seconds"),
        ({"unique_by": ("order_id",), "unique_for": "1h"}, "Use seconds, or a timedelta"),
        ({"unique_while": "queued"}, "set without unique_by"),
        ({"unique_for": 3}, "set without unique_by"),
        ({"on_conflict": "raise"}, "set without unique_by"),
        ({"expires": -1}, "more than 0 seconds"),
        ({"expires": "soon"}, "Use seconds, or a timedelta"),
    ],
)
def test_a_wrong_option_is_refused_at_decoration(options: dict[str, Any], problem: str) -> None:
    with pytest.raises((TypeError, ValueError), match=problem) as raised:
        declare(**options)

    assert "job" in str(raised.value)


@pytest.mark.parametrize(
    ("task", "options", "problem"),
    [
        (tasks.add, {"unique_by": ("c",)}, "unique_by names 'c'"),
        (tasks.add, {"unique_for": 3}, "set without unique_by"),
        (tasks.add_direct, {"unique_by": "all"}, "Remove durable=False"),
        (unique.bill, {"on_conflict": "replace"}, "Set unique_while='queued'"),
        (tasks.add, {"expires": datetime(2030, 1, 1)}, "no time zone"),
    ],
)
def test_a_wrong_option_is_refused_at_using(
    task: Task, options: dict[str, Any], problem: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=problem):
        task.using(**options)


def test_a_parameter_that_the_settings_call_secret_is_refused_at_the_call(
    queue: str, settings: Any
) -> None:
    settings.LAMBDA_TASKS_REDACT = ["order_id"]

    with pytest.raises(TypeError, match="'order_id', whose values are secret"):
        unique.bill.execute_on_commit(order_id=1)


def test_a_wait_is_bounded_as_all_statements_of_the_library_are() -> None:
    from lambda_tasks.records import unique as records

    assert records.WAIT_LIMIT_S == interrupts.LIBRARY_STATEMENT_LIMIT_S
