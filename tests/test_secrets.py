"""Secret arguments: they arrive, and nobody sees them on the way."""

import logging
import sys
from collections.abc import Callable
from io import StringIO
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.exceptions import ImproperlyConfigured
from django.test import Client
from pydantic import SecretStr, ValidationError

from lambda_tasks.core.arguments import Arguments
from lambda_tasks.local import LocalSqs
from lambda_tasks.logging import TaskContextFilter
from lambda_tasks.models import TaskRecord
from lambda_tasks.records.clock import Now
from tests.app import secretive
from tests.conftest import Handle, body, record_of, relay

pytestmark = pytest.mark.django_db(transaction=True)

TOKEN, PASSWORD = "a-token-of-the-bank", "swordfish"


def _table() -> str:
    return str(list(TaskRecord.objects.values()))


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


def test_a_task_that_was_started_too_often_leaves_no_secret(handle: Handle) -> None:
    message = body(secretive.fail, token=SecretStr(TOKEN), password=PASSWORD)
    handle(message)
    TaskRecord.objects.exclude(id=record_of(message).id).update(n_attempts=5)
    retry = TaskRecord.objects.get(n_attempts=5)
    assert retry.secrets

    handle(body(secretive.fail, token=SecretStr(TOKEN), password=PASSWORD, _id=retry.id))

    assert TaskRecord.objects.filter(id=retry.id, status="FAILED", secrets=None).exists()


def test_a_row_that_was_sealed_with_another_key_holds_up_no_other(
    settings: Any, queue: str, caplog: Any
) -> None:
    for key in ("old key", "new key"):
        settings.SECRET_KEY = key
        secretive.pay.execute_on_commit(account=key, token=SecretStr(TOKEN))
    TaskRecord.objects.update(sent_at=None)

    assert relay() == 1
    assert "LAMBDA_TASKS_SECRETS_KEYS keeps old ones" in caplog.text

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

    with pytest.raises(TypeError, match="'login', a model with a SecretStr in it"):
        Arguments(log_in, takes_context=False).build()


def test_a_finished_record_with_secrets_can_not_be_replayed(
    handle: Handle, client: Client, queue: str
) -> None:
    message = body(secretive.pay, account="7", token=SecretStr(TOKEN))
    handle(message)
    client.force_login(User.objects.create_superuser("admin"))

    answer = client.post(
        "/admin/lambda_tasks/taskrecord/",
        {"action": "replay", "_selected_action": [str(record_of(message).id)]},
        follow=True,
    )

    assert "its secret arguments (token) were removed" in answer.content.decode()
    assert TaskRecord.objects.count() == 1
