"""Operations of migrations that may be cut off at any point, and are then repeated as a whole.

Each looks first whether its effect is there, forwards and backwards. Where DDL can be rolled back
(PostgreSQL, SQLite), an operation happens as a whole or not at all; where it commits by itself
(MySQL, MariaDB), an operation is one statement, or finishes what the first of its statements began.
Their migration has to be `atomic = False`, so that what is done stays done.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

from django.db import migrations, models, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.operations.base import Operation
from django.db.migrations.state import ProjectState as State

__all__ = [
    "AddCheck", "AddColumn", "AddIndex", "AddUnique", "CreateTable", "DropIndex", "FillFactor",
    "RemoveCheck", "RemoveIndex", "ValidateCheck", "chunks",
]  # fmt: skip

Editor = BaseDatabaseSchemaEditor
Model = type[models.Model]

CHUNK: Final = 5_000
CHECKS: Final = {
    "postgresql": "SELECT pg_get_constraintdef(oid) FROM pg_constraint"
    " WHERE conrelid = to_regclass(%s) AND conname = %s",
    "mysql": "SELECT check_clause FROM information_schema.check_constraints"
    " JOIN information_schema.table_constraints USING (constraint_schema, constraint_name)"
    " WHERE constraint_schema = DATABASE()"
    " AND table_constraints.table_name = %s AND constraint_name = %s",
    # What follows its name is its definition, and that of those after it.
    "sqlite": "SELECT substr(sql, instr(sql, %s)) FROM sqlite_master WHERE tbl_name = %s"
    " AND type = 'table' AND instr(sql, %s) > 0",
}


class LooksFirst(Operation):
    """Does what it is to do where that is not done yet, and takes back what is there.

    A rewrite of SQLite's table has the columns that Django knows of at this point: to look first
    keeps it from those that later operations have added.
    """

    model_name: str

    def is_done(self, editor: Editor, model: Model) -> bool:
        """Whether the effect is there already."""
        raise NotImplementedError

    def database_forwards(
        self,
        app_label: str,
        schema_editor: Editor,
        from_state: State,
        to_state: State,
    ) -> None:
        """Do it, if it is not done."""
        model = self._model(app_label, schema_editor, to_state)
        if model and (schema_editor.collect_sql or not self.is_done(schema_editor, model)):
            with self.whole(schema_editor):
                self.do(app_label, schema_editor, from_state, to_state)

    def database_backwards(
        self,
        app_label: str,
        schema_editor: Editor,
        from_state: State,
        to_state: State,
    ) -> None:
        """Take it back, if it is done."""
        model = self._model(app_label, schema_editor, from_state)
        if model and (schema_editor.collect_sql or self.is_done(schema_editor, model)):
            with self.whole(schema_editor):
                super().database_backwards(app_label, schema_editor, from_state, to_state)

    def do(self, app_label: str, editor: Editor, from_state: State, to_state: State) -> None:
        """What Django does."""
        super().database_forwards(app_label, editor, from_state, to_state)

    def whole(self, editor: Editor) -> AbstractContextManager[None]:
        """All of it or nothing, where that can be had."""
        if editor.connection.features.can_rollback_ddl:
            return transaction.atomic(using=editor.connection.alias)
        return nullcontext()

    def _model(self, app_label: str, editor: Editor, state: State) -> Model | None:
        """None where routers keep it from this database: there is nothing to look at."""
        model: Model = state.apps.get_model(app_label, self.model_name)
        return model if self.allow_migrate_model(editor.connection.alias, model) else None


class AddColumn(LooksFirst, migrations.AddField):
    def is_done(self, editor: Editor, model: Model) -> bool:
        with editor.connection.cursor() as cursor:
            cursor.execute(f"SELECT * FROM {_quoted_table(editor, model)} WHERE 1 = 0")  # noqa: S608
            return self._column(model) in [name for name, *_ in cursor.description]

    def database_forwards(
        self,
        app_label: str,
        schema_editor: Editor,
        from_state: State,
        to_state: State,
    ) -> None:
        super().database_forwards(app_label, schema_editor, from_state, to_state)
        model = self._model(app_label, schema_editor, to_state)
        if model and self._may_be_half_done(schema_editor):
            self._drop_default(schema_editor, model)

    def _may_be_half_done(self, editor: Editor) -> bool:
        is_whole = editor.connection.features.can_rollback_ddl
        return not (is_whole or self.field.null or editor.collect_sql)

    def _drop_default(self, editor: Editor, model: Model) -> None:
        """Django gives rows that are there a default, and drops it with a statement of its own."""
        column = self._column(model)
        if _has_default(editor.connection, model, column):
            editor.execute(
                f"ALTER TABLE {_quoted_table(editor, model)}"
                f" ALTER COLUMN {editor.quote_name(column)} DROP DEFAULT"
            )

    def _column(self, model: Model) -> str:
        return str(model._meta.get_field(self.name).column)  # type: ignore[union-attr]


class RemoveIndex(LooksFirst, migrations.RemoveIndex):
    def is_done(self, editor: Editor, model: Model) -> bool:
        return self.name not in _constraints(editor.connection, model)


class AddIndex(LooksFirst, migrations.AddIndex):
    """On PostgreSQL one that keeps no writer waiting while it is built."""

    def is_done(self, editor: Editor, model: Model) -> bool:
        return self.index.name in _constraints(editor.connection, model)

    def database_forwards(
        self, app_label: str, schema_editor: Editor, from_state: State, to_state: State
    ) -> None:
        if self._is_concurrent(schema_editor):
            _drop_half_built(schema_editor, self.index.name)
        super().database_forwards(app_label, schema_editor, from_state, to_state)

    def do(self, app_label: str, editor: Editor, from_state: State, to_state: State) -> None:
        options = {"concurrently": True} if self._is_concurrent(editor) else {}
        model = to_state.apps.get_model(app_label, self.model_name)
        editor.add_index(model, self.index, **options)

    def whole(self, editor: Editor) -> AbstractContextManager[None]:
        """It is one statement, which PostgreSQL wants outside of transactions."""
        return nullcontext()

    def _is_concurrent(self, editor: Editor) -> bool:
        connection = editor.connection
        return connection.vendor == "postgresql" and not connection.in_atomic_block


class AddUnique(LooksFirst, migrations.AddConstraint):
    """A constraint that holds where its column is not null.

    PostgreSQL builds it without keeping writers waiting. MySQL, which has no partial index, takes
    any number of nulls in a full one.
    """

    def is_done(self, editor: Editor, model: Model) -> bool:
        return self.constraint.name in _constraints(editor.connection, model)

    def database_forwards(
        self, app_label: str, schema_editor: Editor, from_state: State, to_state: State
    ) -> None:
        if self._is_concurrent(schema_editor):
            _drop_half_built(schema_editor, self.constraint.name)
        super().database_forwards(app_label, schema_editor, from_state, to_state)

    def do(self, app_label: str, editor: Editor, from_state: State, to_state: State) -> None:
        model = to_state.apps.get_model(app_label, self.model_name)
        vendor, quote = editor.connection.vendor, editor.quote_name
        (field,) = self.constraint.fields  # type: ignore[attr-defined]
        column = quote(str(model._meta.get_field(field).column))
        concurrently = "CONCURRENTLY " if self._is_concurrent(editor) else ""
        condition = "" if vendor == "mysql" else f" WHERE {column} IS NOT NULL"
        editor.execute(
            f"CREATE UNIQUE INDEX {concurrently}{quote(self.constraint.name)}"
            f" ON {_quoted_table(editor, model)} ({column}){condition}"
        )

    def database_backwards(
        self, app_label: str, schema_editor: Editor, from_state: State, to_state: State
    ) -> None:
        model = self._model(app_label, schema_editor, from_state)
        if model and (schema_editor.collect_sql or self.is_done(schema_editor, model)):
            name = schema_editor.quote_name(self.constraint.name)
            is_mysql = schema_editor.connection.vendor == "mysql"
            where = f" ON {_quoted_table(schema_editor, model)}" if is_mysql else ""
            schema_editor.execute(f"DROP INDEX {name}{where}")

    def whole(self, editor: Editor) -> AbstractContextManager[None]:
        """It is one statement, which PostgreSQL wants outside of transactions."""
        return nullcontext()

    def _is_concurrent(self, editor: Editor) -> bool:
        connection = editor.connection
        return connection.vendor == "postgresql" and not connection.in_atomic_block


class RemoveCheck(LooksFirst, migrations.RemoveConstraint):
    """`word` is one that the constraint's successor of the same name has, and it has not."""

    def __init__(self, model_name: str, name: str, word: str) -> None:
        super().__init__(model_name=model_name, name=name)
        self.word = word

    def is_done(self, editor: Editor, model: Model) -> bool:
        check = _check(editor, model, self.name)
        return not check or self.word in check


