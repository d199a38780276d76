"""What a task leaves on its connection: it is not acknowledged where it is lost, and no other task
meets it."""

from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connection, connections
from django.db.backends.signals import connection_created

from lambda_tasks import handler
from tests.app import outages, sessions, tasks
from tests.app.models import Effect
from tests.conftest import Handle, Task, body, record_of

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def one_by_one(handle: Handle, settings: Any) -> Iterator[Handle]:
    """A handler with one lane and one process, so that a task follows another on its connection."""
    settings.LAMBDA_TASKS_CONCURRENCY = settings.LAMBDA_TASKS_PROCESSES = 1
    handler.close()
    yield handle
    handler.close()


def follower_of(task: Task) -> Task:
    """A task that writes an effect, in the same lane or process."""
    return tasks.aleave_effect if task.is_async else tasks.leave_effect


def names() -> list[str]:
    return sorted(Effect.objects.values_list("name", flat=True))


LEFT = {
    "autocommit": "left a transaction open on the database 'default', by set_autocommit(False)",
    "begin": "left a transaction open on the database 'default', by BEGIN",
    "block": "entered transaction.atomic() on the database 'default' and did not leave it",
}


@pytest.mark.parametrize("goes_on", [False, True])
@pytest.mark.parametrize("task", [sessions.leave, sessions.aleave])
def test_a_task_that_leaves_a_transaction_open_fails_with_the_reason(
    one_by_one: Handle, task: Task, goes_on: bool
) -> None:
    for how, reason in LEFT.items():
        message = body(task, how=how, goes_on=goes_on)
        following = body(follower_of(task), name=how)

        assert one_by_one(message) == one_by_one(following) == []

        record = record_of(message)
        assert record.status == "FAILED", how
        assert f"{task.name} {reason}" in (record.traceback or "")
        assert record_of(following).status == "SUCCESS", how
    assert names() == sorted(LEFT)


@pytest.mark.parametrize("task", [sessions.leave, sessions.aleave])
def test_a_task_that_fails_in_a_transaction_of_its_own_is_recorded_outside_of_it(
    one_by_one: Handle, task: Task
) -> None:
    for how in LEFT:
        message, following = body(task, how=how, fails=True), body(follower_of(task), name=how)

        assert one_by_one(message) == one_by_one(following) == []

        assert "ZeroDivisionError" in (record_of(message).traceback or ""), how
        assert record_of(following).status == "SUCCESS", how
    assert names() == sorted(LEFT)


@pytest.mark.parametrize("task", [sessions.leave, sessions.aleave])
def test_a_task_may_commit_by_hand_and_leaves_no_connection_without_autocommit(
    one_by_one: Handle, task: Task
) -> None:
    message, following = body(task, how="commit"), body(follower_of(task), name="next")

    assert one_by_one(message) == one_by_one(following) == []

    assert (record_of(message).status, record_of(message).traceback) == ("SUCCESS", None)
    assert record_of(following).status == "SUCCESS"
    assert names() == ["kept", "kept", "next"]


@pytest.mark.parametrize("task", [sessions.leave_a_block, sessions.aleave_a_block])
def test_a_task_in_a_transaction_that_does_not_leave_a_block_fails_with_the_reason(
    one_by_one: Handle, task: Task
) -> None:
    message, following = body(task), body(follower_of(task), name="next")

    assert one_by_one(message) == one_by_one(following) == []

    assert LEFT["block"] in (record_of(message).traceback or "")
    assert record_of(following).status == "SUCCESS"
    assert names() == ["next"]


ENDING = ["COMMIT", "  rollback", "BEGIN", "/* now */ COMMIT AND CHAIN"]


@pytest.mark.parametrize("task", [sessions.execute_in_a_block, sessions.aexecute_in_a_block])
def test_a_statement_that_would_end_the_transaction_of_a_task_is_refused(
    one_by_one: Handle, task: Task
) -> None:
    for sql in ENDING:
        message, following = body(task, sql=sql), body(follower_of(task), name=sql)

        assert one_by_one(message) == one_by_one(following) == []

        record = record_of(message)
        assert record.status == "FAILED", sql
        assert f"executes '{sql.strip().lower()}' in an atomic block" in (record.traceback or "")
    assert names() == sorted(ENDING)


