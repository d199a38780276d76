"""Durable calls are sent in the background: the caller waits for nothing of SQS."""

import asyncio
import json
import logging
import os
import sys
import threading
import time
import unittest
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.db import connection, connections, transaction
from django.db.models.functions import Now
from django.test import TestCase

from lambda_tasks import EnqueueError, conf, hooks, interrupts, runtime, threads
from lambda_tasks.core.lifecycle import GRACE
from lambda_tasks.enqueue import background, dispatcher, marker, outage_log
from lambda_tasks.enqueue.outage_log import OutageLog
from lambda_tasks.hooks import beside
from lambda_tasks.local import LocalSqs
from lambda_tasks.models import TaskRecord
from lambda_tasks.queues.aws.client import CALL_TIMEOUT_S
from tests.app import tasks
from tests.conftest import PATIENCE_S, bodies_in, python_process, wait_for
from tests.servers import Fault, FaultySqs

pytestmark = pytest.mark.django_db(transaction=True)

SENDS = "SendMessageBatch"

REFUSES = Fault(times=None, status=403)

HANGS = Fault(times=None, hang=True, drop=True)

in_the_background = pytest.mark.skipif(
    connection.vendor == "sqlite", reason="SQLite has one writer, so that the callers wait"
)


@pytest.fixture(autouse=True)
def _default(settings: Any) -> Iterator[None]:
    settings.LAMBDA_TASKS_WAIT_FOR_SEND = False
    yield
    runtime.close()


@pytest.fixture
def proxy(queue: str, sqs: LocalSqs, settings: Any) -> Iterator[FaultySqs]:
    """The default queue behind a proxy that counts, and that tests make faulty."""
    with FaultySqs(sqs.endpoint_url) as proxy:
        url = queue.replace(sqs.endpoint_url, proxy.endpoint_url)
        fifo = f"{url}.fifo"
        settings.LAMBDA_TASKS_QUEUES = settings.LAMBDA_TASKS_QUEUES | {
            "default": url, "fifo": fifo
        }  # fmt: skip
        yield proxy
        proxy.clear()


def drain() -> None:
    """Wait until everything that was called is sent and marked, or left to the relay."""
    here = runtime.current()
    here.portal.call(here.background.drain)


def n_unsent() -> int:
    return TaskRecord.objects.filter(status="QUEUED", sent_at=None).count()


# What the caller does not wait for


@in_the_background
@pytest.mark.parametrize("use_async", [False, True])
@pytest.mark.parametrize("fault", [HANGS, REFUSES, Fault(times=None, latency_s=5)])
def test_a_call_returns_before_its_queue_has_answered(
    proxy: FaultySqs, fault: Fault, use_async: bool
) -> None:
    proxy.inject(fault)

    if use_async:
        async_to_sync(tasks.aadd.aexecute_on_commit)(a=1)
    else:
        with transaction.atomic():
            tasks.add.execute_on_commit(a=1)

    assert proxy.requests[SENDS] == 0, "it has not even left"
    assert n_unsent() == 1
    proxy.requests.wait_for(SENDS, timeout_s=PATIENCE_S)


def test_what_was_called_is_sent_and_marked(sqs: LocalSqs, queue: str) -> None:
    with transaction.atomic():
        tasks.add.execute_on_commit(a=1)
    async_to_sync(tasks.aadd.aexecute_on_commit)(a=2)
    tasks.add.execute_many_on_commit([{"a": 3}, {"a": 4}])

    wait_for(lambda: n_unsent() == 0)
    assert len(bodies_in(sqs, queue)) == 4


@in_the_background
def test_calls_of_many_requests_share_batches_and_statements(
    proxy: FaultySqs, statements: Any
) -> None:
    def request(number: int) -> None:
        with transaction.atomic():
            tasks.add.execute_on_commit(a=number)
        connections.close_all()

    with statements() as counted:
        callers = [threading.Thread(target=request, args=(number,)) for number in range(40)]
        for each in callers:
            each.start()
        for each in callers:
            each.join()
        drain()

    updates = [sql for sql in counted if sql.lstrip().startswith("UPDATE")]
    assert sum(map(len, proxy.requests.batches)) == 40
    assert proxy.requests[SENDS] <= 20
    assert len(updates) <= 20
    assert n_unsent() == 0


