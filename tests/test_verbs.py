"""The verbs of `manage.py lambda_tasks` that show and steer calls: output, exit codes, mistakes."""

import io
import json
import os
import pty
import re
import signal
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.core.management import CommandError, ManagementUtility, call_command
from django.utils.timezone import now

from lambda_tasks.local import LocalSqs
from lambda_tasks.models import RunProgress, TaskRecord
from tests.app import tasks
from tests.conftest import PATIENCE_S, bodies_in, python_process, relay
from tests.test_operations import ADD, HOUR, MINUTE, record, ticked

pytestmark = pytest.mark.django_db(transaction=True)


class Done:
    """What a verb has printed, and its exit code."""

    def __init__(self, output: str, code: int) -> None:
        self.output = output
        self.code = code

    @property
    def objects(self) -> list[Any]:
        return [json.loads(line) for line in self.output.splitlines()]

    def of_kind(self, kind: str) -> list[Any]:
        return [each for each in self.objects if each["kind"] == kind]


def verb(*words: str, stdout: Any = None) -> Done:
    """Run a verb in this process."""
    output = stdout or io.StringIO()
    try:
        call_command("lambda_tasks", *words, stdout=output)
    except SystemExit as ended:
        assert isinstance(ended.code, int)
        return Done(output.getvalue(), ended.code)
    return Done(output.getvalue(), 0)


def refused(*words: str) -> str:
    """Run a verb that does not understand its arguments; return what it says."""
    before = list(TaskRecord.objects.order_by("id").values())
    with pytest.raises(CommandError) as caught:
        call_command("lambda_tasks", *words, stdout=io.StringIO())
    # argparse's own errors exit with 2 from a command line; call_command() raises them with 1.
    assert caught.value.returncode == 2 or str(caught.value).startswith("Error: ")
    assert list(TaskRecord.objects.order_by("id").values()) == before
    return str(caught.value)


# list


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_terminal_of_any_encoding_shows_what_it_can(encoding: str) -> None:
    one = record("FAILED", kwargs={"a": "é 中"}, traceback="ValueError: é 中")
    shown = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    as_json = io.TextIOWrapper(io.BytesIO(), encoding=encoding)

    for words in (["list"], ["show", str(one.id)]):
        call_command("lambda_tasks", *words, stdout=shown)
        call_command("lambda_tasks", *words, "--json", stdout=as_json)

    escaped = "é 中".encode(encoding, "backslashreplace").decode(encoding)
    for each in (shown, as_json):
        each.seek(0)
    text = shown.read()
    assert text.count(f"(a='{escaped}')") == 2
    assert f"ValueError: {escaped}" in text
    for line in as_json:
        assert json.loads(line)["kwargs"] == {"a": "é 中"}


def test_list_shows_the_newest_calls_with_their_errors() -> None:
    old = record("SUCCESS", enqueued_at=now() - 2 * HOUR, kwargs={"a": 7})
    new = record()

    lines = verb("list").output.splitlines()

    assert [str(new.id) in lines[0], str(old.id) in lines[1]] == [True, True]
    assert "FAILED" in lines[0]
    assert "ValueError: what was wrong" in lines[0]
    assert "tests.app.tasks.add(a=7)" in lines[1]
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d\d:\d\d  FAILED", lines[0])


def test_list_filters_by_all_that_is_known_of_a_call() -> None:
    wanted = record(queue="other", kwargs={"a": 7}, enqueued_at=now() - 2 * MINUTE)
    record("FAILED", queue="default", kwargs={"a": 7}, enqueued_at=now() - 2 * MINUTE)
    record("FAILED", queue="other", kwargs={"a": 8}, enqueued_at=now() - 2 * MINUTE)
    record("FAILED", queue="other", kwargs={"a": 7}, enqueued_at=now() - HOUR)
    record("FAILED", queue="other", kwargs={"a": 7}, enqueued_at=now())
    record("SUCCESS", queue="other", kwargs={"a": 7}, enqueued_at=now() - 2 * MINUTE)

    found = verb(
        "list", "--json", "--status", "failed", "--task", ADD, "--queue", "other",
        "--argument", "a=7", "--since", "30m", "--until", "1m", "--error", "ValueError",
    )  # fmt: skip

    assert [each["id"] for each in found.objects] == [str(wanted.id)]
    assert verb("list", str(wanted.id), "--json").objects[0]["kwargs"] == {"a": 7}
    assert verb("list", "--since", "2026-01-01T00:00", "--limit", "2").code == 0