class AddCheck(LooksFirst, migrations.AddConstraint):
    """On PostgreSQL it holds for what is written from now on, until ValidateCheck."""

    def __init__(self, model_name: str, constraint: models.CheckConstraint, word: str) -> None:
        super().__init__(model_name=model_name, constraint=constraint)
        self.word = word

    def is_done(self, editor: Editor, model: Model) -> bool:
        return self.word in _check(editor, model, self.constraint.name)

    def do(self, app_label: str, editor: Editor, from_state: State, to_state: State) -> None:
        if editor.connection.vendor != "postgresql":
            super().do(app_label, editor, from_state, to_state)
            return
        model = to_state.apps.get_model(app_label, self.model_name)
        # To look at all rows now would keep everybody from the table that long.
        editor.execute(f"{self.constraint.create_sql(model, editor)} NOT VALID", params=None)


class CreateTable(LooksFirst, migrations.CreateModel):
    def is_done(self, editor: Editor, model: Model) -> bool:
        with editor.connection.cursor() as cursor:
            return model._meta.db_table in editor.connection.introspection.table_names(cursor)

    def do(self, app_label: str, editor: Editor, from_state: State, to_state: State) -> None:
        super().do(app_label, editor, from_state, to_state)
        # Its indexes now, and not at the end of the migration, which may not come.
        while editor.deferred_sql:
            editor.execute(editor.deferred_sql.pop(0), params=None)

    @property
    def model_name(self) -> str:  # type: ignore[override]
        return self.name