@in_the_background
def test_only_the_insert_is_in_the_request(queue: str, statements: Any) -> None:
    tasks.add.execute_on_commit(a=0)
    drain()
    of_the_request: list[str] = []

    with connection.execute_wrapper(_noting(of_the_request)), statements() as counted:
        with transaction.atomic():
            tasks.add.execute_on_commit(a=1)
        drain()

    assert [sql.split()[0] for sql in of_the_request] == ["INSERT"]
    assert len([sql for sql in counted if "sent_at" in sql and sql.startswith("UPDATE")]) == 1


def _noting(noted: list[str]) -> Any:
    def note(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if sql.startswith(("INSERT", "UPDATE", "SELECT")):
            noted.append(sql)
        return execute(sql, params, many, context)

    return note


def test_order_on_a_fifo_queue_is_that_of_the_calls(sqs: LocalSqs, proxy: FaultySqs) -> None:
    task = tasks.add.using(queue="fifo", group_key="one")
    sqs.create_queue(f"{sqs_name(proxy)}.fifo")
    for number in range(30):
        task.execute_on_commit(a=number)
    drain()

    sent = [id_of(body) for batch in proxy.requests.batches for body in batch]
    stored = TaskRecord.objects.order_by("enqueued_at").values_list("id", flat=True)
    assert sent == [str(id) for id in stored]


def sqs_name(proxy: FaultySqs) -> str:
    queue: Any = conf.current().queue("default")
    return str(queue.queue_url.rsplit("/", 1)[1])


def id_of(body: str) -> str:
    return str(json.loads(body)["invocation_id"])


# Where the caller waits


@pytest.mark.parametrize("reason", ["setting", "direct", "lambda", "lent", "gevent", "uwsgi"])
def test_the_caller_waits_where_nobody_else_would_send(
    sqs: LocalSqs,
    queue: str,
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
    reason: str,
) -> None:
    task: Any = tasks.add
    if reason == "setting":
        settings.LAMBDA_TASKS_WAIT_FOR_SEND = True
    elif reason == "direct":
        task = tasks.add_direct
    elif reason == "lambda":
        monkeypatch.setenv("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:9001")
    elif reason == "gevent":
        monkeypatch.setattr(threads, "are_greenlets", lambda: True)
    elif reason == "uwsgi":
        monkeypatch.setitem(sys.modules, "uwsgi", _Uwsgi({"processes": b"2"}))

    if reason == "lent":

        async def call() -> None:
            runtime.current().portal.adopt(asyncio.get_running_loop())
            await tasks.aadd.aexecute_on_commit(a=1)
            await runtime.aclose(runtime.current())

        asyncio.run(call())
    elif reason == "gevent":
        assert not threads.run_between_requests()
        return
    else:
        task.execute_on_commit(a=1)

    assert len(bodies_in(sqs, queue)) == 1
    assert n_unsent() == 0


class _Uwsgi:
    def __init__(self, opt: dict[str, bytes]) -> None:
        self.opt = opt


@pytest.mark.parametrize("option", ["enable-threads", "threads"])
def test_uwsgi_with_threads_sends_in_the_background(
    monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    monkeypatch.setitem(sys.modules, "uwsgi", _Uwsgi({option: b"2"}))

    assert threads.run_between_requests()


class _Case(TestCase):
    n_sent = 0

    def runTest(self) -> None:  # noqa: N802
        with self.captureOnCommitCallbacks(execute=True):
            invocation = tasks.add.execute_on_commit(a=1)
        record = invocation.record()
        assert record is not None
        type(self).n_sent = int(record.sent_at is not None)


def test_in_a_test_case_a_call_is_sent_and_marked_before_its_callbacks_return(
    sqs: LocalSqs, queue: str
) -> None:
    result = unittest.TestResult()
    unittest.TestSuite([_Case()]).run(result)

    assert result.wasSuccessful(), result.errors + result.failures
    assert _Case.n_sent == 1
    assert len(bodies_in(sqs, queue)) == 1


def test_a_transaction_with_a_direct_call_waits_for_all(proxy: FaultySqs) -> None:
    proxy.inject(Fault(times=None, status=400, error="InvalidAttributeValue"))

    with pytest.raises(EnqueueError) as caught, transaction.atomic():
        stored = tasks.add.execute_on_commit(a=1)
        direct = tasks.add_direct.execute_on_commit(a=2)

    assert list(caught.value.failures) == [direct.id]
    assert stored.record() is not None
    assert n_unsent() == 1


def test_a_call_for_a_queue_that_is_the_table_wakes_its_workers_before_it_returns(
    monkeypatch: pytest.MonkeyPatch, queue: str
) -> None:
    woken: list[str] = []
    monkeypatch.setattr("lambda_tasks.records.notify.notify", woken.append)

    with transaction.atomic():
        tasks.add.using(queue="table").execute_on_commit(a=1)
        tasks.add.execute_on_commit(a=2)

    assert woken == ["default"]


# Whose a message is


@in_the_background
def test_what_is_not_sent_in_time_is_forgotten_and_the_relay_sends_it(
    proxy: FaultySqs, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy.inject(HANGS)
    for number in range(dispatcher.EAGER_IN_FLIGHT):
        tasks.add.execute_on_commit(a=number)
        proxy.requests.wait_for(SENDS, number + 1, timeout_s=PATIENCE_S)
    monkeypatch.setattr(dispatcher, "OWN_FOR_S", 0.2)

    late = tasks.add.execute_many_on_commit([{"a": 10}, {"a": 11}])
    wait_for(lambda: runtime.current().dispatcher.stats.failed == len(late))
    proxy.clear()
    drain()

    sent = {id_of(body) for batch in proxy.requests.batches for body in batch}
    assert sent.isdisjoint(str(each.id) for each in late)
    assert TaskRecord.objects.filter(id__in=[each.id for each in late], sent_at=None).count() == 2


def test_a_request_of_what_is_forgotten_ends_before_the_relay_looks() -> None:
    assert GRACE.total_seconds() > dispatcher.OWN_FOR_S + CALL_TIMEOUT_S


@in_the_background
@pytest.mark.parametrize("changed", ["n_waits", "n_attempts", "refused_at"])
def test_what_waits_in_its_row_by_now_is_not_marked(
    queue: str, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    """Marked, it would be sent again a day later."""
    monkeypatch.setattr(marker, "GATHER_FOR_S", 600)
    invocation, neighbour = (tasks.add.execute_on_commit(a=number) for number in (1, 2))
    wait_for(lambda: runtime.current().dispatcher.stats.accepted >= 2)
    values = {"refused_at": Now()} if changed == "refused_at" else {changed: 1}
    TaskRecord.objects.filter(id=invocation.id).update(**values)

    drain()

    assert TaskRecord.objects.get(id=invocation.id).sent_at is None
    assert TaskRecord.objects.get(id=neighbour.id).sent_at is not None


@in_the_background
def test_as_many_as_one_statement_marks_are_marked_at_once(
    queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(marker, "GATHER_FOR_S", 600)
    monkeypatch.setattr(marker, "MAX_MARKED_TOGETHER", 3)
    with transaction.atomic():
        tasks.add.execute_many_on_commit({"a": number} for number in range(7))

    wait_for(lambda: n_unsent() <= 4)

    drain()
    assert n_unsent() == 0


def test_what_comes_after_an_end_that_was_cut_off_gathers_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(marker, "GATHER_FOR_S", 600)
    began, may_go_on = threading.Event(), threading.Event()
    marked: list[int] = []

    def mark(outbox: Any, sent: Any, unsent: Any, **_: Any) -> None:
        began.set()
        may_go_on.wait(PATIENCE_S)
        marked.append(len(sent))

    async def until(condition: Callable[[], object]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                await asyncio.sleep(0.01)

    monkeypatch.setattr(marker, "update_records", mark)

    async def scene() -> None:
        outbox: Any = SimpleNamespace()
        marking: Any = marker.Marker(outbox)
        marking.add_sent(SimpleNamespace())
        closing = asyncio.ensure_future(marking.close())
        await until(began.is_set)
        closing.cancel()
        await asyncio.wait([closing])
        marking.add_sent(SimpleNamespace())
        may_go_on.set()
        await until(lambda: marked)
        await asyncio.sleep(0.2)
        assert marked == [1]
        await marking.close()
        assert marked == [1, 1]
        marking.end()

    asyncio.run(scene())


@in_the_background
def test_a_fifo_message_that_fails_is_due_for_the_relay_at_once(
    sqs: LocalSqs, proxy: FaultySqs
) -> None:
    proxy.inject(Fault(times=None, status=400, error="InvalidAttributeValue"))
    task = tasks.add.using(queue="fifo", group_key="one")

    for number in range(3):
        task.execute_on_commit(a=number)
    drain()

    assert TaskRecord.objects.filter(look_at__lte=Now(), sent_at=None).count() == 3


@in_the_background
def test_a_full_buffer_leaves_stored_messages_to_the_relay(
    proxy: FaultySqs, caplog: pytest.LogCaptureFixture
) -> None:
    runtime.close()
    runtime.current().dispatcher._buffer_limit = 5
    proxy.inject(HANGS)

    for number in range(5):
        tasks.add.execute_on_commit(a=number)
    proxy.requests.wait_for(SENDS, timeout_s=PATIENCE_S)
    for number in range(5, 20):
        tasks.add.execute_on_commit(a=number)
    wait_for(lambda: runtime.current().dispatcher.stats.failed == 15)

    assert repr(runtime.current().dispatcher).startswith("<Dispatcher [5 open")
    assert "too many messages wait" in caplog.text
    proxy.clear()
    drain()
    assert n_unsent() >= 15


# What the log tells


def test_an_outage_has_one_line_and_its_end_another(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    log = OutageLog(lambda: now)

    for _ in range(100):
        log.note_failure("default", "it is away")
        log.note_success("other")
        now += 1
    log.note_success("default")
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    now += outage_log.OVER_AFTER_S
    log.note_success("default")
    log.note_success("default")

    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]
    assert "it is away" in caplog.messages[0]
    assert "100 were left to the relay" in caplog.messages[1]


@in_the_background
def test_an_sqs_that_refuses_is_logged_once(
    proxy: FaultySqs, caplog: pytest.LogCaptureFixture
) -> None:
    proxy.inject(REFUSES)
    for number in range(30):
        tasks.add.execute_on_commit(a=number)
    drain()

    lines = [each for each in caplog.records if each.name == "lambda_tasks"]
    assert len(lines) == 1, caplog.text
    assert "AccessDenied" in lines[0].getMessage()


REQUEST: ContextVar[str | None] = ContextVar("REQUEST", default=None)


class Requests(logging.Handler):
    """The requests to which log lines belong, as handlers that add a request's id see them."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str | None] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append(REQUEST.get())


@pytest.fixture
def requests_of_lines() -> Iterator[list[str | None]]:
    """The requests of the library's log lines, while this thread has a request."""
    handler = Requests()
    logging.getLogger("lambda_tasks").addHandler(handler)
    token = REQUEST.set("a request")
    yield handler.seen
    REQUEST.reset(token)
    logging.getLogger("lambda_tasks").removeHandler(handler)


@in_the_background
def test_a_line_about_a_full_buffer_belongs_to_no_request(
    proxy: FaultySqs, requests_of_lines: list[str | None]
) -> None:
    runtime.close()
    runtime.current().dispatcher._buffer_limit = 0

    tasks.add.execute_on_commit(a=1)
    wait_for(lambda: requests_of_lines)

    assert requests_of_lines == [None]


@in_the_background
def test_a_line_about_a_queue_that_hangs_belongs_to_no_request(
    proxy: FaultySqs, requests_of_lines: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "EAGER_IN_FLIGHT", 0)
    monkeypatch.setattr(dispatcher, "GIVE_UP_AFTER_S", 0.2)
    monkeypatch.setattr(dispatcher, "OWN_FOR_S", 0.1)
    runtime.close()

    with pytest.raises(EnqueueError):
        tasks.add_direct.execute_on_commit(a=1)  # starts the timer
    tasks.add.execute_on_commit(a=2)
    wait_for(lambda: requests_of_lines)

    assert requests_of_lines == [None]


# The connection that marks


@in_the_background
def test_the_connection_that_marks_closes_when_it_has_no_work(
    queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(marker, "CLOSE_AFTER_S", 0.1)
    before = n_connections()
    tasks.add.execute_on_commit(a=1)
    wait_for(lambda: n_unsent() == 0)

    wait_for(lambda: n_connections() == before)

    tasks.add.execute_on_commit(a=2)
    wait_for(lambda: n_unsent() == 0)


def n_connections() -> int:
    name = connection.settings_dict["NAME"]
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = %s", [name])
        else:
            cursor.execute(
                "SELECT count(*) FROM information_schema.processlist WHERE db = %s", [name]
            )
        return int(cursor.fetchone()[0])


@in_the_background
def test_sent_hooks_are_called_for_what_was_accepted(queue: str) -> None:
    heard: list[Any] = []
    hooks.sent.connect(heard.append)
    try:
        invocation = tasks.add.execute_on_commit(a=1)
        wait_for(lambda: heard)
    finally:
        hooks.sent.disconnect(heard.append)

    assert [each.invocation_id for each in heard] == [invocation.id]


# The end of a process

SCRIPT = """
import os, sys, time, logging
import django
django.setup()
from django.db import connections
from lambda_tasks import hooks
from tests.app import tasks

logging.basicConfig(level=logging.WARNING)
connections["default"].settings_dict["NAME"] = os.environ["TEST_DATABASE"]
hooks.sent.connect(lambda event: print("hook", flush=True))
tasks.add.execute_many_on_commit([{"a": number} for number in range(int(sys.argv[1]))])
print("called", flush=True)
"""


def run_script(
    n_calls: int, queue: str, proxy: FaultySqs, *, before: str = "", after: str = ""
) -> tuple[str, float]:
    began = time.monotonic()
    with python_process(
        "-W", "error", "-c", before + SCRIPT + after, str(n_calls),
        LAMBDA_TASKS_TEST_QUEUE=queue.replace(*(proxy_urls(queue, proxy))),
        TEST_DATABASE=connection.settings_dict["NAME"],
        LAMBDA_TASKS_TEST_WAIT_FOR_SEND="",
    ) as process:  # fmt: skip
        output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, output
    return output, time.monotonic() - began


def proxy_urls(queue: str, proxy: FaultySqs) -> tuple[str, str]:
    return queue.split("/0", 1)[0], proxy.endpoint_url


@in_the_background
def test_a_script_that_ends_at_once_sends_and_marks_its_calls(
    sqs: LocalSqs, queue: str, proxy: FaultySqs
) -> None:
    output, _ = run_script(3, queue, proxy)

    assert output.count("hook") == 3, output
    assert output.replace("hook", "").split() == ["called"], output
    assert n_unsent() == 0
    assert len(bodies_in(sqs, queue)) == 3


@in_the_background
def test_a_script_ends_although_its_queue_hangs(queue: str, proxy: FaultySqs) -> None:
    proxy.inject(HANGS)

    output, seconds = run_script(1000, queue, proxy)

    assert "1000 messages were not sent before this process ended" in output, output
    assert "Task was destroyed" not in output
    assert "Traceback" not in output
    assert "Unclosed" not in output
    assert seconds < 30
    assert n_unsent() == 1000


CALL_LATE = """
import atexit

def call_late():
    tasks.add.execute_on_commit(a=9)
    print("called late", flush=True)

atexit.register(call_late)  # before the library's own function, so that it is called after it
"""


@in_the_background
@pytest.mark.skipif(sys.version_info[:2] == (3, 12), reason="Python 3.12 starts no thread then")
def test_a_call_at_the_very_end_of_a_script_is_sent_before_it_returns(
    sqs: LocalSqs, queue: str, proxy: FaultySqs
) -> None:
    output, _ = run_script(1, queue, proxy, before=CALL_LATE)

    assert "called late" in output
    assert n_unsent() == 0, output
    assert len(bodies_in(sqs, queue)) == 2


@in_the_background
def test_a_forked_child_inherits_no_messages(
    sqs: LocalSqs, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "GATHER_FOR_S", 0.5)
    tasks.add.execute_on_commit(a=1)
    child = os.fork()
    if not child:
        try:
            runtime.current().close()
            runtime.current().portal.call(runtime.current().background.drain)
        finally:
            os._exit(0)
    os.waitpid(child, 0)

    drain()

    assert len(bodies_in(sqs, queue)) == 1


FORKS = """
import sys, threading, time

begun = threading.Event()

class Slowly:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("aiobotocore") and not begun.is_set():
            begun.set()
            time.sleep(0.5)

sys.meta_path.insert(0, Slowly())
"""

FORK = """
assert begun.wait(30), "a thread of the library has begun to import"
connections.close_all()
if not (child := os.fork()):
    os.closerange(3, 256)  # as a daemon does
    tasks.add.execute_on_commit(a=1)
    sys.exit()
os.waitpid(child, 0)
"""


@in_the_background
def test_a_child_that_is_forked_while_the_client_of_aws_is_imported_sends_its_calls(
    sqs: LocalSqs, queue: str, proxy: FaultySqs
) -> None:
    run_script(1, queue, proxy, before=FORKS, after=FORK)

    assert n_unsent() == 0
    assert len(bodies_in(sqs, queue)) == 2


SIGNALLED = """
import signal, sys, threading

start, interrupted = threading.Thread.start, []

def start_and_interrupt(thread):
    start(thread)
    if thread.name not in interrupted and thread.name.startswith("lambda_tasks"):
        interrupted.append(thread.name)
        signal.raise_signal(signal.SIGUSR1)

def call(*_):
    tasks.add.execute_on_commit(a=7)

threading.Thread.start = start_and_interrupt
signal.signal(signal.SIGUSR1, call)
"""

AFTER_SIGNALS = """
assert {"lambda_tasks-portal", "lambda_tasks-watch"} <= set(interrupted), interrupted
"""


@in_the_background
def test_a_signal_whose_handler_calls_a_task_may_come_as_the_threads_start(
    queue: str, proxy: FaultySqs
) -> None:
    output, seconds = run_script(1, queue, proxy, before=SIGNALLED, after=AFTER_SIGNALS)

    assert seconds < PATIENCE_S / 2, output
    assert TaskRecord.objects.count() >= 3, "nothing is lost"


# Where no thread can be started


class NoThreads:
    """No thread starts while it is closed, as at a limit of threads and as Python 3.12 ends."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        start = threading.Thread.start

        def start_or_raise(thread: threading.Thread) -> None:
            if self.is_closed:
                raise RuntimeError("can't start new thread")
            start(thread)

        self.is_closed = True
        monkeypatch.setattr(threading.Thread, "start", start_or_raise)


@pytest.fixture
def no_threads(queue: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[NoThreads]:
    """No thread starts, and none of the library's runs yet, as in a process that has just begun."""
    runtime.close()
    monkeypatch.setattr(threads, "_threads", cache(threads._threads.__wrapped__))
    monkeypatch.setattr(interrupts._Watch, "of_this_process", interrupts._Watch())
    monkeypatch.setattr(beside._Process, "beside", beside._Beside())
    no_threads = NoThreads(monkeypatch)
    yield no_threads
    no_threads.is_closed = False
    runtime.close()


def test_a_call_is_stored_where_no_thread_can_be_started(
    no_threads: NoThreads, caplog: pytest.LogCaptureFixture
) -> None:
    invocation = tasks.add.execute_on_commit(a=1)
    with transaction.atomic():
        tasks.add.execute_on_commit(a=2)

    assert f"{invocation.id} was stored and could not be sent yet: no thread" in caplog.text
    assert n_unsent() == 2


def test_a_direct_call_says_that_no_thread_could_be_started(no_threads: NoThreads) -> None:
    with pytest.raises(EnqueueError, match="no thread could be started"):
        tasks.add_direct.execute_on_commit(a=1)


def test_calls_are_sent_and_hooks_called_once_threads_can_be_started_again(
    no_threads: NoThreads, sqs: LocalSqs, queue: str
) -> None:
    heard: list[Any] = []
    hooks.sent.connect(heard.append)
    try:
        tasks.add.execute_on_commit(a=1)
        beside.start_calling()
        no_threads.is_closed = False

        tasks.add.execute_on_commit(a=2)
        wait_for(lambda: heard)
    finally:
        hooks.sent.disconnect(heard.append)

    wait_for(lambda: n_unsent() == 1)
    assert len(bodies_in(sqs, queue)) == 1


def test_limits_hold_once_threads_can_be_started_again(no_threads: NoThreads) -> None:
    with interrupts.interrupt_after(60):
        pass
    no_threads.is_closed = False
    limited = threading.Event()

    class Seen:
        def look(self, now: float) -> None:
            limited.set()

    seen = Seen()
    interrupts.watch(seen)
    try:
        assert limited.wait(PATIENCE_S)
    finally:
        interrupts.unwatch(seen)


def test_a_call_is_sent_by_the_loop_that_runs_where_no_further_thread_can_be_started(
    no_threads: NoThreads, sqs: LocalSqs, queue: str
) -> None:
    no_threads.is_closed = False
    tasks.add_direct.execute_on_commit(a=1)
    threads._threads.cache_clear()
    no_threads.is_closed = True

    tasks.add.execute_on_commit(a=2)

    assert n_unsent() == 0
    assert len(bodies_in(sqs, queue)) == 2
