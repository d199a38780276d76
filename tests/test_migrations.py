"""Migrations, on the database of the run, and the way from the predecessor's tables."""

import os
import random
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib import import_module
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.db import DatabaseError, connection, models, transaction
from django.db.migrations.exceptions import IrreversibleError
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.recorder import MigrationRecorder

from lambda_tasks.models import LimitPlace, TaskRecord
from tests.app import tasks
from tests.conftest import Handle, body, wait_for

pytestmark = pytest.mark.django_db(transaction=True)

OLD = ("lambda_tasks", "0001_django_lambda_tasks")
NEW = ("lambda_tasks", "0002_one_table_is_the_truth")
UNRELEASED = ("0003_django_tasks", "0004_room_for_updates")
PREDECESSOR = [
    "0001_initial",
    "0002_alter_taskrecord_status",
    "0003_taskrecord_taskrecord_kwargs_trgm",
    "0004_remove_taskrecord_taskrecord_kwargs_trgm_and_more",
]
TABLES = [TaskRecord._meta.db_table, LimitPlace._meta.db_table]

repeatable = import_module("lambda_tasks.migrations._repeatable")
MIGRATION = import_module("lambda_tasks.migrations.0002_one_table_is_the_truth")
OPERATIONS = MIGRATION.Migration.operations
NAMES = [type(operation).__name__ for operation in OPERATIONS]

STRIDE = int(os.environ.get("LAMBDA_TASKS_TEST_CUTS", "4"))
"""One of so many cuts is tried, from another first one in each run. LAMBDA_TASKS_TEST_CUTS=1 tries
all."""

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
OLD_ROWS: list[dict[str, Any]] = [
    {
        "id": uuid.UUID(int=number),
        "task_name": "tests.app.tasks.add_direct",
        "kwargs": {"a": number},
        "n_retries": number,
        "status": status,
        "start_time": START + timedelta(days=number),
        "end_time": None if status == "RUNNING" else START + timedelta(days=number, seconds=1),
        "result": [number],
        "traceback": None,
    }
    for number, status in enumerate(["RUNNING", "SUCCEEDED", "FAILED", "RETRIED"] * 2)
]
NO_END = {"status": "FAILED", "end_time": START, "traceback": MIGRATION.NO_END}
RENAMED = {"SUCCEEDED": "SUCCESS", "RETRIED": "RETRYING"}
NOTHING = dict.fromkeys(
    [
        "args", "backend", "group_key", "secrets", "exception_class",
        "retry_of", "headers", "run_after", "worker_ids", "claim_token", "lease_until", "look_at",
        "refused_at", "cut_off_s", "limit_key", "reserved_for", "expires_at", "unique_key",
        "unique_while", "unique_until", "workflow_id", "step", "links",
        "error_id", "broken_since",
    ]
)  # fmt: skip
ADOPTED_ROWS = [
    NOTHING
    | old
    | {
        "status": RENAMED.get(old["status"], old["status"]),
        "queue": "default",
        "priority": 0,
        "n_attempts": 1,
        "n_continues": 0,
        "n_waits": 0,
        "root_id": old["id"],
        "enqueued_at": old["start_time"],
        "sent_at": old["start_time"],
    }
    | (NO_END if old["status"] == "RUNNING" else {})
    for old in OLD_ROWS
]
# What the way back makes of the rows that have come along.
RETURNED_ROWS = [old | (NO_END if old["status"] == "RUNNING" else {}) for old in OLD_ROWS]
DETAILS = {
    "postgresql": [
        f"SELECT reloptions FROM pg_class WHERE relname = '{TABLES[0]}'",
        "SELECT conname, pg_get_constraintdef(oid), convalidated FROM pg_constraint"
        f" WHERE conrelid = '{TABLES[0]}'::regclass ORDER BY conname",
        f"SELECT indexdef FROM pg_indexes WHERE tablename LIKE '{TABLES[0]}' ORDER BY indexname",
    ],
    "mysql": [f"SHOW CREATE TABLE {TABLES[0]}"],
    "sqlite": [f"SELECT sql FROM sqlite_master WHERE tbl_name = '{TABLES[0]}' ORDER BY name"],
}
MAX_COLUMNS_EVER = 1000
"""The columns of a table, and those that it had, at which a test replaces it by a new one.

PostgreSQL has room for 1,600. A migration there and back adds 20 to 100.
"""


class CutOffError(Exception):
    """Here the process ends."""


