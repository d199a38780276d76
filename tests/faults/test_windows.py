"""A kill or a cut in each window between a view's commit and a finished record."""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from django.db import connection

from lambda_tasks.local import LocalSqs
from lambda_tasks.models import TaskRecord
from tests.app import ledger as tasks
from tests.conftest import AMPLE_S, Task, relay, wait_for
from tests.faults.farm import CLEAN, VISIBILITY_TIMEOUT_S, Farm, marker
from tests.servers import Fault, FaultySqs

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(
        connection.vendor == "sqlite", reason="a killed writer is no case for a file's lock"
    ),
]

Plant = Callable[..., AbstractContextManager[Farm]]


@pytest.fixture
def queue_url(sqs: LocalSqs, settings: Any) -> Iterator[str]:
    url = sqs.create_queue(f"faults-{uuid.uuid4().hex}", visibility_timeout_s=VISIBILITY_TIMEOUT_S)
    settings.LAMBDA_TASKS_QUEUES = {"default": url}
    yield url
    sqs.client.delete_queue(QueueUrl=url)


@pytest.fixture
def plant(sqs: LocalSqs, queue_url: str, tmp_path: Path) -> Plant:
    def plant(fault: str = "", **options: Any) -> Farm:
        options |= {"FAULT": fault, "FAULT_MARKER": marker(tmp_path)}
        return Farm(sqs, queue_url, **options)

    return plant


def _ask(*called: Task, times: int = 2, **kwargs: Any) -> list[uuid.UUID]:
    invocations = [
        each for task in called for each in task.execute_many_on_commit([kwargs] * times)
    ]
    return [invocation.id for invocation in invocations]


@pytest.mark.parametrize(
    "point",
    [
        "after the receive",
        "after the claim",
        "after the task's effect",
        "after the commit",
        "before the response",
    ],
)
def test_a_function_that_is_killed_loses_and_doubles_nothing(
    plant: Plant, point: str, tmp_path: Path
) -> None:
    with plant(point) as farm:
        asked = _ask(tasks.enter, tasks.aenter)

        assert farm.wait_for_the_end(asked) == CLEAN
    assert list(tmp_path.iterdir()), "it was killed there"


@pytest.mark.parametrize("task", [tasks.enter, tasks.aenter])
def test_a_sandbox_that_is_killed_in_mid_task_loses_and_doubles_nothing(
    plant: Plant, task: Task
) -> None:
    with plant() as farm:
        for _ in range(5):  # a kill may come just before a claim, or after the end
            asked = _ask(task, pause_s=1.5)
            wait_for(lambda: TaskRecord.objects.filter(status="RUNNING").exists())
            time.sleep(0.3)
            farm.kill_one()

            assert farm.wait_for_the_end(asked) == CLEAN
            if TaskRecord.objects.filter(n_attempts__gt=1).exists():
                break
        else:
            pytest.fail("none was killed in mid-task")


def test_a_worker_process_that_is_killed_fails_its_task_and_no_other(
    plant: Plant, tmp_path: Path
) -> None:
    # Of a short function the end may come first, and the task runs again and is not killed.
    with plant(timeout_s=AMPLE_S) as farm:
        killed = _ask(tasks.enter_and_kill_the_worker, marker=marker(tmp_path), times=1)
        others = _ask(tasks.enter, tasks.aenter)

        assert farm.wait_for_the_end(others) == CLEAN
    record = TaskRecord.objects.get(id=killed[0])
    assert record.status == "FAILED"
    assert "WorkerProcessDied: The process that ran the task ended by SIGKILL" in (
        record.traceback or ""
    )


def test_a_retry_whose_send_is_cut_off_is_sent_by_the_relay(plant: Plant, tmp_path: Path) -> None:
    with plant("between the record and its send") as farm:
        asked = _ask(tasks.enter_at_the_retry)

        assert farm.wait_for_the_end(asked) == CLEAN
    assert list(tmp_path.iterdir()), "it was killed there"


def test_a_web_process_that_dies_between_commit_and_send_loses_nothing(
    plant: Plant, queue_url: str
) -> None:
    code = """
import os, signal, django
django.setup()
from django.db import transaction
from tests.app import ledger
with transaction.atomic():
    transaction.on_commit(lambda: os.kill(os.getpid(), signal.SIGKILL))
    print(ledger.enter.execute_on_commit().id, flush=True)
"""
    died = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"LAMBDA_TASKS_TEST_QUEUE": queue_url},
        capture_output=True,
        text=True,
        check=False,
    )
    assert died.returncode == -signal.SIGKILL, died.stderr
    asked = [uuid.UUID(died.stdout.strip())]

    with plant() as farm:
        assert relay() == 1
        assert farm.wait_for_the_end(asked) == CLEAN


def test_a_send_whose_answer_was_lost_is_sent_again_and_runs_once(
    plant: Plant, sqs: LocalSqs, queue_url: str, settings: Any
) -> None:
    with FaultySqs(sqs.endpoint_url) as proxy:
        settings.LAMBDA_TASKS_QUEUES = {
            "default": queue_url.replace(sqs.endpoint_url, proxy.endpoint_url)
        }
        proxy.inject(Fault(lose_answer=True))
        asked = _ask(tasks.enter)

    with plant() as farm:
        assert proxy.requests["SendMessageBatch"] == 2
        assert farm.wait_for_the_end(asked) == CLEAN


def _relay_after_its_lease() -> int:
    """Send another message of a run as if its host had slept until its lease was over."""
    TaskRecord.objects.update(
        lease_until=datetime(2020, 1, 1, tzinfo=UTC), look_at=datetime(2020, 1, 1, tzinfo=UTC)
    )
    return relay()


def test_a_worker_that_wakes_up_after_the_takeover_can_not_commit(plant: Plant) -> None:
    with plant(functions=2) as farm:
        asked = _ask(tasks.aenter, times=1, pause_s=4)
        wait_for(lambda: TaskRecord.objects.filter(status="RUNNING").exists())
        # Again where the worker extended its lease, or the marker held the row, in between.
        wait_for(_relay_after_its_lease)

        assert farm.wait_for_the_end(asked) == CLEAN
    assert TaskRecord.objects.get().n_attempts >= 2, "it was taken over"
