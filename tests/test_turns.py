"""What waits for its turn loses nothing: neither attempts, nor receives, nor retries."""

import json
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.db import OperationalError, connection, transaction
from django.db.models.functions import Now

from lambda_tasks import conf, handler
from lambda_tasks.core.message import Outgoing
from lambda_tasks.execution.locks import SingletonLocks
from lambda_tasks.local import EventSourceMapping, LambdaContext, LocalSqs
from lambda_tasks.models import LimitPlace, TaskRecord
from lambda_tasks.queues.sqs import SQSTransport
from lambda_tasks.records.claims import RecordClaims
from lambda_tasks.records.locks import RecordLocks
from tests.app import tasks, turns
from tests.app.models import Effect
from tests.conftest import (
    AMPLE_S,
    Event,
    Handle,
    Task,
    bodies_in,
    body,
    record_of,
    sqs_event,
    wait_for,
)
from tests.servers import LambdaProcess
from tests.servers.lambda_runtime import RuntimeExited

pytestmark = pytest.mark.django_db(transaction=True)

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture
def function(transactional_db: None) -> Iterator[LambdaProcess]:
    with LambdaProcess(timeout_s=AMPLE_S) as process:
        yield process


def received(*bodies: str, times: int, fifo: bool = False) -> Event:
    """An event whose messages were received so often by now."""
    event = sqs_event(*bodies)
    for record in event["Records"]:
        record["attributes"]["ApproximateReceiveCount"] = str(times)
        if fifo:
            record["eventSourceARN"] += ".fifo"
            record["attributes"]["MessageGroupId"] = "one"
    return event


def came_back(event: Event, *, timeout_s: float = AMPLE_S) -> list[int]:
    answer = handler.handler(event, LambdaContext(timeout_s=timeout_s))
    ids = [record["messageId"] for record in event["Records"]]
    return sorted(ids.index(each["itemIdentifier"]) for each in answer["batchItemFailures"])


def deliver(function: LambdaProcess, messages: list[str]) -> list[str]:
    """Give messages to a function that may die of them; those that come back, their leases over."""
    event = sqs_event(*messages)
    if not function.is_running:
        function.start()
    try:
        failures = function.invoke(event)["batchItemFailures"]
    except RuntimeExited:
        TaskRecord.objects.filter(status="RUNNING").update(lease_until=LONG_AGO)
        return messages
    failed = {each["itemIdentifier"] for each in failures}
    return [record["body"] for record in event["Records"] if record["messageId"] in failed]


def test_who_waits_beside_a_task_that_kills_its_worker_is_not_begun_and_not_failed(
    function: LambdaProcess,
) -> None:
    killer = body(turns.kill_its_worker)
    neighbours = [body(turns.take, seconds=0.3) for _ in range(9)]
    messages = [killer, *neighbours]

    for _ in range(12):
        messages = deliver(function, messages)
        if not messages:
            break

    assert messages == []
    assert (record_of(killer).status, record_of(killer).n_attempts) == ("FAILED", 5)
    assert {record_of(each).status for each in neighbours} == {"SUCCESS"}
    attempts = [record_of(each).n_attempts for each in neighbours]
    places = os.cpu_count() or 1
    assert attempts.count(1) >= 9 - places, "only what ran beside it was begun twice"
    assert max(attempts) <= 2, "it is a suspect then, which is started alone"


def test_what_had_not_begun_when_its_worker_died_runs_even_if_it_must_not_run_twice(
    function: LambdaProcess,
) -> None:
    killer = body(turns.kill_its_worker_once)
    neighbours = [body(turns.take_once, seconds=0.3) for _ in range(9)]

    messages = deliver(function, [killer, *neighbours])
    assert messages
    deliver(function, messages)

    statuses = [record_of(each).status for each in neighbours]
    places = os.cpu_count() or 1
    assert statuses.count("SUCCESS") >= 9 - places
    assert record_of(killer).status == "FAILED"


@pytest.mark.parametrize("task", [turns.take, tasks.wait])
def test_a_start_that_had_to_wait_is_counted_before_the_task_begins(
    handle: Handle, task: Task, statements: Any
) -> None:
    messages = [body(task, seconds=0.2) for _ in range(14)]

    handle(*messages)

    assert {record_of(each).status for each in messages} == {"SUCCESS"}
    assert {record_of(each).n_attempts for each in messages} == {1}
    assert all((record_of(each).worker_ids or "").count("\n") == 1 for each in messages)


