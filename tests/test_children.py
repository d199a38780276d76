"""Processes that sync tasks start: what they may do, and that none stays behind."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from django.db import OperationalError, connection

from lambda_tasks import handler
from lambda_tasks.records.claims import RecordClaims
from tests.app import processes, tasks
from tests.app.models import Effect
from tests.conftest import Handle, Task, body, record_of, sqs_event, wait_for
from tests.servers import LambdaProcess

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def one_process(handle: Handle, settings: Any) -> Iterator[Handle]:
    settings.LAMBDA_TASKS_PROCESSES = 1
    handler.close()
    yield handle
    handler.close()


@pytest.mark.parametrize(
    ("task", "options"),
    [
        (processes.square_in_a_pool, {}),
        (processes.square_in_a_pool, {"method": "forkserver"}),
        (processes.square_in_an_executor, {}),
    ],
)
def test_a_sync_task_may_start_processes(
    one_process: Handle, task: Task, options: dict[str, Any]
) -> None:
    message = body(task, numbers=[1, 2, 3], **options)

    assert one_process(message) == []

    record = record_of(message)
    assert (record.traceback, record.result) == (None, [1, 4, 9])


@pytest.mark.skipif(connection.vendor == "sqlite", reason="its one writer is the task")
def test_what_a_task_forks_has_connections_of_its_own(one_process: Handle) -> None:
    names = ["one", "two", "three"]
    message = body(processes.write_in_forked_processes, names=names)

    assert one_process(message) == []

    record = record_of(message)
    assert (record.traceback, record.result) == (None, 3)
    written = Effect.objects.values_list("name", flat=True)
    assert sorted(written) == sorted([*names, "before", "after"])


def test_what_a_task_has_started_ends_with_its_hard_timeout(
    one_process: Handle, tmp_path: Path
) -> None:
    message = body(processes.wait_beside_a_child, there=tmp_path / "child")
    following = body(tasks.leave_effect, name="next")

    assert one_process(message) == one_process(following) == []

    assert "HardTimeLimitExceeded" in (record_of(message).traceback or "")
    assert record_of(following).status == "SUCCESS"
    assert_gone(tmp_path / "child")


def test_what_a_task_has_left_behind_ends_with_its_worker_process(tmp_path: Path) -> None:
    message = body(processes.leave_a_child, there=tmp_path / "child")

    with LambdaProcess() as function:
        assert function.invoke(sqs_event(message)) == {"batchItemFailures": []}
        assert record_of(message).status == "SUCCESS"
        assert psutil.pid_exists(int((tmp_path / "child").read_text()))
        function.kill()

        assert_gone(tmp_path / "child")


def assert_gone(told: Path) -> None:
    pid = int(told.read_text())
    wait_for(lambda: not psutil.pid_exists(pid) or is_zombie(pid))


def is_zombie(pid: int) -> bool:
    """Where nobody takes care of orphans, as in a container without an init process."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


@pytest.mark.skipif(connection.vendor != "postgresql", reason="others know of nothing to commit")
def test_the_process_of_a_task_that_is_alone_writes_its_record(
    one_process: Handle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def be_gone(*_: object) -> None:
        raise OperationalError("this process writes no ends")

    one_process(body(tasks.add_direct, a=1, b=2))
    message = body(tasks.add_direct, a=1, b=2)
    with monkeypatch.context() as here:
        here.setattr(RecordClaims, "finish_many", be_gone)

        assert one_process(message) == []

    assert (record_of(message).status, record_of(message).result) == ("SUCCESS", 3)
