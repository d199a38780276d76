"""Projects whose database has a connection pool: OPTIONS = {"pool": ...}."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.core.checks import run_checks
from django.db import OperationalError, connection, connections
from django.db.utils import ConnectionHandler

from lambda_tasks import checks, handler, pools
from lambda_tasks.local import LambdaContext
from lambda_tasks.models import TaskRecord
from tests.app import outages, places, pooling, tasks
from tests.conftest import (
    PATIENCE_S,
    Handle,
    body,
    python_process,
    record_of,
    sqs_event,
    wait_for,
)
from tests.servers import LambdaProcess, SilentProxy
from tests.test_cold_start import connections_called, run_in

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(connection.vendor != "postgresql", reason="Django has pools of psycopg"),
]

Pooled = Callable[[Any], None]


@pytest.fixture
def pooled(handle: Handle) -> Iterator[Pooled]:
    """Gives this process's database a pool, and a handler that begins with it."""
    options = connections.settings["default"]["OPTIONS"]

    def begin_anew() -> None:
        handler.close()
        connections.close_all()
        pools.close()

    def use(pool: Any) -> None:
        begin_anew()
        options["pool"] = pool
        handler.handler({"lambda_tasks": "ping"}, LambdaContext())

    yield use
    begin_anew()
    options.pop("pool", None)


def pool() -> Any:
    return connection.pool  # type: ignore[attr-defined]


def all_work() -> None:
    """What the pool would hand out works, without anybody having looked at it."""
    wait_for(all_are_back)
    raw = [pool().getconn() for _ in range(pool().max_size)]
    for each in raw:
        each.execute("SELECT 1")
        pool().putconn(each)


def all_are_back() -> bool:
    stats = pool().get_stats()
    return bool(stats["pool_available"] == stats["pool_size"])


@contextmanager
def taken_by_another(count: int) -> Iterator[None]:
    """Connections that code of the project has taken, and keeps."""
    connection.ensure_connection()
    its_pool = pool()
    connection.close()
    held = [its_pool.getconn() for _ in range(count)]
    try:
        yield
    finally:
        for each in held:
            its_pool.putconn(each)


def settings_with(pool: Any) -> dict[str, str]:
    """The environment of a process whose database has a pool."""
    databases = json.loads(os.environ["LAMBDA_TASKS_TEST_DATABASES"])
    databases["default"]["OPTIONS"] = {"pool": pool}
    return {"LAMBDA_TASKS_TEST_DATABASES": json.dumps(databases)}


@contextmanager
def worker(pool: Any, *arguments: str, **env: str) -> Iterator["subprocess.Popen[str]"]:
    command = ["-m", "django", "lambda_tasks", "worker", "--queue", "table"]
    with python_process(*command, *arguments, **settings_with(pool), **env) as process:
        yield process


def ended(message: str) -> TaskRecord:
    """Its record; the test itself keeps no connection of the pool."""
    record = record_of(message)
    connection.close()
    return record


def statuses() -> list[str]:
    return sorted(TaskRecord.objects.values_list("status", flat=True))


# Connections go back


@pytest.mark.parametrize(
    "options",
    [
        True,
        {"min_size": 1, "max_size": 1},
        {"min_size": 0, "max_size": 2},
        {"min_size": 1, "max_size": 3, "max_waiting": 1, "reset": lambda raw: None},
    ],
)
def test_ten_tasks_at_a_time_share_a_pool_that_has_less_for_them(
    pooled: Pooled, handle: Handle, options: Any
) -> None:
    pooled(options)
    messages = [body(tasks.aleave_effect, name=str(n)) for n in range(10)]

    assert handle(*messages) == []

    assert [ended(each).status for each in messages] == ["SUCCESS"] * 10
    wait_for(all_are_back)


def test_tasks_that_need_their_connections_for_long_wait_for_one_another(
    pooled: Pooled, handle: Handle
) -> None:
    pooled({"min_size": 2, "max_size": 2, "timeout": 0.5})
    messages = [body(pooling.ahold, seconds=1) for _ in range(4)]
    beside = [body(tasks.aadd, a=n) for n in range(6)]

    assert handle(*messages, *beside) == []

    assert [ended(each).status for each in messages + beside] == ["SUCCESS"] * 10


def test_progress_is_shown_on_a_connection_that_goes_back(pooled: Pooled, handle: Handle) -> None:
    pooled({"min_size": 2, "max_size": 2})

    for _ in range(3):
        message = body(pooling.ashow_progress)
        assert handle(message) == []
        record = record_of(message)
        assert (record.status, record.progress["text"]) == ("SUCCESS", "half")
        connection.close()

    assert all_are_back()


