"""Log lines: each says whose run it is of, whichever logger wrote it, and where it runs."""

import ast
import io
import json
import logging
import math
import re
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from docs import log_messages
from lambda_tasks import handler
from lambda_tasks.context import SCHEDULE_HEADER
from lambda_tasks.logging import (
    LIBRARY_PREFIX,
    RUN_FIELDS,
    JSONFormatter,
    TaskContextFilter,
    add_run,
)
from lambda_tasks.models import TaskRecord
from lambda_tasks.workflows import group, workflow
from tests import insights
from tests.app import watched
from tests.conftest import Handle, Task, body, record_of, wake_up
from tests.newcomer import PAGES

pytestmark = pytest.mark.django_db(transaction=True)

Line = dict[str, Any]


@pytest.fixture
def lines() -> Iterator[Callable[[], list[Line]]]:
    """The log lines of this process, as its JSON formatter writes them."""
    stream = io.StringIO()
    root, json_handler = logging.getLogger(), logging.StreamHandler(stream)
    json_handler.setFormatter(JSONFormatter())
    level = root.level
    root.addHandler(json_handler)
    root.setLevel(logging.INFO)
    yield lambda: [json.loads(each) for each in stream.getvalue().splitlines()]
    root.removeHandler(json_handler)
    root.setLevel(level)


@pytest.fixture
def lines_of_worker_process(
    handle: Handle, tmp_path: Path, settings: Any
) -> Iterator[Callable[[], list[Line]]]:
    path = tmp_path / "lines"
    settings.LAMBDA_TASKS_PROCESSES = 1  # any idle process may take the next task
    handler.close()
    handle(body(watched.log_json_to, path=str(path)))
    yield lambda: [json.loads(each) for each in path.read_text().splitlines()]
    handler.close()


Lines = Callable[[], list[Line]]


def _run_of(record: TaskRecord) -> Line:
    run = {
        "invocation_id": str(record.id),
        "root_id": str(record.root_id or record.id),
        "task_name": record.task_name,
        "attempt": record.n_attempts,
        "queue": record.queue,
        "workflow": record.workflow_id and str(record.workflow_id),
        "step": record.step,
        "schedule": (record.headers or {}).get(SCHEDULE_HEADER),
    }
    return {name: value for name, value in run.items() if value is not None}


def _named(line: Line) -> Line:
    return {name: line[name] for name in RUN_FIELDS if name in line}


def _by_message(lines: list[Line]) -> dict[str, Line]:
    return {each["message"]: each for each in lines}


SAID = ["by the task", "by another logger", "in a thread", "after the commit"]


@pytest.mark.parametrize("task", [watched.say, watched.asay], ids=["sync", "async"])
def test_each_line_of_a_run_names_it_whichever_logger_wrote_it(
    task: Task, handle: Handle, queue: str, lines: Lines, lines_of_worker_process: Lines
) -> None:
    call = task.using(headers={SCHEDULE_HEADER: "every night"})
    id = call.execute_on_commit().id

    handle(wake_up(id, task.name))

    record = TaskRecord.objects.get(id=id)
    found = _by_message(lines() if task.is_async else lines_of_worker_process())
    assert [each for each in found if each in SAID] == SAID
    for each in SAID:
        assert _named(found[each]) == _run_of(record)
        assert found[each]["level"] == "INFO"
    (request_id,) = {found[each]["requestId"] for each in SAID}
    assert uuid.UUID(request_id)
    assert {found[each]["logger"] for each in SAID[1:]} == {"shop.orders"}
    assert found["by another logger"]["order_id"] == 7


