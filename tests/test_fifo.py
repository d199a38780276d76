"""`group_key`: a tenant's share of a standard queue, and the order of a FIFO queue."""

import json
import random
import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

import pytest
from django.db import connection, transaction
from django.db.models import F
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from lambda_tasks import EnqueueError, handler
from lambda_tasks.local import LambdaContext, LocalSqs
from lambda_tasks.models import SQSLambdaTask, TaskRecord
from lambda_tasks.records.clock import Now
from tests.app import tasks
from tests.app.models import Effect
from tests.conftest import Handle, Task, body, carries, kwargs_of, relay, sqs_event, wait_for
from tests.servers.faulty_sqs import Fault, FaultySqs
from tests.test_looks import look
from tests.test_table_queue import worker

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def fifo(sqs: LocalSqs, settings: Any, queue: str) -> Iterator[str]:
    url = sqs.create_queue(f"ordered-{uuid.uuid4().hex}.fifo", visibility_timeout_s=30)
    settings.LAMBDA_TASKS_QUEUES = settings.LAMBDA_TASKS_QUEUES | {"ordered": url}
    yield url
    sqs.client.delete_queue(QueueUrl=url)


def received(sqs: LocalSqs, url: str) -> list[dict[str, Any]]:
    answer = sqs.client.receive_message(
        QueueUrl=url, MaxNumberOfMessages=10, AttributeNames=["All"], WaitTimeSeconds=0
    )
    messages: list[dict[str, Any]] = answer.get("Messages", [])
    return messages


def test_a_standard_queue_gets_the_group_for_its_fairness(sqs: LocalSqs, queue: str) -> None:
    tasks.add.using(group_key="tenant-7").execute_on_commit(a=1)

    (message,) = received(sqs, queue)
    assert message["Attributes"]["MessageGroupId"] == "tenant-7"
    assert "MessageDeduplicationId" not in message["Attributes"]


def test_a_fifo_queue_gets_the_group_and_the_invocation_as_deduplication_id(
    sqs: LocalSqs, fifo: str
) -> None:
    ordered = tasks.leave_effect.using(queue="ordered", group_key="tenant-7")
    payload: dict[str, Any] = ordered.serialize(name="x") | {"queue": "ordered"}
    for _ in range(2):
        SQSLambdaTask.model_validate(payload).execute_on_commit()
    tasks.add.using(queue="ordered").execute_on_commit(a=1)

    first, second = received(sqs, fifo)
    assert first["Attributes"]["MessageDeduplicationId"] == payload["message"]["invocation_id"]
    assert second["Attributes"]["MessageGroupId"] == "tests.app.tasks.add", "without one, the task"


@pytest.mark.parametrize("task", [tasks.leave_effect, tasks.aleave_effect])
def test_a_group_of_a_fifo_queue_runs_in_its_order(
    task: Any, fifo: str, work_off: Callable[[str], int]
) -> None:
    for number in range(20):
        group = task.using(queue="ordered", group_key=f"tenant-{number % 2}")
        group.execute_on_commit(name=f"{number % 2} {number:02}")

    while work_off(fifo):
        pass

    names = list(Effect.objects.order_by("pk").values_list("name", flat=True))
    assert len(names) == 20
    for tenant in "01":
        own = [name for name in names if name.startswith(tenant)]
        assert own == sorted(own)


def test_a_slow_request_is_not_overtaken_by_those_behind_it(
    sqs: LocalSqs, fifo: str, settings: Any
) -> None:
    with FaultySqs(sqs.endpoint_url) as proxy:
        settings.LAMBDA_TASKS_AWS = sqs.client_options | {"endpoint_url": proxy.endpoint_url}
        ordered = tasks.leave_effect.using(queue="ordered", group_key="tenant-7")
        ordered.execute_on_commit(name="00")
        proxy.inject(Fault(latency_s=0.5))
        ordered.execute_many_on_commit({"name": f"{number:02}"} for number in range(1, 31))

    names = [kwargs_of(json.loads(each["Body"]))["name"] for each in every(sqs, fifo)]
    assert names == [f"{number:02}" for number in range(31)]


