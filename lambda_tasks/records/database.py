"""The database that holds the records, and the choice of statements for it."""

from functools import cache

from django.db import connections, router

from .portable import PortableStatements
from .postgres import PostgresStatements
from .tables import RecordQuerySet, TaskRecord


def record_alias() -> str:
    """Return the alias of the database that the router names for TaskRecord."""
    return router.db_for_write(TaskRecord)


def all_records() -> RecordQuerySet:
    """Return a query of all records."""
    return TaskRecord.objects.using(record_alias())


def statements() -> PortableStatements:
    """Return the statements for the database of the records."""
    return _statements_on(record_alias())


@cache
def _statements_on(alias: str) -> PortableStatements:
    is_postgres = connections[alias].vendor == "postgresql"
    return PostgresStatements(alias) if is_postgres else PortableStatements(alias)
