"""What the database does to a task is none of its failures: after a conflict it begins again, an
outage is a lost attempt. What a task names, or raises as its own, comes first."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import connection, connections

from lambda_tasks.models import TaskRecord
from tests.app import outages
from tests.app.models import Effect
from tests.conftest import Handle, Task, body, record_of

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(connection.vendor != "postgresql", reason="told by PL/pgSQL"),
]

Refuse = Callable[..., Any]
FOR_EVER = 1_000_000


@pytest.fixture
def refuse() -> Iterator[Refuse]:
    """Let the database refuse so many INSERTs of an effect, as what meets a conflict is refused."""

    @contextmanager
    def refusing(times: int, *, at_commit: bool = False) -> Iterator[None]:
        with connection.cursor() as cursor:
            cursor.execute("CREATE SEQUENCE met")  # it does not roll back
            cursor.execute(
                "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
                f" IF nextval('met') <= {times} THEN"
                " RAISE EXCEPTION 'met another' USING ERRCODE = '40001'; END IF;"
                " RETURN NEW; END $$"
            )
            deferred = "DEFERRABLE INITIALLY DEFERRED" if at_commit else ""
            cursor.execute(
                f"CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON app_effect {deferred}"
                " FOR EACH ROW EXECUTE FUNCTION refuse()"
            )
        yield

    yield refusing
    with connection.cursor() as cursor:
        cursor.execute("DROP TRIGGER IF EXISTS refuse ON app_effect")
        cursor.execute("DROP FUNCTION IF EXISTS refuse")
        cursor.execute("DROP SEQUENCE IF EXISTS met")


def runs() -> int:
    """How often an effect was inserted."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT last_value FROM met")
        return int(cursor.fetchone()[0])


def ended(message: str) -> tuple[str, int]:
    record = record_of(message)
    return record.status, record.n_attempts


WRITING: list[Task] = [outages.write, outages.awrite, outages.awrite_in_a_group]


@pytest.mark.parametrize("at_commit", [False, True])
@pytest.mark.parametrize("task", WRITING)
def test_a_task_that_meets_a_conflict_begins_again_within_its_attempt(
    handle: Handle, refuse: Refuse, task: Task, at_commit: bool
) -> None:
    message = body(task, names=["x", "y"])

    with refuse(3, at_commit=at_commit):
        assert handle(message) == []
        n_runs = runs()

    assert ended(message) == ("SUCCESS", 1)
    assert record_of(message).result == 2, "its arguments were whole in each run"
    assert sorted(Effect.objects.values_list("name", flat=True)) == ["x", "y"]
    assert n_runs >= 4


@pytest.mark.parametrize("task", WRITING)
def test_after_three_times_a_conflict_is_its_failure(
    handle: Handle, refuse: Refuse, task: Task
) -> None:
    message = body(task, names=["x"])

    with refuse(FOR_EVER):
        assert handle(message) == []
        assert runs() == 4

    assert ended(message) == ("FAILED", 1)
    assert "met another" in (record_of(message).traceback or "")


@pytest.mark.parametrize("task", [outages.write_once, outages.write_in_autocommit])
def test_what_must_not_run_twice_or_is_not_rolled_back_does_not_begin_again(
    handle: Handle, refuse: Refuse, task: Task
) -> None:
    message = body(task, names=["x"])

    with refuse(FOR_EVER):
        assert handle(message) == []
        assert runs() == 1

    assert ended(message) == ("FAILED", 1)
    assert "met another" in (record_of(message).traceback or "")


@pytest.mark.parametrize("task", [outages.write, outages.awrite])
def test_conflicts_at_the_commit_that_do_not_end_are_a_lost_attempt(
    handle: Handle, refuse: Refuse, task: Task
) -> None:
    message = body(task, names=["x"])

    with refuse(FOR_EVER, at_commit=True):
        assert handle(message) == [0]
        assert runs() == 4
        assert ended(message) == ("QUEUED", 1)
        for n_more in (1, 1, 1, 0):
            assert len(handle(message)) == n_more

    assert ended(message) == ("FAILED", 5)
    assert "met another" in (record_of(message).traceback or ""), "the true error"
    assert not Effect.objects.exists()


@pytest.mark.parametrize("cause", ["conflict", "cut"])
@pytest.mark.parametrize(
    ("options", "status"),
    [("retry_on", "RETRYING"), ("ignore_errors", "SUCCESS"), ("own", "FAILED")],
)
def test_what_a_task_names_or_raises_as_its_own_comes_first(
    handle: Handle, queue: str, refuse: Refuse, cause: str, options: str, status: str
) -> None:
    message = body(getattr(outages, f"meet_with_{options}"), cause=cause)

    with refuse(FOR_EVER):
        failures = handle(message)
        connections.close_all()
        n_runs = runs()

    assert failures == []
    assert ended(message) == (status, 1)
    assert n_runs == 1
    expected = "ZeroDivisionError" if options == "own" else "OperationalError"
    assert (record_of(message).exception_class or "").endswith(expected)


