"""`flush`, which Django calls after each test with transactions of its own.

Django's makes every table's files anew, and then all content types and permissions. That takes
longer than most of these tests, which leave rows in one table or two.
"""

from typing import Any

from django.contrib.contenttypes.models import ContentType
from django.core.management.base import BaseCommand
from django.core.management.color import no_style
from django.db import connections, transaction

KEPT = {"auth_permission", "django_content_type"}
"""The tables that `migrate` fills, and no test changes."""


class Command(BaseCommand):
    help = "Empty all tables but those of content types and permissions."
    stealth_options = (
        "allow_cascade", "database", "inhibit_post_migrate", "interactive", "reset_sequences",
    )  # fmt: skip

    def handle(self, *, database: str, **options: Any) -> None:
        connection = connections[database]
        there = connection.introspection.django_table_names(only_existing=True, include_views=False)
        tables = sorted(set(there) - KEPT)
        is_postgres = connection.vendor == "postgresql"
        with transaction.atomic(using=database):
            if is_postgres:
                tables = _lock_and_find_rows(connection, tables)
            # PostgreSQL empties no table without those that refer to it.
            statements = connection.ops.sql_flush(no_style(), tables, allow_cascade=is_postgres)
            connection.ops.execute_sql_flush(statements)
        ContentType.objects.clear_cache()  # as Django's does, so that no test finds it warm


def _lock_and_find_rows(connection: Any, tables: list[str]) -> list[str]:
    """The tables that have rows, once nobody else writes any more, as TRUNCATE would wait for."""
    names = [connection.ops.quote_name(table) for table in tables]
    asked = ", ".join(f"EXISTS (SELECT FROM {name})" for name in names)
    with connection.cursor() as cursor:
        cursor.execute(f"LOCK TABLE {', '.join(names)} IN ACCESS EXCLUSIVE MODE")
        cursor.execute(f"SELECT {asked}")
        answers = cursor.fetchone()
    return [table for table, has_rows in zip(tables, answers, strict=True) if has_rows]
