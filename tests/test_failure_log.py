"""Failures are heard: by the project's own logging, whatever declared the task and ran it."""

import asyncio
import logging
import re
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.db import transaction
from pydantic import SecretStr

from lambda_tasks import Invocation
from lambda_tasks.models import TaskRecord
from lambda_tasks.records.clock import Now
from tests.app import django_tasks, secretive, tasks
from tests.app.models import Effect
from tests.conftest import Handle, Task, body, record_of, wake_up
from tests.newcomer import PAGES, Newcomer, blocks

pytestmark = pytest.mark.django_db(transaction=True)

FAILING = """
from lambda_tasks import lambda_task, task_logger

@lambda_task
def fail(*, order_id: int) -> None:
    task_logger.info("looking")
    raise LookupError(f"no order {order_id}")

@lambda_task
async def afail(*, order_id: int) -> None:
    task_logger.info("looking")
    raise LookupError(f"no order {order_id}")

@lambda_task(retry_on=(TimeoutError,), max_retries=1, retry_delay=600)
async def time_out(*, order_id: int) -> None:
    raise TimeoutError(f"no answer about {order_id}")
"""
CALLS = """
from shop import failing

print(failing.fail.execute_on_commit(order_id=7).id)
print(failing.afail.execute_on_commit(order_id=7).id)
print(failing.time_out.execute_on_commit(order_id=7).id)
"""


