"""What an error of the database means: the truth table, and what drivers really raise."""

import sqlite3
from pathlib import Path

import psycopg
import pymysql
import pytest
from django.db import (
    DatabaseError,
    DataError,
    IntegrityError,
    InterfaceError,
    OperationalError,
    ProgrammingError,
    connection,
)

from lambda_tasks.database_errors import (
    Contended,
    Meaning,
    code_of,
    is_conflict,
    judge,
    meaning_of,
)
from tests.app import outages
from tests.app.models import Effect

REFUSAL, CONFLICT, OUTAGE = Meaning.REFUSAL, Meaning.CONFLICT, Meaning.OUTAGE

# what happened, its code, and what it means: of an Operational- or InterfaceError on a connection
# that still works, of one on a connection that is gone or of a statement of ours, and of any other
TABLE: list[tuple[str, str | None, Meaning, Meaning, Meaning]] = [
    ("could not serialize", "40001", CONFLICT, CONFLICT, CONFLICT),
    ("deadlock", "40P01", CONFLICT, CONFLICT, CONFLICT),
    ("MySQL's deadlock", "mysql 1213", CONFLICT, CONFLICT, CONFLICT),
    ("MySQL's lock wait timeout", "mysql 1205", CONFLICT, CONFLICT, CONFLICT),
    ("MariaDB's changed record", "mysql 1020", CONFLICT, CONFLICT, CONFLICT),
    ("SQLite is busy", "sqlite 5", CONFLICT, CONFLICT, CONFLICT),
    ("SQLite's table is locked", "sqlite 6", CONFLICT, CONFLICT, CONFLICT),
    ("the server shuts down", "57P01", OUTAGE, OUTAGE, OUTAGE),
    ("the server starts", "57P03", OUTAGE, OUTAGE, OUTAGE),
    ("the connection does not exist", "08003", OUTAGE, OUTAGE, OUTAGE),
    ("the connection failed", "08006", OUTAGE, OUTAGE, OUTAGE),
    ("idle in a transaction for too long", "25P03", OUTAGE, OUTAGE, OUTAGE),
    ("too many connections", "53300", OUTAGE, OUTAGE, OUTAGE),
    ("no longer the writer", "25006", OUTAGE, OUTAGE, OUTAGE),
    ("MySQL is read-only", "mysql 1290", OUTAGE, OUTAGE, OUTAGE),
    ("MySQL has gone away", "mysql 2006", OUTAGE, OUTAGE, OUTAGE),
    ("MySQL's connection was lost", "mysql 2013", OUTAGE, OUTAGE, OUTAGE),
    ("the driver found it gone", "client", OUTAGE, OUTAGE, OUTAGE),
    ("the driver tells no more", None, REFUSAL, OUTAGE, REFUSAL),
    ("statement_timeout", "57014", REFUSAL, OUTAGE, REFUSAL),
    ("lock_timeout, or NOWAIT", "55P03", REFUSAL, OUTAGE, REFUSAL),
    ("a transaction that is aborted", "25P02", REFUSAL, OUTAGE, REFUSAL),
    ("a unique constraint", "23505", REFUSAL, OUTAGE, REFUSAL),
    ("MySQL's unique constraint", "mysql 1062", REFUSAL, OUTAGE, REFUSAL),
    ("a table that is not there", "42P01", REFUSAL, OUTAGE, REFUSAL),
    ("SQLite's other errors", "sqlite 1", REFUSAL, OUTAGE, REFUSAL),
]


@pytest.mark.parametrize(("what", "code", "works", "gone", "other"), TABLE, ids=str)
def test_what_each_error_means(
    what: str, code: str | None, works: Meaning, gone: Meaning, other: Meaning
) -> None:
    assert judge(code, may_be_outage=True, is_gone=False) is works
    assert judge(code, may_be_outage=True, is_gone=True) is gone
    assert judge(code, may_be_outage=False, is_gone=True) is other


def _by(kind: type[Exception], cause: BaseException | None) -> Exception:
    """As Django raises what a driver has raised."""
    error = kind("said so")
    error.__cause__ = cause
    return error