@pytest.mark.skipif(connection.vendor == "mysql", reason="its drivers don't show it")
@pytest.mark.parametrize("task", [sessions.commit_beside_django, sessions.acommit_beside_django])
def test_a_task_whose_transaction_was_ended_beside_django_fails_with_the_reason(
    one_by_one: Handle, task: Task
) -> None:
    message, following = body(task), body(follower_of(task), name="next")

    assert one_by_one(message) == one_by_one(following) == []

    assert f"{task.name} ended the transaction" in (record_of(message).traceback or "")
    assert record_of(following).status == "SUCCESS"


@pytest.mark.parametrize(
    "task",
    [
        sessions.close,
        sessions.aclose,
        sessions.close_in_autocommit,
        sessions.aclose_in_autocommit,
    ],
)
def test_a_task_may_close_its_connections(one_by_one: Handle, task: Task) -> None:
    for how in sessions.CLOSING:
        message = body(task, how=how)

        assert one_by_one(message) == []

        assert (record_of(message).status, record_of(message).traceback) == ("SUCCESS", None), how
        assert names() == ["after", "before", "in a block"], how
        Effect.objects.all().delete()


def test_a_task_that_closes_its_connections_and_fails_is_rolled_back(one_by_one: Handle) -> None:
    message = body(sessions.close_and_fail)

    assert one_by_one(message) == []

    assert "ZeroDivisionError" in (record_of(message).traceback or "")
    assert names() == []


@pytest.mark.skipif(connection.vendor != "postgresql", reason="its administrator cuts connections")
@pytest.mark.parametrize("where", sessions.ELSEWHERE)
@pytest.mark.parametrize("task", [sessions.write_elsewhere, sessions.awrite_elsewhere])
def test_connections_of_other_threads_are_replaced_after_they_were_cut(
    one_by_one: Handle, request: pytest.FixtureRequest, task: Task, where: str
) -> None:
    """At the latest by the run after the one that has noticed it."""
    request.addfinalizer(sessions.close_elsewhere)
    before, noticing, after = [
        body(task, where=where, name=name) for name in ("before", "noticing", "after")
    ]
    assert one_by_one(before) == []

    outages.cut_connections()
    one_by_one(noticing)

    assert one_by_one(after) == []
    assert record_of(before).status == record_of(after).status == "SUCCESS", record_of(after)
    assert {"before", "after"} <= set(names())


CHANGES = {
    "postgresql": [
        "SET search_path TO elsewhere",
        "set role nobody",
        "SELECT set_config('search_path', 'elsewhere', false)",
        "SELECT pg_advisory_lock(7)",
        "SELECT pg_try_advisory_lock_shared(7)",
        "CREATE TEMPORARY TABLE left_behind (id int)",
        "SELECT 1 AS id INTO TEMP left_behind",
        "-- first\n/* second */ SET statement_timeout = 12345",
        "SELECT 1; SET statement_timeout = 12345",
        "LISTEN something",
    ],
    "mysql": [
        "SET SESSION sql_mode = ''",
        "SELECT GET_LOCK('something', 0)",
        "CREATE TEMPORARY TABLE left_behind (id int)",
        "USE information_schema",
    ],
    "sqlite": ["PRAGMA busy_timeout = 1000", "CREATE TEMP TABLE left_behind (id int)"],
}[connection.vendor]

HARMLESS = {
    "postgresql": [
        "SET LOCAL statement_timeout = 12345",
        "SELECT set_config('search_path', 'public', true)",
        "SELECT pg_advisory_xact_lock(7)",
        "SELECT 'SET search_path TO elsewhere; -- temporary'",
        "SAVEPOINT here; ROLLBACK TO SAVEPOINT here",
        "SET CONSTRAINTS ALL IMMEDIATE",
    ],
    "mysql": ["SELECT 'SET SESSION'", "SELECT RELEASE_LOCK('something')"],
    "sqlite": ["SELECT 'PRAGMA x = 1'", "PRAGMA table_info(app_effect)"],
}[connection.vendor]