@pytest.fixture(autouse=True)
def _ends_with_the_new_schema(transactional_db: None) -> Iterator[None]:
    expected = _schemas()["new"]
    yield
    if _schema() != expected:
        MigrationRecorder(connection).record_unapplied(*NEW)
        _migrate(NEW)
    TaskRecord.objects.all().delete()  # the way back refuses what waits
    _make_room_for_columns()


def test_models_and_migrations_agree() -> None:
    call_command("makemigrations", "lambda_tasks", check=True, dry_run=True, stdout=StringIO())


def test_the_predecessors_rows_come_along_and_can_go_back() -> None:
    _migrate(OLD)
    _write_old_rows()

    _migrate(NEW)

    assert _rows() == ADOPTED_ROWS
    assert _refuses("SUCCEEDED")
    assert not _refuses("QUEUED")

    _migrate(OLD)

    assert _old_rows() == RETURNED_ROWS


@pytest.mark.parametrize("applied", [PREDECESSOR[:n] for n in range(1, 5)], ids=len)
def test_where_the_predecessor_is_migrated_only_what_is_new_runs(applied: list[str]) -> None:
    """0.2 has one migration, 0.3 to 0.7 have two, 0.8 has four."""
    _migrate(OLD)
    _write_old_rows()
    recorder = MigrationRecorder(connection)
    recorder.record_unapplied(*OLD)
    for name in applied:
        recorder.record_applied("lambda_tasks", name)

    plan = MigrationExecutor(connection).migration_plan([NEW])

    assert [migration.name for migration, _ in plan] == ["0002_one_table_is_the_truth"]
    _migrate(NEW)
    assert OLD in MigrationRecorder(connection).applied_migrations()
    assert _rows() == ADOPTED_ROWS
    for name in applied[1:]:
        recorder.record_unapplied("lambda_tasks", name)


def test_the_words_of_the_predecessors_first_migration_go() -> None:
    """It had our words, apart from two: its second migration gave it others for a while."""
    _migrate(OLD)
    with connection.schema_editor() as editor:
        constraint, of_old = "taskrecord_status_valid", _old_model()
        [check] = [each for each in of_old._meta.constraints if each.name == constraint]
        editor.remove_constraint(of_old, check)
        words = ["RUNNING", "SUCCESS", "FAILED", "RETRYING"]
        check = models.CheckConstraint(condition=models.Q(status__in=words), name=constraint)
        editor.add_constraint(of_old, check)

    _migrate(NEW)

    assert _schema() == _schemas()["new"]


def test_cut_off_between_operations_it_goes_on_where_it_was(monkeypatch: Any) -> None:
    schemas = _schemas()
    for number in range(random.randrange(STRIDE), len(OPERATIONS), STRIDE):
        TaskRecord.objects.all().delete()
        _make_room_for_columns()
        TaskRecord.objects.bulk_create(TaskRecord(**row) for row in ADOPTED_ROWS)

        with _cut_at(number, "database_backwards", monkeypatch):
            _migrate(OLD)
        _migrate(OLD)

        assert _schema() == schemas["old"], NAMES[number]
        assert _old_rows() == RETURNED_ROWS, NAMES[number]
        _old_model().objects.all().delete()
        _write_old_rows()

        with _cut_at(number, "database_forwards", monkeypatch):
            _migrate(NEW)
        _migrate(NEW)

        assert _schema() == schemas["new"], NAMES[number]
        assert _rows() == ADOPTED_ROWS, NAMES[number]


def test_cut_off_after_each_single_change_it_gets_there(monkeypatch: Any) -> None:
    schemas = _schemas()
    monkeypatch.setattr(repeatable, "CHUNK", 3)
    TaskRecord.objects.bulk_create(TaskRecord(**row) for row in ADOPTED_ROWS)

    changes = _migrate_change_by_change(OLD)

    assert len(changes) > 30
    assert _schema() == schemas["old"]
    assert _old_rows() == RETURNED_ROWS
    _old_model().objects.all().delete()
    _write_old_rows()

    changes = _migrate_change_by_change(NEW)

    assert len(changes) > 30
    assert _schema() == schemas["new"]
    assert _rows() == ADOPTED_ROWS


