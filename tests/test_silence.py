"""Connections that are cut, or fall silent: who waits for them has an end, and goes on."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import pytest
from django.db import OperationalError, connection, connections, transaction

from lambda_tasks import interrupts
from lambda_tasks.core.message import Message
from lambda_tasks.models import TaskRecord
from lambda_tasks.ports import Listener
from lambda_tasks.queues.database import DatabaseSource
from tests.app import outages, resuming, tasks, waiting
from tests.app.models import Effect
from tests.conftest import AMPLE_S, PATIENCE_S, Handle, Task, body, record_of, sqs_event, wait_for
from tests.servers import LambdaProcess, SilentProxy
from tests.test_worker import has_begun_its_run, has_heard_of_it, statuses, worker

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(connection.vendor == "sqlite", reason="it has no connections"),
]

T = TypeVar("T")

TIMEOUT_S = 25


@pytest.fixture
def proxy(transactional_db: None) -> Iterator[SilentProxy]:
    with SilentProxy() as proxy:
        yield proxy


@pytest.fixture
def function(proxy: SilentProxy) -> Iterator[LambdaProcess]:
    """Its connections go by way of the proxy, and are there by now."""
    databases = json.dumps({"default": proxy.database()})
    with LambdaProcess(timeout_s=TIMEOUT_S, LAMBDA_TASKS_TEST_DATABASES=databases) as process:
        assert _back(process, *_two(), timeout_s=AMPLE_S) == 0
        yield process


def _two() -> list[str]:
    """They ask the database nothing themselves: how long that takes is for their own limits."""
    return [body(tasks.aadd, a=1), body(tasks.add, a=1)]


def _back(function: LambdaProcess, *messages: str, timeout_s: float = TIMEOUT_S) -> int:
    """How many come back; FunctionTimedOut where there is no answer in time."""
    answer = function.invoke(sqs_event(*messages), timeout_s=timeout_s)
    return len(answer["batchItemFailures"])


@pytest.mark.parametrize("new_ones", [False, True], ids=["those there", "all"])
def test_a_function_whose_connections_are_silent_answers_and_works_again(
    function: LambdaProcess, proxy: SilentProxy, new_ones: bool
) -> None:
    messages = _two()
    proxy.silence(new_ones=new_ones)

    _back(function, *messages)
    proxy.speak()
    _back(function, *messages, timeout_s=AMPLE_S)

    TaskRecord.objects.filter(status="RUNNING").update(lease_until="2000-01-01T00:00:00Z")
    assert _back(function, *messages, timeout_s=AMPLE_S) == 0
    assert [record_of(each).status for each in messages] == ["SUCCESS"] * 2


@pytest.mark.parametrize("task", [waiting.ask_again_and_again, waiting.sync_ask_again_and_again])
def test_a_task_whose_connection_falls_silent_has_its_hard_timeout(
    function: LambdaProcess, proxy: SilentProxy, tmp_path: Path, task: Task
) -> None:
    there = tmp_path / "there"
    message = body(task, there=there)
    id = function.begin(sqs_event(message), timeout_s=AMPLE_S)
    wait_for(there.exists)

    proxy.silence(new_ones=False)
    answer = function.finish(id)

    assert answer == {"batchItemFailures": []}, function.output
    assert record_of(message).status == "FAILED"
    assert "TimeLimitExceeded" in (record_of(message).traceback or "")


@pytest.mark.parametrize("task", [waiting.write_and_wait, waiting.awrite_and_wait])
def test_a_task_whose_end_is_written_on_a_silent_connection_has_not_failed(
    function: LambdaProcess, proxy: SilentProxy, tmp_path: Path, task: Task
) -> None:
    there, gate = tmp_path / "there", tmp_path / "gate"
    message = body(task, there=there, gate=gate)
    id = function.begin(sqs_event(message), timeout_s=AMPLE_S)
    wait_for(there.exists)

    proxy.silence(new_ones=False)
    gate.touch()
    began_at = time.monotonic()
    answer = function.finish(id)

    assert time.monotonic() - began_at < 150, "long before its hard timeout"
    assert len(answer["batchItemFailures"]) == 1, function.output
    assert record_of(message).status in ("QUEUED", "RUNNING"), record_of(message).traceback
    assert not Effect.objects.exists()
    TaskRecord.objects.filter(status="RUNNING").update(lease_until="2000-01-01T00:00:00Z")
    assert _back(function, message, timeout_s=AMPLE_S) == 0
    assert record_of(message).status == "SUCCESS"
    assert Effect.objects.count() == 1


def test_a_worker_whose_connections_are_silent_ends_when_it_is_told_to(
    queue: str, proxy: SilentProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    databases = json.dumps({"default": proxy.database()})
    monkeypatch.setenv("LAMBDA_TASKS_TEST_DATABASES", databases)
    tasks.aadd.using(queue="table").execute_on_commit(a=1)
    with worker(queue, "--queue", "table", "--drain", "2", logs=True) as process:
        wait_for(lambda: statuses() == ["SUCCESS"])
        proxy.silence(new_ones=True)
        wait_for(lambda: proxy.swallowed)

        process.terminate()
        process.communicate(timeout=PATIENCE_S)

    assert process.returncode in (0, 3)


def test_a_worker_works_again_when_the_database_does(
    queue: str, proxy: SilentProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    databases = json.dumps({"default": proxy.database()})
    monkeypatch.setenv("LAMBDA_TASKS_TEST_DATABASES", databases)
    tasks.aadd.using(queue="table").execute_on_commit(a=1)
    with worker(queue, "--queue", "table"):
        wait_for(lambda: statuses() == ["SUCCESS"])
        proxy.silence(new_ones=False)

        tasks.aadd.using(queue="table").execute_on_commit(a=1)
        tasks.add.using(queue="table").execute_on_commit(a=1)

        wait_for(lambda: statuses() == ["SUCCESS"] * 3)


def in_a_thread_of_the_proxys(
    proxy: SilentProxy, call: Callable[[], T], timeout_s: float = PATIENCE_S
) -> T:
    """As in a request, whose connection goes by way of the proxy."""

    def call_there() -> T:
        connection = connections["default"]
        connection.settings_dict = {**connection.settings_dict, **proxy.database()}
        try:
            return call()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(call_there).result(timeout_s)


def shorten_the_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """For the statements of this process that follow: they are to be cut off."""
    monkeypatch.setattr(interrupts, "LIBRARY_STATEMENT_LIMIT_S", 3.0)
    monkeypatch.setattr(interrupts, "CONNECT_TIMEOUT_S", 3)


@pytest.mark.usefixtures("queue")
def test_a_call_on_a_silent_connection_is_stored_by_another(
    proxy: SilentProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def call_twice() -> None:
        tasks.aadd.using(queue="table").execute_on_commit(a=1)
        proxy.silence(new_ones=False)
        shorten_the_limits(monkeypatch)
        tasks.aadd.using(queue="table").execute_on_commit(a=2)

    in_a_thread_of_the_proxys(proxy, call_twice)

    assert statuses() == ["QUEUED"] * 2


@pytest.mark.usefixtures("queue")
def test_a_call_hears_of_a_database_that_is_silent(
    proxy: SilentProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def call_twice() -> None:
        tasks.aadd.using(queue="table").execute_on_commit(a=1)
        proxy.silence(new_ones=True)
        shorten_the_limits(monkeypatch)
        with pytest.raises(OperationalError):
            tasks.aadd.using(queue="table").execute_on_commit(a=2)

    in_a_thread_of_the_proxys(proxy, call_twice, timeout_s=100)  # the driver's own limit is 130

    assert statuses() == ["QUEUED"]


@pytest.mark.skipif(connection.vendor != "mysql", reason="it is about PyMySQL")
def test_a_connection_that_has_been_opened_has_no_limit_for_what_it_is_asked(
    proxy: SilentProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interrupts, "PYMYSQL_GREETING_TIMEOUT_S", 2.0)

    def sleep() -> object:
        connection = connections["default"]
        interrupts.connect(connection)
        with connection.cursor() as cursor:
            cursor.execute("SELECT SLEEP(4)")
            return cursor.fetchone()

    assert in_a_thread_of_the_proxys(proxy, sleep) == (0,)


@pytest.mark.usefixtures("queue")
def test_a_call_in_a_transaction_lasts_as_long_as_its_other_statements(
    proxy: SilentProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database is the tests' own: a table that is locked for a while, as by a migration."""
    monkeypatch.setattr(interrupts, "LIBRARY_STATEMENT_LIMIT_S", 0.2)
    waits, is_called = threading.Event(), threading.Event()

    def call() -> None:
        with transaction.atomic():
            waits.set()
            tasks.aadd.using(queue="table").execute_on_commit(a=1)
        is_called.set()

    with ThreadPoolExecutor(1) as thread, the_table_locked():
        calling = thread.submit(in_a_thread_of_the_proxys, proxy, call)
        assert waits.wait(PATIENCE_S)
        assert not is_called.wait(3), "it waits although ours may take only 0.2 s"
    calling.result(PATIENCE_S)

    assert statuses() == ["QUEUED"]