EXECUTING = [
    sessions.execute_each,
    sessions.aexecute_each,
    sessions.execute_each_in_autocommit,
    sessions.aexecute_each_in_autocommit,
]


@pytest.fixture
def nobody() -> Iterator[None]:
    """A role of PostgreSQL that may do nothing."""
    if connection.vendor != "postgresql":
        yield
        return
    with connection.cursor() as cursor:
        cursor.execute("CREATE ROLE nobody")
        yield
        cursor.execute("DROP ROLE nobody")


def numbers_of(handle: Handle, *messages: str) -> list[int]:
    """The numbers of the connections on which these tasks ran, one after the other."""
    for message in messages:
        assert handle(message) == []
    records = [record_of(message) for message in messages]
    assert [each.traceback for each in records] == [None] * len(messages)
    return [each.result for each in records]


@pytest.mark.parametrize("task", EXECUTING)
def test_no_task_runs_in_a_session_that_another_has_changed(
    one_by_one: Handle, nobody: None, task: Task
) -> None:
    [before] = numbers_of(one_by_one, body(task, statements=[]))
    for sql in CHANGES:
        messages = [body(task, statements=each) for each in ([sql], [])]

        changing, after = numbers_of(one_by_one, *messages)

        assert before == changing != after, sql
        before = after


def test_a_failed_tasks_session_is_closed_too(one_by_one: Handle) -> None:
    before, after = (body(sessions.execute_each, statements=[]) for _ in range(2))
    changing = body(sessions.execute_and_fail, statements=CHANGES[:1])

    (number,) = numbers_of(one_by_one, before)
    one_by_one(changing)

    assert f"ZeroDivisionError: {number}" in (record_of(changing).traceback or "")
    assert numbers_of(one_by_one, after) != [number]


def test_a_connection_whose_session_is_as_before_is_kept(one_by_one: Handle) -> None:
    statements = [[], *([sql] for sql in HARMLESS), []]
    messages = [body(sessions.execute_each, statements=each) for each in statements]

    numbers = numbers_of(one_by_one, *messages)

    assert len(set(numbers)) == 1, [*zip(statements, numbers, strict=True)]


def test_what_a_project_does_to_each_new_session_is_no_change_of_it(
    handle: Handle, settings: Any, request: pytest.FixtureRequest
) -> None:
    settings.LAMBDA_TASKS_CONCURRENCY = 1
    handler.close()

    def change_session(connection: Any, **_: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute(CHANGES[-1] if connection.vendor == "postgresql" else CHANGES[0])

    connection_created.connect(change_session)
    request.addfinalizer(lambda: connection_created.disconnect(change_session))
    request.addfinalizer(handler.close)
    messages = [body(sessions.aexecute_each, statements=[]) for _ in range(3)]

    assert len(set(numbers_of(handle, *messages))) == 1


@pytest.mark.parametrize("task", [sessions.count_kept, sessions.acount_kept])
def test_a_task_meets_no_statements_of_an_earlier_one_that_django_keeps_with_debug(
    one_by_one: Handle, task: Task, settings: Any
) -> None:
    settings.DEBUG = True
    messages = [body(task) for _ in range(3)]

    for message in messages:
        assert one_by_one(message) == []

    assert {record_of(message).result for message in messages} == {1}


def test_the_handler_keeps_no_more_statements_with_debug_from_one_event_to_the_next(
    one_by_one: Handle, settings: Any, request: pytest.FixtureRequest
) -> None:
    opened: list[Any] = []

    def note(connection: Any, **_: Any) -> None:
        opened.append(connection)

    connection_created.connect(note)
    request.addfinalizer(lambda: connection_created.disconnect(note))
    settings.DEBUG = True

    def kept_after_an_event() -> int:
        assert one_by_one(body(tasks.aleave_effect, name="a")) == []
        return sum(len(each.queries_log) for each in opened if each is not connections["default"])

    first, *others = [kept_after_an_event() for _ in range(4)]

    assert {first, *others} == {first}
