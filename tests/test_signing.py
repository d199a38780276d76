"""LAMBDA_TASKS_SIGNING_KEYS: only what this project has sent is run."""

from collections.abc import Callable
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from lambda_tasks import MessageTooLarge, conf
from lambda_tasks.local import LocalSqs
from lambda_tasks.models import TaskRecord
from tests.app import tasks
from tests.app.models import Effect
from tests.conftest import body

pytestmark = pytest.mark.django_db(transaction=True)

OLD, NEW = "old" * 16, "new" * 16


def test_what_the_project_has_sent_is_run(
    settings: Any, queue: str, work_off: Callable[[str], int]
) -> None:
    settings.LAMBDA_TASKS_SIGNING_KEYS = [NEW]

    tasks.leave_effect.execute_on_commit(name="signed")
    tasks.leave_effect_direct.execute_on_commit(name="signed and direct")
    work_off(queue)

    assert Effect.objects.count() == 2


def test_keys_can_be_rotated(settings: Any, queue: str, work_off: Callable[[str], int]) -> None:
    settings.LAMBDA_TASKS_SIGNING_KEYS = [OLD]
    tasks.leave_effect.execute_on_commit(name="on its way")

    settings.LAMBDA_TASKS_SIGNING_KEYS = [NEW, OLD]
    tasks.leave_effect.execute_on_commit(name="new")
    work_off(queue)

    assert Effect.objects.count() == 2


def test_what_others_have_sent_is_refused(
    settings: Any, sqs: LocalSqs, queue: str, work_off: Callable[[str], int], caplog: Any
) -> None:
    settings.LAMBDA_TASKS_SIGNING_KEYS = [OLD]
    tasks.leave_effect_direct.execute_on_commit(name="rotated out")
    settings.LAMBDA_TASKS_SIGNING_KEYS = [NEW]
    sqs.client.send_message(QueueUrl=queue, MessageBody=body(tasks.leave_effect, name="unsigned"))

    work_off(queue)

    assert not TaskRecord.objects.exists()
    assert "which is not in LAMBDA_TASKS_SIGNING_KEYS" in caplog.text
    assert "has no signature" in caplog.text
    assert "unsigned" not in caplog.text.replace("has no signature", "")


def test_the_signature_counts_for_the_size(settings: Any, queue: str) -> None:
    largest = 1024 * 1024 - len(body(tasks.leave_effect_direct, name=""))
    settings.LAMBDA_TASKS_SIGNING_KEYS = [NEW]

    with pytest.raises(MessageTooLarge):
        tasks.leave_effect_direct.execute_on_commit(name="x" * largest)


@pytest.mark.parametrize("keys", [["short"], "a text", [b"bytes" * 10]])
def test_keys_that_can_not_be_used_are_refused_and_not_shown(settings: Any, keys: Any) -> None:
    settings.LAMBDA_TASKS_SIGNING_KEYS = keys

    with pytest.raises(ImproperlyConfigured, match="LAMBDA_TASKS_SIGNING_KEYS") as error:
        conf.current()

    assert "short" not in str(error.value).replace("has a key", "")
