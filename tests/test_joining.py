"""Calls of one transaction are written together, and nobody sees a difference."""

import unittest
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.db import DatabaseError, connection, connections, transaction
from django.test import TestCase
from django.test.utils import CaptureQueriesContext

from lambda_tasks.models import SQSLambdaTask, TaskRecord
from lambda_tasks.records.outbox import RecordOutbox
from tests.app import tasks
from tests.app.models import Effect

pytestmark = pytest.mark.django_db(transaction=True)

TABLE = TaskRecord._meta.db_table

needs_bounds = pytest.mark.skipif(
    connection.vendor == "sqlite", reason="SQLite stores any number in a column of small ones."
)


@pytest.fixture(autouse=True)
def _table_queue(settings: Any) -> None:
    settings.LAMBDA_TASKS_QUEUES = {"default": {"database": True}}


@pytest.fixture(autouse=True)
def _left_as_it_was() -> Iterator[None]:
    """After each test the connection's statements and its commit are Django's own.

    Earlier tests may have run tasks on it, whose guard stays.
    """
    earlier, connection.execute_wrappers[:] = connection.execute_wrappers[:], []
    yield
    Effect.objects.exists()
    assert connection.execute_wrappers == []
    assert "commit" not in vars(connections["default"])
    connection.execute_wrappers[:] = earlier


def inserts(captured: CaptureQueriesContext) -> int:
    statements = [each["sql"] for each in captured.captured_queries]
    return sum(each.startswith("INSERT") and TABLE in each[:60] for each in statements)


def stored() -> list[int]:
    calls = TaskRecord.objects.order_by("enqueued_at").values_list("kwargs", flat=True)
    return [kwargs["a"] for kwargs in calls]


def refused() -> SQSLambdaTask:
    """A call whose record no database takes: its number of retries is too big for the column."""
    payload = tasks.add.serialize(a=13)
    payload["message"]["n_retries"] = 70_000
    return SQSLambdaTask.model_validate(payload)


def test_a_hundred_calls_of_one_transaction_are_written_by_one_insert() -> None:
    with CaptureQueriesContext(connection) as captured, transaction.atomic():
        for number in range(250):
            tasks.add.execute_on_commit(a=number)

    assert inserts(captured) >= 3, "SQLite takes fewer values in one statement"
    assert inserts(captured) < 25
    assert sorted(stored()) == list(range(250))


@pytest.mark.skipif(connection.vendor == "sqlite", reason="Its clock has milliseconds.")
def test_the_records_have_the_order_of_the_calls() -> None:
    with transaction.atomic():
        for number in range(150):
            tasks.add.execute_on_commit(a=number)

    assert stored() == list(range(150))


def test_async_calls_in_a_transaction_are_written_together() -> None:
    def call_in_a_transaction() -> None:
        with transaction.atomic():
            for number in range(3):
                async_to_sync(tasks.aadd.aexecute_on_commit)(a=number)

    with CaptureQueriesContext(connection) as captured:
        call_in_a_transaction()

    assert inserts(captured) == 1
    assert stored() == [0, 1, 2]


def _by_record(id: uuid.UUID) -> bool:
    return TaskRecord.objects.filter(id=id).exists()


def _by_sql(id: uuid.UUID) -> bool:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT COUNT(*) FROM {TABLE}")
        return bool(cursor.fetchone()[0] == 1)


def _by_an_open_cursor(id: uuid.UUID) -> bool:
    return next(TaskRecord.objects.filter(id=id).iterator(), None) is not None


@pytest.mark.parametrize("looks", [_by_record, _by_sql, _by_an_open_cursor])
def test_each_query_of_the_transaction_finds_the_record(looks: Callable[[uuid.UUID], bool]) -> None:
    with transaction.atomic():
        invocation = tasks.add.execute_on_commit(a=1)
        found = looks(invocation.id)

    assert found


def test_an_invocation_has_its_record_at_once_and_can_be_cancelled() -> None:
    with transaction.atomic():
        record = tasks.add.execute_on_commit(a=1).record()
        tasks.add.execute_on_commit(a=2)
        assert record is not None
        cancelled = TaskRecord.objects.filter(kwargs__a=2).cancel(), record.cancel()

    assert cancelled == (1, True)
    assert {each.status for each in TaskRecord.objects.all()} == {"CANCELLED"}


def _atomic() -> None:
    with suppress(ZeroDivisionError), transaction.atomic():
        tasks.add.execute_on_commit(a=2)
        raise ZeroDivisionError


def _by_hand() -> None:
    savepoint = connection.savepoint()
    tasks.add.execute_on_commit(a=2)
    assert savepoint is not None
    transaction.savepoint_rollback(savepoint)


def _by_statements() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SAVEPOINT here")
        tasks.add.execute_on_commit(a=2)
        cursor.execute("/* back */ ROLLBACK TO SAVEPOINT here")


@pytest.mark.parametrize("roll_back", [_atomic, _by_hand, _by_statements])
def test_a_rollback_to_a_savepoint_drops_just_its_calls(roll_back: Callable[[], None]) -> None:
    with transaction.atomic():
        tasks.add.execute_on_commit(a=1)
        roll_back()
        tasks.add.execute_on_commit(a=3)

    assert stored() == [1, 3]


def test_what_a_savepoint_keeps_is_kept() -> None:
    with transaction.atomic():
        with transaction.atomic():
            tasks.add.execute_on_commit(a=1)
        _atomic()
        with transaction.atomic(savepoint=False):
            tasks.add.execute_on_commit(a=3)

    assert stored() == [1, 3]


