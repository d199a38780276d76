"""What everything stands on goes away for a while: tasks recover or fail with a record, and the
process goes on."""

import asyncio
import json
import os
import signal
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.core.cache import caches
from django.db import OperationalError, connection, connections
from redis import Redis

from lambda_tasks import conf, handler, hooks, runtime
from lambda_tasks.enqueue.on_commit import Enqueuer
from lambda_tasks.hooks import beside
from lambda_tasks.local import LocalSqs
from lambda_tasks.models import TaskRecord
from lambda_tasks.ports import Delivery, ReceivedBatch
from lambda_tasks.queues.database import DatabaseSource
from lambda_tasks.records.claims import RecordClaims
from tests.app import django_tasks, outages, tasks
from tests.app.models import Effect
from tests.conftest import AMPLE_S, Handle, Task, bodies_in, body, record_of, sqs_event, wait_for
from tests.servers.lambda_runtime import LambdaProcess
from tests.servers.redis_server import RedisServer

on_postgresql = pytest.mark.skipif(
    connection.vendor != "postgresql", reason="cuts connections with pg_terminate_backend()"
)


Hook = Callable[[], object]

LOCKS = "*lambda_tasks.*"


def effects() -> set[str]:
    return set(Effect.objects.values_list("name", flat=True))


def redeliver(handle: Handle, message: str) -> None:
    """As the queue does when the lease of who died is over."""
    TaskRecord.objects.filter(status="RUNNING").update(lease_until="2000-01-01T00:00:00Z")
    assert handle(message) == []


@pytest.fixture
def own_redis(settings: Any) -> Iterator[RedisServer]:
    """One that a test may stop."""
    with RedisServer() as server:
        settings.CACHES = {
            "default": {
                "BACKEND": "django.core.cache.backends.redis.RedisCache",
                "LOCATION": server.location,
            }
        }
        yield server
        caches["default"].close()


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """What a task waits for, once it is there."""
    return tmp_path / "open"


@on_postgresql
@pytest.mark.parametrize("task", [outages.cut_and_write, outages.acut_and_write])
def test_a_task_whose_connection_is_cut_in_every_run_fails_in_the_end(
    handle: Handle, task: Task
) -> None:
    message = body(task, name="x")
    back: list[hooks.GivenBack] = []
    hooks.given_back.connect(back.append)

    try:
        failures = [handle(message) for _ in range(5)]
        assert beside.flush(AMPLE_S)
    finally:
        hooks.given_back.disconnect(back.append)

    connections.close_all()
    record = record_of(message)
    assert failures == [[0]] * 4 + [[]]
    assert [each.retry_after_s for each in back] == [0, 2, 10, 30], "later ones may need a while"
    assert (record.status, record.n_attempts) == ("FAILED", 5)
    assert "OperationalError" in (record.traceback or "")
    assert effects() == set()
    following = body(tasks.leave_effect_direct, name="y")
    assert handle(following) == []
    assert effects() == {"y"}


@on_postgresql
@pytest.mark.parametrize("task", [outages.cut_and_return, outages.acut_and_return])
def test_a_cut_before_the_commit_leaves_no_half(handle: Handle, task: Task) -> None:
    message = body(task, name="x")

    failures = handle(message)

    connections.close_all()
    assert failures == [0]
    assert (record_of(message).status, record_of(message).n_attempts) == ("QUEUED", 1)
    assert effects() == set()


@on_postgresql
def test_connections_that_were_cut_between_two_events_are_not_used_again(handle: Handle) -> None:
    messages = [body(tasks.leave_effect_direct, name="x"), body(tasks.aadd_direct, a=1)]
    assert handle(*messages) == []

    outages.cut_connections()
    connections.close_all()

    messages = [body(tasks.leave_effect_direct, name="y"), body(tasks.aadd_direct, a=1)]
    assert handle(*messages) == []
    assert [record_of(each).status for each in messages] == ["SUCCESS", "SUCCESS"]


@on_postgresql
@pytest.mark.parametrize("task", [tasks.enqueue_another, tasks.aenqueue_another])
def test_a_function_that_was_frozen_uses_nothing_that_was_open_before(
    transactional_db: None, task: Task
) -> None:
    with LocalSqs() as own_sqs:
        queue = own_sqs.create_queue("default")
        environment: dict[str, Any] = {
            "LAMBDA_TASKS_TEST_QUEUE": queue,
            "LAMBDA_TASKS_TEST_AWS": json.dumps(own_sqs.client_options),
        }
        with LambdaProcess(**environment) as function:
            first, second = body(task, name="before"), body(task, name="after")
            assert function.invoke(sqs_event(first)) == {"batchItemFailures": []}
            assert len(bodies_in(own_sqs, queue)) == 1

            os.killpg(function.pid, signal.SIGSTOP)
            own_sqs.stop()
            own_sqs.start()
            own_sqs.create_queue("default")
            outages.cut_connections()
            connections.close_all()
            os.killpg(function.pid, signal.SIGCONT)

            assert function.invoke(sqs_event(second)) == {"batchItemFailures": []}
            assert len(bodies_in(own_sqs, queue)) == 1, function.output
        assert [record_of(each).status for each in (first, second)] == ["SUCCESS"] * 2


