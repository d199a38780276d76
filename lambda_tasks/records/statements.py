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

Converters = Sequence[tuple[int, Sequence[Callable[..., Any]], Any]]
"""Django's converters of a query's columns: number, functions and expression of each column."""

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
        self._composed: dict[Hashable, Any] = {}

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
        sql, params = self._composed_once(key, compose)
        return execute(connection, sql, _bound(params, values, connection), returning=returning)

    def fetch(
        self,
        connection: BaseDatabaseWrapper,
        key: Hashable,
        compose: "Callable[[], QuerySet[Any, Any]]",
        values: Mapping[str, Any],
    ) -> Rows:
        """Return the rows of a query by values_list(), as the ORM returns them.

        `compose` is called once for each key. Its query has Placeholders for the `values`.
        """
        (sql, params), converters = self._composed_once(key, lambda: select(compose()))
        bound = _bound(params, values, connection)
        with mark_for_rollback_on_error(connection.alias), connection.cursor() as cursor:
            cursor.execute(sql, bound)
            rows: Rows = cursor.fetchall()
        return [_converted(row, converters, connection) for row in rows] if converters else rows

    def _composed_once(self, key: Hashable, compose: Callable[[], T]) -> T:
        composed: T | None = self._composed.get(key)
        if composed is None:
            composed = compose()
            if len(self._composed) >= MAX_COMPOSED:
                self._composed.clear()
            self._composed[key] = composed
        return composed


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
    missing = padded_size(len(items)) - len(items)
    return [*items, *[items[-1]] * missing] if missing else items


def padded_size(size: int) -> int:
    """Return the length of a list of this size after pad()."""
    return size if size <= MAX_EXACT_SIZE else 2 ** (size - 1).bit_length()


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


def select(query: "QuerySet[Any, Any]") -> tuple[Composed, Converters]:
    """Compose the SELECT of a query by values_list(), without executing it."""
    compiler: Any = query.query.get_compiler(query.db)
    composed = compiler.as_sql()
    converters = compiler.get_converters([column for column, _, _ in compiler.select])
    return composed, [(number, *each) for number, each in converters.items()]


def _bound(
    params: Sequence[Any], values: Mapping[str, Any], connection: BaseDatabaseWrapper
) -> list[Any]:
    return [
        each.bind(values[each.name], connection) if isinstance(each, Placeholder) else each
        for each in params
    ]


def _converted(
    row: Sequence[Any], converters: Converters, connection: BaseDatabaseWrapper
) -> tuple[Any, ...]:
    values = list(row)
    for number, functions, expression in converters:
        for convert in functions:
            values[number] = convert(values[number], expression, connection)
    return tuple(values)
