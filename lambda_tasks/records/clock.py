"""The database's own clock, by which all times of records are told: no worker's decides."""

from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import functions


class Now(functions.Now):
    """Django's, but on MySQL in UTC, as its columns are: there it follows the session's zone."""

    def as_mysql(self, compiler: Any, connection: BaseDatabaseWrapper, **extra_context: Any) -> Any:
        """See Func."""
        return self.as_sql(compiler, connection, template="UTC_TIMESTAMP(6)", **extra_context)
