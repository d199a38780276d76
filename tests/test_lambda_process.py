"""The handler under the real awslambdaric process, fed by a Lambda Runtime API server."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from lambda_tasks import conf
from lambda_tasks.models import TaskRecord
from tests.app import tasks, waiting
from tests.conftest import body, record_of, sqs_event, wait_for
from tests.servers.family import family, frozen
from tests.servers.lambda_runtime import FunctionError, LambdaProcess

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(scope="module")
def function(django_db_setup: None) -> Iterator[LambdaProcess]:
    with LambdaProcess() as process:
        yield process


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_batch_of_sync_and_async_tasks_runs_and_only_the_refused_comes_back(
    function: LambdaProcess,
) -> None:
    good = [body(tasks.add, a=1), body(tasks.aadd, a=2), body(tasks.write_and_fail, name="x")]
    event = sqs_event(*good, "refused")

    answer = function.invoke(event)

    refused = event["Records"][3]["messageId"]
    assert answer == {"batchItemFailures": [{"itemIdentifier": refused}]}
    assert [record_of(each).status for each in good] == ["SUCCESS", "SUCCESS", "FAILED"]


def test_worker_processes_stay_warm_from_one_invocation_to_the_next(
    function: LambdaProcess,
) -> None:
    messages = [body(tasks.process_id) for _ in range(6)]

    for each in messages:
        function.invoke(sqs_event(each))

    pids = {record_of(each).result for each in messages}
    assert len(pids) <= conf.current().processes
    assert function.pid not in pids


def test_async_tasks_of_a_batch_run_at_the_same_time(function: LambdaProcess) -> None:
    messages = [body(tasks.wait, seconds=3) for _ in range(10)]

    function.invoke(sqs_event(*messages))

    records = [record_of(each) for each in messages]
    assert all(record.status == "SUCCESS" for record in records)
    starts = [record.start_time for record in records if record.start_time]
    ends = [record.end_time for record in records if record.end_time]
    assert max(starts) < min(ends), "every task began before the first one ended"


def test_what_a_task_enqueues_leaves_through_the_handlers_own_loop(
    function: LambdaProcess,
) -> None:
    function.invoke(
        sqs_event(
            body(tasks.aenqueue_another, name="from a coroutine"),
            body(tasks.enqueue_another, name="from a worker process"),
        )
    )

    queued = TaskRecord.objects.filter(status="QUEUED")
    assert queued.count() == 2
    assert all(record.sent_at is not None for record in queued)


def test_an_error_of_the_handler_leaves_the_process_working(function: LambdaProcess) -> None:
    with pytest.raises(FunctionError, match="accepts SQS events"):
        function.invoke({"something": "else"})

    assert "django" in function.invoke({"lambda_tasks": "ping"})


def test_a_function_without_a_queue_says_that_it_runs_nothing(
    transactional_db: None, tmp_path: Path, function: LambdaProcess
) -> None:
    forgetful = "from tests.settings import *\ndel LAMBDA_TASKS_QUEUES\n"
    (tmp_path / "forgetful.py").write_text(forgetful)
    path = os.pathsep.join([str(tmp_path), str(Path.cwd()), os.environ.get("PYTHONPATH", "")])
    with LambdaProcess(DJANGO_SETTINGS_MODULE="forgetful", PYTHONPATH=path) as process:
        process.invoke({"lambda_tasks": "ping"})
        wait_for(lambda: "LAMBDA_TASKS_QUEUES has no queue of SQS" in process.output)

    assert "has no queue of SQS" not in function.output


def test_worker_processes_end_with_a_function_that_is_killed() -> None:
    message = body(tasks.process_id)
    with LambdaProcess() as process:
        process.invoke(sqs_event(message))
        worker = record_of(message).result
        assert isinstance(worker, int)
        assert _alive(worker)

    wait_for(lambda: not _alive(worker))


def test_the_end_of_a_sandbox_takes_along_what_stands_still(
    transactional_db: None, tmp_path: Path
) -> None:
    # As under nohup: the kernel's word to what stands still, and is left alone, ends nobody then.
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with LambdaProcess() as function:
        signal.signal(signal.SIGHUP, before)
        there, gate = tmp_path / "there", tmp_path / "gate"
        function.begin(sqs_event(body(waiting.write_and_wait, there=there, gate=gate)))
        wait_for(there.exists)
        members = family(function.pid)
        with frozen(function.pid):
            function.stop()
        try:
            wait_for(lambda: not any(map(_goes_on, members)))
        finally:
            gate.touch()


def _goes_on(process: psutil.Process) -> bool:
    """Not where nobody has asked for its exit code yet, either."""
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