@on_postgresql
def test_a_tick_after_a_cut_finds_the_database(handle: Handle) -> None:
    tick = {"lambda_tasks": "tick"}
    handler.handler(tick, None)

    outages.cut_connections()
    connections.close_all()

    assert handler.handler(tick, None) == {"relayed": 0, "scheduled": 0}


@on_postgresql
def test_what_a_database_that_is_gone_can_not_record_comes_back_and_runs(handle: Handle) -> None:
    message = body(outages.close_database_once, name="x")

    try:
        failures = handle(message)
    finally:
        outages.open_database()
        connections.close_all()

    assert failures == [0], "nothing is known of it, so it is not acknowledged"
    assert record_of(message).status == "RUNNING"
    assert effects() == set()
    Effect.objects.create(name="first")
    redeliver(handle, message)
    assert record_of(message).status == "SUCCESS"
    assert effects() == {"first", "x"}


@on_postgresql
@pytest.mark.django_db(transaction=True)
def test_what_was_claimed_by_a_commit_whose_answer_is_lost_is_due_again(queue: str) -> None:
    """Nobody knows of these claims, whose leases are as long as their tasks may run."""
    called = tasks.add.using(queue="table").execute_on_commit(a=1)

    @contextmanager
    def committed_without_answer(found: ReceivedBatch) -> Iterator[Sequence[Delivery]]:
        with found as deliveries:
            yield deliveries
        raise OperationalError("the answer to the COMMIT was lost")

    async def claim() -> None:
        source = DatabaseSource(["table"], runtime.current().table_queue)
        executor = runtime.current().executor()
        try:
            await executor.claim_batch(committed_without_answer(await source.receive(10)))
        finally:
            await executor.aclose()
            await source.aclose()

    with pytest.raises(OperationalError, match="was lost"):
        async_to_sync(claim)()

    record = TaskRecord.objects.get(id=called.id)
    assert (record.status, record.claim_token, record.n_attempts) == ("QUEUED", None, 0)


def test_an_event_that_finds_no_database_comes_back_whole(handle: Handle) -> None:
    messages = [body(tasks.leave_effect_direct, name="x"), body(tasks.aadd_direct, a=1)]
    outages.cut_connections(close_database=True)
    connections.close_all()

    try:
        failures = handle(*messages)
    finally:
        outages.open_database()
        connections.close_all()

    assert failures == [0, 1]
    assert handle(*messages) == []
    assert effects() == {"x"}


@contextmanager
def once_the_lock_is_held(redis: RedisServer, gate: Path, happens: Hook) -> Iterator[None]:
    """In the body a task takes its lock; `happens` then, and after it the task may go on."""

    def watch() -> None:
        try:
            with Redis.from_url(redis.location) as client:
                wait_for(lambda: client.keys(LOCKS))
            happens()
        finally:
            gate.touch()

    watching = threading.Thread(target=watch)
    watching.start()
    yield
    watching.join()


def test_redis_that_restarts_under_a_held_lock_takes_nothing_from_the_task(
    handle: Handle, own_redis: RedisServer, gate: Path
) -> None:
    message = body(outages.aalone_until, name="x", gate=gate)

    def restart() -> None:
        own_redis.stop()
        own_redis.start()

    with once_the_lock_is_held(own_redis, gate, restart):
        failures = handle(message)

    assert failures == []
    assert (record_of(message).status, record_of(message).traceback) == ("SUCCESS", None)
    following = body(outages.aalone_until, name="y", gate=gate)
    assert handle(following) == []
    assert effects() == {"x", "y"}


def test_redis_that_goes_away_under_a_held_lock_takes_nothing_from_the_task(
    handle: Handle, own_redis: RedisServer, gate: Path
) -> None:
    message = body(outages.aalone_until, name="x", gate=gate)

    with once_the_lock_is_held(own_redis, gate, own_redis.stop):
        failures = handle(message)

    assert failures == []
    assert (record_of(message).status, record_of(message).traceback) == ("SUCCESS", None)
    assert effects() == {"x"}


def test_a_lock_in_redis_runs_out_by_itself_when_its_task_may_run_no_longer(
    handle: Handle, own_redis: RedisServer, gate: Path
) -> None:
    runs_out_in_s: list[float] = []

    def look() -> None:
        with Redis.from_url(own_redis.location) as client:
            runs_out_in_s.extend(client.pttl(key) / 1000 for key in client.keys(LOCKS))

    with once_the_lock_is_held(own_redis, gate, look):
        assert handle(body(outages.aalone_until, name="x", gate=gate)) == []

    (seconds,) = runs_out_in_s
    assert 0 < seconds <= conf.current().default_hard_timeout


