"""Messages that bring their call themselves: which are run, and for which queue they speak."""

import json
import time
from datetime import timedelta
from typing import Any

import pytest
from django.core.checks import run_checks
from django.core.exceptions import ImproperlyConfigured
from django.db.models.functions import Now
from django.utils.timezone import now

from lambda_tasks import conf, handler
from lambda_tasks.backends import django_task
from lambda_tasks.core.signature import SIGNATURE_LIFETIME_S, Signer
from lambda_tasks.local import LambdaContext, LocalSqs
from lambda_tasks.models import TaskRecord
from lambda_tasks.payload import SQSLambdaTask
from lambda_tasks.tasks import cleanup_task_records
from tests.app import django_tasks, tasks
from tests.app.models import Effect
from tests.conftest import Handle, bodies_in, body, sqs_event

pytestmark = pytest.mark.django_db(transaction=True)

KEY = "key" * 16
ACCOUNT = "https://sqs.eu-central-1.amazonaws.com/123456789012/"


def message_of(task: Any, backend: str, **kwargs: Any) -> str:
    name = f"{task.func.__module__}.{task.func.__qualname__}"
    return json.dumps({"task_name": name, "kwargs": kwargs, "backend": backend})


def brought_back(event: Any) -> int:
    return len(handler.handler(event, LambdaContext())["batchItemFailures"])


@pytest.fixture
def declared(settings: Any) -> None:
    settings.LAMBDA_TASKS_DIRECT_MESSAGES = conf.Settings().direct_messages  # the default


@pytest.mark.usefixtures("declared")
def test_a_durable_task_runs_from_its_record_only(handle: Handle, caplog: Any) -> None:
    assert handle(body(tasks.leave_effect, name="brought"), body(tasks.add_direct, a=1)) == [0]

    assert not Effect.objects.exists()
    assert [each.result for each in TaskRecord.objects.all()] == [3]
    assert "tests.app.tasks.leave_effect is durable and runs only from its record" in caplog.text
    assert "set LAMBDA_TASKS_DIRECT_MESSAGES to 'any'" in caplog.text
    assert "brought" not in caplog.text


@pytest.mark.usefixtures("declared")
@pytest.mark.parametrize("durable", [True, False])
def test_the_setting_says_what_a_task_is_that_does_not(
    handle: Handle, settings: Any, durable: bool
) -> None:
    settings.LAMBDA_TASKS_DURABLE = durable

    assert handle(body(tasks.add, a=1)) == ([0] if durable else [])


@pytest.mark.usefixtures("declared")
@pytest.mark.parametrize(("backend", "is_direct"), [("default", False), ("at_once", True)])
def test_a_backend_of_django_tasks_says_it_for_its_tasks(
    handle: Handle, backend: str, is_direct: bool
) -> None:
    assert handle(message_of(django_tasks.add, backend, a=1)) == ([] if is_direct else [0])


@pytest.mark.usefixtures("declared")
def test_a_task_that_says_so_is_durable_whatever_its_backend_does(
    queue: str, sqs: LocalSqs, handle: Handle
) -> None:
    names = ("tests.app.tasks.add_durable", "lambda_tasks.tasks.cleanup_task_records")
    forged = [json.dumps({"task_name": name, "kwargs": {}, "backend": "at_once"}) for name in names]

    django_task(tasks.add_durable, backend="at_once").enqueue(a=1)
    (message,) = bodies_in(sqs, queue)

    assert handle(*forged, json.dumps(message)) == [0, 1]
    assert [each.result for each in TaskRecord.objects.all()] == [3]


@pytest.mark.usefixtures("declared")
def test_what_was_signed_may_be_of_any_task_where_that_is_wanted(
    handle: Handle, settings: Any
) -> None:
    settings.LAMBDA_TASKS_DIRECT_MESSAGES = "signed"
    settings.LAMBDA_TASKS_SIGNING_KEYS = [KEY]
    call = body(tasks.add, a=1)
    signed = Signer(KEY, conf.current().queue("default").audience).sign(call, now=time.time())

    assert handle(signed, body(tasks.add, a=1)) == [1]


@pytest.mark.parametrize(("value", "keys", "fix"), [
    ("signed", [], "Set one, or use 'declared'"),
    ("all", [KEY], "Use one of 'declared', 'signed', 'any'"),
    (True, [KEY], "Use one of 'declared', 'signed', 'any'"),
])  # fmt: skip
def test_a_setting_that_can_not_work_is_an_error(
    settings: Any, value: Any, keys: list[str], fix: str
) -> None:
    settings.LAMBDA_TASKS_DIRECT_MESSAGES = value
    settings.LAMBDA_TASKS_SIGNING_KEYS = keys

    with pytest.raises(ImproperlyConfigured, match=f"LAMBDA_TASKS_DIRECT_MESSAGES is.*{fix}"):
        conf.current()


@pytest.mark.parametrize("durable", [False, True], ids=["direct", "durable"])
def test_a_message_does_not_speak_for_another_queue(
    queue: str, sqs: LocalSqs, handle: Handle, durable: bool
) -> None:
    call = json.loads(body(tasks.ask_for_a_retry, name="again"))
    if durable:
        id = tasks.ask_for_a_retry.execute_on_commit(name="again").id
        bodies_in(sqs, queue)
        call |= {"invocation_id": str(id), "durable": True}

    assert handle(json.dumps(call | {"queue": "other"})) == []

    assert {each.queue for each in TaskRecord.objects.all()} == {"default"}
    assert TaskRecord.objects.filter(status="QUEUED").count() == 1
    assert bodies_in(sqs, f"{queue}-other") == []