@contextmanager
def the_table_locked() -> Iterator[None]:
    """Against all INSERTs, until the body ends."""
    with transaction.atomic(), connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("LOCK TABLE lambda_tasks_taskrecord IN EXCLUSIVE MODE")
            yield
        else:
            cursor.execute("LOCK TABLES lambda_tasks_taskrecord WRITE")
            yield
            cursor.execute("UNLOCK TABLES")


@pytest.mark.parametrize(
    "task",
    [
        waiting.hang_in_the_thread_of_the_lane,
        waiting.hang_in_the_default_executor,
        waiting.wait_for_long,
    ],
)
def test_a_worker_whose_task_hangs_or_waits_for_the_database_ends_when_it_is_told_to(
    queue: str, task: Task
) -> None:
    task.using(queue="table").execute_on_commit()
    with worker(queue, "--queue", "table", "--drain", "0.5", logs=True) as process:
        has_begun_its_run(process)
        process.terminate()
        has_heard_of_it(process)
        process.communicate(timeout=PATIENCE_S)

    assert process.returncode == 3
    assert statuses() == ["QUEUED"]


@pytest.mark.skipif(connection.vendor != "postgresql", reason="cuts connections")
def test_progress_is_shown_after_its_connection_was_cut(handle: Handle) -> None:
    before, after = (body(resuming.show_progress_and_wait, seconds=0) for _ in range(2))
    assert handle(before) == []

    outages.cut_connections()
    connections.close_all()
    assert handle(after) == []

    assert [record_of(each).status for each in (before, after)] == ["SUCCESS"] * 2
    assert record_of(after).progress == {"done": 1, "total": 3, "text": "one of three"}


