"""What a record needs to be outbox, queue, claim and result in one.

If it is cut off, `migrate` goes on where it was, forwards and backwards: see `_repeatable`.
"""

import uuid
from typing import Any

from django.db import migrations, models
from django.db.migrations.exceptions import IrreversibleError
from django.db.models import Case, F, Value, When
from django.utils import timezone

from ..records.exact_text import ExactCharField
from . import _repeatable as repeatable

RENAMED = {"SUCCEEDED": "SUCCESS", "RETRIED": "RETRYING"}
STATUSES = ["WAITING", "QUEUED", "RUNNING", "SUCCESS", "FAILED", "RETRYING", "CANCELLED"]

NO_END = (
    "django-lambda-tasks has not recorded the end of this run before the move to lambda_tasks. The"
    " run may have done all of its work, some, or none. It does not run again by itself. Replay"
    " it, in the admin, if its work has to be done."
)

ADDED: dict[str, "models.Field[Any, Any]"] = {
    "queue": models.CharField(default="default", editable=False, max_length=255),
    "group_key": models.CharField(editable=False, max_length=128, null=True),
    "priority": models.SmallIntegerField(default=0, editable=False),
    "secrets": models.TextField(editable=False, null=True),
    "n_continues": models.PositiveSmallIntegerField(default=0, editable=False),
    "n_attempts": models.PositiveSmallIntegerField(default=0, editable=False),
    "root_id": models.UUIDField(editable=False, null=True),
    "retry_of": models.UUIDField(editable=False, null=True),
    "headers": models.JSONField(editable=False, null=True),
    "enqueued_at": models.DateTimeField(editable=False, null=True),
    "sent_at": models.DateTimeField(editable=False, null=True),
    "run_after": models.DateTimeField(editable=False, null=True),
    "claim_token": models.UUIDField(editable=False, null=True),
    "lease_until": models.DateTimeField(editable=False, null=True),
    "look_at": models.DateTimeField(editable=False, null=True),
    "refused_at": models.DateTimeField(editable=False, null=True),
    "n_waits": models.PositiveSmallIntegerField(default=0, editable=False),
    "cut_off_s": models.FloatField(editable=False, null=True),
    "limit_key": models.CharField(editable=False, max_length=64, null=True),
    "reserved_for": models.DateTimeField(editable=False, null=True),
    "expires_at": models.DateTimeField(
        editable=False,
        help_text="If the task has not begun by this time, it is cancelled.",
        null=True,
    ),
    "unique_key": models.UUIDField(
        editable=False,
        help_text="While a record holds this key, an equal call joins it. A hash of the task's "
        "name and of the arguments that `unique_by` names; empty once the key is free.",
        null=True,
    ),
    "unique_while": models.CharField(
        editable=False,
        help_text="Until when the record holds its key: until a worker claims it (queued), or "
        "until it has ended (unfinished).",
        max_length=10,
        null=True,
    ),
    "unique_until": models.DateTimeField(
        editable=False,
        help_text="The record holds its key until this time although it has succeeded.",
        null=True,
    ),
    "workflow_id": models.UUIDField(editable=False, null=True),
    "step": models.PositiveIntegerField(editable=False, null=True),
    "links": models.JSONField(editable=False, null=True),
    "error_id": models.UUIDField(editable=False, null=True),
    "broken_since": models.DateTimeField(editable=False, null=True),
    "args": models.JSONField(editable=False, null=True),
    "backend": models.CharField(editable=False, max_length=255, null=True),
    "exception_class": models.TextField(editable=False, null=True),
    "worker_ids": models.TextField(editable=False, null=True),
}
INDEXES = [
    models.Index(fields=["-enqueued_at"], name="taskrecord_enqueued"),
    models.Index(
        fields=["queue", "-priority", "look_at"],
        condition=models.Q(look_at__isnull=False),
        name="taskrecord_look_at",
    ),
    models.Index(
        fields=["end_time"],
        condition=models.Q(end_time__isnull=False),
        name="taskrecord_end_time",
    ),
    models.Index(fields=["task_name", "enqueued_at"], name="taskrecord_task_name"),
    models.Index(fields=["root_id"], name="taskrecord_root"),
    models.Index(
        fields=["limit_key", "-priority", "enqueued_at"],
        condition=models.Q(limit_key__isnull=False),
        name="taskrecord_limit_key",
    ),
    models.Index(
        fields=["workflow_id", "step"],
        condition=models.Q(workflow_id__isnull=False),
        name="taskrecord_workflow",
    ),
    models.Index(
        fields=["broken_since", "error_id"],
        condition=models.Q(broken_since__isnull=False),
        name="taskrecord_broken",
    ),
    models.Index(
        fields=["error_id", "end_time"],
        condition=models.Q(error_id__isnull=False),
        name="taskrecord_error",
    ),
]


