"""Traces: one from the request to the task, through whatever brings the task there."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.db import transaction

from lambda_tasks import handler, hooks
from lambda_tasks.core.message import MAX_HEADERS_BYTES
from lambda_tasks.hooks import beside
from lambda_tasks.local import LocalSqs
from lambda_tasks.models import TaskRecord
from lambda_tasks.workflows import group, workflow
from tests.app import graphs, tasks, tracing, watched
from tests.app.tracing import Span
from tests.conftest import AMPLE_S, Handle, Task, body, relay, wake_up

pytest.importorskip("opentelemetry.sdk")

from lambda_tasks.watching import opentelemetry

pytestmark = pytest.mark.django_db(transaction=True)

Spans = Callable[[], list[Span]]


@pytest.fixture
def spans(handle: Handle, tmp_path: Path, settings: Any) -> Iterator[Spans]:
    """Return all spans that this process and its worker process have ended."""
    elsewhere, here = tracing.FileExporter(tmp_path / "spans"), tracing.ListExporter()
    elsewhere.path.touch()
    settings.LAMBDA_TASKS_PROCESSES = 1  # any idle process may take the next task
    handler.close()
    handle(body(watched.trace_to, path=str(elsewhere.path)))
    traces = opentelemetry.instrument(tracing.provider_of(here))

    def read() -> list[Span]:
        assert beside.flush(AMPLE_S)
        return here.spans + elsewhere.read()

    yield read
    traces.disconnect()
    tracing.forget()
    handler.close()


def _one(spans: list[Span], name: str, **attributes: object) -> Span:
    (found,) = [
        each
        for each in spans
        if each["name"] == name and attributes.items() <= each["attributes"].items()
    ]
    return found


def _process(task: Task) -> str:
    return f"process {task.name}"


def _run_queued(handle: Handle) -> None:
    for record in TaskRecord.objects.filter(status="QUEUED").order_by("enqueued_at"):
        TaskRecord.objects.filter(id=record.id).update(run_after=None)
        handle(wake_up(record.id, record.task_name, record.backend))


@pytest.mark.parametrize("task", [watched.say, watched.asay], ids=["sync", "async"])
def test_a_task_is_a_child_of_its_call_and_the_call_of_the_request(
    task: Task, handle: Handle, queue: str, spans: Spans
) -> None:
    with tracing.span("GET /checkout"), transaction.atomic():
        id = task.execute_on_commit().id
    handle(wake_up(id, task.name))

    found = spans()
    request, send, process = (
        _one(found, name) for name in ("GET /checkout", "send default", _process(task))
    )
    assert (send["parent"], process["parent"]) == (request["id"], send["id"])
    assert {each["trace"] for each in (request, send, process)} == {request["trace"]}
    assert (send["kind"], process["kind"]) == ("PRODUCER", "CONSUMER")
    assert (send["status"], process["status"]) == ("UNSET", "UNSET")
    shared = {
        "messaging.system": "aws_sqs",
        "messaging.destination.name": "default",
        "messaging.message.id": str(id),
        "lambda_tasks.task": task.name,
    }
    assert send["attributes"] == shared | {
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
    }
    assert process["attributes"] == shared | {
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.message.conversation_id": str(id),
        "lambda_tasks.attempt": 1,
        "lambda_tasks.retries": 0,
        "lambda_tasks.outcome": "succeeded",
    }


@pytest.mark.parametrize(
    "task", [watched.call_another, watched.acall_another], ids=["sync", "async"]
)
def test_a_task_that_calls_another_is_its_ancestor(
    task: Task, handle: Handle, queue: str, spans: Spans
) -> None:
    handle(body(task))
    _run_queued(handle)

    found = spans()
    caller, inner = _one(found, _process(task)), _one(found, "in the task")
    called = _one(found, _process(watched.asay))
    (send,) = [each for each in found if each["id"] == called["parent"]]
    assert (inner["parent"], send["parent"]) == (caller["id"], inner["id"])
    if not task.is_async:  # it makes a second call, after its commit
        later = _one(found, _process(watched.say))
        (send,) = [each for each in found if each["id"] == later["parent"]]
        assert send["parent"] == caller["id"]
    assert {each["trace"] for each in found if each["name"] != _process(watched.trace_to)} == {
        caller["trace"]
    }


@pytest.mark.parametrize(
    ("task", "arguments"), [(graphs.sell, {}), (graphs.count, {"number": 1})], ids=["sync", "async"]
)
def test_what_follows_each_success_is_called_by_the_run(
    task: Task, arguments: dict[str, Any], handle: Handle, queue: str, spans: Spans
) -> None:
    handle(body(task, **arguments))

    found = spans()
    assert _one(found, "send default")["parent"] == _one(found, _process(task))["id"]


def test_many_calls_that_are_made_together_have_traces_with_links(
    handle: Handle, queue: str, spans: Spans, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opentelemetry, "MAX_CHILDREN", 2)

    with tracing.span("few"):
        workflow("few", group(watched.asay.step() for _ in range(2))).execute_on_commit()
    with tracing.span("many"):
        many = workflow("many", group(watched.asay.step() for _ in range(3))).execute_on_commit()
    record = TaskRecord.objects.get(workflow_id=many.id, step=2)
    handle(wake_up(record.id, record.task_name))

    found = spans()
    few, wide = _one(found, "few"), _one(found, "many")
    sends = [each for each in found if each["name"] == "send default"]
    assert [(each["parent"], each["links"]) for each in sends[:2]] == [(few["id"], [])] * 2
    assert [(each["parent"], each["links"]) for each in sends[2:]] == [(None, [wide["id"]])] * 3
    assert len({each["trace"] for each in sends[2:]} | {wide["trace"]}) == 4
    process = _one(found, _process(watched.asay))
    assert process["parent"] == sends[-1]["id"]
    assert process["attributes"]["lambda_tasks.workflow"] == str(many.id)
    assert process["attributes"]["lambda_tasks.step"] == 2


def test_a_process_is_instrumented_once() -> None:
    mine, other = (tracing.provider_of(tracing.ListExporter()) for _ in range(2))
    before = hooks.started.receivers
    traces = opentelemetry.instrument(mine)

    try:
        assert opentelemetry.instrument(mine) is traces
        with pytest.raises(ImproperlyConfigured, match=r"tracer_provider.*disconnect\(\)"):
            opentelemetry.instrument(other)
        assert hooks.started.receivers == (*before, traces.start)
    finally:
        traces.disconnect()
    opentelemetry.instrument(other).disconnect()
    assert hooks.started.receivers == before


def test_an_exporter_that_hangs_is_waited_for_once_and_shortly() -> None:
    begun, go_on = [], threading.Event()

    class Hanging:
        def force_flush(self, limit_ms: int) -> None:
            begun.append(limit_ms)
            go_on.wait(AMPLE_S)

    traces = opentelemetry.Traces(Hanging())  # type: ignore[arg-type]
    traces.flush()
    traces.flush()
    assert len(begun) == 1
    assert not go_on.is_set()

    go_on.set()
    assert traces.flushing is not None
    traces.flushing.join(AMPLE_S)
    traces.flush()
    assert len(begun) == 2


def test_djangos_own_task_is_traced(handle: Handle, queue: str, spans: Spans) -> None:
    with tracing.span("GET /checkout"):
        watched.django_call.enqueue()
    _run_queued(handle)
    _run_queued(handle)

    found = spans()
    process = _one(found, "process tests.app.watched.django_call")
    called = _one(found, _process(watched.asay))
    assert process["trace"] == called["trace"] == _one(found, "GET /checkout")["trace"]


def test_a_retry_keeps_the_trace_and_is_no_error(handle: Handle, queue: str, spans: Spans) -> None:
    id = watched.aretry_once.execute_on_commit().id
    _run_queued(handle)
    _run_queued(handle)

    found = spans()
    name, send = _process(watched.aretry_once), _one(found, "send default")
    first = _one(found, name, **{"lambda_tasks.outcome": "retried"})
    second = _one(found, name, **{"lambda_tasks.outcome": "succeeded"})
    assert (first["parent"], second["parent"]) == (send["id"], send["id"])
    assert (first["status"], first["exceptions"]) == ("UNSET", [])
    assert second["attributes"]["lambda_tasks.retries"] == 1
    conversations = {
        each["attributes"]["messaging.message.conversation_id"] for each in (first, second)
    }
    assert conversations == {str(id)}


def test_what_the_relay_sends_keeps_the_trace(
    handle: Handle, queue: str, sqs: LocalSqs, spans: Spans
) -> None:
    with tracing.span("GET /checkout"), transaction.atomic():
        watched.asay.execute_on_commit()
    sqs.client.purge_queue(QueueUrl=queue)
    TaskRecord.objects.update(sent_at=None)

    assert relay() == 1
    _run_queued(handle)

    found = spans()
    assert _one(found, _process(watched.asay))["trace"] == _one(found, "GET /checkout")["trace"]


def test_the_context_is_in_the_messages_attributes(queue: str, sqs: LocalSqs, spans: Spans) -> None:
    watched.asay.execute_on_commit()

    (message,) = sqs.client.receive_message(
        QueueUrl=queue, MessageAttributeNames=["All"], WaitTimeSeconds=5
    )["Messages"]
    send = _one(spans(), "send default")
    attributes = message["MessageAttributes"]
    assert attributes["traceparent"]["StringValue"].startswith(f"00-{send['trace']}-{send['id']}-")


@pytest.mark.parametrize(
    ("task", "exception"),
    [
        (watched.afail, "LookupError"),
        (watched.fail, "LookupError"),
        (watched.sleep_too_long, "lambda_tasks.errors.HardTimeLimitExceeded"),
        (watched.asleep_too_long, "lambda_tasks.errors.HardTimeLimitExceeded"),
    ],
    ids=["async", "sync", "sync timeout", "async timeout"],
)
def test_a_failure_is_an_error_with_its_exception(
    task: Task, exception: str, handle: Handle, spans: Spans
) -> None:
    handle(body(task))

    span = _one(spans(), _process(task))
    assert (span["status"], span["exceptions"]) == ("ERROR", [exception])
    assert span["attributes"]["lambda_tasks.outcome"] == "failed"
    assert span["attributes"]["error.type"].endswith(exception)


def test_a_killed_attempt_has_a_span_from_its_start_to_its_end(
    handle: Handle, spans: Spans
) -> None:
    handle(body(watched.die))

    span = _one(spans(), _process(watched.die))
    assert (span["status"], span["attributes"]["lambda_tasks.outcome"]) == ("ERROR", "failed")
    assert span["attributes"]["error.type"] == "lambda_tasks.errors.WorkerProcessDied"
    record = TaskRecord.objects.get(task_name=watched.die.name)
    assert record.start_time is not None
    assert abs(time.time() - span["started_s_ago"] - record.start_time.timestamp()) < 1


def test_a_secret_stays_out_of_a_span(handle: Handle, spans: Spans) -> None:
    from pydantic import SecretStr

    handle(body(watched.afail_with, token=SecretStr("swordfish and chips")))

    span = _one(spans(), _process(watched.afail_with))
    assert span["status"] == "ERROR"
    assert "swordfish" not in str(span)


def test_the_worker_traces_a_queue_in_the_table(settings: Any, spans: Spans) -> None:
    settings.LAMBDA_TASKS_QUEUES = {"default": {"database": True}}
    watched.asay.execute_on_commit()

    call_command("lambda_tasks", "worker", "--once")

    found = spans()
    process = _one(found, _process(watched.asay))
    assert process["parent"] == _one(found, "send default")["id"]
    assert process["attributes"]["messaging.system"] == "lambda_tasks"


def test_runs_leave_nothing_behind(handle: Handle, spans: Spans) -> None:
    handle(body(watched.asay), body(watched.afail), body(watched.die))

    spans()
    (traces,) = [each.__self__ for each in hooks.ended.receivers]  # type: ignore[attr-defined]
    assert traces.open == {}
    with pytest.raises(AssertionError, match="no span"):
        assert tracing.is_current(), "no span"


def test_a_long_state_of_the_trace_keeps_the_call(queue: str, sqs: LocalSqs) -> None:
    state = ",".join(f"vendor{number}=value" for number in range(60))
    assert 512 < len(state) < MAX_HEADERS_BYTES
    headers = {"traceparent": "00-" + "1" * 32 + "-" + "2" * 16 + "-01", "tracestate": state}

    tasks.aadd.using(headers=headers).execute_on_commit(a=1)

    (message,) = sqs.client.receive_message(
        QueueUrl=queue, MessageAttributeNames=["All"], WaitTimeSeconds=5
    )["Messages"]
    assert message["MessageAttributes"].keys() == {"traceparent"}


def test_a_direct_message_has_room_for_its_attributes(queue: str, settings: Any) -> None:
    from lambda_tasks.errors import MessageTooLarge

    settings.LAMBDA_TASKS_DURABLE = False
    limited = {"queue_url": queue, "max_message_bytes": 2000}
    settings.LAMBDA_TASKS_QUEUES = settings.LAMBDA_TASKS_QUEUES | {"default": limited}
    text = "x" * 1500
    headers = {"traceparent": "00-" + "1" * 32 + "-" + "2" * 16 + "-01"}
    watched.aecho.execute_on_commit(text=text)

    with pytest.raises(MessageTooLarge):
        watched.aecho.using(headers=headers).execute_on_commit(text=text)


def test_an_async_call_is_traced(handle: Handle, queue: str, spans: Spans) -> None:
    async def call() -> None:
        with tracing.span("GET /checkout"):
            await watched.asay.aexecute_on_commit()

    async_to_sync(call)()

    found = spans()
    assert _one(found, "send default")["parent"] == _one(found, "GET /checkout")["id"]
