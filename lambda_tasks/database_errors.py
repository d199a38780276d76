"""What an error of the database means for who has met it: what they asked for was refused, may be
asked for again, or nobody knows what became of it."""

from enum import Enum, auto
from typing import Final

from django.db import Error, InterfaceError, OperationalError, connections

from .interrupts import answers
from .pools import PoolExhausted, renew


class Meaning(Enum):
    """What an error means."""

    REFUSAL = auto()
    """It would be the same again; or it is no error of the database's."""
    CONFLICT = auto()
    """It did not go with what others did at the same time, and may go when it is done again."""
    OUTAGE = auto()
    """The database is gone, or the way to it, or it took too long: who knows how far it came."""


CONFLICT_CODES: Final = frozenset(
    {
        "40001",  # serialization_failure
        "40P01",  # deadlock_detected
        "mysql 1205",  # ER_LOCK_WAIT_TIMEOUT
        "mysql 1213",  # ER_LOCK_DEADLOCK
        "mysql 1020",  # ER_CHECKREAD, with MariaDB's innodb_snapshot_isolation
        "sqlite 5",  # SQLITE_BUSY
        "sqlite 6",  # SQLITE_LOCKED
    }
)

CLIENT_ERROR: Final = "client"

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
"""Beside PostgreSQL's class 08, connection_exception."""


LIBRARY_MARK: Final = "_met_by_lambda_tasks"


def mark_as_library_error(error: BaseException) -> None:
    """Note that a statement of ours has met this error, wherever it is caught. See meaning_of()."""
    setattr(error, LIBRARY_MARK, True)


def meaning_of(error: BaseException, *, from_library: bool = False) -> Meaning:
    """What an error means that was met on this thread; a group's, what its worst one does.

    `from_library` says that no task has asked for what failed, but we have, as its mark does: what takes
    too long is an outage then. It may look at connections, so call it when the transaction is over.
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
    """Whether it means a conflict; looks at the error alone."""
    if isinstance(error, BaseExceptionGroup):
        return all(is_conflict(each) for each in error.exceptions)
    return isinstance(error, Error) and code_of(error) in CONFLICT_CODES


def judge(code: str | None, *, may_be_outage: bool, is_gone: bool) -> Meaning:
    """What an error of the database with this code means. See code_of()."""
    if code in CONFLICT_CODES:
        return Meaning.CONFLICT
    is_outage = code is not None and (code in OUTAGE_CODES or code.startswith("08"))
    return Meaning.OUTAGE if is_outage or (may_be_outage and is_gone) else Meaning.REFUSAL


def code_of(error: BaseException) -> str | None:
    """SQLSTATE, or a number of MySQL's or SQLite's after its name; None where there is none.

    CLIENT_ERROR for what PostgreSQL has never heard of: its driver has found it gone, or had none.
    """
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
    """Close this thread's connections that have had an error, as their way may lead nowhere."""
    for connection in connections.all(initialized_only=True):
        if connection.errors_occurred and not connection.in_atomic_block:
            renew(connection)


def _is_connection_gone() -> bool:
    """Whether one of this thread's connections has had an error and can't be used."""
    return any(
        connection.connection is None or not answers(connection)
        for connection in connections.all(initialized_only=True)
        if connection.errors_occurred
    )