def adopt(apps: Any, schema_editor: Any) -> None:
    """Bring the rows of django-lambda-tasks along, each once."""
    for rows in repeatable.chunks(_records(apps, schema_editor)):
        # All that is written since has a root.
        rows.filter(root_id=None).update(
            status=_renamed(),
            enqueued_at=F("start_time"),
            sent_at=F("start_time"),
            root_id=F("id"),
            n_attempts=1,
        )
        # An end that was written since an earlier try.
        rows.filter(status__in=RENAMED).update(status=_renamed())


def end_old_runs(apps: Any, schema_editor: Any) -> None:
    """End what django-lambda-tasks has left RUNNING, as FAILED.

    Its processes may have ended runs after `adopt`, in their own words. Since the check of the
    status they can't, and since `adopt` they can't begin any.
    """
    records = _records(apps, schema_editor)
    records.filter(status__in=RENAMED).update(status=_renamed())
    # Runs of this release have a token.
    records.filter(status="RUNNING", claim_token=None).update(
        status="FAILED", end_time=timezone.now(), traceback=NO_END
    )


def refuse_unfinished(apps: Any, schema_editor: Any) -> None:
    """Refuse the way back while records wait or run, before anything is changed."""
    unfinished = ["WAITING", "QUEUED", "RUNNING"]
    if left := _records(apps, schema_editor).filter(status__in=unfinished).count():
        raise IrreversibleError(
            f"{left} record(s) are WAITING, QUEUED or RUNNING, and django-lambda-tasks can't run"
            " them. Let them end, or cancel them:"
            f" TaskRecord.objects.filter(status__in={unfinished}).cancel()"
        )


def give_back(apps: Any, schema_editor: Any) -> None:
    """The way back: statuses that django-lambda-tasks has no word for go.

    When it is repeated, columns may be gone already: it speaks of the status alone.
    """
    records, connection = _records(apps, schema_editor), schema_editor.connection
    for rows in repeatable.chunks(records):
        for old, new in RENAMED.items():
            rows.filter(status=new).update(status=old)
    table = schema_editor.quote_name(records.model._meta.db_table)
    with connection.cursor() as cursor:
        cursor.execute(f"DELETE FROM {table} WHERE status = 'CANCELLED'")  # noqa: S608


def _renamed() -> Case:
    renamed = [When(status=old, then=Value(new)) for old, new in RENAMED.items()]
    return Case(*renamed, default=F("status"))


def _records(apps: Any, schema_editor: Any) -> "models.QuerySet[Any]":
    records: models.QuerySet[Any] = apps.get_model("lambda_tasks", "TaskRecord").objects.using(
        schema_editor.connection.alias
    )
    return records


