"""Expiry: what has not begun in time is cancelled, whoever looks at it next."""

import json
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db.models import F

from lambda_tasks import Invocation, TaskFailed, hooks
from lambda_tasks.core.lifecycle import Refusal, Refused
from lambda_tasks.core.message import Message, decode
from lambda_tasks.local import LocalSqs
from lambda_tasks.models import TaskRecord
from lambda_tasks.ports import Delivery, ResolvedDelivery
from tests.app import tasks, unique
from tests.app.models import Effect
from tests.conftest import PATIENCE_S, Handle, Task, bodies_in, body, relay, wake_up
from tests.test_store import LEASE, holder

pytestmark = pytest.mark.django_db(transaction=True)

OVER = timedelta(hours=1)


def request_of(invocation: Invocation[Any]) -> ResolvedDelivery:
    message = Message(
        task_name=unique.send_code.name, kwargs={"user_id": 1}, invocation_id=invocation.id,
        durable=True,
    )  # fmt: skip
    delivery = Delivery(id="1", source="default", fallback_id=invocation.id)
    return ResolvedDelivery(delivery=delivery, message=message, task=unique.send_code)


def let_expire(*ids: Any) -> None:
    records = TaskRecord.objects.filter(id__in=ids) if ids else TaskRecord.objects.all()
    records.update(expires_at=F("expires_at") - OVER)


def deliver(handle: Handle, invocation: Invocation[Any]) -> list[int]:
    record = TaskRecord.objects.get(id=invocation.id)
    return handle(wake_up(record.id, record.task_name))


def assert_expired(record: TaskRecord | None) -> None:
    assert record is not None
    assert record.status == "CANCELLED"
    assert record.exception_class == "lambda_tasks.errors.TaskExpired"
    assert record.traceback is not None
    assert "had not begun" in record.traceback
    assert (record.start_time, record.n_attempts, record.look_at) == (None, 0, None)
    assert record.end_time is not None
    assert not Effect.objects.exists()


def test_what_has_not_begun_in_time_is_cancelled_by_its_claim(handle: Handle, queue: str) -> None:
    late = unique.send_code.execute_on_commit(user_id=1)
    let_expire()
    in_time = unique.send_code.execute_on_commit(user_id=2)

    assert deliver(handle, late) == []

    assert_expired(late.record())
    with pytest.raises(TaskFailed, match="had not begun"):
        late.result(timeout=1)
    assert deliver(handle, in_time) == []
    assert in_time.result(timeout=1) == 2


def test_a_time_counts_from_when_the_call_is_due(queue: str) -> None:
    before = datetime.now(UTC)
    for task in (
        unique.send_code,
        unique.send_code.using(delay=300),
        unique.send_code.using(run_after=timedelta(days=1)),
        unique.send_code.using(expires=5),
        tasks.add_durable.using(expires=before + timedelta(days=2)),
    ):
        task.execute_on_commit(**({"a": 1} if task.name.endswith("durable") else {"user_id": 1}))
    times = [each.expires_at for each in TaskRecord.objects.order_by("expires_at")]

    expected = [
        timedelta(seconds=5),
        timedelta(seconds=60),
        timedelta(seconds=360),
        timedelta(days=1, seconds=60),
        timedelta(days=2),
    ]
    for found, after in zip(times, expected, strict=True):
        assert found is not None
        assert timedelta(0) <= found - before - after < timedelta(seconds=PATIENCE_S)


def test_a_moment_before_the_call_is_due_is_refused(queue: str) -> None:
    late = unique.send_code.using(expires=datetime.now(UTC) - timedelta(seconds=1))

    with pytest.raises(ValueError, match="it would never run"):
        late.execute_on_commit(user_id=1)


def test_a_direct_message_carries_its_time(handle: Handle, sqs: LocalSqs, queue: str) -> None:
    unique.send_direct_code.execute_on_commit(user_id=1)
    (sent,) = bodies_in(sqs, queue)
    expires_at = decode(json.dumps(sent), fallback_id=None).expires_at  # type: ignore[arg-type]
    assert expires_at is not None

    late = sent | {"expires_at": (expires_at - OVER).isoformat()}
    assert handle(json.dumps(late)) == []
    assert_expired(TaskRecord.objects.get())

    assert handle(body(unique.send_direct_code, user_id=2)) == []
    assert Effect.objects.count() == 1