def every(sqs: LocalSqs, url: str) -> list[dict[str, Any]]:
    """Receive one group to its end. It gives no more before these are deleted."""
    found: list[dict[str, Any]] = []
    while messages := received(sqs, url):
        found += messages
        for each in messages:
            sqs.client.delete_message(QueueUrl=url, ReceiptHandle=each["ReceiptHandle"])
    return found


# What is refused, or left to the relay


@pytest.fixture
def proxy(sqs: LocalSqs, fifo: str, settings: Any) -> Iterator[FaultySqs]:
    """In front of the queues."""
    with FaultySqs(sqs.endpoint_url) as proxy:
        settings.LAMBDA_TASKS_AWS = sqs.client_options | {"endpoint_url": proxy.endpoint_url}
        yield proxy


def named(name: str) -> Callable[[str], bool]:
    return carries(name=name)


def of_group(key: str, task: Task = tasks.leave_effect) -> Task:
    return task.using(queue="ordered", group_key=key)


def arrived(sqs: LocalSqs, url: str) -> list[str]:
    return [kwargs_of(json.loads(each["Body"]))["name"] for each in every(sqs, url)]


def let_pass(time: timedelta) -> None:
    """What waits to be looked at comes so much nearer."""
    TaskRecord.objects.filter(status="QUEUED").update(look_at=F("look_at") - time)


def left() -> list[str]:
    """The names of what is stored and not sent."""
    return sorted(each.kwargs["name"] for each in TaskRecord.objects.filter(sent_at=None))


@pytest.mark.parametrize("how", ["many", "one by one", "in a transaction"])
def test_what_is_refused_for_good_holds_back_its_group_until_the_relay_has_sent_it(
    sqs: LocalSqs, fifo: str, proxy: FaultySqs, how: str
) -> None:
    proxy.inject(Fault(times=None, refuse=named("a2"), sender_fault=True))
    names = [f"{key}{number}" for number in range(5) for key in "ab"]

    if how == "many":
        for key in "ab":
            own = [{"name": name} for name in names if name.startswith(key)]
            of_group(key).execute_many_on_commit(own)
    else:
        with transaction.atomic() if how == "in a transaction" else nullcontext():
            for name in names:
                of_group(name[0]).execute_on_commit(name=name)

    assert left() == ["a2", "a3", "a4"]
    proxy.clear()
    assert look() == 3, "they are looked at at once"
    assert look() == 0
    found = arrived(sqs, fifo)
    for key in "ab":
        assert [name for name in found if name[0] == key] == [f"{key}{n}" for n in range(5)]


def test_what_is_stored_at_once_is_known_by_its_order(fifo: str) -> None:
    """Its moment is that of one statement, by which the relay must still tell it apart."""
    names = [f"{number:02}" for number in range(30)]
    of_group("a").execute_many_on_commit({"name": name} for name in names)

    records = TaskRecord.objects.order_by("enqueued_at")
    assert [each.kwargs["name"] for each in records] == names
    assert records.values("enqueued_at").distinct().count() == 30