def test_a_deadline_does_not_count_where_others_have_taken_of_the_time(handle: Handle) -> None:
    hanging, neighbour = body(turns.hang), body(tasks.aadd, a=1)

    assert handle(hanging, neighbour, timeout_s=12) == [0]

    record = record_of(hanging)
    assert (record.status, record.n_attempts, record.worker_ids) == ("QUEUED", 0, "")
    assert (record.cut_off_s or 0) > 1


def test_a_deadline_counts_for_a_task_that_had_the_whole_event(handle: Handle) -> None:
    hanging = body(turns.hang)

    assert handle(hanging, timeout_s=8) == [0]
    assert record_of(hanging).n_attempts == 1
    TaskRecord.objects.update(n_attempts=4)
    assert handle(hanging, timeout_s=8) == [0]

    assert record_of(hanging).n_attempts == 5
    handle(hanging, timeout_s=8)
    assert record_of(hanging).status == "FAILED"


def test_what_was_cut_off_for_twenty_times_its_hard_timeout_is_failed_with_that_reason(
    handle: Handle,
) -> None:
    hanging, neighbour = body(turns.hang), body(tasks.aadd, a=1)
    assert handle(hanging, neighbour, timeout_s=12) == [0]
    TaskRecord.objects.filter(status="QUEUED").update(cut_off_s=20 * 450 - 0.1)

    assert handle(hanging, body(tasks.aadd, a=1), timeout_s=12) == []

    assert record_of(hanging).status == "FAILED"
    assert "20 times its hard timeout of 450 s" in (record_of(hanging).traceback or "")


