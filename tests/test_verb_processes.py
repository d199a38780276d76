"""Each verb of `manage.py lambda_tasks` as a process: its exit code, `--json` and `--dry-run`.

The processes are forked from one that has loaded the project, which takes most of a second. Three
run at a time.
"""

import json
from argparse import ArgumentParser
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final

import pytest
from django.utils.timezone import now

from lambda_tasks.management.commands.lambda_tasks import VERBS
from lambda_tasks.models import TaskRecord
from tests.app import tasks
from tests.conftest import PATIENCE_S, python_process
from tests.test_operations import HOUR, record

pytestmark = pytest.mark.django_db(transaction=True)

FORKED: Final = """
import gc, io, json, os, sys
import django
from django.core.management import ManagementUtility, call_command
from django.db import connections

django.setup()
call_command("check", stdout=io.StringIO(), stderr=io.StringIO())
call_command("lambda_tasks", "stats", stdout=io.StringIO())
connections.close_all()
gc.freeze()  # at its end each child would go through all objects, for two thirds of its time
codes, running = {}, {}


def wait_for_one():
    pid, status = os.wait()
    codes[running.pop(pid)] = os.waitstatus_to_exitcode(status)


for stage in json.loads(sys.argv[1]):
    for number, words in stage:
        if len(running) == 3:
            wait_for_one()
        if (pid := os.fork()) == 0:
            for descriptor, name in ((1, "out"), (2, "err")):
                os.dup2(os.open(f"{number}.{name}", os.O_WRONLY | os.O_CREAT), descriptor)
            sys.exit(ManagementUtility(["manage.py", "lambda_tasks", *words]).execute())
        running[pid] = number
    while running:
        wait_for_one()
print(json.dumps([codes[number] for number in sorted(codes)]))
"""


@dataclass(frozen=True)
class Row:
    """A call of a verb, the exit code, and the kinds of objects that `--json` prints."""

    words: str
    code: int
    kinds: frozenset[str] = frozenset()
    says: str = ""


def row(words: str, code: int, *kinds: str, says: str = "") -> Row:
    return Row(words, code, frozenset(kinds), says)


STAGES: Final = [
    [
        row("dev --chaos crash=many", 2, says="crash"),
        row("worker --queue nowhere", 1, says="nowhere"),
        row("invoke ping.json", 0, says='"django"'),
        row("invoke gone.json", 2, says="can't be read"),
        row("schedules", 3),
        row("schedules disable none --dry-run --json", 2, says="There is no schedule 'none'"),
        row("stats --json", 0, "total", "queue", "task"),
        row("health --json --strict", 4, "health", "problem"),
        row("list {failed} --json", 0, "record"),
        row("list --queue other", 3),
        row("show {failed} --json", 0, "record", "lineage"),
        row("show {gone}", 3, says="There is no record"),
        row("tail --for 0s --json", 0, "record"),
        row("enqueue tests.app.tasks.add a=1 --dry-run --json", 0, "enqueued"),
        row("enqueue tests.app.tasks.add a=one", 2, says="valid integer"),
        row("run {failed} --retry --dry-run --json", 0, "record"),
        row("run {gone}", 3, says="There is no record"),
        row("retry {failed} --dry-run --json", 0, "changed", "summary"),
        row("retry --yes", 2, says="No filter"),
        row("requeue {stuck} --dry-run --json", 0, "changed", "summary"),
        row("requeue {gone} --yes", 3),
        row("cancel {stuck} --dry-run --json", 0, "changed", "summary"),
        row("replay {gone} --yes --json", 3, "skipped", "summary"),
        row("workflows list --json", 3),
        row("workflows cancel {gone} --dry-run --json", 3, "skipped", "summary"),
        row("template sam", 0, says="AWSTemplateFormatVersion"),
        row("queues ensure nowhere --dry-run --json", 2, says="There is no queue 'nowhere'"),
        row("pause table --dry-run --json", 0, "queue_switched", "summary"),
        row("pause table nowhere --yes", 2, says="There is no queue 'nowhere'"),
        row("resume table --dry-run --json", 3, "queue_switched", "summary"),
        row("dlq purge nowhere --all-time --yes --json", 2, says="There is no queue 'nowhere'"),
        row("doctor --ignore queues.gone --fix --dry-run --json", 2, says="There is no check"),
        row("purge --yes", 2, says="--older-than --all-time is required"),
    ],
    [
        row("invoke failing.json", 1, says='"batchItemFailures": []'),
        row("enqueue tests.app.tasks.add a=1 --queue table --json", 0, "enqueued"),
        row("retry {failed} --yes --json", 0, "changed", "summary"),
        row("requeue {stuck} --yes --json", 0, "changed", "summary"),
    ],
    [
        row("run {failing} --json", 1, "record"),  # a singleton, as that of failing.json
        row("tick", 0, says="0 runs were enqueued by schedules"),
        row("retry {failed} --yes --json", 3, "skipped", "summary"),
        row("cancel {stuck} --yes --json", 0, "changed", "summary"),
    ],
    [
        row("cancel {stuck} --yes --json", 3, "skipped", "summary"),
        row("replay {stuck} --dry-run --json", 0, "changed", "summary"),
        row("purge {stuck} --all-time --dry-run --json", 0, "record", "summary"),
    ],
    [row("replay {stuck} --yes --json", 0, "changed", "summary")],
    [row("purge {stuck} --all-time --yes --json", 0, "summary")],
    [
        row("purge {stuck} --all-time --yes --json", 3, "summary"),
        row("worker --queue table --once", 0),  # the replay, the retry and the call by its name
    ],
    [row("worker --queue table --once --empty-exit-code 3", 3)],
]
"""The rows of a stage are about what earlier stages have left, and may run in any order."""

