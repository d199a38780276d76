"""Secret arguments: they arrive, and nobody sees them on the way."""

import json
import logging
import sys
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from io import StringIO
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.checks import run_checks
from django.core.exceptions import ImproperlyConfigured
from django.test import Client
from pydantic import SecretStr, ValidationError

from lambda_tasks import Invocation, conf
from lambda_tasks.context import TaskContext, current_run
from lambda_tasks.core.arguments import Arguments
from lambda_tasks.core.message import Message, Outgoing
from lambda_tasks.execution.locks import SingletonLocks
from lambda_tasks.local import LocalSqs
from lambda_tasks.logging import TaskContextFilter, task_logger
from lambda_tasks.models import TaskRecord
from lambda_tasks.payload import SQSLambdaTask
from lambda_tasks.ports import Delivery
from lambda_tasks.records import outbox
from lambda_tasks.records.clock import Now
from tests.app import django_tasks, secretive, tasks
from tests.conftest import Handle, body, record_of, relay, wake_up

pytestmark = pytest.mark.django_db(transaction=True)

TOKEN, PASSWORD = "a-token-of-the-bank", "swordfish"


def _table() -> str:
    return str(list(TaskRecord.objects.values()))


def _replay(client: Client, record: TaskRecord) -> str:
    client.force_login(User.objects.create_superuser("admin"))
    answer = client.post(
        "/admin/lambda_tasks/taskrecord/",
        {"action": "replay", "_selected_action": [str(record.id)], "confirmed": "yes"},
        follow=True,
    )
    return answer.content.decode()


def test_a_secret_arrives_and_is_nowhere_in_the_table(
    queue: str, work_off: Callable[[str], int]
) -> None:
    first = secretive.pay.execute_on_commit(account="7", token=SecretStr(TOKEN))
    second = secretive.apay.execute_on_commit(tokens=[SecretStr(TOKEN), SecretStr("other")])
    third = secretive.pay_direct.execute_on_commit(token=SecretStr(TOKEN))
    waiting = _table()

    work_off(queue)

    assert [each.result(timeout=5) for each in (first, second, third)] == [19, [19, 5], 19]
    assert TOKEN not in waiting + _table()
    record = first.record()
    assert record is not None
    assert (record.kwargs, record.secrets) == ({"account": "7", "token": "**********"}, None)


def test_the_relay_sends_a_secret_from_its_row(
    sqs: LocalSqs, queue: str, work_off: Callable[[str], int]
) -> None:
    invocation = secretive.pay.execute_on_commit(account="7", token=SecretStr(TOKEN))
    sqs.client.purge_queue(QueueUrl=queue)
    TaskRecord.objects.update(sent_at=None)

    assert relay() == 1
    work_off(queue)

    assert invocation.result(timeout=5) == 19


def test_ends_that_are_written_together_leave_no_secret(handle: Handle) -> None:
    handle(*(body(secretive.apay, tokens=[SecretStr(TOKEN)]) for _ in range(6)))

    assert TaskRecord.objects.filter(status="SUCCESS", secrets=None).count() == 6


def test_a_task_that_was_started_too_often_keeps_its_secrets_as_any_that_failed(
    handle: Handle,
) -> None:
    message = body(secretive.fail, token=SecretStr(TOKEN), password=PASSWORD)
    handle(message)
    TaskRecord.objects.exclude(id=record_of(message).id).update(n_attempts=5)
    retry = TaskRecord.objects.get(n_attempts=5)
    assert retry.secrets

    handle(body(secretive.fail, token=SecretStr(TOKEN), password=PASSWORD, _id=retry.id))

    failed = TaskRecord.objects.get(id=retry.id, status="FAILED")
    assert failed.secrets == retry.secrets
    assert failed.look_at is not None


def test_a_row_that_was_sealed_with_another_key_holds_up_no_other(
    settings: Any, queue: str, caplog: Any
) -> None:
    for key in ("old key", "new key"):
        settings.SECRET_KEY = key
        secretive.pay.execute_on_commit(account=key, token=SecretStr(TOKEN))
    TaskRecord.objects.update(sent_at=None)

    assert relay() == 1
    assert "keep old keys in LAMBDA_TASKS_SECRETS_KEYS" in caplog.text

    settings.SECRET_KEY_FALLBACKS = ["old key"]
    TaskRecord.objects.update(look_at=Now())
    assert relay() == 1