def test_list_that_finds_nothing_exits_with_three_or_what_it_is_told() -> None:
    assert verb("list", "--queue", "other").code == 3
    assert verb("list", "--empty-exit-code", "0").code == 0


def test_list_says_how_far_it_has_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lambda_tasks.records.listing.SEARCHED", 2)
    old = record("FAILED", enqueued_at=now() - 2 * HOUR)
    for _ in range(3):
        record("SUCCESS", enqueued_at=now())

    found = verb("list", "--status", "FAILED")

    assert str(old.id) not in found.output
    assert "--all searches the older ones" in found.output
    assert str(old.id) in verb("list", "--status", "FAILED", "--all").output


def test_secret_arguments_are_shown_by_no_verb(settings: Any) -> None:
    settings.LAMBDA_TASKS_REDACT = ["a"]
    hidden = record(kwargs={"a": 4711})

    for words in (["list"], ["show", str(hidden.id)], ["tail", "--for", "0s"]):
        for form in ([], ["--json"]):
            output = verb(*words, *form).output
            assert str(hidden.id) in output
            assert "4711" not in output


# show


def test_show_tells_the_whole_story_of_a_call() -> None:
    failed = record(n_attempts=2, worker_ids="first:1\nsecond:2\n", headers={"tenant": "a"})
    RunProgress.objects.create(record_id=failed.id, progress={"done": 3}, shown_at=now())
    cure = record("SUCCESS", root_id=failed.id, enqueued_at=now())

    story = verb("show", str(failed.id)).output

    for words in ("add(a=1): FAILED", "first:1, second:2", "tenant", "'done': 3", "Lineage"):
        assert words in story
    assert f"It was put right by {cure.id}." in story
    assert story.rstrip().endswith("ValueError: what was wrong")


def test_compensations_put_no_failure_right() -> None:
    failed = record()
    record("SUCCESS", root_id=failed.id, enqueued_at=now(), headers={"lambda_tasks.undo": True})

    story = verb("show", str(failed.id)).output

    assert "Lineage" in story
    assert "put right" not in story


def test_show_has_all_of_it_as_json() -> None:
    failed = record(worker_ids="first:1\n")
    retried = record("RETRYING", root_id=failed.id, enqueued_at=now() - 2 * HOUR)

    shown = verb("show", str(failed.id), "--json")

    [told] = shown.of_kind("record")
    assert (told["id"], told["worker_ids"], told["retry_of"]) == (str(failed.id), ["first:1"], None)
    assert "what was wrong" in told["traceback"]
    assert "claim_token" not in told
    lineage = [each["id"] for each in shown.of_kind("lineage")]
    assert lineage == [str(retried.id), str(failed.id)]


def test_show_of_a_call_without_a_record_exits_with_three() -> None:
    shown = verb("show", id := str(uuid.uuid4()))

    assert (shown.code, shown.output) == (3, f"There is no record of {id}.\n")


# tail


def test_tail_begins_with_the_last_ends_and_follows_new_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lambda_tasks.management.verbs.tail.POLL_EVERY_S", 0.01)
    ended = [record("SUCCESS", end_time=now() - n * MINUTE) for n in range(3)]
    later: list[TaskRecord] = []

    class Screen(io.StringIO):
        """It has a run end, and asks for the end when that is shown."""

        def flush(self) -> None:
            if not later:
                later.append(record("FAILED", end_time=now()))
            elif str(later[0].id) in self.getvalue() and "followed" not in self.getvalue():
                raise KeyboardInterrupt

    screen = Screen()
    followed = verb("tail", "-n", "2", "--for", "180s", stdout=screen)

    lines = followed.output.splitlines()
    assert [str(ended[1].id) in lines[0], str(ended[0].id) in lines[1]] == [True, True]
    assert str(later[0].id) in lines[2]
    assert sum(str(later[0].id) in line for line in lines) == 1
    assert lines[-1] == "No longer followed. The tasks go on."


# stats and health


