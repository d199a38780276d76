"""What a record needs to be outbox, queue, claim and result in one."""

import uuid
from datetime import timedelta
from typing import Any

from django.db import migrations, models
from django.db.models import F

RENAMED = {"SUCCEEDED": "SUCCESS", "RETRIED": "RETRYING"}
LEASE_OF_OLD_RUNS = timedelta(minutes=15)
STATUSES = ["QUEUED", "RUNNING", "SUCCESS", "FAILED", "RETRYING", "CANCELLED"]

ADDED: dict[str, "models.Field[Any, Any]"] = {
    "queue": models.CharField(default="default", editable=False, max_length=255),
    "group_key": models.CharField(editable=False, max_length=128, null=True),
    "priority": models.SmallIntegerField(default=0, editable=False),
    "secrets": models.TextField(editable=False, null=True),
    "progress": models.JSONField(editable=False, null=True),
    "state": models.JSONField(editable=False, null=True),
    "n_attempts": models.PositiveSmallIntegerField(default=0, editable=False),
    "root_id": models.UUIDField(editable=False, null=True),
    "retry_of": models.UUIDField(editable=False, null=True),
    "enqueued_at": models.DateTimeField(editable=False, null=True),
    "sent_at": models.DateTimeField(editable=False, null=True),
    "run_after": models.DateTimeField(editable=False, null=True),
    "claim_token": models.UUIDField(editable=False, null=True),
    "lease_until": models.DateTimeField(editable=False, null=True),
}


def adopt(apps: Any, schema_editor: Any) -> None:
    """Bring the rows of django-lambda-tasks along; a run of its own that died can be redone."""
    records = apps.get_model("lambda_tasks", "TaskRecord").objects.using(
        schema_editor.connection.alias
    )
    for old, new in RENAMED.items():
        records.filter(status=old).update(status=new)
    records.update(
        enqueued_at=F("start_time"), sent_at=F("start_time"), root_id=F("id"), n_attempts=1
    )
    records.filter(status="RUNNING").update(lease_until=F("start_time") + LEASE_OF_OLD_RUNS)


def give_back(apps: Any, schema_editor: Any) -> None:
    """The way back: statuses that django-lambda-tasks has no word for go."""
    records = apps.get_model("lambda_tasks", "TaskRecord").objects.using(
        schema_editor.connection.alias
    )
    for old, new in RENAMED.items():
        records.filter(status=new).update(status=old)
    records.filter(status__in=["QUEUED", "CANCELLED"]).delete()


def drop_trigram_indexes(apps: Any, schema_editor: Any) -> None:
    """django-lambda-tasks made two on PostgreSQL; they slow every write of a record."""
    if schema_editor.connection.vendor == "postgresql":
        for name in ("taskrecord_id_trgm", "taskrecord_kwargs_trgm"):
            schema_editor.execute(f"DROP INDEX IF EXISTS {schema_editor.quote_name(name)}")


class Migration(migrations.Migration):
    # PostgreSQL alters no table in a transaction that has just changed its rows.
    atomic = False

    dependencies = [("lambda_tasks", "0001_django_lambda_tasks")]  # noqa: RUF012

    operations = [  # noqa: RUF012
        migrations.RemoveConstraint(model_name="taskrecord", name="taskrecord_status_valid"),
        migrations.RemoveIndex(model_name="taskrecord", name="lambda_task_task_na_f00cb7_idx"),
        migrations.RemoveIndex(model_name="taskrecord", name="lambda_task_status_6901ee_idx"),
        migrations.RemoveIndex(model_name="taskrecord", name="lambda_task_start_t_9caffc_idx"),
        migrations.RunPython(drop_trigram_indexes, migrations.RunPython.noop),
        migrations.AlterModelOptions(name="taskrecord", options={"ordering": ["-enqueued_at"]}),
        migrations.AlterField(
            model_name="taskrecord",
            name="id",
            field=models.UUIDField(
                default=uuid.uuid4, editable=False, primary_key=True, serialize=False
            ),
        ),
        migrations.AlterField(
            model_name="taskrecord",
            name="n_retries",
            field=models.PositiveSmallIntegerField(default=0, editable=False),
        ),
        migrations.AlterField(
            model_name="taskrecord",
            name="status",
            field=models.CharField(
                choices=[(status, status.capitalize()) for status in STATUSES],
                default="QUEUED",
                editable=False,
                max_length=10,
            ),
        ),
        *[
            migrations.AddField(model_name="taskrecord", name=name, field=field)
            for name, field in ADDED.items()
        ],
        migrations.RunPython(adopt, give_back),
        migrations.AddIndex(
            model_name="taskrecord",
            index=models.Index(fields=["-enqueued_at"], name="taskrecord_enqueued"),
        ),
        migrations.AddIndex(
            model_name="taskrecord",
            index=models.Index(
                fields=["status", "queue", "-priority", "enqueued_at"], name="taskrecord_status"
            ),
        ),
        migrations.AddIndex(
            model_name="taskrecord",
            index=models.Index(fields=["task_name", "enqueued_at"], name="taskrecord_task_name"),
        ),
        migrations.AddIndex(
            model_name="taskrecord",
            index=models.Index(fields=["root_id"], name="taskrecord_root"),
        ),
        migrations.AddConstraint(
            model_name="taskrecord",
            constraint=models.CheckConstraint(
                condition=models.Q(status__in=STATUSES), name="taskrecord_status_valid"
            ),
        ),
        migrations.CreateModel(
            name="SingletonLock",
            fields=[
                (
                    "key",
                    models.CharField(
                        editable=False, max_length=64, primary_key=True, serialize=False
                    ),
                ),
                ("token", models.UUIDField(editable=False)),
                ("held_until", models.DateTimeField(editable=False)),
            ],
        ),
    ]
