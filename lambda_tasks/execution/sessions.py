"""Guards a thread's connections: a task must leave neither a transaction nor a changed session.

The next task on the connection would otherwise run in them. What a guard recognizes by its text
are statements that pass through Django's cursors; others, on the driver's own, pass unseen.
"""

import logging
import threading
from collections.abc import Callable
from typing import Any, Final

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.transaction import TransactionManagementError

from .. import interrupts, pools
from ..context import current_run
from ..core.sql_effects import begins_or_ends_transaction, changes_session, shown
from .late_begin import is_kept_back

logger = logging.getLogger("lambda_tasks")

READ: Final = "SELECT current_setting('search_path'), current_setting('role')"

RESTORE: Final = "SELECT set_config('search_path', %s, true), set_config('role', %s, true)"

PQTRANS_INERROR: Final = 3
"""libpq's PQTRANS_INERROR (PQtransactionStatus): the transaction has met an error."""

PQTRANS_UNKNOWN: Final = 4
"""libpq's PQTRANS_UNKNOWN (PQtransactionStatus): the connection is broken."""

SERVER_STATUS_IN_TRANS: Final = 1
"""The flag of an open transaction in the status that MySQL sends with each answer."""


NOT_LEFT: Final = (
    "entered transaction.atomic() on the database {!r} and did not leave it, so its writes are "
    "rolled back. Enter it by `with`, and close generators that are within it."
)
BEGUN: Final = (
    "left a transaction open on the database {!r}, by BEGIN, so its writes are rolled back. Use "
    "`with transaction.atomic():`, or commit before the task ends."
)
AUTOCOMMIT_OFF: Final = (
    "left a transaction open on the database {!r}, by set_autocommit(False), so its writes are "
    "rolled back. Use `with transaction.atomic():`, or commit and call set_autocommit(True) "
    "before the task ends."
)
ENDED: Final = (
    "ended the transaction on the database {!r} that belongs to its run, by commit() or rollback() "
    "of the driver's connection or by SQL, so its writes may be committed in part. Declare it with "
    "atomic=False, and use `with transaction.atomic():` where it needs one."
)
"""What a task did; its name comes first."""


class RunGuard:
    """The guard of one run on its thread's connections, from the run's begin on."""

    def __init__(self) -> None:
        # In a TestCase, and in eager mode, a connection may be in a transaction of somebody else.
        self._guards = [each for each in _of_this_thread() if each.is_free()]

    def begin_transaction(self) -> None:
        """Forget the statements before the library's own transaction: listeners', and a lock's."""
        for guard in self._guards:
            guard.has_executed = False

    def close_left_open(self, who: str) -> None:
        """Close the connections on which hooks left a transaction open, and log that."""
        for guard in self._guards:
            if problem := guard.find_left_open(0):
                logger.error("%s %s", who, problem)
                guard.drop()

    def check(self, task_name: str, own: BaseDatabaseWrapper | None) -> None:
        """Raise TransactionManagementError if the run left a transaction open, or ended its own.

        `own` is the connection of the transaction that the library began for the run, or None.
        """
        for guard in self._guards:
            is_own = guard.connection is own
            problem = guard.find_left_open(int(is_own)) or (guard.find_ended() if is_own else "")
            if problem:
                raise TransactionManagementError(f"{task_name} {problem}")

    def restore(self, own: BaseDatabaseWrapper) -> None:
        """Undo, for the rest of the library's own transaction, what hides the records in it."""
        for guard in self._guards:
            if guard.connection is own:
                guard.restore()

    def clean_up(self) -> None:
        """Close the connections on which the run left a transaction open or changed the session.

        Call it after the run's own transaction. The server rolls back with the connection.
        """
        for guard in self._guards:
            if guard.changed_by or not guard.is_free() or guard.find_left_open(0):
                guard.drop()