def test_a_line_of_a_step_names_its_workflow(handle: Handle, queue: str, lines: Lines) -> None:
    steps = group([watched.asay.step(), watched.asay.step()])
    run = workflow("greetings", steps).execute_on_commit()
    records = TaskRecord.objects.order_by("step")

    handle(*(wake_up(each.id, each.task_name) for each in records))

    for record in records.all():
        found = [each for each in lines() if each.get("invocation_id") == str(record.id)]
        assert {"by the task", "by another logger", "in a thread"} <= _by_message(found).keys()
        assert [each for each in found if "status" in each]
        for each in found:
            assert _named(each) == _run_of(record)
            assert each["workflow"] == str(run.id)
    query = _query(PAGES["docs/watching.md"], "fields @timestamp, step")
    of_workflow = re.sub(r'"[\w-]+"', f'"{run.id}"', query)
    rows = insights.rows_of(json.dumps(each) for each in lines())
    assert {each["step"] for each in insights.run(of_workflow, rows)} == {0, 1}


def test_a_line_about_a_delivery_that_does_not_run_names_its_run(
    handle: Handle, lines: Lines
) -> None:
    message = body(watched.asay)
    handle(message)

    handle(message)

    (line,) = [each for each in lines() if "already finished" in each["message"]]
    record = record_of(message)
    named = _named(line) | {"attempt": record.n_attempts}  # no attempt of its own
    assert named == _run_of(record)
    assert not line["message"].startswith("[")


def test_a_line_of_djangos_own_task_names_its_run(
    handle: Handle, queue: str, lines_of_worker_process: Lines
) -> None:
    watched.django_say.enqueue()
    record = TaskRecord.objects.get(task_name="tests.app.watched.django_say")

    handle(wake_up(record.id, record.task_name, backend="default"))

    record.refresh_from_db()
    assert _named(_by_message(lines_of_worker_process())["by another logger"]) == _run_of(record)


def test_a_follower_has_the_root_of_its_chain(handle: Handle, queue: str, lines: Lines) -> None:
    first = body(watched.aretry_once)
    handle(first)
    retry = TaskRecord.objects.get(status="QUEUED")
    TaskRecord.objects.update(run_after=None)

    handle(wake_up(retry.id, retry.task_name))

    ends = [each for each in lines() if each["logger"] == "lambda_tasks.task"]
    root = json.loads(first)["invocation_id"]
    assert [(each["invocation_id"], each["root_id"]) for each in ends] == [
        (root, root),
        (str(retry.id), root),
    ]


@pytest.mark.parametrize(
    ("task", "level", "status", "error"),
    [
        (watched.asay, "INFO", "SUCCESS", None),
        (watched.say, "INFO", "SUCCESS", None),
        (watched.afail, "ERROR", "FAILED", "builtins.LookupError"),
        (watched.aretry_once, "WARNING", "RETRYING", "lambda_tasks.errors.Retry"),
    ],
)
def test_the_line_of_an_end_has_what_the_record_has(
    handle: Handle, queue: str, lines: Lines, task: Task, level: str, status: str, error: str
) -> None:
    message = body(task)

    handle(message)

    record = record_of(message)
    (line,) = [each for each in lines() if each.get("status")]
    assert (line["level"], line["status"], line.get("error_class")) == (level, status, error)
    assert (record.status, record.exception_class) == (status, error)
    assert line["worker_id"] == (record.worker_ids or "").splitlines()[-1]
    assert record.duration is not None
    assert line["duration_ms"] == pytest.approx(record.duration.total_seconds() * 1000, abs=0.01)
    assert _named(line) == _run_of(record)
    assert line["message"].startswith(record.task_name)  # the id is a key


def test_a_failure_in_a_worker_process_has_its_parents_worker_id(
    handle: Handle, lines_of_worker_process: Lines
) -> None:
    message = body(watched.fail)

    handle(message)

    record = record_of(message)
    (line,) = [each for each in lines_of_worker_process() if each.get("status")]
    assert line["worker_id"] == (record.worker_ids or "").strip()
    assert (line["errorType"], line["errorMessage"]) == ("LookupError", "no order 7")
    assert "in fail\n" in line["stackTrace"][-2]


def test_a_json_line_hides_secrets(handle: Handle, lines: Lines) -> None:
    handle(body(watched.aspeak, token=SecretStr("swordfish and chips"), extra={"text": "Grüße"}))

    (line,) = [each for each in lines() if each["logger"] == "shop.orders"]
    assert line["message"] == "the token is **********"
    assert line["seen"] == ["**********"]
    assert line["text"] == "Grüße"


