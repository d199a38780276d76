"""Where secret arguments wait, encrypted, for their task to run."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("lambda_tasks", "0002_one_table_is_the_truth")]  # noqa: RUF012

    operations = [  # noqa: RUF012
        migrations.AddField(
            model_name="taskrecord",
            name="secrets",
            field=models.TextField(editable=False, null=True),
        ),
    ]
