"""The database's own clock, which sets all times of records; no worker's clock decides."""

from datetime import UTC, datetime
from typing import Any

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import functions


class Now(functions.Now):
    """Django's Now, but in UTC on MySQL, where Django's follows the time zone of the session."""

    def as_mysql(self, compiler: Any, connection: BaseDatabaseWrapper, **extra_context: Any) -> Any:
        """See Func."""
        return self.as_sql(compiler, connection, template="UTC_TIMESTAMP(6)", **extra_context)


def read_clock(alias: str) -> datetime:
    """Return the time of the database's clock."""
    connection = connections[alias]
    expression = {"mysql": "UTC_TIMESTAMP(6)", "postgresql": "STATEMENT_TIMESTAMP()"}.get(
        connection.vendor, "STRFTIME('%%Y-%%m-%%d %%H:%%M:%%f', 'NOW')"
    )
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {expression}", [])
        (found,) = cursor.fetchone()
    return as_moment(found)


def as_moment(found: Any) -> datetime:
    """Return a time as a cursor has it: text on SQLite, and without a time zone on MySQL."""
    moment: datetime = datetime.fromisoformat(found) if isinstance(found, str) else found
    return (moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment).astimezone(UTC)
