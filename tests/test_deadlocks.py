"""Real conflicts, as each database has them: a deadlock, a busy SQLite."""

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.db import OperationalError, connection, connections, transaction
from django.db.models import QuerySet

from lambda_tasks import handler, operations
from lambda_tasks.database_errors import Meaning, code_of, is_conflict, meaning_of
from lambda_tasks.models import TaskRecord
from tests.app import tasks, waiting
from tests.app.models import Effect, Seat
from tests.conftest import PATIENCE_S, Handle, Task, body, record_of, wait_for

pytestmark = pytest.mark.django_db(transaction=True)

on_sqlite = pytest.mark.skipif(connection.vendor != "sqlite", reason="it is about its one writer")
elsewhere = pytest.mark.skipif(connection.vendor == "sqlite", reason="it has one writer at a time")


def two_seats() -> None:
    for number in (1, 2):
        Seat.objects.create(row=1, number=number)


def be_no_victim() -> None:
    """MySQL ends the one that has written less, PostgreSQL the one whose patience ends first."""
    Effect.objects.bulk_create([Effect(name=f"effect {number}") for number in range(100)])
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL deadlock_timeout = '10min'")


def take_the_second_seat_and_the_first(holds: threading.Event, there: Path) -> None:
    """The first once the other has it."""
    try:
        with transaction.atomic():
            be_no_victim()
            Seat.objects.filter(number=2).update(taken_by="another")
            holds.set()
            wait_for(there.exists)
            Seat.objects.filter(number=1).update(taken_by="another")
    finally:
        connections.close_all()


@elsewhere
def test_a_deadlock_is_a_conflict(tmp_path: Path) -> None:
    two_seats()
    there, holds = tmp_path / "there", threading.Event()

    with ThreadPoolExecutor(1) as thread:
        other = thread.submit(take_the_second_seat_and_the_first, holds, there)
        assert holds.wait(PATIENCE_S)
        with pytest.raises(OperationalError) as raised, transaction.atomic():
            waiting._take_two_seats(there)
        other.result(PATIENCE_S)

    assert is_conflict(raised.value)
    assert meaning_of(raised.value) is Meaning.CONFLICT


@elsewhere
@pytest.mark.parametrize("task", [waiting.take_two_seats, waiting.atake_two_seats])
def test_a_task_that_is_the_victim_of_a_deadlock_begins_again(
    handle: Handle, tmp_path: Path, task: Task
) -> None:
    two_seats()
    there, holds = tmp_path / "there", threading.Event()
    message = body(task, there=there)

    with ThreadPoolExecutor(1) as thread:
        other = thread.submit(take_the_second_seat_and_the_first, holds, there)
        assert holds.wait(PATIENCE_S)
        assert handle(message) == []
        other.result(PATIENCE_S)

    record = record_of(message)
    assert (record.status, record.n_attempts) == ("SUCCESS", 1), record.traceback
    assert set(Seat.objects.values_list("taken_by", flat=True)) == {"the task"}


@contextmanager
def the_one_writer() -> Iterator[threading.Event]:
    """In the body somebody else writes to SQLite, until the event is set."""
    holds, release = threading.Event(), threading.Event()

    def write() -> None:
        try:
            with transaction.atomic():
                Effect.objects.create(name="another's")
                holds.set()
                assert release.wait(PATIENCE_S)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(1) as thread:
        writing = thread.submit(write)
        assert holds.wait(PATIENCE_S)
        try:
            yield release
        finally:
            release.set()
            writing.result(PATIENCE_S)


@on_sqlite
def test_a_busy_sqlite_is_a_conflict() -> None:
    waiting._be_impatient()

    with the_one_writer(), pytest.raises(OperationalError, match="locked") as raised:
        Effect.objects.create(name="x")

    connection.close()
    assert is_conflict(raised.value)
    assert meaning_of(raised.value) is Meaning.CONFLICT


class Hears(logging.Handler):
    """Sets an event when a task restarts."""

    def __init__(self, event: threading.Event) -> None:
        super().__init__()
        self._event = event

    def emit(self, record: logging.LogRecord) -> None:
        if "restarts" in record.getMessage():
            self._event.set()


@on_sqlite
def test_a_task_that_finds_sqlite_busy_begins_again(
    handle: Handle, settings: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings.LAMBDA_TASKS_CONCURRENCY = 1
    handler.close()
    caplog.set_level(logging.INFO, "lambda_tasks")
    there, gate = tmp_path / "there", tmp_path / "gate"
    message = body(waiting.await_and_write, there=there, gate=gate)
    assert handle(body(waiting.let_its_connection_be_impatient)) == []

    def keep_it_busy() -> None:
        wait_for(there.exists)
        with the_one_writer() as release:
            logging.getLogger("lambda_tasks").addHandler(hears := Hears(release))
            gate.touch()
            assert release.wait(PATIENCE_S)
            logging.getLogger("lambda_tasks").removeHandler(hears)

    with ThreadPoolExecutor(1) as thread:
        busy = thread.submit(keep_it_busy)
        assert handle(message) == []
        busy.result(PATIENCE_S)
    handler.close()

    record = record_of(message)
    assert (record.status, record.n_attempts) == ("SUCCESS", 1), record.traceback
    assert sorted(Effect.objects.values_list("name", flat=True)) == ["another's", "written"]


@pytest.mark.skipif(connection.vendor != "postgresql", reason="MariaDB ends a deadlock at once")
def test_who_cancels_many_does_not_hold_one_while_it_waits_for_another() -> None:
    records = [tasks.add.execute_on_commit(a=number).record() for number in range(2)]
    ids = [record.id for record in records if record is not None]
    first, last = (TaskRecord.objects.filter(id=id) for id in ids)
    holds, goes_on = threading.Event(), threading.Event()

    errors: list[str | None] = []

    def note_errors(execute: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return execute(*arguments)
        except OperationalError as error:
            errors.append(code_of(error))
            raise

    def end_both_together() -> None:
        try:
            with connection.execute_wrapper(note_errors), transaction.atomic():
                last.update(status="SUCCESS")
                holds.set()
                assert goes_on.wait(PATIENCE_S)
                first.update(n_waits=1)
        finally:
            connections.close_all()

    def cancel() -> None:
        try:
            with connection.execute_wrapper(note_errors):
                operations.cancel(ids=ids)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(2) as threads:
        ending = threads.submit(end_both_together)
        assert holds.wait(PATIENCE_S)
        cancelling = threads.submit(cancel)
        try:
            wait_for(lambda: not is_free(first))
        finally:
            goes_on.set()
        cancelling.result(PATIENCE_S)
        ending.result(PATIENCE_S)

    assert errors == []
    assert [first.get().status, last.get().status] == ["CANCELLED", "SUCCESS"]


def is_free(record: "QuerySet[TaskRecord]") -> bool:
    """Return whether a record is queued, and locked by nobody."""
    with transaction.atomic():
        return record.filter(status="QUEUED").select_for_update(skip_locked=True).exists()