@pytest.mark.skipif(connection.vendor == "sqlite", reason="who is its one writer is mere chance")
def test_what_was_cut_off_runs_before_the_others_and_beside_them(
    handle: Handle, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    first = body(turns.wait_at_gate, gate=gate, opens=True)
    others = [body(turns.wait_at_gate, gate=gate, opens=False) for _ in range(8)]
    handle(first)
    gate.unlink()
    TaskRecord.objects.update(status="QUEUED", claim_token=None, n_attempts=1, cut_off_s=5.0)

    assert handle(*others, first) == []

    in_order = list(TaskRecord.objects.order_by("end_time").values_list("id", flat=True))
    place = in_order.index(record_of(first).id)
    assert place < 6, "it would be the ninth, and its start is counted beside those at work"


@pytest.mark.parametrize("timeout_s", [3, 4, 6])
def test_a_short_function_runs_what_is_short_whatever_it_might_take(
    handle: Handle, timeout_s: float
) -> None:
    handle(body(tasks.leave_effect, name="warm"))  # a busy machine may start for seconds
    messages = [body(tasks.aadd, a=1), body(tasks.add, a=2)]

    assert handle(*messages, timeout_s=timeout_s) == []


def test_a_hard_timeout_that_no_event_has_time_for_is_told_with_the_fix(
    handle: Handle, caplog: Any
) -> None:
    handler.close()  # it is told once in each process
    caplog.set_level("WARNING", "lambda_tasks")

    for _ in range(2):
        handle(body(turns.hang), timeout_s=3)

    told = [each for each in caplog.messages if "Raise the function's timeout to" in each]
    assert len(told) == 1
    assert turns.hang.name in told[0]
    assert "450 s" in told[0]
    assert "453 s" in told[0]


def test_a_task_keeps_its_limits_however_late_it_begins(handle: Handle) -> None:
    message = body(turns.take_of_three, seconds=0)

    handle(body(turns.take, seconds=1.5), message, timeout_s=9)

    assert record_of(message).status == "SUCCESS"


def test_a_task_hears_how_much_time_its_place_has_left(handle: Handle) -> None:
    message = body(turns.tell_remaining)

    handle(message, timeout_s=20)

    left_s = record_of(message).result
    assert left_s is not None
    assert 5 < left_s < 18, "of a soft timeout of 270 s"


def test_it_begins_what_will_probably_do_and_gives_the_others_back(handle: Handle) -> None:
    messages = [body(turns.take, seconds=1) for _ in range(30)]

    back = handle(*messages, timeout_s=10)

    assert 0 < len(back) < 30
    for index, message in enumerate(messages):
        record = record_of(message)
        expected = ("QUEUED", 0, 1) if index in back else ("SUCCESS", 1, 0)
        assert (record.status, record.n_attempts, record.n_waits) == expected


def test_what_goes_back_at_its_third_receive_is_sent_again_as_a_new_message(
    queue: str, sqs: LocalSqs, handle: Handle
) -> None:
    messages = [body(turns.take, seconds=1) for _ in range(30)]

    assert came_back(received(*messages, times=3), timeout_s=10) == []

    waiting = TaskRecord.objects.filter(status="QUEUED")
    assert waiting.exists()
    assert set(waiting.values_list("n_attempts", flat=True)) == {0}
    sent = bodies_in(sqs, queue)
    assert {each["invocation_id"] for each in sent} == {str(each.id) for each in waiting}
    assert all(each["durable"] for each in sent)
    assert came_back(sqs_event(json.dumps(sent[0]))) == []
    assert TaskRecord.objects.get(id=sent[0]["invocation_id"]).status == "SUCCESS"


@pytest.mark.parametrize("durable", [True, False], ids=["durable", "direct"])
def test_what_a_live_lease_holds_at_its_third_receive_is_sent_again_too(
    queue: str, sqs: LocalSqs, handle: Handle, durable: bool
) -> None:
    direct = body(tasks.aadd, a=1)
    assert came_back(sqs_event(direct)) == []
    id = str(record_of(direct).id)
    held = {"status": "RUNNING", "claim_token": id, "lease_until": Now() + timedelta(seconds=60)}
    TaskRecord.objects.update(**held, end_time=None)
    message = json.dumps(json.loads(direct) | {"durable": True}) if durable else direct

    assert came_back(received(message, times=2)) == [0]
    assert came_back(received(message, times=3)) == []

    counts = sqs.client.get_queue_attributes(QueueUrl=queue, AttributeNames=["All"])["Attributes"]
    assert counts["ApproximateNumberOfMessagesDelayed"] == "1", "until the lease is over"


def test_a_message_that_is_sent_again_keeps_what_this_release_does_not_know(
    queue: str, sqs: LocalSqs, handle: Handle
) -> None:
    later = {"from_a_later_release": {"amount": 1.5, "text": "\u00e9"}}
    messages = [json.dumps(json.loads(body(turns.take, seconds=1)) | later) for _ in range(12)]

    assert came_back(received(*messages, times=3), timeout_s=6) == []

    sent = bodies_in(sqs, queue)
    assert sent
    for each in sent:
        assert each == json.loads(record_body(each, messages)) | {"durable": True}


def record_body(sent: dict[str, Any], messages: list[str]) -> str:
    """The message that a copy was made of."""
    return next(each for each in messages if sent["invocation_id"] in each)


def test_on_a_fifo_queue_nothing_is_sent_again_as_a_copy(
    queue: str, sqs: LocalSqs, handle: Handle
) -> None:
    messages = [body(turns.take, seconds=1) for _ in range(12)]

    back = came_back(received(*messages, times=4, fifo=True), timeout_s=6)

    assert back == list(range(back[0], 12)), "in their order"
    assert bodies_in(sqs, queue) == []


def test_a_copy_that_can_not_be_sent_leaves_the_delivery_to_come_back(
    handle: Handle, settings: Any
) -> None:
    settings.LAMBDA_TASKS_QUEUES = {"default": "http://127.0.0.1:9/000000000000/gone"}
    messages = [body(turns.take, seconds=1) for _ in range(30)]

    back = came_back(received(*messages, times=3), timeout_s=6)

    assert back
    assert {record_of(messages[each]).status for each in back} == {"QUEUED"}


def test_an_outage_of_the_database_uses_up_no_receives_and_is_soon_made_up_for(
    queue: str,
    sqs: LocalSqs,
    handle: Handle,
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings.LAMBDA_TASKS_SIGNING_KEYS = ["k" * 32]
    stored = tasks.add.execute_on_commit(a=1).id
    tasks.add_direct.execute_on_commit(a=2)
    messages = [json.dumps(each, separators=(",", ":")) for each in bodies_in(sqs, queue)]
    signer = conf.current().signer(conf.current().queue("default").audience)
    assert signer is not None
    of_an_earlier_producer = '{"task_name":"tests.app.tasks.add_direct","kwargs":{"a":3}}'
    messages.append(signer.sign(of_an_earlier_producer, now=time.time()))
    delays: dict[str, int] = {}
    entry = SQSTransport._entry

    def noting(self: SQSTransport, id: str, outgoing: Outgoing) -> dict[str, Any]:
        delays[str(outgoing.message.invocation_id)] = outgoing.delay_s
        return entry(self, id, outgoing)

    def be_gone(*_: Any, **__: Any) -> None:
        raise OperationalError("the server has gone away")

    monkeypatch.setattr(SQSTransport, "_entry", noting)
    with monkeypatch.context() as outage:
        outage.setattr(RecordClaims, "claim", be_gone)
        back = came_back(received(*messages, times=3))

    assert back == [2], "a copy of what has no id of its own would be another invocation"
    ids = [json.loads(each)["invocation_id"] for each in messages[:2]]
    assert [delays.get(id) for id in ids] == [60, 60]
    record = TaskRecord.objects.get(id=stored)
    assert (record.status, record.n_attempts) == ("QUEUED", 0)


def test_waits_grow(queue: str, sqs: LocalSqs, handle: Handle) -> None:
    messages = [body(turns.take, seconds=1) for _ in range(30)]
    handle(*messages, timeout_s=6)
    waiting = TaskRecord.objects.filter(status="QUEUED")
    waiting.update(n_waits=4)
    again = [message for message in messages if record_of(message).status == "QUEUED"]

    came_back(received(*again, times=3), timeout_s=6)

    assert set(waiting.values_list("n_waits", flat=True)) == {5}
    assert bodies_in(sqs, queue) == [], "they are delayed by a minute"
    counts = sqs.client.get_queue_attributes(QueueUrl=queue, AttributeNames=["All"])["Attributes"]
    assert int(counts["ApproximateNumberOfMessagesDelayed"]) == waiting.count() > 0


def test_starts_of_short_tasks_are_counted_together(
    handle: Handle, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin, together = RecordClaims.begin, list[int]()

    def noting(self: RecordClaims, claims: Any, *args: Any) -> Any:
        together.append(len(claims))
        return begin(self, claims, *args)

    handle(*[body(turns.take, seconds=0.002) for _ in range(20)])  # so that it is known how long
    monkeypatch.setattr(RecordClaims, "begin", noting)
    messages = [body(turns.take, seconds=0.002) for _ in range(1000)]

    assert handle(*messages) == []

    counts = set(TaskRecord.objects.values_list("n_attempts", "status"))
    assert counts == {(1, "SUCCESS")}
    assert sum(together) > 4 * len(together), together


@pytest.mark.parametrize("timeout_s", [3.9, 3.95, 4.0, 4.05], ids=str)
def test_what_is_counted_with_others_and_has_no_time_has_lost_no_attempt(
    handle: Handle, timeout_s: float
) -> None:
    handle(*[body(turns.take, seconds=0.02) for _ in range(10)])
    messages = [body(turns.take, seconds=0.02) for _ in range(1500)]

    back = handle(*messages, timeout_s=timeout_s)

    assert back
    # Those that could not be given back in time come back by their leases.
    given_back = TaskRecord.objects.filter(status="QUEUED")
    attempts = given_back.values_list("n_attempts", "worker_ids", "start_time").distinct()
    assert list(attempts) == [(0, "", None)]


def test_starts_are_counted_beside_the_transactions_of_the_tasks(
    handle: Handle, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin, was_in_one = RecordClaims.begin, list[bool]()

    def noting(self: RecordClaims, *args: Any) -> Any:
        was_in_one.append(connection.in_atomic_block)
        return begin(self, *args)

    monkeypatch.setattr(RecordClaims, "begin", noting)
    messages = [body(turns.awrite_and_take, seconds=0.1) for _ in range(100)]

    assert handle(*messages) == []

    assert len(was_in_one) > 1
    assert not any(was_in_one)


def test_a_short_function_works_off_many_tasks_and_dead_letters_none(
    sqs: LocalSqs, settings: Any, transactional_db: None
) -> None:
    url = sqs.create_queue("test-short-function", visibility_timeout_s=36, max_receive_count=5)
    settings.LAMBDA_TASKS_QUEUES = {"default": url}
    for _ in range(30):
        turns.take_of_three.execute_on_commit(seconds=0.8)

    with LambdaProcess(timeout_s=6, LAMBDA_TASKS_TEST_QUEUE=url) as function:
        function.invoke(sqs_event(body(tasks.aadd, a=1)), timeout_s=AMPLE_S)
        mapping = EventSourceMapping(url, function.invoke, client_options=sqs.client_options)
        waiting = TaskRecord.objects.exclude(status="SUCCESS")

        def is_worked_off() -> bool:
            mapping.poll_once(wait_s=1)
            return not waiting.exists()

        wait_for(is_worked_off)

    assert bodies_in(sqs, f"{url}-dlq") == []
    assert not TaskRecord.objects.exclude(n_attempts=1).exists()


@pytest.fixture
def taken_lock(transactional_db: None) -> Iterator[None]:
    key = f"lambda_tasks.singleton_lock.{turns.alone.name}"
    locks = SingletonLocks(RecordLocks(), cache_alias=lambda: "default")
    with locks.hold(key, timeout_s=AMPLE_S):
        yield


def test_a_singleton_waits_for_its_lock_in_its_own_row(
    queue: str, sqs: LocalSqs, handle: Handle, taken_lock: None
) -> None:
    message = body(turns.alone)

    assert handle(message) == [], "a new message is on its way"

    record = TaskRecord.objects.get()
    assert record.id == record_of(message).id
    assert (record.status, record.n_attempts, record.n_retries) == ("QUEUED", 0, 0)
    assert (record.n_waits, record.traceback) == (1, None)
    LimitPlace.objects.all().delete()
    wait_for(lambda: bodies_in(sqs, queue))
    assert handle(message) == []
    assert (record_of(message).status, record_of(message).n_attempts) == ("SUCCESS", 1)


def test_a_singleton_that_waits_too_often_is_failed_by_its_lock(
    queue: str, handle: Handle, taken_lock: None
) -> None:
    message = body(turns.alone)

    for _ in range(3):
        handle(message)

    record = record_of(message)
    assert (record.status, TaskRecord.objects.count()) == ("FAILED", 1)
    assert "SingletonLockError" in (record.traceback or "")
    assert not Effect.objects.exists()


def test_a_singleton_in_eager_mode_does_not_wait_for_ever(settings: Any, taken_lock: None) -> None:
    settings.LAMBDA_TASKS_EAGER = True

    turns.alone.execute_on_commit()

    assert TaskRecord.objects.get().status == "FAILED", "nobody lets go of its lock meanwhile"


def test_a_singleton_that_waits_in_the_table_is_looked_at_when_its_wait_is_over(
    settings: Any, taken_lock: None
) -> None:
    settings.LAMBDA_TASKS_QUEUES = {"default": {"database": True}}
    turns.alone.execute_on_commit()

    call_command("lambda_tasks", "worker", "--once")

    record = TaskRecord.objects.get()
    assert (record.status, record.n_attempts, record.n_waits) == ("QUEUED", 0, 1)
    assert TaskRecord.objects.filter(look_at__gt=Now() - timedelta(minutes=1)).exists()
    LimitPlace.objects.all().delete()
    TaskRecord.objects.update(look_at=Now())
    call_command("lambda_tasks", "worker", "--once")
    assert TaskRecord.objects.get().status == "SUCCESS"


@pytest.mark.skipif(connection.vendor == "sqlite", reason="it locks no single rows")
def test_what_a_stranger_has_locked_is_not_dead_lettered_meanwhile(
    queue: str, sqs: LocalSqs, handle: Handle
) -> None:
    call = tasks.add.execute_on_commit(a=1)
    (message,) = bodies_in(sqs, queue)

    with transaction.atomic():
        TaskRecord.objects.select_for_update().get(id=call.id)
        assert came_back(received(json.dumps(message), times=2)) == [0]
        assert came_back(received(json.dumps(message), times=3)) == [], "a new one is on its way"

    wait_for(lambda: bodies_in(sqs, queue))
    assert handle(json.dumps(message)) == []
    assert TaskRecord.objects.get().n_attempts == 1


def test_what_a_deadline_cuts_off_at_its_third_receive_is_sent_again(
    queue: str, sqs: LocalSqs, handle: Handle
) -> None:
    hanging = body(turns.hang)
    handle(body(tasks.aadd, a=1))

    def is_done_with() -> bool:
        """It may not have been sent in the little time that is left at a deadline."""
        return not came_back(received(hanging, body(tasks.aadd, a=1), times=3), timeout_s=12)

    wait_for(is_done_with)
    wait_for(lambda: str(record_of(hanging).id) in _ids_in(sqs, queue))


def _ids_in(sqs: LocalSqs, queue: str) -> set[str]:
    return {each["invocation_id"] for each in bodies_in(sqs, queue)}