class Migration(migrations.Migration):
    # What is done stays done. And PostgreSQL alters no table in a transaction that has just
    # changed its rows.
    atomic = False

    dependencies = [("lambda_tasks", "0001_django_lambda_tasks")]  # noqa: RUF012

    operations = [  # noqa: RUF012
        repeatable.RemoveCheck("taskrecord", "taskrecord_status_valid", word="QUEUED"),
        repeatable.RemoveIndex("taskrecord", "lambda_task_task_na_f00cb7_idx"),
        repeatable.RemoveIndex("taskrecord", "lambda_task_status_6901ee_idx"),
        repeatable.RemoveIndex("taskrecord", "lambda_task_start_t_9caffc_idx"),
        # django-lambda-tasks made these on PostgreSQL; they slow every write of a record.
        repeatable.DropIndex("taskrecord", "taskrecord_id_trgm"),
        repeatable.DropIndex("taskrecord", "taskrecord_kwargs_trgm"),
        # Defaults and choices are Django's own; SQLite's table would be rewritten for each.
        migrations.SeparateDatabaseAndState(
            state_operations=[
                migrations.AlterModelOptions(
                    "taskrecord",
                    {
                        "verbose_name": "task record",
                        "verbose_name_plural": "task records",
                        "ordering": ["-enqueued_at"],
                        "permissions": (
                            (
                                "view_payload_taskrecord",
                                "Can view arguments, results and tracebacks",
                            ),
                            ("replay_taskrecord", "Can retry and replay task record"),
                            ("run_taskrecord", "Can run tasks with arguments of one's choice"),
                            ("cancel_taskrecord", "Can cancel task record"),
                        ),
                    },
                ),
                migrations.AlterField(
                    "taskrecord",
                    "id",
                    models.UUIDField(
                        default=uuid.uuid4, editable=False, primary_key=True, serialize=False
                    ),
                ),
                migrations.AlterField(
                    "taskrecord",
                    "n_retries",
                    models.PositiveSmallIntegerField(default=0, editable=False),
                ),
                migrations.AlterField(
                    "taskrecord",
                    "status",
                    models.CharField(
                        choices=[(status, status.capitalize()) for status in STATUSES],
                        default="QUEUED",
                        editable=False,
                        max_length=10,
                    ),
                ),
            ]
        ),
        repeatable.CreateTable(
            "RunState",
            [
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "record_id",
                        "attempt",
                        blank=True,
                        editable=False,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                (
                    "record",
                    models.ForeignKey(
                        db_constraint=False,
                        db_index=False,
                        editable=False,
                        on_delete=models.CASCADE,
                        related_name="+",
                        to="lambda_tasks.taskrecord",
                    ),
                ),
                ("attempt", models.PositiveSmallIntegerField(editable=False)),
                ("state", models.JSONField(editable=False, null=True)),
            ],
        ),
        repeatable.CreateTable(
            "RunProgress",
            [
                (
                    "record",
                    models.OneToOneField(
                        db_constraint=False,
                        editable=False,
                        on_delete=models.CASCADE,
                        primary_key=True,
                        related_name="+",
                        serialize=False,
                        to="lambda_tasks.taskrecord",
                    ),
                ),
                ("progress", models.JSONField(editable=False)),
                ("shown_at", models.DateTimeField(editable=False)),
            ],
        ),
        # Each claim asks it, also while the migration is cut off.
        repeatable.CreateTable(
            "QueueState",
            [
                (
                    "name",
                    models.CharField(
                        editable=False, max_length=255, primary_key=True, serialize=False
                    ),
                ),
                ("is_paused", models.BooleanField(default=False, editable=False)),
                ("changed_by", models.CharField(default="", editable=False, max_length=255)),
                ("reason", models.TextField(default="", editable=False)),
                ("changed_at", models.DateTimeField(editable=False, null=True)),
            ],
            options={
                "verbose_name": "queue",
                "verbose_name_plural": "queues",
                "default_permissions": ("view",),
                "permissions": (
                    ("pause_queuestate", "Can pause and resume queue"),
                    ("redrive_queuestate", "Can send dead letters back to queue"),
                    ("purge_queuestate", "Can delete dead letters of queue"),
                ),
            },
        ),
        *[repeatable.AddColumn("taskrecord", name, field) for name, field in ADDED.items()],
        migrations.RunPython(adopt, give_back, hints={"model_name": "taskrecord"}),
        *[repeatable.AddIndex("taskrecord", index) for index in INDEXES],
        repeatable.AddCheck(
            "taskrecord",
            models.CheckConstraint(
                condition=models.Q(status__in=STATUSES), name="taskrecord_status_valid"
            ),
            word="QUEUED",
        ),
        migrations.RunPython(
            end_old_runs, migrations.RunPython.noop, hints={"model_name": "taskrecord"}
        ),
        repeatable.ValidateCheck("taskrecord", "taskrecord_status_valid"),
        repeatable.AddUnique(
            "taskrecord",
            models.UniqueConstraint(
                fields=["unique_key"],
                condition=models.Q(unique_key__isnull=False),
                name="taskrecord_unique_key",
            ),
        ),
        repeatable.CreateTable(
            "LimitPlace",
            [
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "key",
                        "number",
                        blank=True,
                        editable=False,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                ("key", models.CharField(editable=False, max_length=64)),
                ("number", models.PositiveSmallIntegerField(editable=False)),
                ("record_id", models.UUIDField(editable=False)),
                ("token", models.UUIDField(editable=False, null=True)),
                ("held_until", models.DateTimeField(editable=False)),
            ],
        ),
        repeatable.CreateTable(
            "UsedSignature",
            [
                (
                    "key",
                    models.CharField(
                        editable=False, max_length=64, primary_key=True, serialize=False
                    ),
                ),
                ("token", models.UUIDField(editable=False)),
                ("kept_until", models.DateTimeField(db_index=True, editable=False)),
            ],
        ),
        repeatable.CreateTable(
            "LimitPace",
            [
                (
                    "key",
                    models.CharField(
                        editable=False, max_length=64, primary_key=True, serialize=False
                    ),
                ),
                ("next_at", models.DateTimeField(db_index=True, editable=False)),
            ],
        ),
        repeatable.CreateTable(
            "RelayShift",
            [
                (
                    "name",
                    models.CharField(
                        editable=False, max_length=64, primary_key=True, serialize=False
                    ),
                ),
                ("token", models.UUIDField(editable=False, null=True)),
                ("next_at", models.DateTimeField(editable=False)),
                ("n_asked", models.FloatField(default=0, editable=False)),
                ("n_asked_before", models.FloatField(default=0, editable=False)),
            ],
        ),
        repeatable.CreateTable(
            "ScheduleState",
            [
                (
                    "name",
                    models.CharField(
                        editable=False, max_length=255, primary_key=True, serialize=False
                    ),
                ),
                ("task_name", models.CharField(editable=False, max_length=255)),
                ("rule", models.TextField(editable=False)),
                ("rule_at", models.DateTimeField(editable=False)),
                ("token", models.UUIDField(default=uuid.uuid4, editable=False)),
                ("last_due", models.DateTimeField(editable=False)),
                ("next_due", models.DateTimeField(db_index=True, editable=False, null=True)),
                ("is_enabled", models.BooleanField(default=True, editable=False)),
                ("changed_by", models.CharField(default="", editable=False, max_length=255)),
                ("reason", models.TextField(default="", editable=False)),
                ("changed_at", models.DateTimeField(editable=False, null=True)),
                ("n_skipped", models.PositiveIntegerField(default=0, editable=False)),
            ],
            options={
                "verbose_name": "schedule",
                "verbose_name_plural": "schedules",
                "default_permissions": ("view",),
                "permissions": (
                    ("switch_schedulestate", "Can pause and resume schedule"),
                    ("run_schedulestate", "Can run schedule now"),
                ),
            },
        ),
        repeatable.CreateTable(
            "Workflow",
            [
                (
                    "id",
                    models.UUIDField(
                        default=uuid.uuid4, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("name", models.CharField(editable=False, max_length=255)),
                (
                    "status",
                    models.CharField(
                        db_index=True, default="RUNNING", editable=False, max_length=10
                    ),
                ),
                ("created_at", models.DateTimeField(db_index=True, editable=False)),
                ("ended_at", models.DateTimeField(db_index=True, editable=False, null=True)),
                ("n_steps", models.PositiveIntegerField(editable=False)),
                ("lowest_join", models.IntegerField(default=0, editable=False)),
                ("results", models.JSONField(editable=False)),
                ("call_id", models.UUIDField(db_index=True, editable=False, null=True)),
            ],
            options={
                "verbose_name": "workflow",
                "verbose_name_plural": "workflows",
                "default_permissions": ("view",),
                "permissions": (
                    ("cancel_workflow", "Can cancel workflow"),
                    ("retry_workflow", "Can retry failed steps of workflow"),
                ),
            },
        ),
        repeatable.CreateTable(
            "WorkflowJoin",
            [
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "workflow_id",
                        "number",
                        "shard",
                        blank=True,
                        editable=False,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                ("workflow_id", models.UUIDField(editable=False)),
                ("number", models.IntegerField(editable=False)),
                ("shard", models.SmallIntegerField(editable=False)),
                ("remaining", models.IntegerField(editable=False)),
                ("failed", models.IntegerField(editable=False)),
                ("terms", models.JSONField(editable=False, null=True)),
                ("succeeded", models.BooleanField(editable=False, null=True)),
            ],
            options={"default_permissions": ()},
        ),
        repeatable.CreateTable(
            "StepCheckpoint",
            [
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "call_id",
                        "name",
                        blank=True,
                        editable=False,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                ("call_id", models.UUIDField(editable=False)),
                ("name", ExactCharField(editable=False, max_length=200)),
                ("kind", models.CharField(editable=False, max_length=10)),
                ("number", models.PositiveIntegerField(editable=False)),
                ("value", models.JSONField(editable=False, null=True)),
                ("error", models.JSONField(editable=False, null=True)),
                ("function", models.CharField(default="", editable=False, max_length=255)),
                ("began_at", models.DateTimeField(editable=False)),
                ("ended_at", models.DateTimeField(editable=False, null=True)),
            ],
            options={"default_permissions": ()},
        ),
        repeatable.CreateTable(
            "StepSignal",
            [
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "call_id",
                        "name",
                        blank=True,
                        editable=False,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                ("call_id", models.UUIDField(editable=False)),
                ("name", ExactCharField(editable=False, max_length=200)),
                ("value", models.JSONField(editable=False, null=True)),
                ("type", models.CharField(default="", editable=False, max_length=255)),
                ("run_id", models.UUIDField(editable=False, null=True)),
                ("came_at", models.DateTimeField(editable=False, null=True)),
                ("is_over", models.BooleanField(default=False, editable=False)),
                ("token", models.UUIDField(default=uuid.uuid4, editable=False)),
            ],
            options={"default_permissions": ()},
        ),
        repeatable.CreateTable(
            "RunFigures",
            [
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "minutes",
                        "start",
                        "task_name",
                        "queue",
                        "status",
                        blank=True,
                        editable=False,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                ("minutes", models.PositiveSmallIntegerField(editable=False)),
                ("start", models.DateTimeField(editable=False)),
                ("task_name", models.CharField(editable=False, max_length=255)),
                ("queue", models.CharField(editable=False, max_length=255)),
                ("status", models.CharField(editable=False, max_length=10)),
                ("n", models.PositiveIntegerField(editable=False)),
                ("wait_s", models.FloatField(editable=False)),
                ("run_s", models.FloatField(editable=False)),
                ("waits", models.TextField(editable=False)),
                ("runs", models.TextField(editable=False)),
                ("last_end", models.DateTimeField(editable=False)),
            ],
            options={"default_permissions": ()},
        ),
        repeatable.CreateTable(
            "ErrorFigures",
            [
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "minutes",
                        "start",
                        "error_id",
                        "task_name",
                        blank=True,
                        editable=False,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                ("minutes", models.PositiveSmallIntegerField(editable=False)),
                ("start", models.DateTimeField(editable=False)),
                ("error_id", models.UUIDField(editable=False)),
                ("task_name", models.CharField(editable=False, max_length=255)),
                ("failed", models.PositiveIntegerField(editable=False)),
                ("retried", models.PositiveIntegerField(editable=False)),
            ],
            options={"default_permissions": ()},
        ),
        repeatable.CreateTable(
            "TaskError",
            [
                (
                    "id",
                    models.UUIDField(editable=False, primary_key=True, serialize=False),
                ),
                ("exception_class", models.TextField(editable=False)),
                ("message", models.TextField(editable=False)),
                ("raised_in", models.TextField(editable=False)),
                ("task_name", models.CharField(editable=False, max_length=255)),
                ("first_seen", models.DateTimeField(editable=False)),
                ("last_seen", models.DateTimeField(db_index=True, editable=False)),
                ("releases", models.JSONField(default=list, editable=False)),
                ("examples", models.JSONField(default=list, editable=False)),
            ],
            options={"default_permissions": ()},
        ),
        repeatable.CreateTable(
            "LastTick",
            [
                (
                    "id",
                    models.PositiveSmallIntegerField(
                        editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("counted_until", models.DateTimeField(editable=False)),
                ("at", models.DateTimeField(editable=False, null=True)),
                ("n_connections", models.PositiveIntegerField(editable=False, null=True)),
                ("max_connections", models.PositiveIntegerField(editable=False, null=True)),
                ("releases", models.JSONField(default=list, editable=False)),
            ],
            options={"default_permissions": ()},
        ),
        repeatable.CreateTable(
            "DoctorReport",
            [
                (
                    "id",
                    models.PositiveSmallIntegerField(
                        editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("at", models.DateTimeField(editable=False)),
                ("ignored", models.JSONField(default=list, editable=False)),
                ("findings", models.JSONField(default=list, editable=False)),
                ("n_findings", models.PositiveIntegerField(default=0, editable=False)),
                ("queues", models.JSONField(default=dict, editable=False)),
                ("failed_at", models.DateTimeField(editable=False, null=True)),
                ("failure", models.TextField(default="", editable=False)),
            ],
            options={"verbose_name": "doctor's report", "default_permissions": ("view",)},
        ),
        # A record is written four times in its life, and the second time soon after the first, to
        # note that it was sent. With room on its page that costs a fifth: no index has to learn
        # of it.
        repeatable.FillFactor("taskrecord", percent=50),
        migrations.RunPython(
            migrations.RunPython.noop, refuse_unfinished, hints={"model_name": "taskrecord"}
        ),
    ]