def test_stats_are_a_table_for_people_and_lines_for_machines() -> None:
    record("QUEUED", enqueued_at=now() - MINUTE)
    record("FAILED", queue="other")

    text = verb("stats").output
    counted = verb("stats", "--json", "--window", "1d")

    assert text.splitlines()[1].split()[:7] == ["all", "1", "0", "0", "0", "0", "1"]
    [total] = counted.of_kind("total")
    assert (total["waiting"], total["failed"], total["is_complete"]) == (1, 1, True)
    queues = {each["name"]: each["failed"] for each in counted.of_kind("queue")}
    assert queues["other"] == 1
    assert [each["name"] for each in counted.of_kind("task")] == [ADD]


def test_health_exits_with_four_where_it_is_critical() -> None:
    ticked()
    assert (verb("health").output, verb("health").code) == ("ok\n", 0)

    record("QUEUED", enqueued_at=now() - 8 * MINUTE)
    warned = verb("health", "--json")
    assert (warned.code, warned.objects[0]["status"]) == (0, "warning")
    assert verb("health", "--strict").code == 4

    critical = verb("health", "--max-age", "1m", "--queue", "default")
    assert critical.code == 4
    assert "The oldest call waits" in critical.output
    assert verb("health", "--queue", "other").code == 0


# retry, replay, requeue, cancel, purge


def test_retry_says_what_it_has_done_and_what_it_has_left_out() -> None:
    good = record(queue="table")
    bad = record(task_name="tests.app.tasks.gone", queue="table")

    done = verb("retry", "--status", "FAILED", "--yes")

    assert f"{bad.id} is left out: 'tests.app.tasks.gone' is not a task" in done.output
    assert done.output.endswith("1 call was retried.\n")
    good.refresh_from_db()
    assert good.status == "QUEUED"


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["retry"], "FAILED"),
        (["replay", "--change", "b=5"], "SUCCESS"),
        (["requeue"], "QUEUED"),
        (["cancel"], "QUEUED"),
    ],
)
def test_each_change_has_a_dry_run_json_and_a_code_for_nothing_to_do(
    words: list[str], status: str
) -> None:
    found = record(status, queue="table")

    planned = verb(*words, str(found.id), "--dry-run", "--json")
    done = verb(*words, str(found.id), "--yes", "--json")
    missing = verb(*words, str(uuid.uuid4()), "--yes", "--empty-exit-code", "9")

    assert planned.of_kind("changed") == [{"kind": "changed", "id": str(found.id), "dry_run": True}]
    [changed] = done.of_kind("changed")
    assert (changed["id"], changed["dry_run"]) == (str(found.id), False)
    assert done.of_kind("summary")[0]["done"] == 1
    assert (planned.code, done.code, missing.code) == (0, 0, 9)
    if words[0] == "replay":
        assert TaskRecord.objects.get(id=changed["new_id"]).kwargs == {"a": 1, "b": 5}


def test_purge_deletes_what_is_known_of_one_customer() -> None:
    record("SUCCESS", kwargs={"user_id": 7})
    kept = record("SUCCESS", kwargs={"user_id": 8})
    words = ["purge", "--argument", "user_id=7", "--all-time"]

    planned = verb(*words, "--dry-run", "--json")
    done = verb(*words, "--yes")
    again = verb(*words, "--yes")

    assert [each["kind"] for each in planned.objects] == ["record", "summary"]
    assert planned.objects[0]["kwargs"] == {"user_id": 7}
    assert planned.objects[1]["done"] == 1
    assert "1 record was deleted" in done.output
    assert (planned.code, done.code, again.code) == (0, 0, 3)
    assert TaskRecord.objects.get().id == kept.id


