"""AWS Batch: messages become jobs (moto's), and `python -m lambda_tasks.handler` runs them."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.core.exceptions import ImproperlyConfigured
from django.db import transaction
from pydantic import SecretStr

from lambda_tasks import MessageTooLarge, runtime
from lambda_tasks.local import LocalSqs
from lambda_tasks.models import TaskRecord
from tests.app import places, secretive, stubborn, tasks
from tests.app.models import Effect
from tests.conftest import PATIENCE_S, bodies_in, relay, wait_for
from tests.servers import Moto

pytestmark = pytest.mark.django_db(transaction=True)

WorkOff = Callable[[str], int]
SUBMIT = "lambda_tasks.tasks.submit_batch_job"


class Jobs:
    """The jobs that a test has submitted, and how a container runs one."""

    def __init__(self, moto: Moto) -> None:
        self._moto = moto
        self._before = {job["jobId"] for job in moto.jobs("heavy")}

    def submitted(self) -> list[dict[str, Any]]:
        return [job for job in self._moto.jobs("heavy") if job["jobId"] not in self._before]

    def start(self, job: dict[str, Any], **env: str) -> "subprocess.Popen[str]":
        overrides = {each["name"]: each["value"] for each in job["container"]["environment"]}
        known = {"AWS_BATCH_JOB_ID": job["jobId"], "AWS_BATCH_JQ_NAME": "heavy"}
        return run_container(self._moto.env | known | overrides | env)

    def run(self, job: dict[str, Any], **env: str) -> int:
        process = self.start(job, **env)
        output, _ = process.communicate(timeout=PATIENCE_S)
        print(output)
        return process.returncode


def run_container(env: dict[str, str], *, directory: Path | None = None) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "lambda_tasks.handler"],
        env=os.environ | {"AWS_BATCH_JQ_NAME": "heavy"} | env,
        cwd=directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture
def jobs(moto: Moto, queue: str, settings: Any, monkeypatch: Any) -> Iterator[Jobs]:
    for name, value in moto.env.items():
        monkeypatch.setenv(name, value)
    # Containers, too, retry by way of this test's queue.
    monkeypatch.setenv("LAMBDA_TASKS_TEST_QUEUE", queue)
    yield Jobs(moto)
    runtime.close()  # its client is for moto alone


@pytest.fixture
def direct(jobs: Jobs, settings: Any) -> Jobs:
    queues = settings.LAMBDA_TASKS_QUEUES
    heavy = queues["heavy"] | {"direct": True}
    settings.LAMBDA_TASKS_QUEUES = queues | {"heavy": heavy}
    return jobs


def test_a_message_becomes_a_job_by_way_of_the_default_queue(
    jobs: Jobs, queue: str, work_off: WorkOff
) -> None:
    with transaction.atomic():
        invocation = places.environment.using(queue="heavy").execute_on_commit(name="FROM_JOB")
    assert jobs.submitted() == []
    work_off(queue)

    (job,) = jobs.submitted()
    assert job["jobName"] == "tests_app_places_environment"
    assert jobs.run(job, FROM_JOB="a container") == 0
    record = TaskRecord.objects.get(id=invocation.id)
    assert (record.status, record.result, record.queue) == ("SUCCESS", "a container", "heavy")
    assert TaskRecord.objects.get(task_name=SUBMIT).result == job["jobId"]


@pytest.mark.parametrize("durable", [True, False])
def test_who_may_submit_jobs_does_so_directly(
    direct: Jobs, queue: str, sqs: LocalSqs, settings: Any, durable: bool
) -> None:
    settings.LAMBDA_TASKS_DURABLE = durable
    heavy = tasks.aleave_effect.using(queue="heavy")

    invocations = async_to_sync(heavy.aexecute_many_on_commit)([{"name": "a"}, {"name": "b"}])

    assert bodies_in(sqs, queue) == []
    assert [direct.run(job) for job in direct.submitted()] == [0, 0]
    assert {each.name for each in Effect.objects.all()} == {"a", "b"}
    assert {each.record().status for each in invocations} == {"SUCCESS"}  # type: ignore[union-attr]


def test_a_delay_which_batch_has_not_is_waited_for_in_the_default_queue(
    direct: Jobs, queue: str, sqs: LocalSqs
) -> None:
    tasks.add.using(queue="heavy", delay=600).execute_on_commit(a=1)

    assert direct.submitted() == []
    assert sqs.counts(queue)["delayed"] == 1


def test_a_job_that_runs_twice_has_its_effect_once(direct: Jobs) -> None:
    tasks.aleave_effect.using(queue="heavy").execute_on_commit(name="once")

    (job,) = direct.submitted()
    assert [direct.run(job), direct.run(job)] == [0, 0]
    assert Effect.objects.count() == 1


def test_a_task_that_fails_has_come_to_its_end(direct: Jobs) -> None:
    invocation = tasks.awrite_and_fail.using(queue="heavy").execute_on_commit(name="x")

    assert direct.run(direct.submitted()[0]) == 0
    record = TaskRecord.objects.get(id=invocation.id)
    assert (record.status, Effect.objects.count()) == ("FAILED", 0)


def test_a_retry_comes_back_as_a_job(jobs: Jobs, queue: str, work_off: WorkOff) -> None:
    invocation = tasks.limited.using(queue="heavy").execute_on_commit(name="x")
    work_off(queue)

    assert jobs.run(jobs.submitted()[0]) == 0

    assert TaskRecord.objects.get(id=invocation.id).status == "RETRYING"
    retry = TaskRecord.objects.get(retry_of=invocation.id)
    assert (retry.status, retry.queue) == ("QUEUED", "heavy")
    assert retry.sent_at is not None, "by the container"


def test_a_job_that_is_terminated_gives_its_task_back_to_the_relay(
    jobs: Jobs, queue: str, work_off: WorkOff, settings: Any
) -> None:
    invocation = tasks.wait.using(queue="heavy").execute_on_commit(seconds=60)
    work_off(queue)
    process = jobs.start(jobs.submitted()[0])
    wait_for(lambda: TaskRecord.objects.get(id=invocation.id).status == "RUNNING")
    process.send_signal(signal.SIGTERM)

    output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1, output
    record = TaskRecord.objects.get(id=invocation.id)
    assert (record.status, record.sent_at) == ("QUEUED", None)
    assert relay() == 1
    work_off(queue)
    assert len(jobs.submitted()) == 2


def test_a_job_ends_although_a_thread_of_its_task_hangs(
    jobs: Jobs, queue: str, work_off: WorkOff
) -> None:
    """Two jobs side by side, as each waits for as long as a container may take to end."""
    task = stubborn.leave_a_thread.using(queue="heavy")
    leaving = task.execute_on_commit(awaits=False)
    work_off(queue)
    [first] = jobs.submitted()
    awaiting = task.execute_on_commit(awaits=True)
    work_off(queue)
    [second] = [job for job in jobs.submitted() if job["jobId"] != first["jobId"]]
    left, stopped = jobs.start(first), jobs.start(second)
    wait_for(lambda: TaskRecord.objects.get(id=awaiting.id).status != "QUEUED")
    stopped.send_signal(signal.SIGTERM)

    for process, invocation, exit_code, status in (
        (left, leaving, 0, "SUCCESS"),
        (stopped, awaiting, 1, "QUEUED"),
    ):
        output, _ = process.communicate(timeout=PATIENCE_S)

        assert process.returncode == exit_code, output
        assert "something in it hangs" in output
        assert TaskRecord.objects.get(id=invocation.id).status == status


def test_a_container_without_a_message_or_with_one_that_is_none_exits_with_1(jobs: Jobs) -> None:
    unknown = json.dumps({"task_name": "tests.app.tasks.gone", "kwargs": {}})
    for message, words in [("", "is not set"), ("{", "not valid JSON"), (unknown, "is not loaded")]:
        process = run_container({"LAMBDA_TASKS_MESSAGE": message})
        output, _ = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 1
        assert words in output


@pytest.mark.parametrize("signed", [False, True])
def test_a_message_over_the_limit_of_a_job_is_refused_at_the_call(
    direct: Jobs, settings: Any, signed: bool
) -> None:
    settings.LAMBDA_TASKS_SIGNING_KEYS = ["k" * 32] if signed else []
    settings.LAMBDA_TASKS_DURABLE = False  # what is stored needs no more than a wake-up
    heavy = tasks.echo.using(queue="heavy")

    longest = max(n for n in range(7000, 8192) if fits(heavy, "é" + "x" * n))
    heavy.execute_on_commit(value="é" + "x" * longest)

    (job,) = direct.submitted()
    environment = job["container"]["environment"]
    sent = [each for each in environment if each["name"] == "LAMBDA_TASKS_MESSAGE"]
    assert len(json.dumps({"environment": sent})) == 8192
    with pytest.raises(MessageTooLarge, match="8193 bytes and the queue takes 8192"):
        heavy.execute_on_commit(value="é" + "x" * (longest + 1))


def fits(task: Any, value: str) -> bool:
    try:
        task.serialize(value=value)
    except MessageTooLarge:
        return False
    return True


def test_a_job_is_signed_for_its_queue(direct: Jobs, settings: Any) -> None:
    settings.LAMBDA_TASKS_SIGNING_KEYS = ["k" * 32]
    invocation = tasks.aleave_effect.using(queue="heavy").execute_on_commit(name="signed")
    (job,) = direct.submitted()
    keys = {"LAMBDA_TASKS_TEST_SIGNING_KEYS": "k" * 32}

    assert direct.run(job, **keys, AWS_BATCH_JQ_NAME="another") == 1
    assert Effect.objects.count() == 0
    assert direct.run(job, **keys) == 0
    assert TaskRecord.objects.get(id=invocation.id).status == "SUCCESS"


def test_a_container_that_was_started_by_hand_is_told_what_it_lacks() -> None:
    process = run_container({"LAMBDA_TASKS_MESSAGE": "{}", "AWS_BATCH_JQ_NAME": ""})

    output, _ = process.communicate(timeout=PATIENCE_S)

    assert process.returncode == 1
    assert "AWS_BATCH_JQ_NAME is not set" in output
    assert "set it to the name of the job queue" in output
    assert "Traceback" not in output


def test_secrets_are_refused_as_batch_would_show_them(jobs: Jobs) -> None:
    with pytest.raises(ImproperlyConfigured, match="Pass a reference"):
        secretive.pay_direct.using(queue="heavy").execute_on_commit(token=SecretStr("x"))


def test_where_the_default_queue_is_the_table_the_submission_is_a_row(
    jobs: Jobs, settings: Any
) -> None:
    table = {"default": {"database": True}}
    settings.LAMBDA_TASKS_QUEUES = settings.LAMBDA_TASKS_QUEUES | table
    tasks.add.using(queue="heavy").execute_on_commit(a=1)

    row = TaskRecord.objects.get(task_name=SUBMIT)
    assert (row.status, row.queue) == ("QUEUED", "default")
    assert row.kwargs["batch_queue"] == "heavy"


def test_the_default_queue_is_no_job_queue(settings: Any) -> None:
    heavy = settings.LAMBDA_TASKS_QUEUES["heavy"]
    settings.LAMBDA_TASKS_QUEUES = {"default": heavy}

    with pytest.raises(
        ImproperlyConfigured, match="default queue must be an SQS or database queue"
    ):
        tasks.add.execute_on_commit(a=1)


class _Throttling(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        answer = b'{"message": "slow down"}'
        self.send_response(429)
        self.send_header("x-amzn-errortype", "TooManyRequestsException")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_a_submission_that_batch_throttles_is_retried(
    jobs: Jobs, queue: str, settings: Any, work_off: WorkOff
) -> None:
    tasks.add.using(queue="heavy").execute_on_commit(a=1)
    server = HTTPServer(("127.0.0.1", 0), _Throttling)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    settings.LAMBDA_TASKS_AWS = settings.LAMBDA_TASKS_AWS | {"endpoint_url": url}
    try:
        work_off(queue)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

    record = TaskRecord.objects.get(task_name=SUBMIT, retry_of=None)
    assert record.status == "RETRYING"
    assert "slow down" in (record.traceback or "")
