"""A paused queue hands out nothing, and loses nothing."""

import json
import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from lambda_tasks import operations, runtime
from lambda_tasks.errors import InvalidFilter
from lambda_tasks.local import LocalSqs
from lambda_tasks.models import TaskRecord
from lambda_tasks.records.encryption import UNAVAILABLE
from tests.app import tasks
from tests.app.models import Effect
from tests.conftest import Handle, body, relay, wake_up

pytestmark = pytest.mark.django_db(transaction=True)

IN_TABLE = tasks.leave_effect.using(queue="table")
DIRECT = tasks.leave_effect_direct
EMPTY = {"visible": 0, "in_flight": 0, "delayed": 0}


def _received() -> list[Any]:
    with runtime.current().table_queue.lock_due(["table"], limit=10) as due:
        return list(due)


def test_no_worker_gets_the_calls_of_a_paused_queue() -> None:
    operations.pause_queue("table", by="anna", reason="the shop moves")
    IN_TABLE.execute_on_commit(name="later")

    assert _received() == []

    operations.resume_queue("table", by="anna")

    assert len(_received()) == 1


def test_what_arrives_from_a_paused_queue_waits_in_its_row_until_it_is_resumed(
    sqs: LocalSqs, queue: str, work_off: Callable[[str], int]
) -> None:
    called = tasks.leave_effect.execute_on_commit(name="later")
    operations.pause_queue("default", by="anna")

    assert work_off(queue) == 1

    record = TaskRecord.objects.get(id=called.id)
    assert (record.status, record.sent_at, record.n_attempts) == ("QUEUED", None, 0)
    assert sqs.counts(queue) == EMPTY
    assert relay() == 0, "the relay holds it back"

    operations.resume_queue("default", by="anna")

    assert relay() == 1
    assert work_off(queue) == 1
    assert Effect.objects.get().name == "later"


def test_a_direct_call_runs_though_its_queue_is_paused(queue: str, handle: Handle) -> None:
    operations.pause_queue("default", by="anna")

    assert handle(body(DIRECT, name="now")) == []

    assert Effect.objects.get().name == "now"


def test_a_call_whose_secrets_are_in_its_message_only_runs(queue: str, handle: Handle) -> None:
    # Put back, as it came too early, it has a row, and no secrets there.
    later = body(DIRECT, name="now")
    called = json.loads(later)["invocation_id"]
    TaskRecord.objects.create(
        id=called, task_name="tests.app.tasks.leave_effect_direct", kwargs={"name": "now"},
        secrets=UNAVAILABLE, enqueued_at=timezone.now(), look_at=timezone.now(),
    )  # fmt: skip
    operations.pause_queue("default", by="anna")

    assert handle(later) == []

    assert Effect.objects.get().name == "now"


def test_a_lost_run_is_not_taken_over_while_its_queue_is_paused(queue: str, handle: Handle) -> None:
    lost = tasks.leave_effect.execute_on_commit(name="again")
    past = timezone.now() - timedelta(hours=1)
    times = dict.fromkeys(("lease_until", "start_time", "look_at", "sent_at", "enqueued_at"), past)
    TaskRecord.objects.update(status="RUNNING", n_attempts=1, **times)
    operations.pause_queue("default", by="anna")

    assert handle(wake_up(lost.id, "tests.app.tasks.leave_effect")) == []

    assert not Effect.objects.exists()
    assert relay() == 0
    operations.resume_queue("default", by="anna")
    assert relay() == 1


def test_a_switch_says_whether_it_has_changed_anything(caplog: Any) -> None:
    with caplog.at_level(logging.WARNING, "lambda_tasks"):
        assert operations.pause_queue("table", by="anna", reason="the shop moves")
        assert not operations.pause_queue("table", by="ben")
    assert operations.queue_states()["table"].changed_by == "anna"
    assert operations.resume_queue("table", by="ben")
    assert not operations.resume_queue("table", by="ben")

    assert "The queue 'table' was paused by anna. the shop moves" in caplog.text
    with pytest.raises(InvalidFilter, match="unknown"):
        operations.pause_queue("unknown", by="anna")