def test_a_worker_of_the_table_needs_no_more_than_one_connection() -> None:
    for number in range(3):
        _execute(tasks.aleave_effect, name=str(number))
        _execute(tasks.leave_effect, name=str(number))

    with worker({"min_size": 1, "max_size": 1}, TESTS_CONNECT_AT_START="1") as process:
        wait_for(lambda: statuses() == ["SUCCESS"] * 6)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=PATIENCE_S)

    assert process.returncode == 0, output
    assert "couldn't stop thread" not in output


def test_a_function_needs_no_more_than_one_connection() -> None:
    environment: Any = settings_with({"min_size": 1, "max_size": 1})
    with LambdaProcess(TESTS_CONNECT_AT_START="1", **environment) as function:
        for task in (tasks.leave_effect, tasks.aleave_effect):
            assert run_in(function, task, name="x").status == "SUCCESS"


def test_a_job_of_aws_batch_needs_no_more_than_one_connection() -> None:
    for task in (tasks.leave_effect, tasks.aleave_effect):
        message = {"LAMBDA_TASKS_MESSAGE": body(task, name="x"), "AWS_BATCH_JQ_NAME": "heavy"}
        pool = settings_with({"min_size": 1, "max_size": 1}) | {"TESTS_CONNECT_AT_START": "1"}
        environment = os.environ | pool | message
        job = [sys.executable, "-m", "lambda_tasks.handler"]
        subprocess.run(job, env=environment, check=True, timeout=PATIENCE_S)

    assert statuses() == ["SUCCESS"] * 2


# What waits in vain


@pytest.mark.parametrize("task", [pooling.awrite_beside, pooling.awrite_stubbornly_beside])
def test_a_task_that_waits_for_a_connection_for_its_whole_time_has_not_failed(
    pooled: Pooled, handle: Handle, caplog: pytest.LogCaptureFixture, task: Any
) -> None:
    pooled({"min_size": 2, "max_size": 2})
    pooling.held.clear()
    holder, message, beside = (
        body(pooling.ahold_while_another_runs), body(task, name="late"), body(tasks.aadd, a=1)
    )  # fmt: skip

    assert handle(holder, message, beside) == [1]

    record = ended(message)
    assert (record.status, record.n_attempts) == ("QUEUED", 1), record.traceback
    assert [ended(each).status for each in (holder, beside)] == ["SUCCESS"] * 2
    (told,) = [each for each in caplog.messages if "has lost an attempt" in each]
    assert "The pool of DATABASES['default'], which has 2 connection(s), had none free" in told
    assert "raise 'max_size'" in told
    assert "lower LAMBDA_TASKS_CONCURRENCY" in told


def test_a_pool_that_others_have_left_one_connection_is_enough_for_one_task_at_a_time(
    pooled: Pooled, handle: Handle
) -> None:
    pooled({"min_size": 2, "max_size": 2})
    messages = [body(pooling.ahold, seconds=0.1) for _ in range(4)]

    with taken_by_another(1):
        assert handle(*messages) == []

    assert [ended(each).status for each in messages] == ["SUCCESS"] * 4


def test_what_finds_no_connection_at_all_comes_back(
    pooled: Pooled, handle: Handle, caplog: pytest.LogCaptureFixture
) -> None:
    pooled({"min_size": 2, "max_size": 2})
    message = body(tasks.aleave_effect, name="later")

    with taken_by_another(2):
        assert handle(message, timeout_s=30) == [0]

    assert "lower LAMBDA_TASKS_CONCURRENCY" in caplog.text
    assert not TaskRecord.objects.exists()
    connection.close()
    assert handle(message) == []
    assert ended(message).status == "SUCCESS"


def test_a_statement_of_the_task_that_finds_no_connection_is_explained(
    pooled: Pooled, handle: Handle, caplog: pytest.LogCaptureFixture
) -> None:
    pooled({"min_size": 1, "max_size": 1, "timeout": 0.5})
    message = body(pooling.acount_in_another_thread)

    assert handle(message) == [0]

    assert ended(message).status == "QUEUED"
    (told,) = [each for each in caplog.messages if "has lost an attempt" in each]
    assert "PoolTimeout" in told
    assert "A thread that a task has started keeps its connection" in told


def test_a_sync_task_waits_for_a_connection_no_longer_than_it_may_run() -> None:
    _execute(pooling.leave_a_thread, seconds=1000)
    _execute(pooling.write_in_a_hurry, name="in vain")

    with worker({"min_size": 1, "max_size": 1, "timeout": 100}, "--processes", "1"):
        wait_for(lambda: statuses() == ["FAILED", "SUCCESS"])

    record = TaskRecord.objects.get(status="FAILED")
    assert record.n_attempts == 5
    assert "The pool of DATABASES['default'], which has 1 connection(s), had none free" in (
        record.traceback or ""
    )


