"""`manage.py lambda_tasks worker`: real processes on real queues."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connection, connections, transaction
from django.utils import timezone

from lambda_tasks import runtime
from lambda_tasks.declared_schedules import find_declared
from lambda_tasks.local import LocalSqs
from lambda_tasks.management.verbs import worker as verb
from lambda_tasks.models import TaskRecord
from lambda_tasks.queues import sqs_deliveries as sources
from lambda_tasks.queues.aws.session import READ_TIMEOUT_S
from lambda_tasks.records.rollups import roll_up
from lambda_tasks.records.tables import LastTick
from tests.app import ledger, outages, resuming, tasks
from tests.app.models import Effect
from tests.conftest import PATIENCE_S, Task, python_process, wait_for
from tests.newcomer import Newcomer
from tests.servers import Fault, FaultySqs

pytestmark = pytest.mark.django_db(transaction=True)

LOGS = """
import logging, sys
from django.core.management import execute_from_command_line
logging.basicConfig(level="INFO")
logging.getLogger("lambda_tasks.task").setLevel("DEBUG")
execute_from_command_line(["manage.py", "lambda_tasks", "worker", *sys.argv[1:]])
"""


@contextmanager
def worker(
    queue_url: str, *arguments: str, logs: bool = False
) -> Iterator["subprocess.Popen[str]"]:
    """With `logs` it prints what it logs of its own life and of runs, too."""
    command = ["-c", LOGS] if logs else ["-m", "django", "lambda_tasks", "worker"]
    with python_process(*command, *arguments, LAMBDA_TASKS_TEST_QUEUE=queue_url) as process:
        yield process


def run(queue_url: str, *arguments: str) -> tuple[int, str]:
    """Its exit code and what it has printed."""
    with worker(queue_url, *arguments) as process:
        output, _ = process.communicate(timeout=PATIENCE_S)
    return process.returncode, output


def has_heard_of_it(process: "subprocess.Popen[str]") -> None:
    """Wait until it says that it stops."""
    wait_until_it_says(process, "The worker stops")


def has_begun_its_run(process: "subprocess.Popen[str]") -> None:
    """Wait until it says that a run starts. Its record says so a little earlier."""
    wait_until_it_says(process, "starts, attempt 1")


def wait_until_it_says(process: "subprocess.Popen[str]", words: str) -> None:
    assert process.stdout is not None
    assert any(words in line for line in process.stdout)


def statuses() -> list[str]:
    return sorted(TaskRecord.objects.values_list("status", flat=True))


def is_running() -> bool:
    return TaskRecord.objects.filter(status="RUNNING", start_time__isnull=False).exists()


def test_it_works_off_sqs_and_the_table_and_stops(queue: str, sqs: LocalSqs) -> None:
    for name in ("default", "table"):
        tasks.leave_effect.using(queue=name).execute_on_commit(name=f"sync, {name}")
        tasks.aleave_effect.using(queue=name).execute_on_commit(name=f"async, {name}")
        tasks.write_and_fail.using(queue=name).execute_on_commit(name="never")

    code, output = run(queue, "--once")

    assert code == 0, output
    assert statuses() == ["FAILED"] * 2 + ["SUCCESS"] * 4
    assert Effect.objects.count() == 4
    assert "6 done" in output
    left = sqs.client.get_queue_attributes(QueueUrl=queue, AttributeNames=["All"])["Attributes"]
    assert left["ApproximateNumberOfMessages"] == "0"
    assert left["ApproximateNumberOfMessagesNotVisible"] == "0"


@pytest.mark.skipif(connection.vendor == "sqlite", reason="its writers lock the whole database")
def test_no_task_waits_for_a_round_that_hangs(queue: str) -> None:
    roll_up(timedelta(days=1))
    tasks.leave_effect.using(queue="table").execute_on_commit(name="x")

    with (
        transaction.atomic(),
        worker(queue, "--queue", "table", logs=True) as process,
    ):
        LastTick.objects.select_for_update().get()  # the round waits for it for a minute
        wait_for(lambda: statuses() == ["SUCCESS"])
        process.terminate()
        output, _ = process.communicate(timeout=PATIENCE_S)

    assert process.returncode == 0, output
    assert "Ends could not be counted" not in output, "the task has run after the round"


def test_a_worker_that_works_off_its_queue_makes_its_round_before_it_ends(queue: str) -> None:
    assert not LastTick.objects.exists()

    code, output = run(queue, "--queue", "table", "--once")

    assert code == 0, output
    assert LastTick.objects.exists()


def test_a_worker_that_works_off_its_queue_runs_what_its_round_has_enqueued(
    settings: Any,
) -> None:
    settings.LAMBDA_TASKS_QUEUES = {"default": {"database": True}}
    settings.LAMBDA_TASKS_SCHEDULES = {
        "each second": {"task": tasks.leave_effect.name, "every": 1, "kwargs": {"name": "x"}}
    }
    schedule = find_declared("each second").schedule
    runtime.current().schedule_table.note({"each second": (tasks.leave_effect.name, schedule)})
    time.sleep(1.1)

    call_command("lambda_tasks", "worker", "--once")

    assert "SUCCESS" in statuses()


def test_what_a_task_enqueues_into_the_table_runs_too(queue: str) -> None:
    count: Task = resuming.count_to_three
    count.using(queue="table").execute_on_commit()

    code, output = run(queue, "--queue", "table", "--once")

    assert code == 0, output
    assert set(statuses()) == {"SUCCESS"}


def test_what_is_due_in_weeks_waits_in_its_row(queue: str) -> None:
    in_weeks = timezone.now() + timedelta(weeks=3)
    tasks.leave_effect.using(run_after=in_weeks, queue="table").execute_on_commit(name="x")
    run(queue, "--queue", "table", "--once")
    assert statuses() == ["QUEUED"]

    a_second_ago = timezone.now() - timedelta(seconds=1)
    TaskRecord.objects.update(run_after=a_second_ago, look_at=a_second_ago)
    run(queue, "--queue", "table", "--once")

    assert statuses() == ["SUCCESS"]
    assert Effect.objects.count() == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_stop_it_finishes_what_runs_and_takes_no_more(
    queue: str, number: signal.Signals
) -> None:
    resuming.leave_effect_and_sleep.using(queue="table").execute_on_commit(seconds=5)
    with worker(queue, "--queue", "table", logs=True) as process:
        wait_for(is_running)
        process.send_signal(number)
        has_heard_of_it(process)
        time.sleep(1)  # a look at the table that was under way is over
        later = tasks.leave_effect.using(queue="table").execute_on_commit(name="later")
        process.communicate(timeout=PATIENCE_S)

    assert process.returncode == 0
    assert statuses() == ["QUEUED", "SUCCESS"]
    assert TaskRecord.objects.get(id=later.id).status == "QUEUED"


@pytest.mark.skipif(connection.vendor != "postgresql", reason="locks the table")
@pytest.mark.parametrize("task", [tasks.leave_effect, tasks.aleave_effect])
def test_what_a_look_finds_that_was_under_way_then_is_given_back(queue: str, task: Task) -> None:
    tasks.aadd.using(queue="table").execute_on_commit(a=1)
    with worker(queue, "--queue", "table", logs=True) as process:
        wait_for(lambda: statuses() == ["SUCCESS"])
        with transaction.atomic():
            with connection.cursor() as cursor:
                cursor.execute("LOCK TABLE lambda_tasks_taskrecord IN ACCESS EXCLUSIVE MODE")
            task.using(queue="table").execute_on_commit(name="never")
            wait_for(looks_that_wait)
            process.terminate()
            has_heard_of_it(process)
        process.communicate(timeout=PATIENCE_S)

    assert process.returncode == 0
    record = TaskRecord.objects.get(status="QUEUED")
    assert record.n_attempts == 0
    assert not Effect.objects.exists()


def looks_that_wait() -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
        return bool(cursor.fetchone()[0])


@pytest.mark.skipif(connection.vendor == "sqlite", reason="its one writer is the running task")
@pytest.mark.parametrize(("drain", "signals"), [("0.5", 1), ("60", 2)])
def test_what_does_not_end_in_time_is_given_back(queue: str, drain: str, signals: int) -> None:
    resuming.show_and_wait.using(queue="table").execute_on_commit(seconds=40)
    with worker(queue, "--queue", "table", "--drain", drain, logs=True) as process:
        wait_for(lambda: TaskRecord.objects.get().progress)
        process.terminate()
        has_heard_of_it(process)  # so that the second is not taken for the first
        if signals == 2:
            process.terminate()
        process.communicate(timeout=PATIENCE_S)

    assert process.returncode == 3
    assert statuses() == ["QUEUED"]
    assert not Effect.objects.exists()


def test_several_at_once_run_everything_once(queue: str) -> None:
    ids = [
        each.id
        for task in (ledger.enter, ledger.aenter)
        for each in task.using(queue="table").execute_many_on_commit([{}] * 60)
    ]

    with (
        worker(queue, "--once") as one,
        worker(queue, "--once") as two,
        worker(queue, "--once") as three,
    ):
        for process in (one, two, three):
            output, _ = process.communicate(timeout=PATIENCE_S)
            assert process.returncode == 0, output

    assert statuses() == ["SUCCESS"] * len(ids)
    assert sorted(Effect.objects.values_list("name", flat=True)) == sorted(map(str, ids))
    assert set(TaskRecord.objects.values_list("n_attempts", flat=True)) == {1}


@pytest.mark.skipif(connection.vendor == "sqlite", reason="its one writer is the running task")
def test_what_a_killed_one_has_left_is_taken_over(queue: str) -> None:
    resuming.leave_effect_and_wait.using(queue="table").execute_on_commit(seconds=5)
    with worker(queue, "--queue", "table") as process:
        wait_for(is_running)
        os.killpg(process.pid, signal.SIGKILL)
    assert statuses() == ["RUNNING"]

    a_second_ago = timezone.now() - timedelta(seconds=1)
    TaskRecord.objects.update(lease_until=a_second_ago, look_at=a_second_ago)
    run(queue, "--queue", "table", "--once")

    assert statuses() == ["SUCCESS"]
    assert Effect.objects.count() == 1


def test_a_task_of_another_release_waits_and_holds_up_no_other(queue: str) -> None:
    tasks.add.using(queue="table").execute_on_commit(a=1)
    TaskRecord.objects.update(task_name="tests.app.tasks.not_yet")
    tasks.aadd.using(queue="table").execute_on_commit(a=1)

    code, output = run(queue, "--queue", "table", "--once")

    assert code == 0, output
    assert "not_yet" in output
    assert statuses() == ["QUEUED", "SUCCESS"]
    waiting = TaskRecord.objects.get(status="QUEUED")
    assert waiting.refused_at is not None
    assert waiting.look_at is not None
    assert waiting.look_at < waiting.refused_at, "another worker may run it at once"


def test_it_stops_after_as_many_tasks_as_it_was_told(queue: str) -> None:
    tasks.aadd.using(queue="table").execute_many_on_commit([{"a": number} for number in range(15)])

    code, output = run(queue, "--queue", "table", "--max-tasks", "12")

    assert code == 0, output
    assert statuses() == ["QUEUED"] * 3 + ["SUCCESS"] * 12


def test_finished_messages_are_deleted_in_batches(
    sqs: LocalSqs, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks.aadd_direct.execute_many_on_commit([{"a": number} for number in range(100)])
    with FaultySqs(sqs.endpoint_url) as proxy:
        url = queue.replace(sqs.endpoint_url, proxy.endpoint_url)

        code, output = run(url, "--queue", "default", "--once")

        assert code == 0, output
        assert statuses() == ["SUCCESS"] * 100
        assert proxy.requests["DeleteMessageBatch"] <= 30


def test_what_runs_for_long_stays_invisible(sqs: LocalSqs, queue: str) -> None:
    resuming.leave_effect_and_wait.using(queue="default").execute_on_commit(seconds=4)
    code = (
        "import sys; from lambda_tasks.queues import sqs_deliveries as sources;"
        "sources.VISIBILITY_TIMEOUT_S, sources.HEARTBEAT_S = 2, 0.5;"
        "from django.core.management import execute_from_command_line as execute;"
        "execute(['manage.py', 'lambda_tasks', 'worker', '--once', '--queue', 'default'])"
    )
    with FaultySqs(sqs.endpoint_url) as proxy:
        url = queue.replace(sqs.endpoint_url, proxy.endpoint_url)
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"LAMBDA_TASKS_TEST_QUEUE": url},
            check=True,
            timeout=PATIENCE_S,
        )

        assert proxy.requests["ChangeMessageVisibilityBatch"] >= 4
    assert sources.VISIBILITY_TIMEOUT_S >= 3 * sources.HEARTBEAT_S
    assert (statuses(), TaskRecord.objects.get().n_attempts) == (["SUCCESS"], 1)


@pytest.mark.skipif(connection.vendor == "sqlite", reason="its one writer is the running task")
def test_a_task_that_outlives_every_deployment_has_not_failed(queue: str, sqs: LocalSqs) -> None:
    resuming.leave_effect_and_sleep.using(queue="table").execute_on_commit(seconds=600)

    for _ in range(6):  # one more than LAMBDA_TASKS_MAX_ATTEMPTS
        TaskRecord.objects.update(look_at=timezone.now() - timedelta(seconds=1))
        with worker(queue, "--queue", "table", "--drain", "0.1", logs=True) as process:
            has_begun_its_run(process)
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 3

    record = TaskRecord.objects.get(status="QUEUED")
    assert record.n_attempts == 0


def test_a_quiet_queue_is_polled_for_as_long_as_sqs_waits(sqs: LocalSqs, queue: str) -> None:
    with FaultySqs(sqs.endpoint_url) as proxy:
        url = queue.replace(sqs.endpoint_url, proxy.endpoint_url)
        with worker(url, "--queue", "default", logs=True) as process:
            proxy.requests.wait_for("ReceiveMessage", timeout_s=PATIENCE_S)
            time.sleep(READ_TIMEOUT_S + 2)  # for longer than any other answer is waited for

            tasks.aadd_direct.execute_on_commit(a=1)
            wait_for(lambda: statuses() == ["SUCCESS"])

            process.send_signal(signal.SIGTERM)
            output, _ = process.communicate(timeout=PATIENCE_S)
    assert "can't be read" not in output
    assert proxy.requests["ReceiveMessage"] <= 2


@pytest.mark.skipif(connection.vendor == "sqlite", reason="its one writer is the running task")
def test_a_message_that_comes_again_while_it_runs_costs_no_place(sqs: LocalSqs, queue: str) -> None:
    resuming.leave_effect_and_wait.using(queue="default").execute_on_commit(seconds=3)
    with FaultySqs(sqs.endpoint_url) as proxy:
        proxy.inject(Fault.delivered_twice())
        url = queue.replace(sqs.endpoint_url, proxy.endpoint_url)
        arguments = ("--queue", "default", "--concurrency", "1", "--processes", "1")
        with worker(url, *arguments, logs=True) as process:
            wait_for(lambda: statuses() == ["SUCCESS"])
            tasks.aadd_direct.execute_many_on_commit([{"a": number} for number in range(5)])
            wait_for(lambda: statuses() == ["SUCCESS"] * 6)

            process.send_signal(signal.SIGTERM)
            output, _ = process.communicate(timeout=PATIENCE_S)

    assert process.returncode == 0, output
    assert "come back by themselves" not in output
    assert "6 done, of which 0 failed; 0 returned" in output, output


def test_it_leaves_in_sqs_what_would_have_to_wait_for_long(sqs: LocalSqs, queue: str) -> None:
    calls = [{"pause_s": 0.0}] * 60 + [{"pause_s": 0.1}] * 200
    ledger.aenter.using(queue="default").execute_many_on_commit(calls)
    held: list[int] = []

    def look(n_done: int) -> bool:
        name = "ApproximateNumberOfMessagesNotVisible"
        attributes = sqs.client.get_queue_attributes(QueueUrl=queue, AttributeNames=[name])
        held.append(int(attributes["Attributes"][name]))
        return statuses().count("SUCCESS") >= n_done

    with worker(queue, "--queue", "default", "--concurrency", "4", "--processes", "1"):
        # It learns how long they take from the first ones, of which it may hold two batches.
        wait_for(lambda: look(170))
        held.clear()
        wait_for(lambda: look(200))

    # Fewer than five are in work when it asks for ten more; some that ended are not deleted yet.
    assert max(held) < 25


@pytest.mark.parametrize(
    ("name", "words"),
    [("nowhere", "no queue 'nowhere' in LAMBDA_TASKS_QUEUES"), ("batch", "no worker can consume")],
)
def test_a_queue_that_no_worker_can_consume_is_refused(
    settings: Any, name: str, words: str
) -> None:
    arns = {"job_queue_arn": "arn:queue", "job_definition_arn": "arn:definition"}
    settings.LAMBDA_TASKS_QUEUES = {"default": {"database": True}, "batch": arns}

    with pytest.raises(CommandError, match=words):
        call_command("lambda_tasks", "worker", "--queue", name, "--once")


@pytest.mark.parametrize("more", ["", "LAMBDA_TASKS_SIGNING_KEYS = ['k' * 40]"])
def test_without_a_queue_in_the_settings_a_project_works_on_the_table(
    tmp_path: Path, more: str
) -> None:
    module = f"settings_{uuid.uuid4().hex}"
    lines = ["from tests.settings import *", "del LAMBDA_TASKS_QUEUES, LAMBDA_TASKS_AWS", more]
    (tmp_path / f"{module}.py").write_text("\n".join(lines))
    path = os.pathsep.join([str(tmp_path), str(Path.cwd())])
    here = os.environ | {"DJANGO_SETTINGS_MODULE": module, "PYTHONPATH": path}
    call = (
        "import django; django.setup();"
        "from tests.app import tasks; tasks.add.execute_on_commit(a=1)"
    )

    for command in (["-c", call], ["-m", "django", "lambda_tasks", "worker", "--once"]):
        subprocess.run([sys.executable, *command], env=here, check=True, timeout=PATIENCE_S)

    record = TaskRecord.objects.get()
    assert (record.status, record.result) == ("SUCCESS", 3)


@pytest.mark.skipif(
    connection.vendor != "postgresql", reason="cuts connections with pg_terminate_backend()"
)
def test_it_outlives_a_database_that_cuts_its_connections(queue: str) -> None:
    with worker(queue, "--queue", "table"):
        tasks.add.using(queue="table").execute_on_commit(a=1)
        wait_for(lambda: statuses() == ["SUCCESS"])

        outages.cut_connections()
        connection.close()
        tasks.add.using(queue="table").execute_on_commit(a=2)
        tasks.aadd.using(queue="table").execute_on_commit(a=2)

        wait_for(lambda: statuses() == ["SUCCESS"] * 3)


@pytest.mark.skipif(
    connection.vendor != "postgresql", reason="closes the database with ALTER DATABASE"
)
def test_it_takes_nothing_while_the_database_is_away(sqs: LocalSqs, queue: str) -> None:
    with FaultySqs(sqs.endpoint_url) as proxy:
        url = queue.replace(sqs.endpoint_url, proxy.endpoint_url)
        with worker(url, "--queue", "default", logs=True) as process:
            tasks.aadd.execute_on_commit(a=0)
            wait_for(lambda: statuses() == ["SUCCESS"])
            outages.cut_connections(close_database=True)
            try:
                tasks.aadd_direct.execute_many_on_commit([{"a": n} for n in range(30)])
                wait_until_it_says(process, "The database is away")
                received = proxy.requests["ReceiveMessage"]
                wait_until_it_says(process, "Nothing can be claimed")
                wait_until_it_says(process, "Nothing can be claimed")
                assert proxy.requests["ReceiveMessage"] - received <= 1
            finally:
                outages.open_database()
                connection.close()

            wait_for(lambda: statuses() == ["SUCCESS"] * 31)
            process.send_signal(signal.SIGTERM)
            output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, output


@pytest.mark.parametrize(("verb", "is_started"), [("worker", True), ("migrate", False)])
def test_the_fork_server_loads_the_project_while_the_worker_does(
    verb: str, is_started: bool
) -> None:
    code = (
        "import django, sys; from multiprocessing import forkserver;"
        f"sys.argv = ['manage.py', 'lambda_tasks', {verb!r}]; django.setup();"
        "print(forkserver._forkserver._forkserver_pid is not None)"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == str(is_started)


def test_a_process_that_has_enqueued_may_be_the_worker_too(queue: str) -> None:
    for number in range(2):
        tasks.add.execute_on_commit(a=number)
        call_command("lambda_tasks", "worker", "--queue", "default", "--once")

    assert statuses() == ["SUCCESS"] * 2


def test_a_worker_that_starts_while_the_database_is_away_waits_for_it(
    settings: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings.LAMBDA_TASKS_QUEUES = {"default": {"database": True}}
    tasks.aadd.execute_on_commit(a=1)
    here: Any = connections["default"]
    connect, refusals = here.get_new_connection, iter([True] * 3)

    def restarting(*parameters: Any) -> Any:
        if next(refusals, False):
            raise here.Database.OperationalError("the server restarts")
        return connect(*parameters)

    here.close()
    monkeypatch.setattr(here, "get_new_connection", restarting)
    monkeypatch.setattr(verb, "START_PAUSE_S", 0.0)
    call_command("lambda_tasks", "worker", "--once")

    assert statuses() == ["SUCCESS"]
    assert "the server restarts" in caplog.text


def on_terminal(queue_url: str, *arguments: str, until: dict[str, str]) -> tuple[int, str]:
    """A worker on a terminal of its own: its exit code and what it has printed.

    `until` has what to type when it has printed certain words.
    """
    process, terminal = pty.fork()
    if process == 0:
        os.environ["LAMBDA_TASKS_TEST_QUEUE"] = queue_url
        command = [sys.executable, "-m", "django", "lambda_tasks", "worker", *arguments]
        os.execv(sys.executable, command)
    printed, waiting, give_up_at = "", dict(until), time.monotonic() + PATIENCE_S
    while select.select([terminal], [], [], max(give_up_at - time.monotonic(), 0))[0]:
        try:
            printed += os.read(terminal, 65536).decode()
        except OSError:  # the other end is closed
            break
        if waiting and (words := next(iter(waiting))) in printed:
            os.write(terminal, waiting.pop(words).encode())
    else:
        os.kill(process, signal.SIGKILL)
    os.close(terminal)
    _, status = os.waitpid(process, 0)
    return os.waitstatus_to_exitcode(status), printed


CTRL_C = "\x03"


def test_on_a_terminal_it_says_what_it_does_and_what_has_ended(queue: str) -> None:
    added = tasks.add.using(queue="table").execute_on_commit(a=1)
    failed = tasks.write_and_fail.using(queue="table").execute_on_commit(name="never")

    code, printed = on_terminal(queue, "--queue", "table", "--once", until={})

    assert code == 0, printed
    assert "queues       table (the table)" in printed
    assert re.search(r"concurrency  [0-9]+ async", printed)
    assert re.search(r"processes    [0-9]+ for sync", printed)
    assert re.search(r"tasks        [0-9]+: tests\.app\.", printed)
    assert "database     " in printed
    assert re.search(
        rf"\[{added.id}\] tests\.app\.tasks\.add\(a=1.*\) succeeded after [0-9.]+ s", printed
    )
    how = (
        rf"\[{failed.id}\] tests\.app\.tasks\.write_and_fail\(name='never'\) failed after [0-9.]+ s"
    )
    assert re.search(rf"{how} at tests/app/tasks\.py:[0-9]+: ", printed)
    assert printed.count("Traceback (most recent call last)") == 1
    assert "2 done, of which 1 failed" in printed


def test_where_no_module_of_tasks_is_found_a_stored_call_runs_all_the_same(tmp_path: Path) -> None:
    settings = "LAMBDA_TASKS_QUEUES = {'default': {'database': True}}"
    newcomer = Newcomer.with_first_task(tmp_path, settings=settings)
    (tmp_path / "shop" / "tasks.py").rename(tmp_path / "shop" / "jobs.py")
    newcomer.write("mysite/urls.py", "urlpatterns = []")
    newcomer.shell(
        "from shop.jobs import print_invoice\nfrom shop.models import Order\n"
        "print_invoice.execute_on_commit(order_id=Order.objects.create(title='Emma').pk)\n"
    )

    printed = newcomer.command("worker", "--once")

    assert "none in the tasks.py of apps in INSTALLED_APPS, nor in LAMBDA_TASKS_MODULES" in printed
    assert "1 done, of which 0 failed" in printed


def test_ctrl_c_tells_what_is_finished_and_once_more_gives_it_back(queue: str) -> None:
    resuming.leave_effect_and_wait.using(queue="table").execute_many_on_commit(
        [{"seconds": 600}, {"seconds": 600}]
    )

    code, printed = on_terminal(
        queue,
        "--queue",
        "table",
        until={"2 running": CTRL_C, "Finishing 2 (up to 25 s)": CTRL_C},
    )

    assert code == 3, printed
    assert "Ctrl-C once more gives them back." in printed
    assert "Giving 2 back to their queues." in printed
    assert statuses() == ["QUEUED"] * 2


@pytest.mark.parametrize(
    ("verbosity", "says"),
    [("0", []), ("1", ["Running tasks of", "1 done"]), ("2", ["Running", "succeeded after", "1 "])],
)
def test_elsewhere_it_prints_lines_of_json_as_its_verbosity_says(
    queue: str, verbosity: str, says: list[str]
) -> None:
    tasks.aadd.using(queue="table").execute_on_commit(a=1)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "django", "lambda_tasks", "worker", "--once"),
            *("--queue", "table", "-v", verbosity, "--no-color", "--traceback", "--skip-checks"),
            *("--settings", os.environ["DJANGO_SETTINGS_MODULE"], "--pythonpath", "."),
        ],
        env=os.environ | {"LAMBDA_TASKS_TEST_QUEUE": queue},
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE_S,
    )

    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == len(says), lines
    assert all(words in line["message"] for words, line in zip(says, lines, strict=True))
    ends = [
        {name: value for name, value in line.items() if name != "message"} for line in lines[-1:]
    ]
    assert ends == [{"done": 1, "failed": 0, "returned": 0, "exit_code": 0}][: len(says)]
    assert ("aadd starts, attempt 1" in done.stderr) is (verbosity == "2")


@pytest.mark.skipif(connection.vendor == "sqlite", reason="its one writer is the running task")
def test_it_heeds_a_second_signal_though_nobody_reads_its_output_any_more(queue: str) -> None:
    resuming.show_and_wait.using(queue="table").execute_on_commit(seconds=40)
    command = "-m", "django", "lambda_tasks", "worker", "--queue", "table", "--drain", "600"
    with python_process(*command, LAMBDA_TASKS_TEST_QUEUE=queue) as process:
        wait_for(lambda: TaskRecord.objects.get().progress)
        process.terminate()
        wait_until_it_says(process, "Finishing 1")
        assert process.stdout is not None
        process.stdout.close()
        process.stdout = None
        process.terminate()
        process.wait(20)

    assert process.returncode == 3
    assert statuses() == ["QUEUED"]


@pytest.mark.parametrize(
    "command",
    [["worker", "--once"], ["dev"], ["invoke", "event.json"]],
    ids=["worker", "dev", "invoke"],
)
def test_without_migrate_it_says_so_in_a_line(tmp_path: Path, command: list[str]) -> None:
    newcomer = Newcomer.with_first_task(tmp_path)
    (tmp_path / "db.sqlite3").unlink()
    newcomer.write("event.json", '{"lambda_tasks": "tick"}')

    printed = newcomer.fail(*command)

    assert printed.strip().splitlines() == [
        "CommandError: The database 'default' lacks a table or column of lambda_tasks. "
        "Run `manage.py migrate`."
    ]


def test_a_column_that_goes_missing_is_told_in_a_line_each_time(queue: str) -> None:
    with worker(queue, "--queue", "table", logs=True) as process:
        wait_until_it_says(process, "Running tasks")
        with connection.schema_editor() as editor:
            editor.execute("ALTER TABLE lambda_tasks_taskrecord RENAME TO taskrecord_away")
        try:
            wait_until_it_says(process, "lacks a table or column of lambda_tasks")
        finally:
            with connection.schema_editor() as editor:
                editor.execute("ALTER TABLE taskrecord_away RENAME TO lambda_tasks_taskrecord")
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=PATIENCE_S)
    assert "Traceback" not in output