class ConnectionGuard:
    """The guard of one connection, for the thread that creates it."""

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        self.connection = connection
        self.has_executed = False
        """Whether the current run has executed a statement since its transaction began."""
        self.changed_by = ""
        """The statement that has changed the session; empty for none."""
        self._settings_before: Any = None
        """PostgreSQL's search_path and role before that statement."""
        self._has_begun = False
        """Whether the last statement about transactions began one."""
        self._connect, self._close = connection.connect, connection.close
        connection.connect = self.connect  # type: ignore[method-assign]
        connection.close = self.close  # type: ignore[method-assign]
        # As the first one: who adds a wrapper for the body of a `with` removes the last one.
        connection.execute_wrappers.insert(0, self.execute)

    def connect(self) -> None:
        """Open the connection. What the project does to each new session is no change of it."""
        self._connect()
        self.has_executed = False
        self._forget_session()

    def close(self) -> None:
        """Close the connection, unless a task calls this within a transaction.

        Django would make the rest of the transaction fail then. Even its close_old_connections()
        closes a connection whose autocommit is off, as in each transaction.
        """
        run = current_run.get()
        if run is None or not self.connection.in_atomic_block:
            self._close()
            return
        logger.info(
            "%s (%s) closes the connection %r in a transaction: it stays open until the end.",
            run.task_name, run.invocation_id, self.connection.alias,
        )  # fmt: skip

    def drop(self) -> None:
        """Close the connection in whatever state it is. Its next use opens a new one."""
        if self.changed_by:
            logger.info(
                "A task has changed its session on the database %r (%s): the connection is closed.",
                self.connection.alias, self.changed_by,
            )  # fmt: skip
        self.connection.in_atomic_block = False  # or Django would keep the closed connection
        pools.discard(self.connection)
        self._forget_session()

    def _forget_session(self) -> None:
        self.changed_by = ""
        self._settings_before = None
        self._has_begun = False

    def execute(
        self, execute: Callable[..., Any], sql: Any, params: Any, many: bool, context: Any
    ) -> Any:
        """Look at a statement and execute it, as Django's wrapper.

        Raises TransactionManagementError for one that would end the transaction of a task.
        """
        self.has_executed = True
        text = self._text_of(sql).lower()
        begins = begins_or_ends_transaction(text)
        if begins is not None:
            self._refuse_in_block(text)
            self._has_begun = begins
        elif not self.changed_by and changes_session(text):
            self._settings_before = self._read_settings()
            self.changed_by = shown(text)
        return execute(sql, params, many, context)

    def restore(self) -> None:
        """Let the rest of the transaction find the records again, if the session has changed."""
        if not self.changed_by:
            return
        raw: Any = self.connection.connection
        with self.connection.wrap_database_errors:
            if self.connection.vendor == "mysql":
                raw.select_db(self.connection.settings_dict["NAME"])
            elif self._settings_before is not None:
                with raw.cursor() as cursor:
                    cursor.execute(RESTORE, self._settings_before)

    def _read_settings(self) -> Any:
        raw = self.connection.connection
        if self.connection.vendor != "postgresql" or raw.info.transaction_status == PQTRANS_INERROR:
            return None
        with self.connection.wrap_database_errors, raw.cursor() as cursor:
            cursor.execute(READ)
            return cursor.fetchone()

    def is_free(self) -> bool:
        """Return whether the connection is closed, or open with autocommit and in no block."""
        if self.connection.connection is None:
            return True
        return not self.connection.in_atomic_block and self.connection.get_autocommit()

    def find_left_open(self, n_blocks: int) -> str:
        """Return what holds a transaction open besides `n_blocks` atomic blocks, or nothing."""
        connection, alias = self.connection, self.connection.alias
        if connection.connection is None:
            return ""
        if connection.in_atomic_block:
            return "" if len(connection.atomic_blocks) <= n_blocks else NOT_LEFT.format(alias)
        if not self._is_in_transaction():
            return ""
        return (BEGUN if connection.get_autocommit() else AUTOCOMMIT_OFF).format(alias)

    def find_ended(self) -> str:
        """Return what has become of the library's transaction, if the run has ended it."""
        # MySQL says that there is a transaction only once a statement has used a table.
        is_known = self.connection.vendor in ("postgresql", "sqlite")
        if not is_known or not self.has_executed or self._is_in_transaction() is not False:
            return ""
        if is_kept_back(self.connection):
            return ""
        return ENDED.format(self.connection.alias)

    def _is_in_transaction(self) -> bool | None:
        """Return whether the driver's connection is in a transaction; None if it is broken."""
        raw: Any = self.connection.connection
        if self.connection.vendor == "postgresql":
            status = raw.info.transaction_status
            return None if status == PQTRANS_UNKNOWN else bool(status != interrupts.PQTRANS_IDLE)
        if self.connection.vendor == "sqlite":
            return bool(raw.in_transaction)
        may_be = self._has_begun or not self.connection.get_autocommit()
        if not may_be or not hasattr(raw, "server_status"):  # mysqlclient does not show it
            return may_be
        interrupts.answers(self.connection)  # PyMySQL reads the status only from some answers
        return bool(raw.server_status & SERVER_STATUS_IN_TRANS)

    def _refuse_in_block(self, text: str) -> None:
        run = current_run.get()
        if run is not None and self.connection.in_atomic_block:
            raise TransactionManagementError(
                f"{run.task_name} executes {shown(text)!r} in an atomic block, whose transaction "
                "this would end. Leave it to the block, or declare the task with atomic=False."
            )

    def _text_of(self, sql: Any) -> str:
        if isinstance(sql, str):
            return sql
        if isinstance(sql, bytes):
            return sql.decode(errors="replace")
        return str(sql.as_string(self.connection.connection))  # psycopg's Composable


_thread_state = threading.local()


def _of_this_thread() -> list[ConnectionGuard]:
    """Return the guards of this thread's connections, which are made at the first call."""
    if not hasattr(_thread_state, "guards"):
        _thread_state.guards = [
            ConnectionGuard(each)
            for each in interrupts.connections_of_this_thread()
            if each.settings_dict["AUTOCOMMIT"]  # without, the project commits by hand
        ]
    found: list[ConnectionGuard] = _thread_state.guards
    return found