@pytest.mark.parametrize("number", range(NAMES.index("RunPython"), len(NAMES)))
def test_what_this_release_has_written_before_the_repetition_stays_as_it_is(
    number: int, queue: str, handle: Handle, monkeypatch: Any
) -> None:
    _migrate(OLD)
    _write_old_rows()
    with _cut_at(number, "database_forwards", monkeypatch):
        _migrate(NEW)

    queued = tasks.add.execute_on_commit(a=1).id
    assert handle(body(tasks.add_direct, a=2), body(tasks.add_direct, a=3)) == []
    wait_for(lambda: TaskRecord.objects.get(id=queued).sent_at)
    written = _rows_of_this_release()
    assert sorted(row["status"] for row in written) == ["QUEUED", "SUCCESS", "SUCCESS"]
    _migrate(NEW)

    assert _rows_of_this_release() == written
    assert [row for row in _rows() if row not in written] == ADOPTED_ROWS


def test_a_run_of_the_predecessors_never_runs_again(handle: Handle, monkeypatch: Any) -> None:
    monkeypatch.setattr(repeatable, "CHUNK", 3)
    _migrate(OLD)
    _write_old_rows()
    with _cut_at(NAMES.index("RunPython"), "database_forwards", monkeypatch):
        _migrate(NEW)
    with pytest.raises(CutOffError), _cut_after_a_change([]):
        _migrate(NEW)
    assert 0 < TaskRecord.objects.filter(root_id=None).count() < len(OLD_ROWS)
    delivered_again = [
        body(tasks.add_direct, **row["kwargs"], _id=row["id"])
        for row in OLD_ROWS
        if row["status"] == "RUNNING"
    ]

    assert handle(*delivered_again) == [0, 1], "they come back until the migration is done"
    _migrate(NEW)

    assert _rows() == ADOPTED_ROWS
    assert handle(*delivered_again) == []
    assert _rows() == ADOPTED_ROWS


def test_an_end_that_the_predecessor_writes_during_the_migration_counts(monkeypatch: Any) -> None:
    _migrate(OLD)
    _write_old_rows()
    running = [row for row in OLD_ROWS if row["status"] == "RUNNING"]
    ended = START + timedelta(days=30)
    with _cut_at(NAMES.index("AddCheck"), "database_forwards", monkeypatch):
        _migrate(NEW)

    _end_as_the_predecessor(running[0], status="SUCCEEDED", end_time=ended, result=[7])
    _migrate(NEW)
    with pytest.raises(DatabaseError):
        _end_as_the_predecessor(running[1], status="SUCCEEDED", end_time=ended, result=[7])

    assert _rows()[0] == ADOPTED_ROWS[0] | {
        "status": "SUCCESS", "end_time": ended, "result": [7], "traceback": None,
    }  # fmt: skip
    assert _rows()[1:] == ADOPTED_ROWS[1:]


def test_the_way_back_is_refused_while_records_wait_or_run() -> None:
    for status in ("WAITING", "QUEUED", "RUNNING", "FAILED"):
        TaskRecord.objects.create(task_name="f", kwargs={}, status=status)

    with pytest.raises(IrreversibleError, match=r"^3 record\(s\) are WAITING, QUEUED or RUNNING"):
        _migrate(OLD)

    assert _schema() == _schemas()["new"]
    for record in TaskRecord.objects.exclude(status="FAILED"):
        record.cancel()
    _migrate(OLD)
    assert [row["status"] for row in _old_rows()] == ["FAILED"]


def test_where_all_is_there_already_nothing_changes(queue: str, handle: Handle) -> None:
    TaskRecord.objects.bulk_create(TaskRecord(**row) for row in ADOPTED_ROWS)
    assert handle(body(tasks.add_direct, a=2)) == []
    rows = _rows()
    # As a developer's database remembers what was never released.
    for name in UNRELEASED:
        MigrationRecorder(connection).record_applied("lambda_tasks", name)
    call_command("migrate", *OLD, fake=True, verbosity=0)

    with _statements() as executed:
        call_command("migrate", "lambda_tasks", verbosity=0)

    assert NEW in MigrationRecorder(connection).applied_migrations()
    for name in UNRELEASED:
        MigrationRecorder(connection).record_unapplied("lambda_tasks", name)
    assert [sql for sql in executed if sql.startswith(("ALTER", "CREATE", "DROP"))] == []
    assert _schema() == _schemas()["new"]
    assert _rows() == rows