def test_what_began_in_time_may_begin_again_later(handle: Handle, queue: str) -> None:
    lost = unique.send_code.execute_on_commit(user_id=1)
    holder.claim([request_of(lost)], lease=LEASE, max_attempts=3)
    TaskRecord.objects.update(lease_until=F("lease_until") - timedelta(days=1))
    let_expire()

    assert deliver(handle, lost) == []

    assert lost.result(timeout=1) == 1


def test_a_retry_has_no_expiry(handle: Handle, queue: str) -> None:
    deliver(handle, unique.send_code_later.execute_on_commit(user_id=1))

    retry = TaskRecord.objects.get(status="QUEUED")
    assert retry.expires_at is None


def test_what_waits_for_its_turn_in_a_worker_does_not_begin_too_late(queue: str) -> None:
    waiting = unique.send_code.execute_on_commit(user_id=1)
    request = request_of(waiting)
    claims = holder
    granted = claims.claim([request], lease=LEASE, max_attempts=3, waiting=[waiting.id])
    claim: Any = granted[waiting.id]
    let_expire()

    assert claims.begin([claim.claim], LEASE) == {}

    assert_expired(waiting.record())


def test_what_is_held_by_a_worker_is_not_expired_by_another(queue: str) -> None:
    waiting = unique.send_code.execute_on_commit(user_id=1)
    request = request_of(waiting)
    holder.claim([request], lease=LEASE, max_attempts=3, waiting=[waiting.id])
    let_expire()

    verdict: Any = holder.claim([request], lease=LEASE, max_attempts=3)[waiting.id]

    assert isinstance(verdict, Refused)
    assert verdict.refusal is Refusal.HELD


def test_the_relay_cancels_what_no_worker_looks_at(sqs: LocalSqs, queue: str) -> None:
    """Its message is in a queue that nobody consumes."""
    late = unique.send_code.execute_on_commit(user_id=1)
    other = tasks.add_durable.execute_on_commit(a=1)
    # However long the queue has taken to accept them.
    TaskRecord.objects.update(sent_at=F("enqueued_at"), look_at=F("enqueued_at"))

    assert relay() == 0
    first, second = (TaskRecord.objects.get(id=each.id) for each in (late, other))
    assert first.look_at == first.expires_at
    assert second.look_at is not None
    assert second.look_at - second.enqueued_at > timedelta(hours=23)  # type: ignore[operator]

    let_expire()
    TaskRecord.objects.filter(id=late.id).update(look_at=F("expires_at"))
    assert relay() == 0
    assert_expired(late.record())


def test_hooks_hear_why_it_was_cancelled(handle: Handle, queue: str) -> None:
    heard: list[hooks.Cancelled] = []
    came = threading.Event()

    def hear(event: hooks.Cancelled) -> None:
        heard.append(event)
        came.set()

    late = unique.send_code.execute_on_commit(user_id=1)
    let_expire()
    hooks.cancelled.connect(hear)
    try:
        deliver(handle, late)
        assert came.wait(PATIENCE_S)
    finally:
        hooks.cancelled.disconnect(hear)

    (event,) = heard
    assert event.invocation_id == late.id
    assert event.reason is not None
    assert "had not begun" in event.reason


@pytest.mark.parametrize("task", [unique.bill])
def test_an_expired_call_frees_its_unique_key(handle: Handle, queue: str, task: Task) -> None:
    first = task.using(expires=60).execute_on_commit(order_id=1)
    let_expire()
    deliver(handle, first)

    assert task.execute_on_commit(order_id=1).created


def test_an_expiry_costs_no_statement_where_it_is_not_over(
    handle: Handle, queue: str, statements: Any
) -> None:
    counts = []
    plain, expiring = tasks.add_durable.using(), tasks.add_durable.using(expires=600)
    for each in (plain, plain, expiring):  # the first connects
        invocation = each.execute_on_commit(a=1)
        wake = wake_up(invocation.id, "tests.app.tasks.add_durable")
        with statements() as counted:
            handle(wake)
        counts.append(len(counted))

    assert counts[1] == counts[2]
