"""The table as django-lambda-tasks 0.3 to 0.8 left it, without what needs PostgreSQL.

Where the first of their migrations has been applied, this one counts as applied. Their others
change statuses and indexes, which 0002 brings to one state. A release that lacks some of them is
no obstacle that way, while Django refuses a migration that replaces applied and other ones.
"""

from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True

    replaces = [("lambda_tasks", "0001_initial")]  # noqa: RUF012 - Django's own form
    dependencies = []  # noqa: RUF012

    operations = [  # noqa: RUF012
        migrations.CreateModel(
            name="TaskRecord",
            fields=[
                (
                    "id",
                    models.UUIDField(editable=False, primary_key=True, serialize=False),
                ),
                ("task_name", models.CharField(editable=False, max_length=255)),
                ("kwargs", models.JSONField(editable=False)),
                ("n_retries", models.PositiveSmallIntegerField(editable=False)),
                ("status", models.CharField(editable=False, max_length=10)),
                ("start_time", models.DateTimeField(editable=False, null=True)),
                ("end_time", models.DateTimeField(editable=False, null=True)),
                ("result", models.JSONField(editable=False, null=True)),
                ("traceback", models.TextField(editable=False, null=True)),
            ],
            options={
                "ordering": ["-start_time"],
                "indexes": [
                    models.Index(fields=["task_name"], name="lambda_task_task_na_f00cb7_idx"),
                    models.Index(fields=["status"], name="lambda_task_status_6901ee_idx"),
                    models.Index(fields=["-start_time"], name="lambda_task_start_t_9caffc_idx"),
                ],
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(
                            status__in=["RUNNING", "SUCCEEDED", "FAILED", "RETRIED"]
                        ),
                        name="taskrecord_status_valid",
                    )
                ],
            },
        ),
    ]