def test_a_database_with_the_first_of_the_unreleased_migrations_gets_what_it_lacks() -> None:
    TaskRecord.objects.bulk_create(TaskRecord(**row) for row in ADOPTED_ROWS)
    with connection.schema_editor() as editor:
        for name in ("args", "backend", "exception_class", "worker_ids"):
            editor.remove_field(TaskRecord, TaskRecord._meta.get_field(name))  # type: ignore[arg-type]
    call_command("migrate", *OLD, fake=True, verbosity=0)

    call_command("migrate", "lambda_tasks", verbosity=0)

    assert _schema() == _schemas()["new"]
    assert _rows() == ADOPTED_ROWS


def test_a_database_that_routers_keep_it_from_stays_as_it_is(settings: Any) -> None:
    _migrate(OLD)
    settings.DATABASE_ROUTERS = ["tests.test_migrations.Nowhere"]

    _migrate(NEW)

    assert _schema() == _schemas()["old"]

    _migrate(OLD)

    assert _schema() == _schemas()["old"]
    settings.DATABASE_ROUTERS = []


def test_its_sql_can_be_read_wherever_the_database_stands() -> None:
    forwards, backwards = StringIO(), StringIO()

    call_command("sqlmigrate", *NEW, stdout=forwards)
    call_command("sqlmigrate", *NEW, backwards=True, stdout=backwards)

    for name in ("lease_until", "taskrecord_root", "limitplace", "taskrecord_status_valid"):
        assert name in forwards.getvalue()
        assert name in backwards.getvalue()
    assert _schema() == _schemas()["new"]


@pytest.mark.skipif("connection.vendor != 'postgresql'")
def test_an_index_that_was_only_half_built_is_built_anew() -> None:
    _migrate(OLD)
    _write_old_rows()
    with connection.cursor() as cursor, pytest.raises(DatabaseError):
        cursor.execute(
            f"CREATE UNIQUE INDEX CONCURRENTLY taskrecord_look_at ON {TABLES[0]} (task_name)"
        )
    assert not _index_is_valid("taskrecord_look_at")

    _migrate(NEW)

    assert _index_is_valid("taskrecord_look_at")
    assert _schema() == _schemas()["new"]


@pytest.mark.skipif("connection.vendor != 'postgresql'")
def test_no_statement_keeps_writers_away_while_it_goes_through_all_rows() -> None:
    _migrate(OLD)

    with _statements() as executed:
        _migrate(NEW)

    indexes = [sql for sql in executed if sql.startswith("CREATE INDEX") and TABLES[0] in sql]
    checks = [sql for sql in executed if "ADD CONSTRAINT" in sql and TABLES[0] in sql]
    assert len(indexes) == len(MIGRATION.INDEXES)
    assert all("CONCURRENTLY" in sql for sql in indexes)
    assert len(checks) == 1
    assert checks[0].endswith("NOT VALID")
    with connection.cursor() as cursor:
        cursor.execute("SELECT conname FROM pg_constraint WHERE NOT convalidated")
        assert cursor.fetchall() == []


@pytest.mark.skipif("connection.vendor != 'postgresql'")
def test_it_runs_in_a_transaction_too() -> None:
    _migrate(OLD)
    _write_old_rows()

    with transaction.atomic():
        _migrate(NEW)

    assert _schema() == _schemas()["new"]
    assert _rows() == ADOPTED_ROWS


@pytest.mark.skipif("connection.vendor != 'postgresql'")
def test_the_predecessors_trigram_indexes_go() -> None:
    _migrate(OLD)
    with connection.cursor() as cursor:
        for name in ("taskrecord_id_trgm", "taskrecord_kwargs_trgm"):
            cursor.execute(f"CREATE INDEX {name} ON {TABLES[0]} (id)")

    _migrate(NEW)

    assert _schema() == _schemas()["new"]


class Nowhere:
    """A router that wants no table of the app anywhere."""

    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool | None:
        return False if app_label == "lambda_tasks" else None


def _migrate(target: tuple[str, str | None]) -> None:
    """As `migrate` does, without what other apps' models cost it each time."""
    executor = MigrationExecutor(connection)
    for migration, is_backwards in executor.migration_plan([target]):
        run = executor.unapply_migration if is_backwards else executor.apply_migration
        state = executor.loader.project_state((migration.app_label, migration.name), at_end=False)
        run(state, migration)
    executor.check_replacements()


@contextmanager
def _cut_at(number: int, direction: str, monkeypatch: Any) -> Iterator[None]:
    """End what runs as it comes to an operation; what was done before it stays."""

    def cut(*args: Any) -> None:
        raise CutOffError

    with monkeypatch.context() as patch, pytest.raises(CutOffError):
        patch.setattr(OPERATIONS[number], direction, cut)
        yield