def test_a_transaction_that_is_rolled_back_or_cut_off_leaves_nothing_to_the_next() -> None:
    with transaction.atomic():
        tasks.add.execute_on_commit(a=1)
        transaction.set_rollback(True)
    with transaction.atomic():
        tasks.add.execute_on_commit(a=2)
        connection.close()
    with transaction.atomic():
        tasks.add.execute_on_commit(a=3)

    assert stored() == [3]


@needs_bounds
def test_what_the_database_refuses_fails_the_commit_and_says_which_call() -> None:
    call = refused()

    with pytest.raises(DatabaseError) as raised, transaction.atomic():
        Effect.objects.create(name="kept in no case")
        tasks.add.execute_on_commit(a=1)
        call.execute_on_commit()
        tasks.add.execute_on_commit(a=2)

    (note,) = raised.value.__notes__
    assert f"tests.app.tasks.add ({call.message.invocation_id})" in note
    assert not Effect.objects.exists()
    assert stored() == []


@needs_bounds
def test_what_the_database_refuses_fails_the_next_statement_and_is_not_passed_over() -> None:
    with pytest.raises(transaction.TransactionManagementError), transaction.atomic():
        tasks.add.execute_on_commit(a=1)
        refused().execute_on_commit()
        with pytest.raises(DatabaseError, match=r"(?i)range"):
            Effect.objects.exists()
        Effect.objects.exists()

    assert stored() == []


@needs_bounds
@pytest.mark.parametrize("n_more", [0, 1])
def test_what_the_database_refuses_in_a_savepoint_is_rolled_back_with_it_alone(n_more: int) -> None:
    with transaction.atomic():
        tasks.add.execute_on_commit(a=1)
        with pytest.raises(DatabaseError, match=r"(?i)range"), transaction.atomic():
            refused().execute_on_commit()
            for _ in range(n_more):
                tasks.add.execute_on_commit(a=2)
        tasks.add.execute_on_commit(a=3)

    assert stored() == [1, 3]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_whatever_interrupts_the_write_at_the_commit_nothing_is_committed(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        with pytest.raises(error), transaction.atomic():
            Effect.objects.create(name="kept in no case")
            tasks.add.execute_on_commit(a=1)
            patch.setattr(RecordOutbox, "insert_queued", interrupt)

    assert not Effect.objects.exists()
    assert stored() == []


def test_wrappers_of_statements_that_come_later_stay_and_see_only_their_own() -> None:
    seen: list[str] = []

    def see(execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
        seen.append(sql)
        return execute(sql, params, many, context)

    with transaction.atomic():
        tasks.add.execute_on_commit(a=1)
        with connection.execute_wrapper(see):
            Effect.objects.exists()
            tasks.add.execute_on_commit(a=2)
            called_under_it = len(seen)
        Effect.objects.exists()

    assert called_under_it == len(seen) == 2
    assert (TABLE in seen[0], TABLE in seen[1]) == (False, True)
    assert stored() == [1, 2]


def test_a_connection_of_another_kind_may_change_what_a_statement_means(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(type(connections["default"]), "__module__", "tenants.backend")

    with CaptureQueriesContext(connection) as captured, transaction.atomic():
        tasks.add.execute_on_commit(a=1)
        tasks.add.execute_on_commit(a=2)

    assert inserts(captured) == 2


def test_where_a_project_commits_by_hand_nothing_waits_for_a_commit() -> None:
    transaction.set_autocommit(False)
    try:
        with CaptureQueriesContext(connection) as captured, transaction.atomic(savepoint=False):
            tasks.add.execute_on_commit(a=1)
            tasks.add.execute_on_commit(a=2)
        transaction.rollback()
    finally:
        transaction.set_autocommit(True)

    assert inserts(captured) == 2


def test_a_commit_that_the_library_does_not_see_is_followed_by_the_records() -> None:
    with transaction.atomic():
        tasks.add.execute_on_commit(a=1)
        del connections["default"].commit

    assert stored() == [1]


def test_times_count_from_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    with transaction.atomic():
        later = tasks.add.using(delay=60).execute_on_commit(a=1)
        monkeypatch.setattr("time.monotonic", _an_hour_later())
        Effect.objects.exists()
        monkeypatch.undo()
        now = tasks.add.using(delay=60).execute_on_commit(a=1)
        first, second = later.record(), now.record()

    for name in ("run_after", "enqueued_at", "look_at"):
        apart = getattr(second, name) - getattr(first, name)
        assert timedelta(minutes=59) < apart < timedelta(minutes=61), name


def _an_hour_later() -> Callable[[], float]:
    import time

    now = time.monotonic
    return lambda: now() + 3600


def test_the_statements_of_a_test_case_are_counted_where_they_are_called() -> None:
    class Case(TestCase):
        def test_calls(self) -> None:
            with transaction.atomic():
                with self.assertNumQueries(1):
                    tasks.add.execute_on_commit(a=1)
                with self.assertNumQueries(1):
                    Effect.objects.exists()

    result = unittest.TestResult()
    unittest.TestSuite([Case("test_calls")]).run(result)

    assert result.wasSuccessful(), result.errors + result.failures


def test_a_wrapper_that_comes_with_a_cursor_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """As that of a tracer, which sees all statements from then on."""
    here = connections["default"]
    seen: list[str] = []
    n_added = 0

    def see(execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
        seen.append(sql)
        return execute(sql, params, many, context)

    def cursor(original: Callable[[], Any] = here.cursor) -> Any:
        nonlocal n_added
        if see not in here.execute_wrappers:
            here.execute_wrappers.append(see)
            n_added += 1
        return original()

    with transaction.atomic():
        tasks.add.execute_on_commit(a=1)
        monkeypatch.setattr(here, "cursor", cursor)
    monkeypatch.undo()

    assert here.execute_wrappers == [see]
    here.execute_wrappers.remove(see)
    assert (n_added, TABLE in seen[0]) == (1, True)
    assert stored() == [1]