@pytest.mark.parametrize(
    "source",
    [
        "arn:aws:sqs:eu-central-1:123456789012:mails",
        "arn:aws:sqs:eu-central-1:999999999999:jobs",
        "arn:aws:sqs:us-west-2:123456789012:jobs",
        "arn:aws:sqs:eu-central-1:123456789012:jobs.fifo",
        "",
    ],
    ids=["name", "account", "region", "fifo", "none"],
)
def test_messages_of_a_queue_that_is_not_in_the_settings_are_refused(
    handle: Handle, settings: Any, caplog: Any, source: str
) -> None:
    settings.LAMBDA_TASKS_QUEUES = {"default": f"{ACCOUNT}jobs"}
    event = sqs_event(body(tasks.add_direct, a=1))
    assert brought_back(event) == 0

    foreign = sqs_event(body(tasks.add_direct, a=1))
    foreign["Records"][0]["eventSourceARN"] = source

    assert brought_back(foreign) == 1
    assert f"It came from {source!r}, which is not a queue of LAMBDA_TASKS_QUEUES" in caplog.text


def test_a_function_without_an_sqs_queue_refuses_the_messages_of_any(
    handle: Handle, settings: Any, caplog: Any
) -> None:
    settings.LAMBDA_TASKS_QUEUES = {"default": {"database": True}}
    event = sqs_event(body(tasks.add_direct, a=1))
    event["Records"][0]["eventSourceARN"] = "arn:aws:sqs:eu-central-1:123456789012:jobs"

    assert brought_back(event) == 1

    assert "not a queue of LAMBDA_TASKS_QUEUES. Name the queue's URL there" in caplog.text
    assert not TaskRecord.objects.filter(status="SUCCESS").exists()


@pytest.mark.parametrize("backend", ["nowhere", "immediate"])
@pytest.mark.parametrize("task", ["tests.app.django_tasks.add", "tests.app.tasks.add"])
def test_messages_of_a_backend_that_is_not_ours_are_refused(
    handle: Handle, settings: Any, caplog: Any, backend: str, task: str
) -> None:
    kind = type(django_tasks.add.get_backend())
    dummy = f"{kind.__mro__[1].__module__.rpartition('.')[0]}.immediate.ImmediateBackend"
    settings.TASKS = settings.TASKS | {"immediate": {"BACKEND": dummy}}

    assert handle(json.dumps({"task_name": task, "kwargs": {"a": 1}, "backend": backend})) == [0]

    assert f"names the backend {backend!r} of TASKS, but this project has no Lambda" in caplog.text
    assert not TaskRecord.objects.exists()


def test_a_signed_message_is_refused_where_no_key_is_known(handle: Handle, caplog: Any) -> None:
    signed = Signer(KEY, conf.current().queue("default").audience)

    assert handle(signed.sign(body(tasks.add_direct, a=1), now=time.time())) == [0]

    assert "Give this process the keys" in caplog.text


def test_a_signed_message_that_is_replayed_finds_its_record_or_has_expired(
    handle: Handle, settings: Any, caplog: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.LAMBDA_TASKS_SIGNING_KEYS = [KEY]
    signer = Signer(KEY, conf.current().queue("default").audience)
    captured = signer.sign(body(tasks.leave_effect_direct, name="once"), now=time.time())
    assert handle(captured) == []

    TaskRecord.objects.update(end_time=now() - timedelta(seconds=SIGNATURE_LIFETIME_S - 3600))
    assert cleanup_task_records(retention_days=1) == 0
    assert handle(captured) == []

    TaskRecord.objects.update(end_time=now() - timedelta(seconds=SIGNATURE_LIFETIME_S + 3600))
    assert cleanup_task_records(retention_days=1) == 1
    later = time.time() + SIGNATURE_LIFETIME_S + 3600
    monkeypatch.setattr("lambda_tasks.execution.intake.time.time", lambda: later)
    assert handle(captured) == [0]
    assert "signature expired" in caplog.text
    assert Effect.objects.count() == 1


@pytest.mark.parametrize(
    ("choice", "keys", "told"),
    [
        ("any", [], "can run every task, with any arguments"),
        ("declared", [], "can run tests.app."),
        ("any", [KEY], None),
        ("declared", [KEY], None),
    ],
)
def test_a_deployment_is_told_that_nobody_signs_its_direct_messages(
    settings: Any, choice: str, keys: list[str], told: str | None
) -> None:
    settings.LAMBDA_TASKS_DIRECT_MESSAGES = choice
    settings.LAMBDA_TASKS_SIGNING_KEYS = keys

    checked = run_checks(tags=["security"], include_deployment_checks=True)
    warnings = [each.msg for each in checked if each.id == "lambda_tasks.W006"]

    assert len(warnings) == (told is not None)
    assert told is None or told in warnings[0]


@pytest.mark.parametrize("keys", [[], [KEY]])
def test_a_deployment_is_told_of_backends_whose_messages_run_any_task(
    settings: Any, keys: list[str]
) -> None:
    settings.LAMBDA_TASKS_SIGNING_KEYS = keys

    checked = run_checks(tags=["security"], include_deployment_checks=True)
    warnings = [each.msg for each in checked if each.id == "lambda_tasks.W007"]

    assert len(warnings) == (not keys)
    assert keys or "can run every task" in warnings[0]
    assert keys or "names the backend 'at_once'" in warnings[0]


def test_what_a_payload_stored_is_as_durable_as_its_task(settings: Any, queue: str) -> None:
    settings.LAMBDA_TASKS_DURABLE = False
    stored = SQSLambdaTask.model_validate(tasks.add_durable.serialize(a=1))
    stored.execute_on_commit()

    assert TaskRecord.objects.filter(enqueued_at__lte=Now()).count() == 1