class OnPostgreSQL(Operation):
    """Changes what only PostgreSQL has, and nothing that models tell."""

    def __init__(self, model_name: str) -> None:
        self.model_name = model_name

    def state_forwards(self, app_label: str, state: State) -> None:
        """Nothing."""

    def database_forwards(
        self,
        app_label: str,
        schema_editor: Editor,
        from_state: State,
        to_state: State,
    ) -> None:
        self._change(self.do, schema_editor, to_state.apps.get_model(app_label, self.model_name))

    def database_backwards(
        self,
        app_label: str,
        schema_editor: Editor,
        from_state: State,
        to_state: State,
    ) -> None:
        self._change(self.undo, schema_editor, to_state.apps.get_model(app_label, self.model_name))

    def do(self, editor: Editor, model: Model) -> None:
        raise NotImplementedError

    def undo(self, editor: Editor, model: Model) -> None:
        """Nothing."""

    def _change(self, change: Any, editor: Editor, model: Model) -> None:
        alias = editor.connection.alias
        if editor.connection.vendor == "postgresql" and self.allow_migrate_model(alias, model):
            change(editor, model)


class DropIndex(OnPostgreSQL):
    """An index that no model tells of."""

    def __init__(self, model_name: str, name: str) -> None:
        super().__init__(model_name)
        self.name = name

    def do(self, editor: Editor, model: Model) -> None:
        if editor.collect_sql or self.name in _constraints(editor.connection, model):
            editor.execute(f"DROP INDEX IF EXISTS {editor.quote_name(self.name)}")