def _sqlite_busy(directory: Path) -> sqlite3.Error:
    first, second = (sqlite3.connect(directory / "db", timeout=0) for _ in range(2))
    try:
        first.execute("BEGIN IMMEDIATE")
        with pytest.raises(sqlite3.OperationalError) as raised:
            second.execute("BEGIN IMMEDIATE")
        return raised.value
    finally:
        first.close()
        second.close()


class _Psycopg2Error(Exception):
    pgcode = "40P01"


def test_each_driver_tells_its_code(tmp_path: Path) -> None:
    causes: dict[str | None, BaseException | None] = {
        "40001": psycopg.errors.SerializationFailure(),
        "40P01": _Psycopg2Error(),
        "57014": psycopg.errors.QueryCanceled(),
        "mysql 1213": pymysql.err.OperationalError(1213, "Deadlock found"),
        "sqlite 5": _sqlite_busy(tmp_path),
        "client": psycopg.OperationalError("the connection is closed"),
        "mysql 0": pymysql.err.InterfaceError(0, ""),
    }

    assert [code_of(_by(OperationalError, each)) for each in causes.values()] == list(causes)
    assert code_of(_by(InterfaceError, psycopg.InterfaceError("the cursor is closed"))) is None
    assert code_of(OperationalError("raised by hand")) is None
    assert code_of(_by(OperationalError, ValueError("text"))) is None


conflict = _by(OperationalError, psycopg.errors.SerializationFailure())
outage = _by(OperationalError, psycopg.errors.AdminShutdown())
refusal = _by(IntegrityError, psycopg.errors.UniqueViolation())


@pytest.mark.parametrize(
    ("error", "meaning", "of_ours"),
    [
        (conflict, CONFLICT, CONFLICT),
        (Contended("by others"), CONFLICT, CONFLICT),
        (outage, OUTAGE, OUTAGE),
        (refusal, REFUSAL, REFUSAL),
        (_by(OperationalError, psycopg.errors.QueryCanceled()), REFUSAL, OUTAGE),
        (_by(InterfaceError, psycopg.InterfaceError("closed")), REFUSAL, OUTAGE),
        (_by(ProgrammingError, psycopg.errors.UndefinedTable()), REFUSAL, REFUSAL),
        (_by(DataError, psycopg.DataError("too deep")), REFUSAL, REFUSAL),
        (_by(DatabaseError, None), REFUSAL, REFUSAL),
        (ValueError("the task's own"), REFUSAL, REFUSAL),
        (_by(ValueError, conflict), REFUSAL, REFUSAL),
        (psycopg.errors.SerializationFailure(), REFUSAL, REFUSAL),
        (KeyboardInterrupt(), REFUSAL, REFUSAL),
        (ExceptionGroup("both", [conflict, conflict]), CONFLICT, CONFLICT),
        (ExceptionGroup("both", [conflict, outage]), OUTAGE, OUTAGE),
        (ExceptionGroup("both", [conflict, ValueError()]), REFUSAL, REFUSAL),
        (ExceptionGroup("deep", [ExceptionGroup("er", [conflict])]), CONFLICT, CONFLICT),
    ],
)
@pytest.mark.django_db
def test_what_is_no_error_of_the_database_is_the_tasks_own(
    error: BaseException, meaning: Meaning, of_ours: Meaning
) -> None:
    assert meaning_of(error) is meaning
    assert meaning_of(error, from_library=True) is of_ours
    assert is_conflict(error) is (meaning is CONFLICT)


@pytest.mark.skipif(connection.vendor != "postgresql", reason="cuts connections")
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("tells_more", [False, True])
def test_a_connection_that_is_gone_makes_an_outage_of_what_it_raised(tells_more: bool) -> None:
    Effect.objects.create(name="x")
    outages.cut_connections()
    with pytest.raises(OperationalError) as raised:
        Effect.objects.create(name="y")
    error = raised.value
    if not tells_more:  # as other drivers do
        error.__cause__ = None

    assert meaning_of(error) is OUTAGE

    connection.close()
    connection.ensure_connection()
    assert meaning_of(error) is (OUTAGE if tells_more else REFUSAL), "its connection is there"
