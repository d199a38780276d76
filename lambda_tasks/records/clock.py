"""The database's own clock, which sets all times of records; no worker's clock decides."""

from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import functions


class Now(functions.Now):
    """Django's Now, but in UTC on MySQL, where Django's follows the time zone of the session."""

    def as_mysql(self, compiler: Any, connection: BaseDatabaseWrapper, **extra_context: Any) -> Any:
        """See Func."""
        return self.as_sql(compiler, connection, template="UTC_TIMESTAMP(6)", **extra_context)