def test_a_traceback_and_the_tasks_log_lines_are_redacted(
    handle: Handle, settings: Any, queue: str, caplog: Any
) -> None:
    settings.LAMBDA_TASKS_REDACT = ["password"]
    message = body(secretive.fail, token=SecretStr(TOKEN), password=PASSWORD)

    with caplog.at_level("INFO"):
        handle(message)

    retry = TaskRecord.objects.get(status="QUEUED")
    assert "********** and ********** were refused" in (record_of(message).traceback or "")
    assert "using ********** and **********" in caplog.text
    assert retry.secrets
    for text in (_table(), caplog.text):
        assert TOKEN not in text
        assert PASSWORD not in text


def test_the_filter_redacts_what_a_task_says_through_other_loggers(
    handle: Handle,
) -> None:
    lines = StringIO()
    log = logging.StreamHandler(lines)
    log.addFilter(TaskContextFilter())
    secretive.shop_logger.addHandler(log)
    try:
        handle(body(secretive.log_elsewhere, token=SecretStr(TOKEN)))
    finally:
        secretive.shop_logger.removeHandler(log)

    assert lines.getvalue() == "charging **********\n"


def test_the_filter_redacts_tracebacks_and_what_a_caller_has_added(handle: Handle) -> None:
    pem = "-----BEGIN KEY-----\nMIIEvQIBADANBgkq\n-----END KEY-----"
    records: list[logging.LogRecord] = []
    log = logging.StreamHandler(lines := StringIO())
    log.addFilter(TaskContextFilter())
    log.addFilter(lambda record: not records.append(record))  # type: ignore[func-returns-value]
    secretive.shop_logger.addHandler(log)
    message = body(secretive.log_errors, token=SecretStr(pem), pin=SecretStr("123"))
    try:
        handle(message)
    finally:
        secretive.shop_logger.removeHandler(log)

    assert "MIIEvQ" not in lines.getvalue()
    assert "KeyError: '**********'" in lines.getvalue()
    assert "pin ********** of 12345" in lines.getvalue()
    assert [each.exc_info for each in records] == [None, None]
    assert vars(records[0])["sent"] == {"token": "**********"}


class Unspeakable:
    def __str__(self) -> str:
        raise ValueError(TOKEN)


@pytest.mark.parametrize(
    ("line", "args", "extra"),
    [("%d of %s", (TOKEN, 1), {"more": TOKEN}), ("sent", (), {"more": Unspeakable()})],
    ids=["a wrong format", "a value that can't be told"],
)
def test_a_log_line_that_can_not_be_redacted_is_no_failure_of_its_task(
    caplog: Any, line: str, args: tuple[object, ...], extra: dict[str, Any]
) -> None:
    running = current_run.set(TaskContext(task_name="pay", secrets=(TOKEN,)))
    try:
        task_logger.warning(line, *args, extra=extra)
    finally:
        current_run.reset(running)

    assert "A log line can't be redacted" in caplog.text
    assert TOKEN not in caplog.text + str(vars(caplog.records[0]))


@pytest.mark.parametrize("copied", ["to another record", "to another parameter"])
def test_a_secret_can_be_read_in_its_own_place_only(
    queue: str, handle: Handle, copied: str, caplog: Any
) -> None:
    victim = secretive.pay_two.execute_on_commit(token=SecretStr(TOKEN), pin=SecretStr("1234"))
    own = secretive.pay_two.execute_on_commit(token=SecretStr("own"), pin=SecretStr("0000"))
    stolen = json.loads(TaskRecord.objects.get(id=victim.id).secrets or "")
    if copied == "to another parameter":
        own = victim
        values = stolen["values"]
        stolen["values"] = {"pin": values["token"], "token": values["pin"]}
    TaskRecord.objects.filter(id=own.id).update(secrets=json.dumps(stolen))

    assert handle(wake_up(own.id, "tests.app.secretive.pay_two")) == [0]

    assert "was altered, or copied from another record or parameter" in caplog.text
    assert TaskRecord.objects.get(id=own.id).status == "QUEUED"