def _failures(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [each for each in caplog.records if each.levelno >= logging.ERROR]


def test_a_final_failure_is_an_error_with_its_traceback_and_its_run(
    handle: Handle, caplog: pytest.LogCaptureFixture
) -> None:
    message = body(tasks.awrite_and_fail, name="x")

    assert handle(message) == []

    (line,) = _failures(caplog)
    id = str(record_of(message).id)
    assert line.name == "lambda_tasks.task"
    ending = rf"\[{id}\] {tasks.awrite_and_fail.name} failed after \d+\.\d\d\d s"
    assert re.fullmatch(ending, line.getMessage())
    assert line.exc_info is not None
    assert isinstance(line.exc_info[1], ValueError)
    assert line.exc_info[2] is not None
    assert line.exc_info[2].tb_frame.f_code.co_name == "awrite_and_fail"  # none of the library's
    run: Any = line
    assert (run.invocation_id, run.task_name, run.attempt) == (id, tasks.awrite_and_fail.name, 1)


def test_a_retry_is_a_warning_and_the_last_failure_the_only_error(
    handle: Handle, queue: str, caplog: pytest.LogCaptureFixture
) -> None:
    first = body(secretive.fail, token=SecretStr("a secret token"), password="swordfish")

    handle(first)

    assert _failures(caplog) == []
    (line,) = [each for each in caplog.records if each.levelno == logging.WARNING]
    name = secretive.fail.name
    assert re.fullmatch(
        rf"\[{record_of(first).id}\] {name} failed after \d+\.\d+ s and is retried in \d+ s"
        r" \(due to builtins\.ConnectionError\)",
        line.getMessage(),
    )
    retry = TaskRecord.objects.get(status="QUEUED")
    TaskRecord.objects.update(run_after=Now())
    handle(wake_up(retry.id, name))
    (line,) = _failures(caplog)
    ending = rf"\[{retry.id}\] {name} failed after [\d.]+ s:\nTraceback.*"
    assert re.fullmatch(ending, line.getMessage(), re.DOTALL)
    assert "MaxRetriesExceededError" in line.getMessage()
    assert "a secret token" not in caplog.text


def test_the_log_says_that_a_failure_has_no_retry_left(
    handle: Handle, caplog: pytest.LogCaptureFixture, settings: Any
) -> None:
    settings.LAMBDA_TASKS_MAX_RETRIES = 0

    handle(body(tasks.ask_for_a_retry, name="busy"))

    (line,) = _failures(caplog)
    text = logging.Formatter().format(line)
    assert "Retry: busy" in text
    assert "has no retry left: its limit is 0. Raise max_retries" in text


def test_a_failure_of_djangos_own_task_is_the_one_error_of_djangos_logger(
    handle: Handle, queue: str, caplog: pytest.LogCaptureFixture
) -> None:
    id = django_tasks.afail.enqueue(name="x").id

    handle(wake_up(TaskRecord.objects.get().id, "tests.app.django_tasks.afail", backend="default"))

    (line,) = _failures(caplog)
    assert line.name.startswith("django")
    assert id in line.getMessage()
    assert line.exc_info is not None
    assert isinstance(line.exc_info[1], ValueError)


@pytest.mark.parametrize("task", [tasks.araise, tasks.raise_here])
@pytest.mark.parametrize("character", ["\0", "\udce9"], ids=ascii)
def test_an_error_with_characters_that_a_database_refuses_is_recorded_at_once(
    handle: Handle, caplog: pytest.LogCaptureFixture, task: Task, character: str
) -> None:
    message = body(task, text=[ord(each) for each in f"before{character}after"])

    assert handle(message) == []

    record = record_of(message)
    assert (record.status, record.n_attempts) == ("FAILED", 1)
    escaped = r"\x00" if character == "\0" else r"\udce9"
    assert f"before{escaped}after" in (record.traceback or "")
    if task.is_async:
        (line,) = _failures(caplog)
        assert f"before{escaped}after" in line.getMessage()
        assert line.exc_info is None  # which a log file in UTF-8 could not hold


def test_what_another_finds_lost_for_good_is_an_error(
    handle: Handle, queue: str, caplog: pytest.LogCaptureFixture
) -> None:
    id = tasks.aleave_effect.execute_on_commit(name="x").id
    lost = {"status": "RUNNING", "n_attempts": 5, "start_time": Now(), "lease_until": Now()}
    TaskRecord.objects.filter(id=id).update(**lost)

    handle(wake_up(id, tasks.aleave_effect.name))

    (line,) = _failures(caplog)
    assert line.getMessage().startswith(f"[{id}] {tasks.aleave_effect.name} failed:\n")
    assert "Its worker died before the task ended." in line.getMessage()


@pytest.mark.parametrize("task", [tasks.write_and_fail, tasks.awrite_and_fail])
def test_an_eager_failure_is_logged_and_the_call_returns(
    settings: Any, caplog: pytest.LogCaptureFixture, task: Task
) -> None:
    settings.LAMBDA_TASKS_EAGER = True

    task.execute_on_commit(name="x")

    (line,) = _failures(caplog)
    assert "failed" in line.getMessage()
    assert line.exc_info is not None


@pytest.mark.parametrize("task", [tasks.write_and_fail, tasks.awrite_and_fail])
@pytest.mark.parametrize("is_async", [False, True])
def test_an_eager_call_raises_what_its_task_has_raised_where_the_settings_say_so(
    settings: Any, task: Task, is_async: bool
) -> None:
    settings.LAMBDA_TASKS_EAGER = settings.LAMBDA_TASKS_EAGER_RAISES = True

    with pytest.raises(ValueError, match="failed after writing x"):
        if is_async:
            async_to_sync(task.aexecute_on_commit)(name="x")
        else:
            task.execute_on_commit(name="x")

    assert TaskRecord.objects.get().status == "FAILED"


def test_an_eager_call_raises_nothing_of_the_calls_beside_it(settings: Any) -> None:
    settings.LAMBDA_TASKS_EAGER = settings.LAMBDA_TASKS_EAGER_RAISES = True

    async def call_together() -> Sequence[object]:
        calls: list[Coroutine[Any, Any, object]] = [
            tasks.awrite_and_fail.aexecute_on_commit(name="x"),
            tasks.aleave_effect.aexecute_on_commit(name="y"),
            tasks.awrite_and_fail.aexecute_on_commit(name="z"),
        ]
        return await asyncio.gather(*calls, return_exceptions=True)

    first, second, third = async_to_sync(call_together)()

    assert str(first) == "failed after writing x"
    assert isinstance(second, Invocation)
    assert str(third) == "failed after writing z"


def test_all_eager_tasks_of_a_transaction_run_before_it_raises(settings: Any) -> None:
    settings.LAMBDA_TASKS_EAGER = settings.LAMBDA_TASKS_EAGER_RAISES = True

    with pytest.raises(ExceptionGroup, match="2 tasks have failed") as raised:
        with transaction.atomic():
            for name in "xy":
                tasks.write_and_fail.execute_on_commit(name=name)
            tasks.leave_effect.execute_on_commit(name="z")

    assert [str(each) for each in raised.value.exceptions] == [
        "failed after writing x",
        "failed after writing y",
    ]
    assert Effect.objects.get().name == "z"


@pytest.mark.parametrize("disables", [True, False])
def test_the_logging_of_the_documentation_tells_each_failure_once_in_every_process(
    tmp_path: Path, disables: bool
) -> None:
    shown = blocks(PAGES["docs/watching.md"])["mysite/settings.py"]
    logging_block = shown[shown.index("LOGGING = {") :]
    assert '"disable_existing_loggers": False' in logging_block
    if disables:
        logging_block = logging_block.replace('    "disable_existing_loggers": False,\n', "")
    shop = Newcomer.with_first_task(tmp_path, settings=logging_block)
    shop.write("shop/failing.py", FAILING)
    shop.write("shop/tasks.py", "\nfrom shop import failing\n", add=True)
    fail, afail, time_out = shop.run("manage.py", "shell", stdin=CALLS).split()[-3:]

    output = shop.run_with_errors("manage.py", "lambda_tasks", "worker", "--once")

    for id, name in ((fail, "fail"), (afail, "afail")):
        failed = rf"ERROR \[{id}\] shop\.failing\.{name} failed after [\d.]+ s\nTraceback"
        assert len(re.findall(failed, output)) == 1, output
        assert output.count(f"INFO [{id}] looking\n") == 1, output
    assert output.count("LookupError: no order 7") == 2
    warning = rf"WARNING \[{time_out}\] shop\.failing\.time_out failed after .*TimeoutError\)\n"
    assert len(re.findall(warning, output)) == 1, output
    assert "3 done, of which 2 failed" in output


def test_a_success_is_one_line_with_its_id_and_how_long_it_ran(
    handle: Handle, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "lambda_tasks.task")
    message = body(tasks.aadd, a=1)

    handle(message)

    (line,) = caplog.records
    id = str(record_of(message).id)
    ending = rf"\[{id}\] {tasks.aadd.name} succeeded after \d+\.\d\d\d s"
    assert re.fullmatch(ending, line.getMessage())
    run: Any = line
    assert (run.invocation_id, run.task_name, run.attempt) == (id, tasks.aadd.name, 1)


def test_a_duplicate_delivery_is_a_line_with_its_id(
    handle: Handle, caplog: pytest.LogCaptureFixture
) -> None:
    message = body(tasks.aadd, a=1)
    handle(message)
    caplog.set_level(logging.INFO, "lambda_tasks")

    handle(message)

    duplicate = f"[{record_of(message).id}] {tasks.aadd.name} is already finished"
    assert [each for each in caplog.messages if each.startswith(duplicate)]


def test_a_dropped_call_names_its_arguments_without_secrets_and_its_queue(
    settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    settings.LAMBDA_TASKS_NOOP_EXECUTION = True

    tasks.add.execute_on_commit(a=7)
    secretive.fail.execute_on_commit(token=SecretStr("a secret token"), password="swordfish")

    plain, hidden = caplog.messages
    assert "tests.app.tasks.add({'a': 7" in plain
    assert "for the queue 'default' is dropped" in plain
    assert "a secret token" not in hidden
