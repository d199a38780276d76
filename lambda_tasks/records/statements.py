"""Statements that Django's ORM composes once, and that are then only bound and executed.

To compose an UPDATE of a few columns takes several times as long as to execute it.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Final, TypeVar

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Expression, Model, QuerySet
from django.db.models.sql import InsertQuery, UpdateQuery
from django.db.transaction import mark_for_rollback_on_error

MOST_KEPT: Final = 256
"""Statements, before all are composed anew: those of batches differ by the number of messages."""

Composed = tuple[str, Sequence[Any]]
"""SQL and its parameters, Slots among them."""

Rows = list[tuple[Any, ...]]

EXACT: Final = 10
"""What SQS delivers at once: batches of up to so many have a statement for each size."""

T = TypeVar("T")


class Slot(Expression):
    """Stands in a query for a value of this name, which is given when it is executed."""

    def __init__(self, name: str, field: Any) -> None:
        super().__init__(output_field=field)
        self.name = name

    def as_sql(self, compiler: Any, connection: Any) -> tuple[str, list[Any]]:  # type: ignore[override]
        """A placeholder, with this as its parameter until there is a value."""
        return "%s", [self]

    def bind(self, value: Any, connection: BaseDatabaseWrapper) -> Any:
        """The value as the database takes it."""
        return self.output_field.get_db_prep_save(value, connection)


class Statements:
    """The composed statements of one database."""

    def __init__(self) -> None:
        self._composed: dict[Hashable, Composed] = {}

    def execute(
        self,
        connection: BaseDatabaseWrapper,
        key: Hashable,
        compose: Callable[[], Composed],
        values: Mapping[str, Any],
        *,
        returning: str = "",
    ) -> tuple[int, Rows]:
        """Execute a statement; return how many rows it has changed, and what it has returned.

        `compose` is called for the first one under this key. It has Slots for the `values`.
        """
        composed = self._composed.get(key)
        if composed is None:
            if len(self._composed) >= MOST_KEPT:
                self._composed.clear()
            composed = self._composed[key] = compose()
        sql, params = composed
        bound = [
            each.bind(values[each.name], connection) if isinstance(each, Slot) else each
            for each in params
        ]
        return execute(connection, sql, bound, returning=returning)


def execute(
    connection: BaseDatabaseWrapper,
    sql: str,
    params: Sequence[Any] | Mapping[str, Any],
    *,
    returning: str = "",
) -> tuple[int, Rows]:
    """Execute SQL as the ORM does: what fails within a transaction keeps it from being committed.

    Returns how many rows it has changed, and what it has returned.
    """
    with mark_for_rollback_on_error(connection.alias), connection.cursor() as cursor:
        cursor.execute(sql + returning, params)
        return cursor.rowcount, cursor.fetchall() if returning else []


def padded(items: Sequence[T]) -> Sequence[T]:
    """Items of an IN list, the last one repeated, so that few lengths occur: each has a statement
    of its own, and to compose one for a thousand takes longer than to execute it."""
    n_items = len(items)
    if n_items <= EXACT:
        return items
    return [*items, *[items[-1]] * (2 ** (n_items - 1).bit_length() - n_items)]


def insert(records: Sequence[Model], alias: str) -> Composed:
    """The statement that inserts these records, which is not executed."""
    model = type(records[0])
    query = InsertQuery(model)
    query.insert_values(model._meta.concrete_fields, list(records))
    ((sql, params),) = query.get_compiler(alias).as_sql()
    return sql, params


def update(records: "QuerySet[Any]", values: Mapping[str, Any]) -> Composed:
    """The statement of `records.update(**values)`, which is not executed."""
    query: Any = records.query.chain(UpdateQuery)
    query.add_update_values(values)
    query.clear_ordering(force=True)
    sql, params = query.get_compiler(records.db).as_sql()
    return sql, params