def test_secrets_have_keys_of_their_own_which_can_be_rotated(
    queue: str, handle: Handle, settings: Any
) -> None:
    def stored() -> Invocation:
        return secretive.pay.execute_on_commit(account="7", token=SecretStr(TOKEN))

    by_secret_key = stored()
    settings.LAMBDA_TASKS_SECRETS_KEYS = ["old" * 16]
    old = stored()
    settings.LAMBDA_TASKS_SECRETS_KEYS = ["new" * 16, "old" * 16]
    new = stored()

    for invocation in (by_secret_key, old, new):
        assert handle(wake_up(invocation.id, "tests.app.secretive.pay")) == []
    settings.LAMBDA_TASKS_SECRETS_KEYS = ["new" * 16]
    settings.SECRET_KEY = "another"
    again = stored()
    assert handle(wake_up(again.id, "tests.app.secretive.pay")) == []
    assert {each.status for each in TaskRecord.objects.all()} == {"SUCCESS"}


def test_a_lock_tells_secrets_apart_and_shows_none(
    handle: Handle, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys: list[str] = []

    def hold(self: SingletonLocks, key: str, *, timeout_s: float) -> AbstractContextManager[None]:
        keys.append(key)
        return nullcontext()

    monkeypatch.setattr(SingletonLocks, "hold", hold)
    calls = [("7", TOKEN), ("7", TOKEN), ("7", PASSWORD)]
    handle(*(body(secretive.pay_alone, account=a, token=SecretStr(t)) for a, t in calls))

    assert len(keys) == 3
    assert len(set(keys)) == 2
    assert all(".account='7'." in key for key in keys)
    assert TOKEN not in str(keys)


def test_numbers_and_inputs_of_redacted_names_are_hidden(
    queue: str, handle: Handle, settings: Any, caplog: Any
) -> None:
    settings.LAMBDA_TASKS_REDACT = ["amount", "password"]
    with pytest.raises(ValidationError) as error:
        secretive.charge.execute_on_commit(amount=PASSWORD, password=7)  # type: ignore[arg-type]
    assert PASSWORD not in str(error.value)
    id = secretive.charge.execute_on_commit(amount=4111111111111111, password=PASSWORD).id

    assert handle(wake_up(id, "tests.app.secretive.charge")) == []

    assert "4111111111111111" not in _table() + caplog.text
    assert "ValueError: ********** for **********" in (TaskRecord.objects.get().traceback or "")


def test_what_carries_arguments_does_not_show_them() -> None:
    message = Message(task_name="f", kwargs={"a": TOKEN}, args=(TOKEN,), invocation_id=uuid.uuid4())
    payload = secretive.pay.serialize(account="7", token=SecretStr(TOKEN))
    delivery = Delivery(id="1", source="q", fallback_id=uuid.uuid4(), body=TOKEN, message=message)
    shown = [message, Outgoing(message, TOKEN, "q"), delivery, SQSLambdaTask(**payload)]
    settings = conf.Settings(signing_keys=(TOKEN,), secrets_keys=(TOKEN,), aws={"key": TOKEN})

    assert TOKEN not in repr([*shown, settings])


def test_djangos_own_log_of_a_failed_task_shows_no_secret(
    queue: str, handle: Handle, settings: Any, caplog: Any
) -> None:
    settings.LAMBDA_TASKS_REDACT = ["name"]
    name = "tests.app.django_tasks.leave_effect_and_fail"
    django_tasks.leave_effect_and_fail.enqueue(name=TOKEN)

    handle(wake_up(TaskRecord.objects.get().id, name, backend="default"))

    assert TaskRecord.objects.get().status == "FAILED"
    assert TOKEN not in caplog.text + _table()


NAME = "the name of a patient"


def test_all_arguments_and_results_can_be_encrypted(
    queue: str, handle: Handle, settings: Any, caplog: Any
) -> None:
    settings.LAMBDA_TASKS_ENCRYPT_ARGUMENTS = True
    stored = secretive.arepeat.execute_on_commit(value=NAME)
    result = django_tasks.aecho.enqueue(NAME, twice=True)
    brought = body(secretive.arepeat, value=NAME)
    again = tasks.ask_for_a_retry.execute_on_commit(name=NAME)
    assert NAME not in _table()

    with caplog.at_level("INFO"):
        back = handle(
            wake_up(stored.id, "tests.app.secretive.arepeat"),
            wake_up(uuid.UUID(result.id), "tests.app.django_tasks.aecho", backend="default"),
            wake_up(again.id, "tests.app.tasks.ask_for_a_retry"),
            brought,
        )

    assert back == []
    raised = TaskRecord.objects.get(id=again.id).traceback  # no argument: what the task says
    assert NAME not in _table().replace(repr(raised), "")
    assert (stored.result(timeout=5), record_of(brought).result) == (NAME, NAME)
    result = django_tasks.aecho.get_result(result.id)
    returned: Any = result.return_value
    assert returned == [NAME, NAME]
    assert (result.args, result.kwargs) == (["**********"], {"twice": "**********"})
    retry = TaskRecord.objects.get(status="QUEUED")
    TaskRecord.objects.filter(id=retry.id).update(run_after=Now())
    assert handle(wake_up(retry.id, "tests.app.tasks.ask_for_a_retry")) == []
    retry.refresh_from_db()
    assert NAME in (retry.traceback or "")


def test_a_result_can_be_read_in_its_own_record_only(
    queue: str, handle: Handle, settings: Any, client: Client
) -> None:
    settings.LAMBDA_TASKS_ENCRYPT_ARGUMENTS = True
    victim, own = body(secretive.arepeat, value=NAME), body(secretive.arepeat, value="own")
    handle(victim, own)
    ((stolen,),) = TaskRecord.objects.filter(id=record_of(victim).id).values_list("result")
    TaskRecord.objects.filter(id=record_of(own).id).update(result=stolen)

    words = f"The result of the record {record_of(own).id} can't .* copied from another record"
    with pytest.raises(ValueError, match=words):
        _ = record_of(own).result
    client.force_login(User.objects.create_superuser("admin"))
    page = client.get(f"/admin/lambda_tasks/taskrecord/{record_of(own).id}/change/")
    assert "copied from another record" in page.content.decode()
    assert NAME not in page.content.decode()


def test_to_encrypt_all_needs_cryptography(settings: Any, monkeypatch: Any) -> None:
    settings.LAMBDA_TASKS_ENCRYPT_ARGUMENTS = True
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    with pytest.raises(ImproperlyConfigured, match=r"Install lambda-tasks\[secrets\]"):
        conf.current()


def test_without_cryptography_a_stored_secret_is_an_error_at_the_call(
    monkeypatch: Any, queue: str, work_off: Callable[[str], int]
) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers", None)

    with pytest.raises(ImproperlyConfigured, match=r"Install lambda-tasks\[secrets\]"):
        secretive.pay.execute_on_commit(account="7", token=SecretStr(TOKEN))
    invocation = secretive.pay_direct.execute_on_commit(token=SecretStr(TOKEN))
    work_off(queue)

    assert invocation.result(timeout=5) == 19
    assert TOKEN not in _table()


def test_a_refused_call_does_not_show_its_secret() -> None:
    with pytest.raises(ValidationError) as error:
        secretive.pay.execute_on_commit(account=TOKEN, token=[TOKEN])  # type: ignore[arg-type]

    assert TOKEN not in str(error.value)


def test_a_secret_inside_of_a_model_is_refused() -> None:
    def log_in(*, login: secretive.Login) -> None: ...

    with pytest.raises(TypeError, match="'login', a model with a secret field"):
        Arguments(log_in, takes_context=False).build()


def test_a_finished_record_with_secrets_can_not_be_replayed(
    handle: Handle, client: Client, queue: str
) -> None:
    message = body(secretive.pay, account="7", token=SecretStr(TOKEN))
    handle(message)

    page = _replay(client, record_of(message))

    assert "its secret arguments (token) were removed" in page
    assert TaskRecord.objects.count() == 1


def test_a_record_that_has_lost_its_arguments_can_not_be_replayed(
    handle: Handle, client: Client, queue: str
) -> None:
    id = tasks.forget.execute_on_commit(email="ann@example.com").id
    message = wake_up(id, tasks.forget.name)
    handle(message)

    page = _replay(client, record_of(message))

    assert "its arguments were removed after its end" in page
    assert TaskRecord.objects.count() == 1


def test_a_failed_record_keeps_its_secrets_for_a_replay(
    handle: Handle, client: Client, queue: str
) -> None:
    message = body(secretive.decline, token=SecretStr(TOKEN))
    handle(message)
    failed = record_of(message)
    assert relay() == 0  # it is not yet time to remove them

    assert "1 task was replayed" in _replay(client, failed)

    again = TaskRecord.objects.get(status="QUEUED")
    assert handle(wake_up(again.id, "tests.app.secretive.decline")) == []
    again.refresh_from_db()
    assert (again.status, again.exception_class) == ("FAILED", "builtins.ValueError")
    assert f"of {len(TOKEN)} characters" in (again.traceback or "")
    assert TOKEN not in _table()


@pytest.mark.parametrize("is_table", [False, True])
def test_a_failed_record_loses_its_secrets_after_some_days(
    handle: Handle, queue: str, settings: Any, is_table: bool
) -> None:
    settings.LAMBDA_TASKS_KEEP_SECRETS = 3600
    if is_table:
        settings.LAMBDA_TASKS_QUEUES = {"default": {"database": True}}
    id = secretive.decline.execute_on_commit(token=SecretStr(TOKEN)).id
    handle(wake_up(id, "tests.app.secretive.decline"))
    kept = TaskRecord.objects.get(id=id)
    assert kept.end_time is not None
    assert kept.look_at is not None
    assert kept.secrets
    assert 3599 <= (kept.look_at - kept.end_time).total_seconds() <= 3601
    TaskRecord.objects.filter(id=id).update(look_at=Now())

    assert relay() == 0

    after = TaskRecord.objects.get(id=id)
    assert (after.status, after.secrets, after.look_at) == ("FAILED", None, None)


def test_secrets_of_many_failed_records_are_removed_in_parts(
    handle: Handle, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "MAX_UPDATED_TOGETHER", 2)
    handle(*(body(secretive.decline, token=SecretStr(TOKEN)) for _ in range(5)))
    TaskRecord.objects.update(look_at=Now())

    relay()

    assert list(TaskRecord.objects.values_list("secrets", "look_at")) == [(None, None)] * 5


@pytest.mark.parametrize("keep_s", [0, 3600])
def test_only_a_failed_record_with_secrets_is_looked_at_again(
    handle: Handle, settings: Any, keep_s: int
) -> None:
    settings.LAMBDA_TASKS_KEEP_SECRETS = keep_s
    retrying = body(secretive.fail, token=SecretStr(TOKEN), password=PASSWORD)
    bodies = [
        body(secretive.pay_direct, token=SecretStr(TOKEN)),
        body(tasks.write_and_fail, name="x"),
        body(secretive.decline, token=SecretStr(TOKEN)),
        retrying,
    ]
    handle(*bodies)

    kept = [(bool(each.secrets), bool(each.look_at)) for each in map(record_of, bodies)]
    assert kept == [(False, False), (False, False), (keep_s > 0, keep_s > 0), (False, False)]


def test_a_record_that_has_not_ended_is_not_replayed(client: Client, queue: str) -> None:
    id = secretive.pay.execute_on_commit(account="7", token=SecretStr(TOKEN)).id

    assert "only finished ones are replayed" in _replay(client, TaskRecord.objects.get(id=id))

    assert TaskRecord.objects.count() == 1


def test_the_checks_name_durable_tasks_with_secrets_where_cryptography_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers", None)

    named = [each.msg for each in run_checks() if "Install lambda-tasks[secrets]" in each.msg]

    assert any(secretive.pay.name in each for each in named)
    assert not any(secretive.pay_direct.name in each for each in named)