class _Broken:
    def __str__(self) -> str:
        raise RuntimeError("has no text")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("can't be compared")

    __hash__ = None  # type: ignore[assignment]


def test_what_json_lacks_becomes_text_and_other_handlers_see_the_record_unchanged() -> None:
    circle: list[Any] = []
    circle.append(circle)
    extra = {
        "nan": math.nan,
        "key": {(1, 2): 3},
        "circle": circle,
        "path": Path("a"),
        "odd": "\ud800",
    }
    record = logging.makeLogRecord(
        {"msg": "%s of %s", "args": (1, 2), "levelname": "INFO", **extra}
    )
    before = dict(vars(record))

    line = json.loads(JSONFormatter().format(record))

    assert line["message"] == "1 of 2"
    assert (line["nan"], line["key"], line["circle"]) == ("nan", "{(1, 2): 3}", "[[...]]")
    assert (line["odd"], line["path"]) == ("\ud800", "a")
    assert vars(record) == before


def test_lambdas_own_attributes_become_its_keys(monkeypatch: Any) -> None:
    """The keys are those that Lambda's runtime writes with the log format JSON."""
    from awslambdaric.lambda_runtime_log_utils import JsonFormatter

    try:
        raise LookupError("no order 7")
    except LookupError as error:
        exc_info = (type(error), error, error.__traceback__)
    values = {"msg": "hello", "levelno": 40, "levelname": "ERROR", "exc_info": exc_info}
    values |= {
        "aws_request_id": "8476a536",
        "order_id": 7,
        "created": 1700000000.25,
        "name": "shop",
    }
    theirs = json.loads(JsonFormatter().format(logging.makeLogRecord(values)))

    ours = json.loads(JSONFormatter().format(logging.makeLogRecord(values)))

    assert ours.keys() == theirs.keys()
    same = ours.keys() - {"timestamp", "stackTrace"}
    assert {key: ours[key] for key in same} == {key: theirs[key] for key in same}
    assert ours["timestamp"] == "2023-11-14T22:13:20.250Z"


def test_the_filter_gives_every_record_every_attribute() -> None:
    record = logging.makeLogRecord({"queue": "of the caller"})

    TaskContextFilter().filter(record)

    text = "%(invocation_id)s%(root_id)s%(attempt)s%(schedule)s%(status)s%(worker_id)s%(queue)s"
    assert logging.Formatter(text).format(record) == "of the caller"


def test_structlog_names_the_run_and_hides_its_secrets() -> None:
    structlog = pytest.importorskip("structlog")
    from lambda_tasks.context import TaskContext, current_run

    run = TaskContext(task_name="shop.pay", secrets=("swordfish and chips",), queue="default")
    token = current_run.set(run)
    with structlog.testing.capture_logs(processors=[add_run]) as captured:
        structlog.get_logger().info("paid with swordfish and chips", queue="of the caller")
    current_run.reset(token)
    with structlog.testing.capture_logs(processors=[add_run]) as outside:
        structlog.get_logger().info("outside")

    (line,) = captured
    assert line["event"] == "paid with **********"
    assert (line["invocation_id"], line["task_name"]) == (str(run.invocation_id), "shop.pay")
    assert (line["attempt"], line["queue"]) == (1, "of the caller")
    assert outside == [{"event": "outside", "log_level": "info"}]


# What the documentation shows


def _query(page: str, beginning: str) -> str:
    query: str
    (query,) = [
        each
        for each in re.findall(r"```text\n(.*?)```", page, re.DOTALL)
        if each.startswith(beginning)
    ]
    return query