@contextmanager
def _cut_after_a_change(changes: list[str]) -> Iterator[None]:
    """End what runs as soon as it has changed anything for good."""
    before = len(changes)

    def execute(execute: Any, sql: Any, params: Any, many: bool, context: Any) -> Any:
        if len(changes) > before and not connection.in_atomic_block:
            raise CutOffError
        result = execute(sql, params, many, context)
        if _changes(str(sql), context["cursor"]):
            changes.append(str(sql))
        return result

    with connection.execute_wrapper(execute):
        yield


def _changes(sql: str, cursor: Any) -> bool:
    is_change_of_rows = sql.startswith(("UPDATE", "INSERT", "DELETE")) and cursor.rowcount > 0
    return is_change_of_rows or sql.startswith(("ALTER", "CREATE", "DROP"))


def _migrate_change_by_change(target: tuple[str, str]) -> list[str]:
    """Each change is the last one of its run; the next one has to go on from there."""
    changes: list[str] = []
    is_there = False
    while not is_there:
        with suppress(CutOffError), _cut_after_a_change(changes):
            _migrate(target)
            is_there = True
        assert len(changes) < 200, "it goes round and round"
    return changes


@contextmanager
def _statements() -> Iterator[list[str]]:
    seen: list[str] = []

    def execute(execute: Any, sql: Any, params: Any, many: bool, context: Any) -> Any:
        seen.append(str(sql))
        return execute(sql, params, many, context)

    with connection.execute_wrapper(execute):
        yield seen


@cache
def _schemas() -> dict[str, Any]:
    """What an uninterrupted migration leaves, there and back."""
    _migrate(OLD)
    old = _schema()
    _migrate(NEW)
    return {"old": old, "new": _schema()}


def _schema() -> Any:
    """All that Django's introspection sees, and what the database itself tells of the table."""
    introspection = connection.introspection
    with connection.cursor() as cursor:
        there = [name for name in TABLES if name in introspection.table_names(cursor)]
        seen: list[Any] = [
            (
                name,
                introspection.get_table_description(cursor, name),
                introspection.get_constraints(cursor, name),
            )
            for name in there
        ]
        for question in DETAILS[connection.vendor]:
            cursor.execute(question)
            seen.append(cursor.fetchall())
    return seen


def _make_room_for_columns() -> None:
    if _columns_ever() > MAX_COLUMNS_EVER:
        _migrate(("lambda_tasks", None))
        _migrate(NEW)


def _columns_ever() -> int:
    """Return the columns that the table has or had, or 0 where nothing counts them."""
    if connection.vendor != "postgresql":
        return 0
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT max(attnum) FROM pg_attribute WHERE attrelid = '{TABLES[0]}'::regclass"
        )
        [(number,)] = cursor.fetchall()
    return int(number)


def _write_old_rows() -> None:
    _old_model().objects.bulk_create(_old_model()(**row) for row in OLD_ROWS)


def _end_as_the_predecessor(row: dict[str, Any], **end: Any) -> None:
    """Write an end as django-lambda-tasks does: outside of a transaction, by the id alone."""
    _old_model().objects.filter(id=row["id"]).update(**end)


def _old_rows() -> list[dict[str, Any]]:
    return [_as_expected(row) for row in _old_model().objects.order_by("id").values()]


@cache
def _old_model() -> Any:
    state = MigrationExecutor(connection).loader.project_state([OLD])
    return state.apps.get_model("lambda_tasks", "TaskRecord")


def _rows() -> list[dict[str, Any]]:
    return [_as_expected(row) for row in TaskRecord.objects.order_by("id").values()]


def _as_expected(row: Any) -> dict[str, Any]:
    """The row, with START for the time at which a migration has ended a run."""
    expected = dict(row)
    if row["traceback"] == NO_END["traceback"]:
        assert row["end_time"]
        expected["end_time"] = START
    return expected


def _rows_of_this_release() -> list[dict[str, Any]]:
    old = [row["id"] for row in OLD_ROWS]
    return [row for row in _rows() if row["id"] not in old]


def _refuses(status: str) -> bool:
    try:
        with transaction.atomic():
            TaskRecord.objects.create(task_name="f", kwargs={}, status=status).delete()
    except DatabaseError:
        return True
    return False


def _index_is_valid(name: str) -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT indisvalid FROM pg_index WHERE indexrelid = %s::regclass", [name])
        return bool(cursor.fetchone()[0])
