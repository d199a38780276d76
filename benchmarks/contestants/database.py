"""The tables of a contestant."""

from django.core.management import call_command
from django.db import connection
from django.test import override_settings

from lambda_tasks.models import TaskRecord


def migrate() -> list[str]:
    """Make the tables; return the names of the indexes that this server can't have.

    django-lambda-tasks has trigram indexes, and not every build of PostgreSQL can do them. To go
    without them is to its advantage: they make an INSERT dearer.
    """
    trigram = [index for index in TaskRecord._meta.indexes if "trgm" in index.name]
    if not trigram or _has_trigrams():
        call_command("migrate", run_syncdb=True, verbosity=0)
        return []
    TaskRecord._meta.indexes = [index for index in TaskRecord._meta.indexes if index not in trigram]
    with override_settings(MIGRATION_MODULES={"lambda_tasks": None}):
        call_command("migrate", run_syncdb=True, verbosity=0)
    return [index.name for index in trigram]


def _has_trigrams() -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1 FROM pg_available_extensions WHERE name = 'pg_trgm'")
        return cursor.fetchone() is not None


def postgres_version() -> str:
    with connection.cursor() as cursor:
        cursor.execute("SHOW server_version")
        return str(cursor.fetchone()[0])