@contextmanager
def terminal(answer: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let standard input be a terminal at which somebody has typed an answer."""
    ours, theirs = pty.openpty()
    os.write(ours, answer.encode())
    with os.fdopen(theirs) as typed, monkeypatch.context() as patch:
        patch.setattr(sys, "stdin", typed)
        yield
    os.close(ours)


def test_a_person_is_asked_with_the_number_and_the_first_ids(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failed = [record(queue="table") for _ in range(12)]

    with terminal("n\n", monkeypatch):
        refused_one = verb("retry", "--status", "FAILED")
    assert "Retry 12 calls? Their records then forget how they ended" in refused_one.output
    assert "and 2 more" in refused_one.output
    assert sum(str(each.id) in refused_one.output for each in failed) == 10
    assert "tests.app.tasks.add(a=1)" in refused_one.output
    assert refused_one.code == 3
    assert TaskRecord.objects.filter(status="FAILED").count() == 12

    with terminal("y\n", monkeypatch):
        verb("retry", "--status", "FAILED")
    assert TaskRecord.objects.filter(status="QUEUED").count() == 12


def test_a_purge_asks_with_the_records_that_it_would_delete(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old = [record("SUCCESS", end_time=now() - n * HOUR) for n in range(12, 0, -1)]

    with terminal("n\n", monkeypatch):
        asked = verb("purge", "--all-time")

    shown = [str(each.id) in asked.output for each in old]
    assert shown == [True] * 10 + [False] * 2
    assert "and 2 more" in asked.output
    assert "Delete 12 records for good?" in asked.output
    assert asked.code == 3
    assert TaskRecord.objects.count() == 12


@pytest.mark.parametrize(
    ("words", "total"),
    [
        (["retry", "--status", "FAILED"], "12 calls would be retried."),
        (["purge", "--all-time"], "12 records would be deleted"),
        (["run", "--queue", "table"], "12 calls due."),
    ],
)
def test_a_dry_run_shows_the_first_ten(words: list[str], total: str) -> None:
    found = [record("QUEUED" if words[0] == "run" else "FAILED", queue="table") for _ in range(12)]

    planned = verb(*words, "--dry-run")

    assert sum(str(each.id) in planned.output for each in found) == 10
    assert "  and 2 more\n" in planned.output
    assert total in planned.output.splitlines()[-1]


@pytest.mark.parametrize("words", [["retry", "--status", "FAILED"], ["purge", "--all-time"]])
def test_where_nobody_can_be_asked_nothing_is_changed(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    record()
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))

    assert "Add --yes" in refused(*words)


def test_a_terminal_shows_a_bar_and_ctrl_c_says_how_far_it_came(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lambda_tasks.operations.steering.CHUNK_SIZE", 2)
    for _ in range(6):
        record(queue="table")

    class Terminal(io.StringIO):
        """It is closed by Ctrl-C when four of six are done."""

        def isatty(self) -> bool:
            return True

        def flush(self) -> None:
            if "4 of 6" in self.getvalue() and "Interrupted" not in self.getvalue():
                self.write("Interrupted")
                raise KeyboardInterrupt

    screen = Terminal()
    with pytest.raises(CommandError, match="Interrupted: 4 of 6 were retried") as caught:
        call_command("lambda_tasks", "retry", "--status", "FAILED", "--yes", stdout=screen)

    assert caught.value.returncode == 130
    assert f"[{'#' * 10}{'.' * 20}] 2 of 6 retried" in screen.getvalue()
    assert verb("retry", "--status", "FAILED", "--yes").output == "2 calls were retried.\n"


# enqueue and run


@pytest.mark.parametrize(
    "words",
    [["a=1", "b=2"], ["--arguments", '{"a": 1, "b": 2}']],
)
def test_enqueue_takes_arguments_as_words_or_as_json(words: list[str]) -> None:
    assert "takes these arguments" in verb("enqueue", ADD, *words, "--dry-run").output
    assert not TaskRecord.objects.exists()

    done = verb("enqueue", ADD, *words, "--queue", "table", "--run-after", "2h", "--priority", "5")

    called = TaskRecord.objects.get(id=done.output.strip())
    assert (called.kwargs, called.queue, called.priority) == ({"a": 1, "b": 2}, "table", 5)
    assert called.run_after is not None
    assert called.run_after > now() + HOUR


def test_a_word_is_text_where_the_task_wants_text() -> None:
    verb("enqueue", tasks.leave_effect.name, "name=7", "--queue", "table")
    verb("enqueue", tasks.echo.name, "value=[1, 2]", "--queue", "table")

    arguments = list(TaskRecord.objects.order_by("enqueued_at").values_list("kwargs", flat=True))
    assert arguments == [{"name": "7"}, {"value": [1, 2]}]


def test_run_exits_with_one_where_a_task_has_failed() -> None:
    assert verb("run", "--queue", "table").code == 3
    for number in range(2):
        record("QUEUED", queue="table", task_name=tasks.aadd.name, kwargs={"a": number})
    bad = record("QUEUED", queue="table", task_name=tasks.afail_alone.name, kwargs={}, priority=1)

    planned = verb("run", "--queue", "table", "--dry-run", "--json")
    first = verb("run", "--queue", "table", "--max-tasks", "1", "--json")
    rest = verb("run", "--queue", "table", "--within", "10m")
    again = verb("run", str(bad.id), "--retry", "--failed-exit-code", "7")

    assert planned.of_kind("record")[0]["id"] == str(bad.id)
    assert planned.of_kind("summary")[0]["waiting"] == 3
    assert (first.code, first.objects[0]["failed"]) == (1, 1)
    assert (rest.code, rest.output.split()[0]) == (0, "2")
    assert (again.code, str(bad.id) in again.output) == (7, True)


def test_run_of_one_call_says_by_its_code_what_became_of_it() -> None:
    good = record("QUEUED", queue="table", task_name=tasks.aadd.name)
    held = record("RUNNING", task_name=tasks.aadd.name)
    gone = str(uuid.uuid4())

    assert verb("run", str(good.id)).code == 0
    assert verb("run", str(held.id)).code == 3
    unknown = verb("run", gone)
    assert (unknown.code, unknown.output) == (3, f"There is no record of {gone}.\n")
    ended = verb("run", str(good.id), "--empty-exit-code", "9")
    assert (ended.code, "Replay it" in ended.output) == (9, True)


def test_a_worker_tells_by_its_code_whether_tasks_failed_or_there_were_none() -> None:
    words = ["worker", "--queue", "table", "--once", "--failed-exit-code", "7"]
    record("QUEUED", queue="table", task_name=tasks.afail_alone.name, kwargs={})

    assert verb(*words, "--empty-exit-code", "9").code == 7
    assert verb(*words, "--empty-exit-code", "9").code == 9
    assert verb(*words).code == 0


# the shell


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("lambda_tasks re", ["replay", "requeue", "retry"]),
        ("lambda_tasks enqueue tests.app.tasks.add_d", ["tests.app.tasks.add_direct"]),
        ("lambda_tasks retry --task tests.app.tasks.add_o", ["tests.app.tasks.add_once"]),
        ("lambda_tasks list --queue ta", ["table"]),
        ("lambda_tasks list --status FA", ["FAILED"]),
        ("lambda_tasks pause ta", ["table"]),
        ("lambda_tasks purge --all", ["--all-time"]),
        ("lambda_tasks nothing x", []),
    ],
)
def test_bash_completes_verbs_options_and_the_names_of_tasks(
    line: str, offered: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("DJANGO_AUTO_COMPLETE", "1")
    monkeypatch.setenv("COMP_WORDS", f"manage.py {line}")
    monkeypatch.setenv("COMP_CWORD", str(len(line.split())))

    with pytest.raises(SystemExit):
        ManagementUtility(["manage.py"]).execute()

    printed = capsys.readouterr().out.split()
    assert [each for each in offered if each not in printed] == []
    assert len(printed) <= max(len(offered), 1) + 1


def django(*words: str) -> Any:
    """Start the command in a process of its own."""
    options = ("--settings", "tests.settings", "--no-color", "-v", "1")
    return python_process("-m", "django", "lambda_tasks", *words, *options)


def test_the_exit_codes_are_those_of_the_process() -> None:
    record("QUEUED", queue="table", task_name=tasks.afail_alone.name, kwargs={})
    for _ in range(2):
        record("RUNNING", queue="other", lease_until=now() - HOUR, look_at=now() + HOUR)

    with (
        django("run", "--queue", "table", "--max-tasks", "1") as running,
        django("purge", "--yes") as wrong,
        django("list", "--queue", "fifo") as empty,
        django("health", "--queue", "other") as unwell,
    ):
        codes = {}
        for process in (running, wrong, empty, unwell):
            output, _ = process.communicate(timeout=PATIENCE_S)
            codes[process] = process.returncode, output

    assert [code for code, _ in codes.values()] == [1, 2, 3, 4], codes


def test_a_retry_that_is_killed_and_run_again_retries_none_twice(queue: str, sqs: LocalSqs) -> None:
    failed = {record().id for _ in range(10)}
    code = """
import os, signal, django
django.setup()
from lambda_tasks.operations import steering
steering.CHUNK_SIZE = 4
def kill(done, total):
    done >= 8 and os.kill(os.getpid(), signal.SIGKILL)
steering.retry(status="FAILED", on_progress=kill)
"""

    with python_process("-c", code, LAMBDA_TASKS_TEST_QUEUE=queue) as killed:
        output, _ = killed.communicate(timeout=PATIENCE_S)
    assert killed.returncode == -signal.SIGKILL, output
    assert TaskRecord.objects.filter(status="QUEUED").count() == 8
    verb("retry", "--status", "FAILED", "--yes")
    relay()

    sent = [uuid.UUID(each["invocation_id"]) for each in bodies_in(sqs, queue)]
    assert set(sent) == failed
    assert TaskRecord.objects.filter(status="QUEUED").count() == 10


# mistakes


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["list", "--status", "BROKEN"], "There is no status 'BROKEN'"),
        (["list", "--since", "2 hours"], "neither a time with its unit"),
        (["list", "--argument", "user_id"], "is not NAME=VALUE"),
        (["list", "--task", "tests.app.tasks.ad"], "Did you mean 'tests.app.tasks.add"),
        (["tail", "--queue", "nowhere"], "There is no queue 'nowhere', and no record of one"),
        (["list", "--limit", "0"], "--limit takes a number from 1 on"),
        (["list", "--empty-exit-code", "256"], "from 0 to 255"),
        (["show", "7"], "'7' is not the id of an invocation"),
        (["tail", "-n", "-1"], "--lines takes a number"),
        (["stats", "--window", "0s"], "window is"),
        (["stats", "--window", "90"], "is not a time with its unit"),
        (["health", "--queue", "tabel"], "Did you mean 'table'"),
        (["health", "--max-failure-rate", "7"], "Use a number from 0 to 1"),
        (["retry", "--yes"], "No filter says which records are meant"),
        (["retry", "7", "--yes"], "'7' is not the id of an invocation"),
        (["replay", "--status", "FAILED", "--change", "x", "--yes"], "is not NAME=VALUE"),
        (["requeue", "--older-than", "0m", "--yes"], "older_than is"),
        (["cancel", "--yes"], "No filter says which records are meant"),
        (["purge", "--yes"], "one of the arguments --older-than --all-time is required"),
        (["purge", "--all-time", "--older-than", "1d", "--yes"], "not allowed with argument"),
        (["purge", "--all-time", "--chunk-size", "0", "--yes"], "chunk_size is 0"),
        (["run", "7"], "'7' is not the id of an invocation"),
        (["run", "--retry"], "--retry needs the ID of a call"),
        (["run", str(uuid.UUID(int=1)), "--queue", "table"], "can't go with an ID"),
        (["run", "--max-tasks", "0"], "max_tasks is 0"),
        (["run", "--queue", "nowhere"], "no queue 'nowhere'"),
        (["enqueue", "tests.app.tasks.ad"], "Did you mean 'tests.app.tasks.add"),
        (["enqueue", "add_durable"], "Did you mean 'tests.app.tasks.add_durable'?"),
        (
            ["list", "--task", "aadd"],
            "'tests.app.django_tasks.aadd' or 'tests.app.tasks.aadd'?",
        ),
        (
            ["enqueue", ADD, "a=one"],
            "can't take the arguments of this call: a: Input should be a valid integer",
        ),
        (["enqueue", ADD, "--arguments", "["], "--arguments is not JSON"),
        (["enqueue", ADD, "--arguments", "[]"], "--arguments is no JSON object"),
        (["enqueue", ADD, "a=1", "--arguments", "{}"], "Use either NAME=VALUE or --arguments"),
        (["enqueue", ADD, "a=1", "--queue", "nowhere"], "There is no queue 'nowhere'"),
        (["enqueue", ADD, "a=1", "--priority", "101"], "priority is 101"),
    ],
)
def test_mistakes_are_told_and_nothing_is_changed(words: list[str], message: str) -> None:
    record()
    record("QUEUED")

    assert message in refused(*words)
