"""Migrations, on the database of the run, and the way from the predecessor's tables."""

import uuid
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.recorder import MigrationRecorder
from django.utils.timezone import now

pytestmark = pytest.mark.django_db(transaction=True)

OLD = ("lambda_tasks", "0001_django_lambda_tasks")
NEW = ("lambda_tasks", "0004_room_for_updates")
PREDECESSOR = [
    "0001_initial",
    "0002_alter_taskrecord_status",
    "0003_taskrecord_taskrecord_kwargs_trgm",
    "0004_remove_taskrecord_taskrecord_kwargs_trgm_and_more",
]


def _migrate(target: tuple[str, str]) -> Any:
    executor = MigrationExecutor(connection)
    executor.migrate([target])
    return MigrationExecutor(connection).loader.project_state([target]).apps


def test_models_and_migrations_agree() -> None:
    call_command("makemigrations", "lambda_tasks", check=True, dry_run=True, stdout=StringIO())


def test_the_predecessors_rows_come_along_and_can_go_back() -> None:
    old = _migrate(OLD).get_model("lambda_tasks", "TaskRecord")
    for status in ("RUNNING", "SUCCEEDED", "FAILED", "RETRIED"):
        old.objects.create(
            id=uuid.uuid4(),
            task_name="app.tasks.f",
            kwargs={"status": status},
            n_retries=0,
            status=status,
            start_time=now(),
        )

    new = _migrate(NEW).get_model("lambda_tasks", "TaskRecord")

    statuses = {each.kwargs["status"]: each.status for each in new.objects.all()}
    assert statuses == {
        "RUNNING": "RUNNING",
        "SUCCEEDED": "SUCCESS",
        "FAILED": "FAILED",
        "RETRIED": "RETRYING",
    }
    assert not new.objects.filter(enqueued_at=None).exists()
    assert new.objects.get(status="RUNNING").lease_until is not None

    back = _migrate(OLD).get_model("lambda_tasks", "TaskRecord")
    assert back.objects.count() == 4
    _migrate(NEW)


def test_where_the_predecessor_is_migrated_only_what_is_new_runs() -> None:
    _migrate(OLD)
    recorder = MigrationRecorder(connection)
    recorder.record_unapplied(*OLD)
    for name in PREDECESSOR:
        recorder.record_applied("lambda_tasks", name)

    plan = MigrationExecutor(connection).migration_plan([NEW])

    assert [migration.name for migration, _ in plan] == [
        "0002_one_table_is_the_truth",
        "0003_django_tasks",
        "0004_room_for_updates",
    ]
    _migrate(NEW)
    assert OLD in MigrationRecorder(connection).applied_migrations()
