"""Room on PostgreSQL's pages for the versions of a record."""

from typing import Any

from django.db import migrations

TABLE = '"lambda_tasks_taskrecord"'


def leave_room(apps: Any, schema_editor: Any) -> None:
    """A record is written four times in its life, and the second time soon after the first, to note
    that it was sent. With room on its page that costs a fifth: no index has to learn of it.

    It concerns pages that are yet to come, and takes no lock that readers or writers would meet.
    """
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute(f"ALTER TABLE {TABLE} SET (fillfactor = 50)")


def fill(apps: Any, schema_editor: Any) -> None:
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute(f"ALTER TABLE {TABLE} RESET (fillfactor)")


class Migration(migrations.Migration):
    dependencies = [("lambda_tasks", "0003_django_tasks")]  # noqa: RUF012

    operations = [  # noqa: RUF012
        migrations.RunPython(leave_room, fill, hints={"model_name": "taskrecord"})
    ]
