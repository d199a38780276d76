"""What a result of django.tasks tells, and its task's positional arguments."""

from typing import Any

from django.db import migrations, models

ADDED: dict[str, "models.Field[Any, Any]"] = {
    "args": models.JSONField(editable=False, null=True),
    "backend": models.CharField(editable=False, max_length=255, null=True),
    "exception_class": models.TextField(editable=False, null=True),
    "worker_ids": models.TextField(editable=False, null=True),
}


class Migration(migrations.Migration):
    dependencies = [("lambda_tasks", "0002_one_table_is_the_truth")]  # noqa: RUF012

    operations = [  # noqa: RUF012
        migrations.AddField(model_name="taskrecord", name=name, field=field)
        for name, field in ADDED.items()
    ]
