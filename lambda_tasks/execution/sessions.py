"""Guards a thread's connections: a task must leave neither a transaction nor a changed session.

The next task on the connection would otherwise run in them. What a guard recognizes by its text
are statements that pass through Django's cursors; others, on the driver's own, pass unseen.
"""

import logging
import re
import threading
from collections.abc import Callable, Collection
from typing import Any, Final

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created
from django.db.transaction import TransactionManagementError

from .. import interrupts, pools
from ..context import current_run

logger = logging.getLogger("lambda_tasks")

_TRANSACTION_STATEMENT: Final = re.compile(
    r"""
    (?: [\s(;] | --[^\n]*\n | /\*.*?\*/ )*
    (?: (?P<begin> begin | start \s+ transaction )
      | commit | end | abort | prepare \s+ transaction
      | rollback (?! (?:\s+work|\s+transaction)? \s+to\b ) )\b
    """,
    re.VERBOSE | re.DOTALL,
)
"""A statement, in lower case, that begins or ends a transaction; not one about a savepoint."""

_SESSION_STATEMENT: Final = re.compile(
    r"""
    (?: [\s(;] | --[^\n]*\n | /\*.*?\*/ )*
    (?: set \s+ (?! (?:local|constraints|transaction)\b )
      | (?: reset | discard | listen | load | prepare (?! \s+transaction) | use | attach ) \s
      | lock \s+ tables? \s .* \b (?:read|write) \b
      | declare \s .* \b with \s+ hold \b
      | create \s+ (?:or\s+replace\s+)? (?:global\s+|local\s+)? temp (?! .* \b on\s+commit\s+drop)
      | select \s .* \b into \s+ temp
      | pragma \s [^(]* = )
    """,
    re.VERBOSE | re.DOTALL,
)
"""A statement, in lower case, whose effect on the session outlives the transaction."""

_SESSION_FUNCTION: Final = re.compile(
    r"""
    \b (?: pg_(?:try_)?advisory_lock(?:_shared)? | get_lock ) \s* \(
    | \b set_config \s* \( (?! [^()]* , \s* (?:true|'t(?:rue)?') \s* \) )
    """,
    re.VERBOSE,
)
"""The call, in lower case, of a function whose effect on the session outlives the transaction."""

MAX_SHOWN_CHARS: Final = 60
"""The most characters of a statement in a message."""

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
        # A TestCase, and a caller in eager mode, may be in blocks of their own.
        self._guards = [(each, len(each.connection.atomic_blocks)) for each in _of_this_thread()]
        for guard, _ in self._guards:
            guard.has_executed = False

    def check(self, task_name: str, own: BaseDatabaseWrapper | None) -> None:
        """Raise TransactionManagementError if the run left a transaction open, or ended its own.

        `own` is the connection of the transaction that the library began for the run, or None.
        """
        for guard, n_outer in self._guards:
            is_own = guard.connection is own
            problem = guard.find_left_open(n_outer + is_own)
            if not problem and is_own and not n_outer:
                problem = guard.find_ended()
            if problem:
                raise TransactionManagementError(f"{task_name} {problem}")

    def clean_up(self) -> None:
        """Close the connections on which the run left a transaction open or changed the session.

        Call it after the run's own transaction. The server rolls back with the connection.
        """
        for guard, n_outer in self._guards:
            if not n_outer and (guard.is_changed() or guard.find_left_open(0)):
                guard.drop()


class ConnectionGuard:
    """The guard of one connection, for the thread that creates it."""

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        self.connection = connection
        self.has_executed = False
        """Whether the current run has executed a statement."""
        self.changed_by = ""
        """The statement that has changed the session; empty for none."""
        self._has_begun = False
        """Whether the last statement about transactions began one."""
        self._close = connection.close
        connection.close = self.close  # type: ignore[method-assign]
        # As the first one: who adds a wrapper for the body of a `with` removes the last one.
        connection.execute_wrappers.insert(0, self.execute)

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
        self.connection.in_atomic_block = False  # or Django would keep the closed connection
        pools.discard(self.connection)
        self.forget()

    def forget(self) -> None:
        """Forget what was done to the session: the connection has a new one."""
        self.changed_by = ""
        self._has_begun = False

    def execute(
        self, execute: Callable[..., Any], sql: Any, params: Any, many: bool, context: Any
    ) -> Any:
        """Look at a statement and execute it, as Django's wrapper.

        Raises TransactionManagementError for one that would end the transaction of a task.
        """
        self.has_executed = True
        text = self._text_of(sql).lower()
        if met := _TRANSACTION_STATEMENT.match(text):
            self._refuse_in_block(text)
            self._has_begun = met["begin"] is not None
        elif not self.changed_by and _changes_session(text):
            self.changed_by = _shown(text)
        return execute(sql, params, many, context)

    def is_changed(self) -> bool:
        """Return whether the session is no longer as it was when the connection was opened."""
        connection = self.connection
        if connection.connection is None or connection.in_atomic_block:
            return False
        return bool(self.changed_by) or not connection.get_autocommit()

    def find_left_open(self, n_blocks: int) -> str:
        """Return what holds a transaction open, besides `n_blocks` atomic blocks; or nothing."""
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
                f"{run.task_name} executes {_shown(text)!r} in an atomic block, whose transaction "
                "this would end. Leave it to the block, or declare the task with atomic=False."
            )

    def _text_of(self, sql: Any) -> str:
        if isinstance(sql, str):
            return sql
        if isinstance(sql, bytes):
            return sql.decode(errors="replace")
        return str(sql.as_string(self.connection.connection))  # psycopg's Composable


def _changes_session(text: str) -> bool:
    statements = text.split(";") if ";" in text else [text]
    for each in statements:
        if _SESSION_STATEMENT.match(each):
            return True
    # The regular expression would take some time on each long statement.
    return ("_lock" in text or "set_config" in text) and bool(_SESSION_FUNCTION.search(text))


def _shown(text: str) -> str:
    """Return the start of a statement, for a message."""
    shown = " ".join(text.split())
    return shown if len(shown) <= MAX_SHOWN_CHARS else f"{shown[:MAX_SHOWN_CHARS]}..."


_thread_state = threading.local()


def _of_this_thread() -> Collection[ConnectionGuard]:
    """Return the guards of this thread's connections, which are made at the first call."""
    return _guards_by_connection().values()


def _guards_by_connection() -> dict[BaseDatabaseWrapper, ConnectionGuard]:
    if not hasattr(_thread_state, "guards"):
        connections = interrupts.connections_of_this_thread()
        _thread_state.guards = {each: ConnectionGuard(each) for each in connections}
    found: dict[BaseDatabaseWrapper, ConnectionGuard] = _thread_state.guards
    return found


def _forget_session(connection: BaseDatabaseWrapper, **_: object) -> None:
    """Forget the session before, and what has set the new one up."""
    guard = getattr(_thread_state, "guards", {}).get(connection)
    if guard is not None:
        guard.forget()


connection_created.connect(_forget_session)
