"""Any delay: what is due in weeks runs once, at its time, whatever is delivered before."""

import json
import random
from collections.abc import Callable
from datetime import timedelta

import pytest
from django.db.models import F
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lambda_tasks.local import LocalSqs
from lambda_tasks.models import TaskRecord
from tests.app import tasks
from tests.app.models import Effect
from tests.conftest import Handle, bodies_in, relay

pytestmark = pytest.mark.django_db(transaction=True)


def let_pass(time: timedelta) -> None:
    """What the records' moments look like after this time."""
    for name in ("run_after", "enqueued_at", "sent_at", "lease_until", "look_at"):
        TaskRecord.objects.update(**{name: F(name) - time})


def sent_directly(sqs: LocalSqs, queue: str, delay: timedelta) -> str:
    """The body that a direct call puts into the queue, as it is delivered."""
    later = tasks.leave_effect_direct.using(run_after=delay)
    later.execute_on_commit(name="later")
    assert sqs.counts(queue)["delayed"] == 1
    sqs.purge(queue)
    return early(delay, durable=False)


def test_a_direct_one_that_comes_too_early_is_put_back(
    sqs: LocalSqs, queue: str, handle: Handle
) -> None:
    body = sent_directly(sqs, queue, timedelta(hours=1))

    assert handle(body) == [0]
    assert handle(body) == [0]
    assert (Effect.objects.count(), TaskRecord.objects.get().status) == (0, "QUEUED")

    let_pass(timedelta(hours=1))
    assert handle(body, body) == [1], "the second comes back, and finds it finished"
    assert handle(body) == []
    assert Effect.objects.count() == 1


@pytest.mark.parametrize("durable", [False, True])
def test_what_comes_almost_a_minute_too_early_is_put_back(
    queue: str, handle: Handle, durable: bool
) -> None:
    body = early(timedelta(seconds=50), durable=durable)

    assert handle(body) == [0]
    assert not Effect.objects.exists()


def test_a_direct_one_that_was_put_back_is_not_sent_once_more(queue: str, handle: Handle) -> None:
    assert handle(early(timedelta(minutes=5), durable=False)) == [0]

    assert relay() == 0


def test_what_was_not_sent_leaves_once_sqs_can_delay_it(sqs: LocalSqs, queue: str) -> None:
    tasks.leave_effect.using(run_after=timedelta(minutes=20)).execute_on_commit(name="later")
    sqs.purge(queue)
    TaskRecord.objects.update(sent_at=None)
    assert relay() == 0

    let_pass(timedelta(minutes=6))

    assert relay() == 1
    assert sqs.counts(queue)["delayed"] == 1


def test_a_direct_one_of_weeks_ahead_waits_in_a_record(
    sqs: LocalSqs, queue: str, handle: Handle, work_off: Callable[[str], int]
) -> None:
    body = sent_directly(sqs, queue, timedelta(weeks=6))

    assert handle(body) == [], "no queue keeps it for so long"
    assert relay() == 0
    let_pass(timedelta(weeks=6) - timedelta(minutes=10))
    assert relay() == 1
    assert sqs.counts(queue)["delayed"] == 1
    let_pass(timedelta(minutes=10))
    assert handle(body) == []
    assert (Effect.objects.count(), TaskRecord.objects.get().status) == (1, "SUCCESS")


def test_a_stored_one_that_comes_weeks_too_early_is_left_to_the_relay(
    sqs: LocalSqs, queue: str, work_off: Callable[[str], int]
) -> None:
    later = tasks.leave_effect.using(delay=0).execute_on_commit(name="later")
    TaskRecord.objects.update(run_after=timezone.now() + timedelta(weeks=1))

    assert work_off(queue) == 1

    assert sqs.counts(queue) == {"visible": 0, "in_flight": 0, "delayed": 0}
    record = TaskRecord.objects.get(id=later.id)
    assert (record.status, record.sent_at) == ("QUEUED", None)


@settings(
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    hours=st.sampled_from([1, 11, 13, 300]),
    durable=st.booleans(),
    steps=st.lists(st.sampled_from(["deliver", "twice", "relay", "wait"]), max_size=8),
    seed=st.integers(0, 1000),
)
def test_however_it_is_delivered_it_runs_once_and_not_before_its_time(
    handle: Handle,
    sqs: LocalSqs,
    queue: str,
    hours: int,
    durable: bool,
    steps: list[str],
    seed: int,
) -> None:
    TaskRecord.objects.all().delete()
    Effect.objects.all().delete()
    sqs.purge(queue)
    delay = timedelta(hours=hours)
    body = early(delay, durable=durable)
    waited, chance = timedelta(0), random.Random(seed)

    for step in ["deliver", *steps]:
        if step == "wait":
            passing = delay * chance.uniform(0.1, 0.8)
            let_pass(passing)
            waited += passing
        elif step == "relay":
            relay()
        else:
            handle(*[body] * (2 if step == "twice" else 1))
        assert Effect.objects.count() <= (1 if waited >= delay - timedelta(seconds=2) else 0)

    let_pass(delay)
    relay()
    handle(body, *bodies_in_text(sqs, queue))
    assert Effect.objects.count() == 1


def early(delay: timedelta, *, durable: bool) -> str:
    """A delivery of a call that is due after this time."""
    task = (tasks.leave_effect if durable else tasks.leave_effect_direct).using(run_after=delay)
    if not durable:
        payload = task.serialize(name="later")
        return json.dumps(payload["message"] | {"run_after": payload["run_after"]})
    invocation = task.execute_on_commit(name="later")
    message = {"task_name": task.name, "kwargs": {"name": "later"}, "durable": True}
    return json.dumps(message | {"invocation_id": str(invocation.id)})


def bodies_in_text(sqs: LocalSqs, queue: str) -> list[str]:
    return [json.dumps(each) for each in bodies_in(sqs, queue)]
