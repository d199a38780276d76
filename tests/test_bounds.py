"""Whatever hangs, nobody waits for it without end."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from lambda_tasks import EnqueueError, handler, runtime
from lambda_tasks.entrypoints.ending import EXIT_UNFINISHED
from lambda_tasks.execution import process_start
from lambda_tasks.local import LambdaContext, LocalSqs
from lambda_tasks.models import TaskRecord
from tests.app import stubborn, tasks
from tests.conftest import PATIENCE_S, Handle, body, record_of, relay, wait_for
from tests.servers import Fault, FaultySqs
from tests.test_process_pool import fork_server_pid

pytestmark = pytest.mark.django_db(transaction=True)

HANGS = Fault(times=None, hang=True, drop=True)


@pytest.fixture
def hanging(sqs: LocalSqs, queue: str, settings: Any) -> Iterator[FaultySqs]:
    """An SQS that takes connections and does not answer, until the test is over."""
    with FaultySqs(sqs.endpoint_url) as proxy:
        proxy.inject(HANGS)
        url = queue.replace(sqs.endpoint_url, proxy.endpoint_url)
        settings.LAMBDA_TASKS_QUEUES = settings.LAMBDA_TASKS_QUEUES | {"default": url}
        yield proxy
        proxy.clear()
        proxy.release()
        runtime.close()


def seconds_of(call: Any) -> float:
    began_at = time.monotonic()
    call()
    return time.monotonic() - began_at


def test_a_call_of_a_direct_task_hears_within_ten_seconds_of_a_queue_that_hangs(
    hanging: FaultySqs,
) -> None:
    def call() -> None:
        with pytest.raises(EnqueueError, match=r"accepted nothing for 9\.5 s"):
            tasks.aadd_direct.execute_on_commit(a=1)

    assert seconds_of(call) < 18


def test_a_stored_call_does_not_wait_for_a_queue_that_hangs(hanging: FaultySqs) -> None:
    first_s = seconds_of(lambda: tasks.aadd.execute_on_commit(a=1))
    requests = hanging.requests["SendMessageBatch"]

    later_s = seconds_of(lambda: [tasks.aadd.execute_on_commit(a=n) for n in range(20)])

    assert first_s < 9
    assert later_s < 9
    assert hanging.requests["SendMessageBatch"] - requests <= 1
    assert TaskRecord.objects.filter(status="QUEUED", sent_at=None).count() == 21
    hanging.clear()
    hanging.release()
    wait_for(lambda: relay() or not TaskRecord.objects.filter(sent_at=None).exists())
    wait_for(lambda: not TaskRecord.objects.filter(sent_at=None).exists())


def test_a_name_server_that_does_not_answer_holds_up_no_call(
    queue: str, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_up = socket.getaddrinfo

    def slow(host: Any, *args: Any, **kwargs: Any) -> Any:
        # In the place of a name server that hangs, which can't be had here.
        if host == "sqs.example":
            time.sleep(20)
        return look_up(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    url = "http://sqs.example/000000000000/default"
    settings.LAMBDA_TASKS_QUEUES = settings.LAMBDA_TASKS_QUEUES | {"default": url}

    def call() -> None:
        with pytest.raises(EnqueueError):
            tasks.aadd_direct.execute_on_commit(a=1)

    assert seconds_of(call) < 18


@pytest.mark.parametrize("has_time", [True, False], ids=["a request's time", "less than that"])
@pytest.mark.usefixtures("_warm_handler")
def test_a_tick_answers_although_the_queue_hangs(hanging: FaultySqs, has_time: bool) -> None:
    tasks.aadd.using(queue="other").execute_many_on_commit([{"a": 1}])
    TaskRecord.objects.update(
        queue="default", sent_at=None, look_at=timezone.now() - timedelta(minutes=5)
    )
    event = {"lambda_tasks": "tick"}

    if has_time:
        assert handler.handler(event, LambdaContext(timeout_s=40)) == {"relayed": 0, "scheduled": 0}
    else:
        with pytest.raises(TimeoutError, match="before the function's deadline"):
            handler.handler(event, LambdaContext(timeout_s=6))

    assert TaskRecord.objects.get().status == "QUEUED"


def kill_the_worker_processes() -> None:
    killed = handler.pids()
    for pid in killed:
        with suppress(ProcessLookupError):  # it has ended by itself
            os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in killed))


def test_a_task_whose_process_does_not_start_has_not_begun_and_goes_back(
    handle: Handle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    message, neighbour = body(tasks.add, a=1), body(tasks.aadd, a=1)
    assert handle(body(tasks.add, a=0)) == []
    kill_the_worker_processes()
    os.kill(fork_server_pid(), signal.SIGSTOP)

    with monkeypatch.context() as patch:
        patch.setattr(process_start, "START_LIMIT_S", 0.5)
        assert handle(message, neighbour) == [0]

    assert (record_of(message).status, record_of(message).n_attempts) == ("QUEUED", 0)
    assert record_of(neighbour).status == "SUCCESS"
    assert "A worker process could not be started" in caplog.text
    assert handle(message) == []
    assert (record_of(message).status, record_of(message).n_attempts) == ("SUCCESS", 1)


@pytest.mark.usefixtures("_warm_handler")
def test_look_ups_of_a_task_that_hang_do_not_hold_up_the_start_of_a_process(
    handle: Handle,
) -> None:
    assert handle(body(tasks.add, a=1)) == []
    stubborn.is_over.clear()
    try:
        assert handle(body(stubborn.fill_the_default_executor)) == []
        kill_the_worker_processes()

        answer = handle(body(tasks.add, a=2))

        assert answer == []
        assert TaskRecord.objects.filter(status="SUCCESS", kwargs={"a": 2}).exists()
        assert not any(each.done() for each in stubborn.filling)
    finally:
        stubborn.is_over.set()
        stubborn.filling.clear()


def test_a_process_whose_time_is_over_ends_although_its_log_hangs() -> None:
    code = """
import logging, time
from lambda_tasks.entrypoints.ending import process_end

class Hanging(logging.Handler):
    def emit(self, record):
        time.sleep(300)

logging.getLogger("lambda_tasks").addHandler(Hanging())
process_end.within(0.1)
time.sleep(300)
"""

    done = subprocess.run([sys.executable, "-c", code], check=False, timeout=PATIENCE_S)

    assert done.returncode == EXIT_UNFINISHED