@pytest.mark.skipif(connection.vendor == "sqlite", reason="its one writer is the running task")
def test_a_lost_lock_lets_another_run_in_and_never_the_same_one(
    handle: Handle, own_redis: RedisServer, settings: Any, gate: Path
) -> None:
    message = body(outages.aalone_until, name="x", gate=gate)
    another = body(outages.aalone_until, name="y", gate=gate.parent)
    caches_of_its_own: dict[str, Any] = {"LAMBDA_TASKS_TEST_CACHES": json.dumps(settings.CACHES)}
    with LambdaProcess(**caches_of_its_own) as function:
        running = function.begin(sqs_event(message))

        with Redis.from_url(own_redis.location) as client:
            wait_for(lambda: client.delete(*client.keys(LOCKS) or ["none"]) == 1)
        failures = handle(message, another)
        gate.touch()
        function.finish(running)

    assert failures == [0], "it is held, whatever Redis says"
    assert sorted(Effect.objects.values_list("name", flat=True)) == ["x", "y"]


def test_a_singleton_that_can_not_ask_redis_for_its_lock_runs_when_it_can(
    handle: Handle, own_redis: RedisServer, queue: str, gate: Path
) -> None:
    gate.touch()
    own_redis.stop()
    message = body(outages.aalone_until, name="x", gate=gate)
    neighbour = body(tasks.aadd_direct, a=1)

    failures = handle(message, neighbour)

    assert failures == [], "it waits in its row"
    assert (record_of(message).status, record_of(message).n_attempts) == ("QUEUED", 0)
    assert record_of(neighbour).status == "SUCCESS"
    assert effects() == set()
    own_redis.start()
    assert handle(message) == []
    assert effects() == {"x"}


def test_while_redis_can_not_be_asked_a_django_task_has_no_attempt(
    handle: Handle, own_redis: RedisServer, queue: str, sqs: LocalSqs
) -> None:
    own_redis.stop()
    result = django_tasks.aalone.enqueue()

    assert handle(*map(json.dumps, bodies_in(sqs, queue))) == []

    result.refresh()
    assert (result.status, result.attempts, result.errors) == ("READY", 0, [])
    assert TaskRecord.objects.get().status == "QUEUED"


@on_postgresql
def test_ends_that_are_written_together_find_a_connection_that_was_cut_meanwhile(
    handle: Handle,
) -> None:
    messages = [body(outages.await_a_cut), body(tasks.aadd_direct, a=1)]
    handle(body(tasks.aadd_direct, a=0))

    assert handle(*messages) == []

    connections.close_all()
    assert [record_of(each).status for each in messages] == ["SUCCESS"] * 2


def test_ends_that_no_outage_lets_be_written_are_not_failures(
    handle: Handle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def be_gone(*_: object) -> None:
        raise OperationalError("the database is gone")

    message = body(tasks.aadd_direct, a=1)
    with monkeypatch.context() as outage:
        outage.setattr(RecordClaims, "finish_many", be_gone)
        assert handle(message) == [0]

    assert (record_of(message).status, record_of(message).n_attempts) == ("QUEUED", 1)
    assert handle(message) == []
    assert record_of(message).status == "SUCCESS"


@on_postgresql
def test_a_transaction_that_could_not_begin_begins_with_the_next_statement(handle: Handle) -> None:
    assert handle(body(outages.awrite_through_an_outage)) == []

    record = TaskRecord.objects.get()
    assert record.status == "FAILED"
    assert "ZeroDivisionError" in (record.traceback or "")
    assert not Effect.objects.exists(), "written after the outage, and rolled back"


def test_a_retry_that_can_not_be_sent_is_left_to_the_relay_and_disturbs_nobody(
    handle: Handle, queue: str, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    async def fail(self: Enqueuer, messages: object) -> dict[uuid.UUID, str]:
        raise RuntimeError("no loop to send on")

    retried, other = body(tasks.limited, name="x"), body(tasks.leave_effect, name="y")
    with monkeypatch.context() as broken:
        broken.setattr(Enqueuer, "asend_stored", fail)
        assert handle(retried, other) == []

    assert record_of(retried).status == "RETRYING"
    assert record_of(other).status == "SUCCESS"
    assert "could not be sent yet: the relay sends it" in caplog.text
    assert TaskRecord.objects.get(status="QUEUED").sent_at is None


def test_a_run_that_has_ended_at_the_deadline_is_done_though_its_retry_is_still_being_sent(
    handle: Handle, queue: str, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    async def hang(self: Enqueuer, messages: object) -> dict[uuid.UUID, str]:
        await asyncio.Event().wait()
        return {}

    retried = body(tasks.ask_for_a_retry, name="x")
    with monkeypatch.context() as slow:
        slow.setattr(Enqueuer, "asend_stored", hang)
        assert handle(retried, timeout_s=4) == []

    assert record_of(retried).status == "RETRYING"
    assert "has lost an attempt" not in caplog.text
    assert TaskRecord.objects.get(status="QUEUED").sent_at is None