def test_the_queries_of_the_documentation_find_what_they_say(
    handle: Handle, queue: str, lines: Lines
) -> None:
    page = PAGES["docs/watching.md"]
    retried, failed, good = body(watched.aretry_once), body(watched.afail), body(watched.asay)
    handle(retried, failed, good, body(watched.asay))
    retry = TaskRecord.objects.get(status="QUEUED")
    TaskRecord.objects.update(run_after=None)
    handle(wake_up(retry.id, retry.task_name))
    rows = insights.rows_of(json.dumps(each) for each in lines())
    root, id = (json.loads(each)["invocation_id"] for each in (retried, good))

    of_run = re.sub(r'"[\w-]+"', f'"{id}"', _query(page, "fields @timestamp, level"))
    of_lineage = re.sub(r'"[\w-]+"', f'"{root}"', _query(page, "fields @timestamp, invocation_id"))
    by_task = _query(page, "filter logger")

    found = insights.run(of_run, rows)
    assert [each["message"] for each in found[:-1]] == SAID
    assert "succeeded" in found[-1]["message"]
    found = insights.run(of_lineage, rows)
    assert [each["invocation_id"] for each in found] == [root, str(retry.id)]
    found = insights.run(by_task, rows)
    assert {each["task_name"]: (each["runs"], each["error_rate"]) for each in found} == {
        watched.afail.name: (1, 1),
        watched.asay.name: (2, 0),
        watched.aretry_once.name: (2, 0),
    }
    assert found[0]["task_name"] == watched.afail.name
    assert all(each["p95_ms"] > 0 for each in found)


REPORTS = [
    "REPORT RequestId: 79b4f56e\tDuration: 83.10 ms\tBilled Duration: 84 ms\tMemory Size: 512 MB\t"
    "Max Memory Used: 150 MB\tInit Duration: 610.44 ms\t",
    "REPORT RequestId: 8476a536\tDuration: 3.10 ms\tBilled Duration: 4 ms\tMemory Size: 512 MB\t"
    "Max Memory Used: 150 MB\t",
]
JSON_REPORTS = [
    '{"time":"2026-05-01T10:00:00.000Z","type":"platform.report","record":{"requestId":"79b4f56e",'
    '"metrics":{"durationMs":83.1,"initDurationMs":610.44},"status":"success"}}',
    '{"time":"2026-05-01T10:00:01.000Z","type":"platform.report","record":{"requestId":"8476a536",'
    '"metrics":{"durationMs":3.1},"status":"success"}}',
]


@pytest.mark.parametrize(
    ("beginning", "reports"), [("filter @type", REPORTS), ("filter type", JSON_REPORTS)]
)
def test_the_queries_of_cold_starts_read_lambdas_own_lines(
    beginning: str, reports: list[str]
) -> None:
    query = _query(PAGES["docs/watching.md"], beginning)

    (hour,) = insights.run(query, insights.rows_of(reports))

    assert (hour["events"], hour["cold_starts"], hour["longest_ms"]) == (2, 1, 610.44)


def test_the_page_of_log_messages_has_those_of_the_code() -> None:
    hint = "Run `python -m docs.log_messages` after a change of a message, and look at the page."
    assert log_messages.PAGE.read_text() == log_messages.page(), hint


def test_each_message_of_the_code_that_begins_with_an_id_has_the_runs_attributes() -> None:
    nameless = [
        f"{path.name}:{call.lineno}"
        for path in log_messages.PACKAGE.rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call)
        and any(
            isinstance(each, ast.Constant) and str(each.value).startswith(LIBRARY_PREFIX)
            for each in call.args
        )
        and "extra" not in [each.arg for each in call.keywords]
    ]

    assert nameless == []


CALL = re.compile(
    r"^ *(?:(?:logger|.*getLogger\(\"lambda_tasks\"\))"
    r"\.(?:debug|info|warning|error|exception|critical|log)|log_error)\(",
    re.MULTILINE,
)


def test_no_message_of_the_code_is_missed_on_its_page() -> None:
    """Count the calls as text, as the page is made from what the syntax tree shows."""
    modules = set(log_messages.PACKAGE.rglob("*.py")) - {log_messages.PACKAGE / "logging.py"}

    n_calls = sum(len(CALL.findall(each.read_text())) for each in modules)

    assert n_calls == len(list(log_messages.calls()))
