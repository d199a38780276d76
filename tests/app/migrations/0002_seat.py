from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("app", "0001_initial")]  # noqa: RUF012
    operations = [  # noqa: RUF012
        migrations.CreateModel(
            name="Seat",
            fields=[
                ("pk", models.CompositePrimaryKey("row", "number", primary_key=True)),
                ("row", models.IntegerField()),
                ("number", models.IntegerField()),
                ("taken_by", models.CharField(max_length=100)),
            ],
        )
    ]