def test_the_wait_for_a_connection_is_part_of_a_sync_tasks_time() -> None:
    _execute(pooling.leave_a_thread, seconds=3)
    _execute(pooling.tell_time_left)

    with worker({"min_size": 1, "max_size": 1}, "--processes", "1"):
        wait_for(lambda: statuses() == ["SUCCESS"] * 2)

    left_s = float(str(TaskRecord.objects.get(task_name=pooling.tell_time_left.name).result))
    assert 0 < left_s < 98


def _execute(task: Any, **kwargs: Any) -> None:
    task.using(queue="table").execute_on_commit(**kwargs)


def test_a_call_waits_for_a_connection_once_and_says_what_to_do(pooled: Pooled) -> None:
    pooled({"min_size": 1, "max_size": 1, "timeout": 0.5})

    with taken_by_another(1), pytest.raises(OperationalError) as raised:
        tasks.add.execute_on_commit(a=1)

    assert "raise 'max_size'" in "".join(traceback.format_exception(raised.value))
    assert pool().get_stats()["requests_errors"] == 1


def test_a_long_wait_is_told_while_it_lasts(
    pooled: Pooled, handle: Handle, caplog: pytest.LogCaptureFixture, monkeypatch: Any
) -> None:
    pooled({"min_size": 2, "max_size": 2})
    monkeypatch.setattr(pools, "WARN_AFTER_S", 0.2)
    pools._warned_at.clear()
    messages = [body(pooling.ahold, seconds=1) for _ in range(3)]

    with caplog.at_level(logging.WARNING):
        assert handle(*messages) == []

    (told,) = [each for each in caplog.messages if "for a connection of the pool" in each]
    assert "raise 'max_size'" in told


# Connections that are of no use any more


def test_a_connection_that_was_cut_is_not_handed_to_the_next_task(
    pooled: Pooled, handle: Handle
) -> None:
    pooled({"min_size": 1, "max_size": 1})

    for _ in range(2):
        message, following = (
            body(pooling.hang_until_the_connection_is_cut),
            body(pooling.awrite_once, name="next"),
        )
        assert handle(message) == []
        assert handle(following) == []

        assert "HardTimeLimitExceeded" in (ended(message).traceback or "")
        assert ended(following).status == "SUCCESS", ended(following).traceback


def test_a_connection_that_was_cut_at_the_end_of_an_event_does_not_go_back(
    pooled: Pooled, handle: Handle
) -> None:
    pooled({"min_size": 2, "max_size": 2})

    assert handle(body(pooling.hang_until_the_end_of_the_event), timeout_s=6) == [0]

    all_work()


def test_connections_that_the_server_has_ended_are_used_by_nobody(
    pooled: Pooled, handle: Handle
) -> None:
    pooled({"min_size": 16})
    assert handle(body(tasks.aleave_effect, name="before")) == []
    wait_for(all_are_back)
    outages.cut_connections()

    messages = [body(pooling.awrite_once, name=str(n)) for n in range(4)]
    assert handle(*messages) == []

    assert [ended(each).status for each in messages] == ["SUCCESS"] * 4


def test_connections_that_are_silent_are_replaced() -> None:
    with SilentProxy() as proxy:
        database = proxy.database() | {"OPTIONS": {"pool": True}}
        environment: Any = {"LAMBDA_TASKS_TEST_DATABASES": json.dumps({"default": database})}
        with LambdaProcess(**environment) as function:
            run_in(function, pooling.awrite_once, name="first")
            proxy.silence(new_ones=False)

            assert run_in(function, pooling.awrite_once, name="second").status == "SUCCESS"


def test_an_outage_of_the_database_is_over_when_it_is_there_again(
    pooled: Pooled, handle: Handle
) -> None:
    pooled({"min_size": 1, "max_size": 2})
    assert handle(body(tasks.aadd, a=1)) == []
    connection.close()
    message = body(tasks.aleave_effect, name="later")

    outages.cut_connections(close_database=True)
    try:
        # By then a pool's next try is about as far away as its first.
        began_at = time.monotonic()
        while time.monotonic() - began_at < 16:
            assert handle(message, timeout_s=30) == [0]
    finally:
        outages.open_database()

    assert handle(message, timeout_s=12) == []
    assert ended(message).status == "SUCCESS"


# Processes and snapshots


def test_worker_processes_do_not_share_what_the_project_has_opened_at_its_start() -> None:
    for _ in range(8):
        _execute(pooling.tell_session, seconds=1)

    with worker(True, "--processes", "4", TESTS_CONNECT_AT_START="1"):
        wait_for(lambda: not set(statuses()) & {"QUEUED", "RUNNING"})

    _assert_each_process_has_its_own_sessions()


