"""A column of text in which only equal texts are equal, on each database."""

from typing import Any

from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper


class ExactCharField(models.CharField):  # type: ignore[type-arg]
    """A CharField that tells cases and accents apart.

    On MySQL and MariaDB the collations of most databases don't.
    """

    def db_parameters(self, connection: BaseDatabaseWrapper) -> Any:
        """See Field."""
        parameters: Any = super().db_parameters(connection)
        if connection.vendor == "mysql":
            parameters["collation"] = "utf8mb4_bin"
        return parameters
