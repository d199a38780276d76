"""The meaning of database errors: a refusal, a conflict to retry, or an outage.

After an outage nobody knows whether the statement took effect.
"""

import re
from enum import Enum, auto
from typing import Final

from django.db import Error, InterfaceError, OperationalError, connections

from .interrupts import answers
from .pools import PoolExhausted, renew


class Contended(OperationalError):
    """The library gives up its transaction, and tries again: others do what it can't go on beside.

    To wait for their locks could end in a deadlock, for example, and PostgreSQL looks for deadlocks
    only after a second.
    """


class Meaning(Enum):
    """The meaning of an error."""

    REFUSAL = auto()
    """The same statement would fail again, or the error does not come from the database."""
    CONFLICT = auto()
    """The work collided with a concurrent transaction, and may succeed when it is repeated."""
    OUTAGE = auto()
    """The database or the connection failed, or took too long. The effect is unknown."""


CONTENDED: Final = "contended"
"""The code of Contended."""

CONFLICT_CODES: Final = frozenset(
    {
        CONTENDED,
        "40001",  # serialization_failure
        "40P01",  # deadlock_detected
        "mysql 1205",  # ER_LOCK_WAIT_TIMEOUT
        "mysql 1213",  # ER_LOCK_DEADLOCK
        "mysql 1020",  # ER_CHECKREAD, with MariaDB's innodb_snapshot_isolation
        "sqlite 5",  # SQLITE_BUSY
        "sqlite 6",  # SQLITE_LOCKED
    }
)
"""The codes of conflicts, in the form of code_of()."""

CLIENT_ERROR: Final = "client"
"""The code of an error that the driver or a pool raised without an answer from PostgreSQL."""

OUTAGE_CODES: Final = frozenset(
    {
        CLIENT_ERROR,
        "57P01",  # admin_shutdown
        "57P02",  # crash_shutdown
        "57P03",  # cannot_connect_now
        "57P05",  # idle_session_timeout
        "25P03",  # idle_in_transaction_session_timeout
        "25P04",  # transaction_timeout
        "53300",  # too_many_connections
        "25006",  # read_only_sql_transaction: after a failover, of what was the writer before it
        "mysql 0",  # what pymysql raises for a connection that was closed
        "mysql 1040",  # ER_CON_COUNT_ERROR
        "mysql 1053",  # ER_SERVER_SHUTDOWN
        "mysql 1290",  # ER_OPTION_PREVENTS_STATEMENT: --read-only, as after a failover
        "mysql 1836",  # ER_READ_ONLY_MODE
        "mysql 1927",  # ER_CONNECTION_KILLED
        "mysql 2002",  # CR_CONNECTION_ERROR
        "mysql 2003",  # CR_CONN_HOST_ERROR
        "mysql 2006",  # CR_SERVER_GONE_ERROR
        "mysql 2013",  # CR_SERVER_LOST
        "mysql 4031",  # ER_CLIENT_INTERACTION_TIMEOUT
    }
)
"""The codes of outages, in addition to PostgreSQL's class 08, connection_exception."""

MISSING_SCHEMA_CODES: Final = frozenset(
    {
        "42P01",  # undefined_table
        "42703",  # undefined_column
        "mysql 1054",  # ER_BAD_FIELD_ERROR
        "mysql 1146",  # ER_NO_SUCH_TABLE
    }
)
"""The codes of errors about a table or column that does not exist."""

MISSING_IN_SQLITE: Final = re.compile(r"no such (table|column)|has no column named")
"""The texts of such errors of SQLite, which has one code for all errors in SQL."""

LIBRARY_MARK: Final = "_met_by_lambda_tasks"
"""The attribute of an error that a statement of the library has raised."""


def mark_as_library_error(error: BaseException) -> None:
    """Mark an error as raised by a statement of the library, for meaning_of() to see later."""
    setattr(error, LIBRARY_MARK, True)


def meaning_of(error: BaseException, *, from_library: bool = False) -> Meaning:
    """Return the meaning of an error of this thread; for a group, that of its worst error.

    `from_library`, or the mark of mark_as_library_error(), says that a statement of the library
    failed and not one of a task. Then a timeout means an outage. May test this thread's
    connections, so call it after the transaction.
    """
    from_library = from_library or hasattr(error, LIBRARY_MARK)
    if isinstance(error, BaseExceptionGroup):
        meanings = {meaning_of(each, from_library=from_library) for each in error.exceptions}
        worst_first = (Meaning.REFUSAL, Meaning.OUTAGE, Meaning.CONFLICT)
        return next(each for each in worst_first if each in meanings)
    if not isinstance(error, Error):
        return Meaning.REFUSAL
    may_be_outage = isinstance(error, OperationalError | InterfaceError)
    return judge(
        code_of(error),
        may_be_outage=may_be_outage,
        is_gone=may_be_outage and (from_library or _is_connection_gone()),
    )


def is_conflict(error: BaseException) -> bool:
    """Return whether an error means a conflict. Uses no connection."""
    if isinstance(error, BaseExceptionGroup):
        return all(is_conflict(each) for each in error.exceptions)
    return isinstance(error, Error) and code_of(error) in CONFLICT_CODES


def lacks_schema(error: BaseException) -> bool:
    """Return whether an error says that a table or column does not exist."""
    code = code_of(error)
    if code == "sqlite 1":
        return MISSING_IN_SQLITE.search(str(error)) is not None
    return code in MISSING_SCHEMA_CODES


def judge(code: str | None, *, may_be_outage: bool, is_gone: bool) -> Meaning:
    """Return the meaning of a database error with this code of code_of().

    `may_be_outage` says that the error's class can mean an outage, `is_gone` that the connection
    failed.
    """
    if code in CONFLICT_CODES:
        return Meaning.CONFLICT
    is_outage = code is not None and (code in OUTAGE_CODES or code.startswith("08"))
    return Meaning.OUTAGE if is_outage or (may_be_outage and is_gone) else Meaning.REFUSAL


def code_of(error: BaseException) -> str | None:
    """Return an error's code, or None where it has none.

    The code is PostgreSQL's SQLSTATE, or "mysql" or "sqlite" and the number. It is CLIENT_ERROR
    where PostgreSQL gave no answer: the driver lost the connection or never had one. It is
    CONTENDED where the library itself met a conflict.
    """
    if isinstance(error, Contended):
        return CONTENDED
    if isinstance(error, PoolExhausted):
        return CLIENT_ERROR
    cause = error.__cause__
    if cause is not None and cause.args and isinstance(cause.args[0], int):
        return f"mysql {cause.args[0]}"
    if isinstance(extended := getattr(cause, "sqlite_errorcode", None), int):
        return f"sqlite {extended & 0xFF}"
    for name in ("sqlstate", "pgcode"):
        if hasattr(cause, name):
            sqlstate: str | None = getattr(cause, name)
            return sqlstate or (CLIENT_ERROR if isinstance(error, OperationalError) else None)
    return None


def close_failed_connections() -> None:
    """Close this thread's connections that have had an error, except those in a transaction."""
    for connection in connections.all(initialized_only=True):
        if connection.errors_occurred and not connection.in_atomic_block:
            renew(connection)


def _is_connection_gone() -> bool:
    """Return whether one of this thread's connections has had an error and can't be used."""
    return any(
        connection.connection is None or not answers(connection)
        for connection in connections.all(initialized_only=True)
        if connection.errors_occurred
    )