def test_worker_processes_of_a_function_have_connections_of_their_own() -> None:
    environment: Any = settings_with(True) | {"TESTS_CONNECT_AT_START": "1"}
    with LambdaProcess(**environment) as function:
        messages = [body(pooling.tell_session, seconds=1) for _ in range(6)]
        messages += [body(tasks.aleave_effect, name=str(n)) for n in range(4)]
        assert function.invoke(sqs_event(*messages)) == {"batchItemFailures": []}

    TaskRecord.objects.exclude(task_name=pooling.tell_session.name).delete()
    _assert_each_process_has_its_own_sessions()


def _assert_each_process_has_its_own_sessions() -> None:
    records = list(TaskRecord.objects.all())
    assert {each.status for each in records} == {"SUCCESS"}, [each.traceback for each in records]
    process_of: dict[int, int] = {}
    for process, session in (list(each.result or ()) for each in records):
        assert process_of.setdefault(session, process) == process
    assert len(set(process_of.values())) > 1


def test_the_alarm_of_a_task_is_for_its_own_thread_and_none_of_a_pools() -> None:
    _execute(pooling.count_threads_that_take_alarms)

    with worker(True, "--once") as process:
        output, _ = process.communicate(timeout=PATIENCE_S)

    assert TaskRecord.objects.get().result == 1, output


def test_a_process_that_a_task_forks_does_not_use_its_connections() -> None:
    _execute(pooling.tell_session_of_a_child)

    with worker(True, "--once") as process:
        output, _ = process.communicate(timeout=PATIENCE_S)

    record = TaskRecord.objects.get()
    assert record.status == "SUCCESS", (record.traceback, output)
    own, of_child = list(record.result or ())
    assert own != of_child


def test_a_snapshot_holds_no_pool(transactional_db: None) -> None:
    name = f"snapshot-{uuid.uuid4().hex[:8]}"
    environment: Any = settings_with(True) | {
        "AWS_LAMBDA_INITIALIZATION_TYPE": "snap-start",
        "TESTS_CONNECT_AT_START": "1",
        "PGAPPNAME": name,
        "PYTHONUNBUFFERED": "1",
    }
    with LambdaProcess(**environment) as function:
        function.wait_for_snapshot()
        # The function itself, and the server that forks its worker processes.
        wait_for(lambda: function.output.count("connected at its start") == 2)
        wait_for(lambda: connections_called(name) == 0)
        function.restore()

        assert run_in(function, places.memory_limit).status == "SUCCESS"
        assert run_in(function, tasks.aleave_effect, name="async").status == "SUCCESS"


# What the checks say


@pytest.fixture
def check(monkeypatch: Any) -> Callable[..., list[Any]]:
    """Runs the checks of a project with this pool, and these settings of its database."""

    def check(pool: Any, **more: Any) -> list[Any]:
        database = connections.settings["default"] | {"OPTIONS": {"pool": pool}} | more
        project = ConnectionHandler({"default": database})
        monkeypatch.setattr(checks, "connections", project)
        try:
            return run_checks(tags=["lambda_tasks"])
        finally:
            pools._forget_pool(project["default"])

    return check


def test_a_pool_that_is_too_small_is_told_with_its_figures(
    check: Callable[..., list[Any]], settings: Any
) -> None:
    (warning,) = check({"min_size": 1, "max_size": 11})

    assert warning.id == "lambda_tasks.W005"
    assert "DATABASES['default']['OPTIONS']['pool'] has 11 connections" in warning.msg
    assert "may need 12 at once" in warning.msg
    assert "LAMBDA_TASKS_CONCURRENCY (10)" in warning.msg
    assert "Set 'max_size': 12" in warning.hint
    assert "lower LAMBDA_TASKS_CONCURRENCY to 9" in warning.hint
    assert check({"min_size": 1, "max_size": 12}) == []
    settings.LAMBDA_TASKS_CONCURRENCY = 2
    assert check(True) == []


def test_a_pool_that_can_not_be_made_is_told(
    check: Callable[..., list[Any]], monkeypatch: Any
) -> None:
    (too_small,) = check({"max_size": 2})
    (persistent,) = check(True, CONN_MAX_AGE=60)
    monkeypatch.setitem(sys.modules, "psycopg_pool", None)
    (missing,) = check(True)

    assert {each.id for each in (too_small, persistent, missing)} == {"lambda_tasks.E005"}
    assert "max_size must be greater" in too_small.msg
    assert "doesn't support persistent connections" in persistent.msg
    assert "Did you install psycopg[pool]?" in missing.msg