class DeadListener:
    """As a driver has it whose connection was cut: it hears of it, and closes its socket."""

    def __init__(self) -> None:
        self._socket, self._server = socket.socketpair()
        self._server.close()

    def fileno(self) -> int:
        if self._socket.fileno() < 0:
            raise OperationalError("the connection is closed")
        return self._socket.fileno()

    def clear(self) -> None:
        self._socket.close()
        raise OperationalError("the connection is lost")

    def close(self) -> None:
        self._socket.close()


class TableWithDeadListener:
    def __init__(self) -> None:
        self.listener = DeadListener()
        self.descriptor = self.listener.fileno()

    def listen(self) -> Listener:
        return self.listener

    @contextmanager
    def lock_due(self, queues: Any, *, limit: int, without: Any = ()) -> Iterator[list[Message]]:
        yield []

    def postpone(self, invocation_id: UUID) -> None:
        pass


def test_a_listener_that_is_cut_hits_nobody_who_gets_its_descriptor() -> None:
    table = TableWithDeadListener()

    async def receive_and_listen_elsewhere() -> None:
        loop, heard = asyncio.get_running_loop(), asyncio.Event()
        source = DatabaseSource(["table"], table)
        await source.receive(1)
        while table.listener._socket.fileno() >= 0:
            await asyncio.sleep(0)

        innocents = [socket.socketpair() for _ in range(3)]
        taken = [each for pair in innocents for each in pair if each.fileno() == table.descriptor]
        assert taken, "one of them has the number of the dead one"
        for pair in innocents:
            for one, other in (pair, pair[::-1]):
                if one in taken:
                    loop.add_reader(one, heard.set)
                    other.send(b"a word")
        await asyncio.wait_for(heard.wait(), PATIENCE_S)
        for pair in innocents:
            for each in pair:
                loop.remove_reader(each)
                each.close()
        await source.aclose()

    asyncio.run(receive_and_listen_elsewhere())
