"""What tests share: a queue of their own, a warm handler, and helpers that build events."""

import asyncio
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from blockbuster import blockbuster_ctx
from django.db import connections
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from lambda_tasks import LambdaTaskWrapper, conf, handler, registry, runtime
from lambda_tasks.errors import UnknownTask
from lambda_tasks.local import LambdaContext, LocalSqs
from lambda_tasks.local.event_source import EventSourceMapping
from lambda_tasks.models import TaskRecord
from lambda_tasks.queues.sqs import SQSQueue
from tests import environment
from tests.servers import Moto, ServerUnavailable
from tests.servers.redis_server import RedisServer

# How long an example takes tells of the machine, and of who else is on it.
hypothesis_settings.register_profile(
    "at_any_speed", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
hypothesis_settings.load_profile("at_any_speed")

Task = LambdaTaskWrapper[Any, Any]
Event = dict[str, Any]
Handle = Callable[..., list[int]]

PATIENCE_S = 180.0
"""With what happens elsewhere, before a test fails that waits for it."""

AMPLE_S = 600.0
"""The time for an event whose time is not the subject. A task goes back where less is left than its
soft timeout: with a minute for the event, after its first six seconds; with this, after its first
five minutes."""


@pytest.fixture
def anyio_backend() -> str:
    """Run async tests on asyncio alone: Django's ORM knows no other library."""
    return "asyncio"


@pytest.fixture(autouse=True)
def _no_blocking_call_on_an_event_loop() -> Iterator[None]:
    with blockbuster_ctx("lambda_tasks") as blockbuster:
        # The pipe of a worker process is written when its reader waits, read when it has sent.
        for name in ("os.read", "os.write"):
            blockbuster.functions[name].can_block_in(
                "multiprocessing/connection.py", {"_send", "_recv"}
            )
        # Once for each client: certificates, credentials, endpoint rules.
        for function in blockbuster.functions.values():
            function.can_block_in("aiobotocore/session.py", {"_create_client", "get_credentials"})
        yield


@pytest.fixture(autouse=True)
def _forget_the_tasks_of_earlier_tests() -> None:
    """Unregister tasks that no loaded module has, so that no check tells of them.

    At the end of their own test, monkeypatch may not have taken them out of their modules yet.
    """
    for name, task in registry._tasks.copy().items():
        try:
            is_loaded = registry._find_loaded(name) is task
        except UnknownTask:
            is_loaded = False
        if not is_loaded:
            del registry._tasks[name]
            for alias in task.options.aliases:
                registry._aliases.pop(alias, None)


@pytest.fixture(scope="session")
def django_db_modify_db_settings() -> None:
    """Nothing: tests that run side by side have a server each, or a file."""


@pytest.fixture(scope="session")
def django_db_keepdb() -> bool:
    """Behind a pooler, whose idle connections would keep the database from being dropped.

    It goes with its server.
    """
    return environment.engine == "pgbouncer"


@pytest.fixture(scope="session")
def sqs() -> LocalSqs:
    return environment.sqs


@pytest.fixture
def queue(sqs: LocalSqs, settings: Any) -> Iterator[str]:
    """The URL of an SQS queue that only this test uses, as the project's default queue."""
    url = sqs.create_queue(f"test-{uuid.uuid4().hex}", visibility_timeout_s=30)
    own = {"default": url, "other": f"{url}-other", "fifo": f"{url}.fifo"}
    settings.LAMBDA_TASKS_QUEUES = settings.LAMBDA_TASKS_QUEUES | own
    sqs.create_queue(f"{url.rsplit('/', 1)[1]}-other")
    yield url
    sqs.client.delete_queue(QueueUrl=url)


@contextmanager
def starting(name: str) -> Iterator[None]:
    """Fail where the server can't be had; skip where LAMBDA_TASKS_TEST_WITHOUT names it.

    By default it names those that no wheel of the group `test` brings, except in CI.
    """
    try:
        yield
    except ServerUnavailable as reason:
        if name in environment.go_without():
            pytest.skip(str(reason))
        raise ServerUnavailable(
            f"{reason}\nTo skip the tests that need it: LAMBDA_TASKS_TEST_WITHOUT={name}"
        ) from None


@pytest.fixture(scope="session")
def redis() -> Iterator[RedisServer]:
    server = RedisServer()
    with starting("redis"):
        server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def moto() -> Iterator[Moto]:
    with Moto() as server:
        server.create_job_queue("heavy")
        yield server


@pytest.fixture(scope="session")
def _warm_handler(django_db_setup: None) -> Iterator[None]:
    yield
    handler.close()


async def _aclose_connections() -> None:
    await sync_to_async(connections.close_all)()


@pytest.fixture(scope="session", autouse=True)
def _closed_runtime(django_db_setup: None) -> Iterator[None]:
    yield
    runtime.close()
    # Of the thread on which asgiref runs what tests ask for on a loop of their own.
    asyncio.run(_aclose_connections())


@pytest.fixture
def handle(transactional_db: None, _warm_handler: None) -> Handle:
    """Give bodies to the handler as one event; the ids that come back are indexes into them."""

    def handle_bodies(*bodies: Any, timeout_s: float = AMPLE_S) -> list[int]:
        event = sqs_event(*bodies)
        answer = handler.handler(event, LambdaContext(timeout_s=timeout_s))
        ids = [record["messageId"] for record in event["Records"]]
        return [ids.index(each["itemIdentifier"]) for each in answer["batchItemFailures"]]

    return handle_bodies


@pytest.fixture
def statements(monkeypatch: Any) -> Any:
    """Count what every connection of this process executes, BEGIN and COMMIT included."""
    from django.db.backends.base.base import BaseDatabaseWrapper

    @contextmanager
    def counting() -> Iterator[list[str]]:
        counted: list[str] = []
        begin, end = BaseDatabaseWrapper.set_autocommit, BaseDatabaseWrapper.commit

        def count(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
            if not sql.startswith("BEGIN"):  # SQLite's, which is counted below
                counted.append(sql)
            return execute(sql, params, many, context)

        def set_autocommit(self: Any, autocommit: bool, **kwargs: Any) -> Any:
            # Leaving autocommit is Django's BEGIN; going back to it costs no statement.
            if not autocommit:
                counted.append("BEGIN")
            return begin(self, autocommit, **kwargs)

        def commit(self: Any) -> Any:
            counted.append("COMMIT")
            return end(self)

        def cursor(self: Any, *args: Any, original: Any = BaseDatabaseWrapper.cursor) -> Any:
            if count not in self.execute_wrappers:
                self.execute_wrappers.append(count)
                wrapped.append(self)
            return original(self, *args)

        wrapped: list[Any] = []
        with monkeypatch.context() as patch:
            patch.setattr(BaseDatabaseWrapper, "cursor", cursor)
            patch.setattr(BaseDatabaseWrapper, "set_autocommit", set_autocommit)
            patch.setattr(BaseDatabaseWrapper, "commit", commit)
            yield counted
        for connection in wrapped:
            connection.execute_wrappers.remove(count)

    return counting


@pytest.fixture
def work_off(_warm_handler: None, sqs: LocalSqs) -> Callable[[str], int]:
    """Feed a queue to the handler until it is empty; return how many deliveries there were."""

    def work(queue_url: str) -> int:
        mapping = EventSourceMapping(
            queue_url,
            lambda event: handler.handler(event, LambdaContext()),
            client_options=sqs.client_options,
        )
        count = 0
        while handled := mapping.poll_once(wait_s=0):
            count += handled
        return count

    return work


def wait_for(condition: Callable[[], object], *, timeout_s: float = PATIENCE_S) -> None:
    """Until it is true; the test fails where that takes too long."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def relay() -> int:
    """One round of the relay that waits for nobody; how many it has sent."""
    return async_to_sync(runtime.current().relay.run_once)(grace=timedelta(0))


@contextmanager
def python_process(*arguments: str, **env: str) -> Iterator["subprocess.Popen[str]"]:
    """Python with these arguments, in a process group of its own, which is killed at the end."""
    process = subprocess.Popen(
        [sys.executable, *arguments],
        env=os.environ | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def body(task: Task, /, _n_retries: int = 0, _id: uuid.UUID | None = None, **kwargs: Any) -> str:
    """What a call of the task puts into a queue, direct and with a new invocation id."""
    message = task.serialize(**kwargs)["message"] | {"n_retries": _n_retries}
    if _id is not None:
        message["invocation_id"] = str(_id)
    return json.dumps(message)


def wake_up(
    id: uuid.UUID, task_name: str = "tests.app.tasks.add", backend: str | None = None
) -> str:
    """What a durable call of the task puts into a queue."""
    message = {"task_name": task_name, "invocation_id": str(id), "durable": True}
    return json.dumps(message if backend is None else message | {"backend": backend})


def sqs_event(*bodies: Any) -> Event:
    """An event of the default queue."""
    queue: Any = conf.current().queue("default")
    arn = queue.arn if isinstance(queue, SQSQueue) else queue.source
    return {
        "Records": [
            {
                "messageId": str(uuid.uuid4()),
                "receiptHandle": "",  # of none that AWS could be asked about
                "body": each,
                "attributes": {"SentTimestamp": "1700000000000", "ApproximateReceiveCount": "1"},
                "messageAttributes": {},
                "eventSource": "aws:sqs",
                "eventSourceARN": arn,
                "awsRegion": "us-east-1",
            }
            for each in bodies
        ]
    }


def record_of(message: str) -> TaskRecord:
    return TaskRecord.objects.get(id=json.loads(message)["invocation_id"])


def kwargs_of(message: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a message; a durable one leaves them to its record."""
    if message.get("durable"):
        recorded: dict[str, Any] = TaskRecord.objects.get(id=message["invocation_id"]).kwargs
        return recorded
    return dict(message["kwargs"])


def carries(**kwargs: Any) -> Callable[[str], bool]:
    """Whether a message is of a call with these arguments; for a proxy, on whose thread this asks
    the database."""

    def is_of(entry: str) -> bool:
        try:
            given = kwargs_of(json.loads(entry))
            return all(given.get(name) == value for name, value in kwargs.items())
        finally:
            connections.close_all()

    return is_of


def bodies_in(sqs: LocalSqs, queue_url: str) -> list[dict[str, Any]]:
    """Take everything that is visible in a queue."""
    found: list[dict[str, Any]] = []
    while messages := sqs.client.receive_message(
        QueueUrl=queue_url, MaxNumberOfMessages=10, WaitTimeSeconds=0
    ).get("Messages", []):
        found.extend(json.loads(message["Body"]) for message in messages)
    return found


@contextmanager
def serving(handler: type[http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    """Serve HTTP on loopback; the value is the address."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()