ROWS: Final = [each for stage in STAGES for each in stage]


@pytest.mark.parametrize("option", ["", "--json", "--dry-run"])
def test_each_verb_has_a_row_and_one_with_each_option(option: str) -> None:
    having = [name for name, verb in VERBS.items() if option in _help_of(verb)]

    rows = {each.words.split()[0] for each in ROWS if option in each.words}

    assert [name for name in having if name not in rows] == []


def test_each_verb_as_a_process_exits_with_its_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = _prepare(tmp_path)
    numbers = count()
    words = [
        [(next(numbers), each.words.format_map(ids).split()) for each in stage] for stage in STAGES
    ]
    monkeypatch.syspath_prepend(Path.cwd())
    arguments = ["-c", FORKED, json.dumps(words)]

    environment = {"DJANGO_SETTINGS_MODULE": "tests.settings", "PYTHONPATH": str(Path.cwd())}
    monkeypatch.chdir(tmp_path)
    with python_process(*arguments, **environment) as process:
        output, _ = process.communicate(timeout=2 * PATIENCE_S)

    assert process.returncode == 0, output
    wrong = [
        (each.words, code, told)
        for number, (each, code) in enumerate(zip(ROWS, json.loads(output), strict=True))
        if not _is_right(each, code, told := _told(tmp_path, number))
    ]
    assert wrong == []


def _prepare(directory: Path) -> Mapping[str, str]:
    """Write the events of `invoke` and the records of the rows; return the ids of these."""
    failing = record("QUEUED", task_name=tasks.afail_alone.name, kwargs={})
    event_of = {"Records": [_sqs_record(failing)]}
    (directory / "failing.json").write_text(json.dumps(event_of))
    (directory / "ping.json").write_text('{"lambda_tasks": "ping"}')
    return {
        "failed": str(record(queue="table").id),
        "failing": str(
            record("QUEUED", queue="table", task_name=tasks.afail_alone.name, kwargs={}).id
        ),
        "stuck": str(record("QUEUED", queue="table", enqueued_at=now() - HOUR).id),
        "gone": "7b0c2b5e-6a3e-4e55-9d9e-0f5f3f5f2f11",
    }


def _sqs_record(record: TaskRecord) -> Mapping[str, Any]:
    body = {"task_name": record.task_name, "invocation_id": str(record.id), "durable": True}
    source = "arn:aws:sqs:eu-west-1:000000000000:default"
    return {
        "messageId": "m1", "eventSource": "aws:sqs", "eventSourceARN": source,
        "body": json.dumps(body),
    }  # fmt: skip


def _help_of(verb: Any) -> str:
    parser = ArgumentParser()
    verb.add_arguments(parser)
    return parser.format_help()


def _told(directory: Path, number: int) -> tuple[str, str]:
    return tuple((directory / f"{number}.{name}").read_text() for name in ("out", "err"))  # type: ignore[return-value]


def _is_right(row: Row, code: int, told: tuple[str, str]) -> bool:
    if row.kinds and {json.loads(line)["kind"] for line in told[0].splitlines()} != row.kinds:
        return False
    return code == row.code and row.says in "".join(told)
