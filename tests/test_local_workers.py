"""LAMBDA_TASKS_LOCAL_WORKERS: tasks run beside the process that enqueues, and for it alone."""

import errno
import itertools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import psutil
import pytest
from asgiref.sync import async_to_sync
from django.db import transaction

from lambda_tasks import runtime
from lambda_tasks.enqueue.local_workers import LocalWorkers
from lambda_tasks.models import TaskRecord
from tests.app import tasks
from tests.app.models import Effect
from tests.conftest import PATIENCE_S, Task, wait_for
from tests.servers.process import free_port, is_alive

pytestmark = pytest.mark.django_db(transaction=True)

ENVIRONMENT = {"LAMBDA_TASKS_TEST_LOCAL_WORKERS": "1"}

PIPE_BYTES = 65_536
"""What a pipe of Linux holds."""


@pytest.fixture
def local_workers(settings: Any) -> Iterator[None]:
    settings.LAMBDA_TASKS_LOCAL_WORKERS = 1
    yield
    runtime.close()


def children(of: int) -> list[psutil.Process]:
    """The processes that have local workers, of this process or of one below it."""
    below = psutil.Process(of).children(recursive=True)
    return [each for each in below if "lambda_tasks.entrypoints.local_workers" in command(each)]


def command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def done(count: int) -> bool:
    return TaskRecord.objects.filter(status="SUCCESS").count() == count


@pytest.mark.parametrize("task", [tasks.leave_effect, tasks.aleave_effect])
def test_what_commits_runs_elsewhere_and_what_rolls_back_does_not(
    local_workers: None, task: Task
) -> None:
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        task.execute_on_commit(name="rolled back")
        raise ZeroDivisionError
    with transaction.atomic():
        invocation = task.execute_on_commit(name="sync caller")
    async_to_sync(task.using(queue="other").aexecute_on_commit)(name="async caller")

    assert invocation.result(timeout=PATIENCE_S) is not None
    wait_for(lambda: done(2))
    effects = Effect.objects.all()
    assert {each.name for each in effects} == {"sync caller", "async caller"}
    assert os.getpid() not in {each.process for each in effects}


def test_timeouts_hold_and_a_crashed_process_is_replaced(local_workers: None) -> None:
    tasks.exit_at_once.execute_on_commit(code=3)
    tasks.sleep_and_clean_up.execute_on_commit(name="x")
    tasks.leave_effect.execute_on_commit(name="after")

    wait_for(lambda: not TaskRecord.objects.filter(end_time=None).exists())
    crashed = TaskRecord.objects.get(task_name="tests.app.tasks.exit_at_once")
    assert "WorkerProcessDied" in (crashed.traceback or "")
    assert Effect.objects.filter(name="after").exists()


def test_workers_that_are_killed_are_started_again(local_workers: None) -> None:
    first = tasks.wait.execute_on_commit(seconds=60)
    wait_for(lambda: TaskRecord.objects.get(id=first.id).status == "RUNNING")
    (worker,) = children(os.getpid())
    worker.kill()

    wait_for(lambda: [each for each in children(os.getpid()) if each.pid != worker.pid])
    tasks.leave_effect.execute_on_commit(name="after")

    wait_for(lambda: Effect.objects.filter(name="after").exists())


def test_a_call_while_killed_workers_are_started_again_returns_and_is_run(
    local_workers: None, caplog: Any
) -> None:
    tasks.leave_effect.execute_on_commit(name="before")
    wait_for(lambda: done(1))
    (worker,) = children(os.getpid())
    worker.kill()
    wait_for(lambda: "will be restarted" in caplog.text)

    tasks.leave_effect.execute_on_commit(name="meanwhile")

    wait_for(lambda: done(2))


def test_workers_that_could_not_be_started_again_are_started_later(
    local_workers: None, monkeypatch: Any, caplog: Any
) -> None:
    tasks.leave_effect.execute_on_commit(name="before")
    wait_for(lambda: done(1))
    (worker,) = children(os.getpid())
    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", fail_to_fork)
        worker.kill()
        wait_for(lambda: "can't be started for now" in caplog.text)

    tasks.leave_effect.execute_on_commit(name="after")

    wait_for(lambda: done(2))


def fail_to_fork(*args: Any, **kwargs: Any) -> None:
    raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")


def test_workers_that_hang_keep_no_caller_waiting() -> None:
    workers = LocalWorkers(1)

    def wake_often() -> None:
        for _ in range(2 * PIPE_BYTES):
            workers.wake()

    workers.wake()
    try:
        wait_for(lambda: children(os.getpid()))
        (worker,) = children(os.getpid())
        worker.suspend()
        calling = threading.Thread(target=wake_often, daemon=True)
        calling.start()
        calling.join(PATIENCE_S)
        worker.resume()
        assert not calling.is_alive()
    finally:
        workers.close()


@contextmanager
def script(code: str) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(
        [sys.executable, "-c", f"import django; django.setup(); {code}"],
        env=os.environ | ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


CALL = "from tests.app import tasks; tasks.leave_effect.execute_on_commit(name='script')"


def test_what_a_script_enqueues_is_done_when_it_has_ended() -> None:
    with script(CALL) as process:
        output, _ = process.communicate(timeout=PATIENCE_S)

    assert (process.returncode, done(1)) == (0, True), output


def test_they_end_with_a_parent_that_is_killed() -> None:
    with script(f"{CALL}; input()") as process:
        wait_for(lambda: done(1))
        (worker,) = children(process.pid)
        process.kill()
        process.wait()

        wait_for(lambda: not is_alive(worker.pid))


def test_without_a_settings_module_they_say_what_they_need() -> None:
    configure = (
        "from django.conf import settings; from tests import settings as s;"
        "settings.configure(**{k: getattr(s, k) for k in dir(s) if k.isupper()});"
    )
    process = subprocess.run(
        [sys.executable, "-c", f"{configure} import django; django.setup(); {CALL}"],
        env={k: v for k, v in os.environ.items() if k != "DJANGO_SETTINGS_MODULE"} | ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert "has no DJANGO_SETTINGS_MODULE" in process.stderr


def test_the_auto_reloader_leaves_no_worker_and_no_semaphore_behind(tmp_path: Path) -> None:
    watched = tmp_path / "watched_by_the_reloader.py"
    watched.write_text("")
    port = free_port()
    url, effects = f"http://127.0.0.1:{port}/classic/", Effect.objects.exclude(name="view")
    log = tmp_path / "log"
    with log.open("w") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", "django", "runserver", f"127.0.0.1:{port}"],
            env=os.environ
            | ENVIRONMENT
            | {"PYTHONPATH": f"{tmp_path}:{os.getcwd()}", "TESTS_IMPORT": watched.stem},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            wait_for(lambda: answers(url))
            wait_for(lambda: effects.count() == 1)
            (old,) = children(server.pid)
            # More than once, as the reloader may not have looked at it yet.
            times = itertools.count(2**31)

            def has_reloaded() -> bool:
                os.utime(watched, (0, next(times)))
                return not old.is_running()

            wait_for(has_reloaded)
            wait_for(lambda: answers(url))
            wait_for(lambda: effects.count() > 1)
            # Asked again and again: the last of those times may make it reload once more.
            wait_for(lambda: answers(url) and len(children(server.pid)) == 1)
        finally:
            below = psutil.Process(server.pid).children(recursive=True)
            os.killpg(server.pid, signal.SIGINT)
            server.wait(timeout=PATIENCE_S)
    assert psutil.wait_procs(below, timeout=PATIENCE_S)[1] == []
    text = log.read_text()
    assert "semaphore" not in text
    assert "Traceback" not in text, text


def answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
