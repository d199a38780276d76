"""The database that holds the records, and the statements that it understands."""

from functools import cache

from django.db import connections, router

from .portable import PortableStatements
from .postgres import PostgresStatements
from .tables import RecordQuerySet, TaskRecord


def record_alias() -> str:
    """The alias of the database that the router names for TaskRecord."""
    return router.db_for_write(TaskRecord)


def all_records() -> RecordQuerySet:
    """Every record."""
    # What as_manager() makes is known to the plugin of django-stubs, which is mypy's alone.
    return TaskRecord.objects.using(record_alias())  # pyright: ignore[reportReturnType]


def statements() -> PortableStatements:
    """The statements for the database of the records: the one place that chooses."""
    return _statements_on(record_alias())


@cache
def _statements_on(alias: str) -> PortableStatements:
    is_postgres = connections[alias].vendor == "postgresql"
    return PostgresStatements(alias) if is_postgres else PortableStatements(alias)