def test_a_run_that_begins_again_has_what_is_left_of_its_time(
    handle: Handle, refuse: Refuse
) -> None:
    message = body(outages.sleep_and_write, seconds=3)

    with refuse(FOR_EVER):
        assert handle(message) == []
        assert runs() <= 2, "of ten seconds, each takes three and the soft timeout is after five"

    assert record_of(message).status == "FAILED"


def test_what_was_cancelled_meanwhile_does_not_begin_again(handle: Handle, refuse: Refuse) -> None:
    message = body(outages.cancel_and_write)

    with refuse(FOR_EVER):
        handle(message)
        assert runs() == 1

    assert record_of(message).status == "CANCELLED"


@pytest.mark.parametrize("task", [outages.cut_once_and_write, outages.acut_once_and_write])
def test_a_task_whose_connection_was_cut_runs_again(handle: Handle, task: Task) -> None:
    message = body(task, name="x")

    assert handle(message) == [0]
    connections.close_all()
    assert ended(message) == ("QUEUED", 1)
    assert set(Effect.objects.values_list("name", flat=True)) == {"first"}

    assert handle(message) == []
    assert ended(message) == ("SUCCESS", 2)
    assert set(Effect.objects.values_list("name", flat=True)) == {"first", "x"}


@pytest.mark.parametrize("task", [outages.cut_and_write_once, outages.acut_and_write_once])
def test_a_task_that_must_not_run_twice_fails_where_its_connection_was_cut(
    handle: Handle, task: Task
) -> None:
    message = body(task, name="x")

    assert handle(message) == []

    connections.close_all()
    assert ended(message) == ("FAILED", 1)
    assert "OperationalError" in (record_of(message).traceback or "")
    assert not Effect.objects.exists()


ENDS = "BEFORE UPDATE ON lambda_tasks_taskrecord FOR EACH ROW WHEN (NEW.status = 'SUCCESS')"
STATES = "BEFORE INSERT ON lambda_tasks_runstate FOR EACH ROW"


@contextmanager
def taking_long(statements: str) -> Iterator[None]:
    """Such statements take so long that a statement_timeout ends them."""
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE FUNCTION linger() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN PERFORM pg_sleep(60); RETURN NEW; END $$"
        )
        cursor.execute(f"CREATE TRIGGER linger {statements} EXECUTE FUNCTION linger()")
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP FUNCTION linger CASCADE")


@pytest.mark.parametrize("task", [outages.write_in_haste, outages.awrite_in_haste])
def test_an_end_of_ours_that_takes_too_long_is_a_lost_attempt(handle: Handle, task: Task) -> None:
    message = body(task, name="x")

    with taking_long(ENDS):
        assert handle(message) == [0]

    assert ended(message) == ("QUEUED", 1)
    assert handle(message) == []
    assert ended(message) == ("SUCCESS", 2)
    assert Effect.objects.count() == 1


@pytest.mark.parametrize("task", [outages.save_in_haste, outages.asave_in_haste])
def test_a_state_that_can_not_be_saved_in_time_is_a_lost_attempt(
    handle: Handle, task: Task
) -> None:
    message = body(task, name="x")

    with taking_long(STATES):
        assert handle(message) == [0]

    assert ended(message) == ("QUEUED", 1)
    assert handle(message) == []
    assert ended(message) == ("SUCCESS", 2)
    assert Effect.objects.count() == 1


def test_a_statement_of_the_task_that_takes_too_long_is_its_failure(handle: Handle) -> None:
    message = body(outages.sleep_in_haste)

    assert handle(message) == []

    assert ended(message) == ("FAILED", 1)
    assert "statement timeout" in (record_of(message).traceback or "")


def test_after_a_failover_the_writer_of_before_is_not_asked_again(handle: Handle) -> None:
    message = body(outages.meet_a_reader_once, name="x")

    assert handle(message) == [0]
    assert ended(message) == ("QUEUED", 1)

    assert handle(message) == []
    assert ended(message) == ("SUCCESS", 2)


@pytest.mark.parametrize("task", [outages.djangos_write, outages.djangos_awrite])
def test_a_django_task_begins_again_and_that_is_none_of_its_attempts(
    queue: str, work_off: Callable[[str], int], refuse: Refuse, task: Any
) -> None:
    result = task.enqueue(["x", "y"])

    with refuse(2):
        work_off(queue)

    result.refresh()
    assert (result.status, result.return_value, result.attempts) == ("SUCCESSFUL", 2, 1)
    assert result.errors == []


def test_eager_mode_begins_again_and_repeats_what_was_lost(
    transactional_db: None, settings: Any, refuse: Refuse
) -> None:
    settings.LAMBDA_TASKS_EAGER = True

    with refuse(2):
        met = outages.write.execute_on_commit(names=["x"])
        met_in_async = outages.awrite.execute_on_commit(names=["y"])
    cut = outages.cut_once_and_write.execute_on_commit(name="z")

    found = dict(TaskRecord.objects.values_list("id", "n_attempts"))
    assert found == {met.id: 1, met_in_async.id: 1, cut.id: 2}
    assert set(TaskRecord.objects.values_list("status", flat=True)) == {"SUCCESS"}