def test_a_long_group_is_sent_and_marked_in_parts(
    sqs: LocalSqs, fifo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a relay that is cut off has not to begin with the first of them again."""
    monkeypatch.setattr("lambda_tasks.records.fifo.MAX_OF_GROUP", 3)
    names = [f"{number:02}" for number in range(10)]
    of_group("a").using(delay=900).execute_many_on_commit({"name": name} for name in names)
    TaskRecord.objects.update(run_after=Now(), look_at=Now())
    marked: list[str] = []

    def count_updates(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if "SET sent_at" in re.sub(r"[\"`]", "", sql):
            marked.append(sql)
        return execute(sql, params, many, context)

    with connection.execute_wrapper(count_updates):
        assert look() == 10

    assert len(marked) == 4
    assert arrived(sqs, fifo) == names


def test_a_group_goes_on_by_itself_once_the_relay_has_sent_what_was_left(
    sqs: LocalSqs, fifo: str, proxy: FaultySqs
) -> None:
    proxy.inject(Fault(times=1, refuse=named("0"), sender_fault=True))
    for name in "01":
        of_group("a").execute_on_commit(name=name)
    assert left() == ["0", "1"]
    assert relay() == 2

    of_group("a").execute_on_commit(name="2")

    assert left() == []
    assert arrived(sqs, fifo) == ["0", "1", "2"]


def test_what_comes_while_a_group_is_put_behind_waits_with_it(
    sqs: LocalSqs, fifo: str, proxy: FaultySqs
) -> None:
    """Each time that it is refused it waits for longer; what is younger has not waited yet."""
    proxy.inject(Fault(times=None, refuse=named("0"), sender_fault=True))
    of_group("a").execute_on_commit(name="0")
    for minutes in (1, 2, 4):
        assert relay() == 0
        let_pass(timedelta(minutes=minutes))
    assert relay() == 0
    of_group("a").execute_on_commit(name="1")
    # Of a process that knows nothing of the group, and ended before it could send.
    ended = of_group("a").execute_on_commit(name="2")
    TaskRecord.objects.filter(id=ended.id).update(look_at=Now() - timedelta(minutes=1))
    of_group("b").execute_on_commit(name="of another")
    proxy.clear()

    assert relay() == 0
    waiting = TaskRecord.objects.filter(sent_at=None, look_at__gt=Now() + timedelta(minutes=7))
    assert waiting.count() == 3
    let_pass(timedelta(minutes=8))
    assert relay() == 3

    assert arrived(sqs, fifo) == ["of another", "0", "1", "2"]


@pytest.mark.parametrize("key_first", [True, False])
def test_a_key_that_is_a_tasks_name_makes_one_group_with_that_task(
    sqs: LocalSqs, fifo: str, proxy: FaultySqs, key_first: bool
) -> None:
    keyed = of_group("tests.app.tasks.aleave_effect")
    keyless = tasks.aleave_effect.using(queue="ordered")
    first, second = (keyed, keyless) if key_first else (keyless, keyed)
    proxy.inject(Fault(times=None, refuse=named("0"), sender_fault=True))
    first.execute_on_commit(name="0")
    assert relay() == 0
    # Of a process that knows nothing of the group, and ended before it could send.
    ended = second.execute_on_commit(name="1")
    TaskRecord.objects.filter(id=ended.id).update(look_at=Now() - timedelta(minutes=1))
    proxy.clear()

    assert relay() == 0

    let_pass(timedelta(minutes=8))
    assert relay() == 2
    assert arrived(sqs, fifo) == ["0", "1"]


def test_a_task_whose_name_sqs_does_not_take_has_a_group_all_the_same(
    sqs: LocalSqs, fifo: str, proxy: FaultySqs
) -> None:
    task = tasks.größe.using(queue="ordered")
    proxy.inject(Fault(times=None, refuse=named("0"), sender_fault=True))
    task.execute_on_commit(name="0")
    assert relay() == 0
    # Of a process that knows nothing of the group, and ended before it could send.
    ended = task.execute_on_commit(name="1")
    TaskRecord.objects.filter(id=ended.id).update(look_at=Now() - timedelta(minutes=1))
    proxy.clear()

    assert relay() == 0

    let_pass(timedelta(minutes=8))
    assert relay() == 2
    assert arrived(sqs, fifo) == ["0", "1"]


def test_a_direct_message_fails_with_what_it_would_overtake(
    sqs: LocalSqs, fifo: str, proxy: FaultySqs
) -> None:
    proxy.inject(Fault(times=1, refuse=named("0"), sender_fault=True))
    direct = of_group("a", tasks.leave_effect_direct)

    with pytest.raises(EnqueueError) as raised:
        direct.execute_many_on_commit([{"name": "0"}, {"name": "1"}])

    first, second = raised.value.failures.items()
    assert "Refused" in first[1]
    assert str(first[0]) in second[1]
    direct.execute_on_commit(name="2")
    assert arrived(sqs, fifo) == ["2"]


def test_a_request_of_many_groups_carries_ten(sqs: LocalSqs, fifo: str, proxy: FaultySqs) -> None:
    with transaction.atomic():
        for number in range(100):
            of_group(f"tenant-{number}").execute_on_commit(name=str(number))

    assert proxy.requests["SendMessageBatch"] == 10
    assert sorted(arrived(sqs, fifo)) == sorted(map(str, range(100)))


Step = tuple[str, str, int]

steps = st.lists(
    st.tuples(
        st.sampled_from(["call", "call", "many", "direct", "relay", "wait"]),
        st.sampled_from("ab"),
        st.integers(1, 4),
    ),
    min_size=3,
    max_size=12,
)
FAULTS: Final = {
    "some refused for good": Fault(sender_fault=True),
    "some refused for now": Fault(),
    "an error": Fault(status=500),
    "no connection": Fault(drop=True),
    "a lost answer": Fault(lose_answer=True),
    "none": Fault(),
}


def fault(name: str, chance: random.Random) -> Fault:
    chosen = FAULTS[name]
    if name.startswith("some"):
        return replace(chosen, refuse=lambda body: chance.random() < 0.5)
    return chosen


@hypothesis_settings(
    max_examples=20,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    steps=steps,
    faults=st.lists(st.sampled_from(list(FAULTS)), max_size=8),
    seed=st.integers(0, 1000),
)
def test_whatever_is_refused_or_fails_each_group_arrives_in_the_order_of_its_calls(
    sqs: LocalSqs,
    fifo: str,
    proxy: FaultySqs,
    steps: list[Step],
    faults: list[str],
    seed: int,
) -> None:
    TaskRecord.objects.all().delete()
    chance = random.Random(seed)
    for name in faults:
        proxy.inject(fault(name, chance))
    stored: list[str] = []
    called: list[str] = []

    def names(key: str, count: int) -> list[dict[str, str]]:
        new = [f"{key}{len(called) + number:03}" for number in range(count)]
        called.extend(new)
        return [{"name": name} for name in new]

    for action, key, count in steps:
        if action == "relay":
            relay()
        elif action == "wait":
            let_pass(timedelta(minutes=count))
        elif action == "direct":
            with suppress(EnqueueError):
                of_group(key, tasks.leave_effect_direct).execute_many_on_commit(names(key, count))
        else:
            calls = names(key, count if action == "many" else 1)
            of_group(key).execute_many_on_commit(calls)
            stored += [each["name"] for each in calls]
    proxy.clear()
    for _ in range(20):
        let_pass(timedelta(minutes=15))
        relay()

    found = arrived(sqs, fifo)
    assert left() == []
    assert set(stored) <= set(found)
    for key in "ab":
        own = [name for name in found if name[0] == key]
        assert own == sorted(own)


# What is due later


@pytest.mark.parametrize("task", [tasks.leave_effect, tasks.leave_effect_direct])
@pytest.mark.parametrize("how", [{"delay": 5}, {"run_after": timedelta(hours=20)}])
def test_what_is_due_later_waits_in_its_row_and_joins_the_end_of_its_group(
    sqs: LocalSqs, fifo: str, task: Task, how: dict[str, Any]
) -> None:
    """A direct one, too: where else would it wait?"""
    of_group("a", task).using(**how).execute_on_commit(name="later")
    of_group("a").execute_on_commit(name="now")
    assert relay() == 0
    assert left() == ["later"]
    record = TaskRecord.objects.get(sent_at=None)
    assert (record.status, record.look_at) == ("QUEUED", record.run_after)

    TaskRecord.objects.filter(sent_at=None).update(run_after=Now(), look_at=Now())
    of_group("a").execute_on_commit(name="as well now")
    assert relay() == 1

    assert arrived(sqs, fifo) == ["now", "as well now", "later"]


def test_a_retry_waits_in_its_row_and_holds_up_nobody(
    fifo: str, work_off: Callable[[str], int]
) -> None:
    of_group("a", tasks.limited).execute_on_commit(name="fails")
    for name in ("1", "2"):
        of_group("a").execute_on_commit(name=name)

    while work_off(fifo):
        pass

    assert list(Effect.objects.values_list("name", flat=True)) == ["1", "2"]
    retry = TaskRecord.objects.get(n_retries=1)
    assert (retry.status, retry.sent_at, retry.look_at) == ("QUEUED", None, retry.run_after)
    TaskRecord.objects.filter(id=retry.id).update(run_after=Now(), look_at=Now())
    assert relay() == 1
    work_off(fifo)
    assert TaskRecord.objects.get(id=retry.id).status == "FAILED"


def test_a_worker_of_the_queue_sends_what_falls_due_within_seconds(
    fifo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its look each second: the other one comes once, and too early."""
    monkeypatch.setattr("lambda_tasks.enqueue.relay_shifts.SHIFT_S", 3600)
    of_group("a").using(delay=2).execute_on_commit(name="later")

    with worker(queues=["ordered"]):
        wait_for(lambda: Effect.objects.exists())

    record = TaskRecord.objects.get()
    assert record.sent_at is not None
    assert record.run_after is not None
    assert record.sent_at >= record.run_after
    assert record.status == "SUCCESS"


def test_a_message_with_a_delay_for_aws_batch_waits_where_its_way_is_in_order(
    settings: Any, fifo: str, sqs: LocalSqs
) -> None:
    settings.LAMBDA_TASKS_QUEUES = settings.LAMBDA_TASKS_QUEUES | {"default": fifo}
    later = tasks.leave_effect.using(queue="heavy", delay=60).execute_on_commit(name="later")
    assert every(sqs, fifo) == []

    TaskRecord.objects.filter(id=later.id).update(run_after=Now(), look_at=Now())

    assert relay() == 1
    assert len(every(sqs, fifo)) == 1


def fifo_event(*bodies: str, groups: str) -> Any:
    event = sqs_event(*bodies)
    for record, group in zip(event["Records"], groups, strict=True):
        record["eventSourceARN"] += ".fifo"
        record["attributes"]["MessageGroupId"] = group
    return event


def came_back(event: Any) -> list[int]:
    answer = handler.handler(event, LambdaContext())
    ids = [record["messageId"] for record in event["Records"]]
    return sorted(ids.index(each["itemIdentifier"]) for each in answer["batchItemFailures"])


def test_none_of_a_group_runs_after_one_that_goes_back(handle: Handle) -> None:
    good = [body(tasks.leave_effect_direct, name=str(number)) for number in range(6)]
    event = fifo_event(good[0], "no JSON", good[1], good[2], good[3], groups="aaaab")

    assert came_back(event) == [1, 2, 3]
    assert {each.name for each in Effect.objects.all()} == {"0", "3"}
    waiting = TaskRecord.objects.filter(status="QUEUED")
    assert [each.n_attempts for each in waiting] == [0, 0], "it counts as no attempt"

    assert came_back(fifo_event(good[1], good[2], groups="aa")) == []
    assert Effect.objects.count() == 4


def test_a_task_that_fails_holds_up_no_other_of_its_group(handle: Handle) -> None:
    failing, other = body(tasks.write_and_fail, name="x"), body(tasks.leave_effect_direct, name="y")
    event = fifo_event(failing, other, groups="aa")

    assert came_back(event) == []
    assert [each.name for each in Effect.objects.all()] == ["y"]


def test_a_lost_claim_sends_the_rest_of_its_group_back(handle: Handle) -> None:
    event = fifo_event(
        body(tasks.lose_own_claim), body(tasks.leave_effect_direct, name="after"), groups="aa"
    )

    assert came_back(event) == [0, 1]
    assert Effect.objects.count() == 0
