"""What a statement does to its transaction and its session."""

import pytest

from lambda_tasks.core.sql_effects import begins_or_ends_transaction, changes_session, shown


@pytest.mark.parametrize(
    ("sql", "begins"),
    [
        ("BEGIN", True),
        (" start transaction read only", True),
        ("-- here\nBEGIN IMMEDIATE", True),
        ("/* here */ COMMIT AND CHAIN", False),
        ("END", False),
        ("ABORT", False),
        ("PREPARE TRANSACTION 'x'", False),
        ("ROLLBACK", False),
        ("ROLLBACK WORK", False),
        ("ROLLBACK TO SAVEPOINT x", None),
        ("ROLLBACK WORK TO x", None),
        ("SAVEPOINT x", None),
        ("RELEASE SAVEPOINT x", None),
        ("DO $$ BEGIN PERFORM 1; END $$", None),
        ("SELECT 1; COMMIT", None),
        ("UPDATE x SET y = 'the; end'", None),
    ],
)
def test_statements_about_transactions_are_known_but_for_savepoints(
    sql: str, begins: bool | None
) -> None:
    assert begins_or_ends_transaction(sql.lower()) is begins


@pytest.mark.parametrize(
    "sql",
    [
        "SET search_path TO tenant",
        "SET SESSION AUTHORIZATION nobody",
        "SET ROLE nobody",
        "SET NAMES utf8mb4",
        "SET @@sql_mode = ''",
        "SET\n  statement_timeout = 5",
        "RESET ALL",
        "DISCARD ALL",
        "LISTEN something",
        "LOAD 'auto_explain'",
        "PREPARE x AS SELECT 1",
        "USE tenant",
        "ATTACH DATABASE 'x' AS y",
        "LOCK TABLES x WRITE",
        "DECLARE x CURSOR WITH HOLD FOR SELECT 1",
        "CREATE TEMP TABLE x (y int)",
        "CREATE OR REPLACE TEMPORARY VIEW x AS SELECT 1",
        "CREATE LOCAL TEMPORARY TABLE x (y int)",
        "SELECT 1 AS y INTO TEMP x",
        "PRAGMA foreign_keys = OFF",
        "SELECT set_config('search_path', %s, false)",
        "SELECT set_config('search_path', %s, %s)",
        "WITH x AS (SELECT pg_advisory_lock(1)) SELECT 1",
        "SELECT pg_try_advisory_lock (1, 2)",
        "SELECT GET_LOCK('x', 10)",
        "SELECT 1; SET ROLE nobody",
    ],
)
def test_what_outlives_the_transaction_changes_the_session(sql: str) -> None:
    assert changes_session(sql.lower())


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1",
        "UPDATE x SET y = 1",
        "INSERT INTO x VALUES ('SET ROLE nobody')",
        "SET LOCAL search_path TO tenant",
        "SET CONSTRAINTS ALL DEFERRED",
        "SET TRANSACTION READ ONLY",
        "PREPARE TRANSACTION 'x'",
        "LOCK TABLE x IN EXCLUSIVE MODE",
        "DECLARE x CURSOR FOR SELECT 1",
        "CREATE TEMP TABLE x (y int) ON COMMIT DROP",
        "PRAGMA table_info(x)",
        "SELECT set_config('app.tenant', %s, true)",
        "SELECT pg_advisory_xact_lock(1)",
        "SELECT is_locked, temperature FROM x",
        "INSERT INTO temperatures VALUES (1)",
    ],
)
def test_what_ends_with_the_transaction_does_not(sql: str) -> None:
    assert not changes_session(sql.lower())


def test_a_message_shows_the_start_of_a_statement_without_its_literals() -> None:
    assert shown("set\n  app.token = 'secret'") == "set app.token ="
    assert len(shown("select " + "x" * 1000)) < 100