class ValidateCheck(OnPostgreSQL):
    """Look at all rows without keeping anybody from them."""

    def __init__(self, model_name: str, name: str) -> None:
        super().__init__(model_name)
        self.name = name

    def do(self, editor: Editor, model: Model) -> None:
        table, name = _quoted_table(editor, model), editor.quote_name(self.name)
        is_open = editor.collect_sql or _ask(
            editor.connection,
            "SELECT 1 FROM pg_constraint"
            " WHERE conrelid = to_regclass(%s) AND conname = %s AND NOT convalidated",
            table,
            self.name,
        )
        if is_open:
            editor.execute(f"ALTER TABLE {table} VALIDATE CONSTRAINT {name}")


class FillFactor(OnPostgreSQL):
    """Concerns pages that are yet to come, and takes no lock that readers or writers would meet."""

    def __init__(self, model_name: str, percent: int) -> None:
        super().__init__(model_name)
        self.percent = percent

    def do(self, editor: Editor, model: Model) -> None:
        if editor.collect_sql or not self._is_done(editor, model):
            table = _quoted_table(editor, model)
            editor.execute(f"ALTER TABLE {table} SET (fillfactor = {self.percent})")

    def undo(self, editor: Editor, model: Model) -> None:
        if editor.collect_sql or self._is_done(editor, model):
            editor.execute(f"ALTER TABLE {_quoted_table(editor, model)} RESET (fillfactor)")

    def _is_done(self, editor: Editor, model: Model) -> bool:
        return bool(
            _ask(
                editor.connection,
                "SELECT 1 FROM pg_class WHERE oid = to_regclass(%s) AND %s = ANY (reloptions)",
                _quoted_table(editor, model),
                f"fillfactor={self.percent}",
            )
        )


def chunks(rows: "models.QuerySet[Any]") -> Iterator["models.QuerySet[Any]"]:
    """All rows, a range of primary keys at a time, so that none is locked for long."""
    rows = left = rows.order_by()
    while ends := left.order_by("pk").values_list("pk", flat=True)[CHUNK - 1 : CHUNK]:
        yield left.filter(pk__lte=ends[0])
        left = rows.filter(pk__gt=ends[0])
    yield left


def _has_default(connection: BaseDatabaseWrapper, model: Model, column: str) -> bool:
    with connection.cursor() as cursor:
        described = connection.introspection.get_table_description(cursor, model._meta.db_table)
    return any(each.name == column and each.default is not None for each in described)


def _constraints(connection: BaseDatabaseWrapper, model: Model) -> dict[str, Any]:
    """Indexes and constraints, by name."""
    with connection.cursor() as cursor:
        return connection.introspection.get_constraints(cursor, model._meta.db_table)


def _drop_half_built(editor: Editor, index: str) -> None:
    """PostgreSQL keeps what it was building when it was cut off, and never reads it."""
    name = editor.quote_name(index)
    is_half_built = _ask(
        editor.connection,
        "SELECT 1 FROM pg_index WHERE indexrelid = to_regclass(%s) AND NOT indisvalid",
        name,
    )
    if is_half_built:
        editor.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")


def _check(editor: Editor, model: Model, name: str) -> str:
    """What a check constraint says; nothing where it is not there, or the database has none."""
    vendor, table = editor.connection.vendor, model._meta.db_table
    if not editor.connection.features.supports_table_check_constraints:
        return ""
    if vendor == "sqlite":
        quoted = editor.quote_name(name)
        return _ask(editor.connection, CHECKS[vendor], quoted, table, quoted)
    if vendor == "postgresql":
        table = editor.quote_name(table)
    return _ask(editor.connection, CHECKS[vendor], table, name)


def _ask(connection: BaseDatabaseWrapper, question: str, *params: str) -> str:
    """The first value of the answer; nothing where there is none."""
    with connection.cursor() as cursor:
        cursor.execute(question, params)
        row = cursor.fetchone()
    return "" if row is None else str(row[0])


def _quoted_table(editor: Editor, model: Model) -> str:
    return editor.quote_name(model._meta.db_table)
