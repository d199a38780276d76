"""Statements that Django's ORM composes once, and that are then only bound and executed.

Composing an UPDATE of a few columns takes several times as long as executing it.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Final, TypeVar

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Expression, Model, QuerySet
from django.db.models.sql import InsertQuery, UpdateQuery
from django.db.transaction import mark_for_rollback_on_error

MAX_COMPOSED: Final = 256
"""The most composed statements in memory. One more discards all: each size of a batch has one."""

Composed = tuple[str, Sequence[Any]]
"""SQL and its parameters, with Placeholders among them."""

Rows = list[tuple[Any, ...]]

MAX_EXACT_SIZE: Final = 10
"""The largest batch that has a statement for its exact size: SQS delivers at most ten messages."""

T = TypeVar("T")


class Placeholder(Expression):
    """A named parameter of a composed query for a value that is bound at execution."""

    def __init__(self, name: str, field: Any) -> None:
        super().__init__(output_field=field)
        self.name = name

    def as_sql(self, compiler: Any, connection: Any) -> tuple[str, list[Any]]:  # type: ignore[override]
        """Return SQL with this object as the parameter, until execute() binds a value."""
        return "%s", [self]

    def bind(self, value: Any, connection: BaseDatabaseWrapper) -> Any:
        """Return a value as the database's driver accepts it."""
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
        """Execute a statement; return the number of changed rows, and the returned rows.

        `compose` is called once for each key. Its statement has Placeholders for the `values`.
        """
        composed = self._composed.get(key)
        if composed is None:
            if len(self._composed) >= MAX_COMPOSED:
                self._composed.clear()
            composed = self._composed[key] = compose()
        sql, params = composed
        bound = [
            each.bind(values[each.name], connection) if isinstance(each, Placeholder) else each
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
    """Execute SQL; return the number of changed rows, and the returned rows.

    As with the ORM, an error marks the surrounding transaction for rollback.
    """
    with mark_for_rollback_on_error(connection.alias), connection.cursor() as cursor:
        cursor.execute(sql + returning, params)
        return cursor.rowcount, cursor.fetchall() if returning else []


def pad(items: Sequence[T]) -> Sequence[T]:
    """Repeat the last item of an IN list until its length is a power of two.

    Lists of up to MAX_EXACT_SIZE items stay as they are. Each length needs its own statement, and
    composing one for a thousand items takes longer than executing it. So few lengths should occur.
    """
    n_items = len(items)
    if n_items <= MAX_EXACT_SIZE:
        return items
    return [*items, *[items[-1]] * (2 ** (n_items - 1).bit_length() - n_items)]


def insert(records: Sequence[Model], alias: str) -> Composed:
    """Compose the statement that inserts these records, without executing it."""
    model = type(records[0])
    query = InsertQuery(model)
    query.insert_values(model._meta.concrete_fields, list(records))
    ((sql, params),) = query.get_compiler(alias).as_sql()
    return sql, params


def update(records: "QuerySet[Any]", values: Mapping[str, Any]) -> Composed:
    """Compose the statement of `records.update(**values)`, without executing it."""
    query: Any = records.query.chain(UpdateQuery)
    query.add_update_values(values)
    query.clear_ordering(force=True)
    sql, params = query.get_compiler(records.db).as_sql()
    return sql, params
