"""What this release can't run: it waits for another release, and is FAILED only after the grace."""

import json
import logging
import uuid
from datetime import timedelta
from typing import Any

import pytest
from django.core.management import call_command
from django.utils import timezone
from pydantic import SecretStr

from lambda_tasks import handler
from lambda_tasks.backends.compat import TaskResultStatus, task_started
from lambda_tasks.local import LambdaContext, LocalSqs
from lambda_tasks.models import TaskRecord
from lambda_tasks.queues.sqs import SQSQueue
from tests.app import django_tasks, secretive, tasks, turns
from tests.conftest import Handle, Task, body, record_of, relay, sqs_event, wake_up
from tests.test_fifo import fifo, received

__all__ = ["fifo"]

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("queue")]

HOUR = timedelta(hours=1)

NAMES = {
    "no such module": "tests.app.gone.task",
    "no such attribute": "tests.app.tasks.gone",
    "not a task": "tests.app.tasks.not_a_task",
    "not decorated": "tests.app.tasks.nested",
    "no such app": "shop.tasks.task",
    "a module that fails": "tests.app.wiping.task",
}

ARGUMENTS: dict[str, dict[str, Any]] = {
    "unknown": {"a": 1, "later": 2},
    "missing": {"b": 1},
    "of another type": {"a": "one"},
}


def stored(task: Task = tasks.add, /, **changes: Any) -> TaskRecord:
    """A stored call of another release: one with these columns."""
    invocation = task.execute_on_commit(a=1)
    TaskRecord.objects.filter(id=invocation.id).update(**changes)
    return TaskRecord.objects.get(id=invocation.id)


def deliver(record: TaskRecord, handle: Handle) -> list[int]:
    indexes = handle(wake_up(record.id, record.task_name))
    record.refresh_from_db()
    return indexes


def refusals_in(caplog: Any, level: int = logging.WARNING) -> list[str]:
    return [
        each.getMessage()
        for each in caplog.records
        if each.levelno == level and "can't be run by this release" in each.getMessage()
    ]


@pytest.fixture
def seconds(monkeypatch: Any) -> list[float]:
    """The visibility timeouts of deliveries that go back."""
    noted: list[float] = []

    async def postpone(self: Any, wiring: Any, receipt_handle: str, seconds: float) -> None:
        noted.append(seconds)

    monkeypatch.setattr(SQSQueue, "postpone", postpone)
    return noted


def receive(
    text: str, *, receives: int = 1, sent_ago: timedelta = timedelta(0), queue: str = "default"
) -> list[dict[str, str]]:
    """Give a message to the handler that was received so often; return what goes back."""
    event = sqs_event(text)
    (record,) = event["Records"]
    record["receiptHandle"] = "a handle"
    sent_at = timezone.now() - sent_ago
    record["attributes"] |= {
        "ApproximateReceiveCount": str(receives),
        "SentTimestamp": str(round(sent_at.timestamp() * 1000)),
    }
    answer: dict[str, Any] = handler.handler(event, LambdaContext())
    failures: list[dict[str, str]] = answer["batchItemFailures"]
    return failures


@pytest.mark.parametrize(
    "changes",
    [{"task_name": name} for name in NAMES.values()]
    + [{"kwargs": kwargs} for kwargs in ARGUMENTS.values()],
    ids=[*NAMES, *ARGUMENTS],
)
@pytest.mark.parametrize("task", [tasks.add, tasks.aadd])
def test_a_stored_call_that_can_not_run_waits_in_its_row_and_fails_after_the_grace(
    handle: Handle, task: Task, changes: dict[str, Any], caplog: Any
) -> None:
    record = stored(task, **changes)

    assert deliver(record, handle) == []

    assert (record.status, record.n_attempts, record.n_waits) == ("QUEUED", 0, 1)
    assert record.worker_ids in (None, "")
    assert record.refused_at is not None
    assert record.look_at is not None
    assert record.sent_at is None
    assert record.look_at - record.refused_at >= timedelta(seconds=60)
    (line,) = refusals_in(caplog)
    assert record.task_name in line
    assert str(record.id) in line
    assert "for 60 s" in line

    assert deliver(record, handle) == []
    assert len(refusals_in(caplog)) == 1, "no flood"
    TaskRecord.objects.update(refused_at=timezone.now() - HOUR)
    assert deliver(record, handle) == []

    assert (record.status, record.n_attempts) == ("FAILED", 0)
    assert record.look_at is None
    assert "LAMBDA_TASKS_DEPLOYMENT_GRACE" in (record.traceback or "")
    failed = [each.getMessage() for each in caplog.records if each.name == "lambda_tasks.task"]
    (line,) = [each for each in failed if "LAMBDA_TASKS_DEPLOYMENT_GRACE" in each]
    assert str(record.id) in line


@pytest.mark.parametrize("changes", [{"task_name": NAMES["no such attribute"]}, {"kwargs": {}}])
def test_each_wait_is_longer_up_to_the_end_of_the_grace(
    handle: Handle, changes: dict[str, Any]
) -> None:
    record = stored(**changes)
    waits = []
    for minutes in (0, 1, 3, 7, 15, 30, 45, 59.5):
        TaskRecord.objects.exclude(refused_at=None).update(
            refused_at=timezone.now() - timedelta(minutes=minutes)
        )
        deliver(record, handle)
        assert record.look_at is not None
        waits.append((record.look_at - timezone.now()).total_seconds() / 60)

    assert waits == [pytest.approx(each, abs=0.2) for each in (1, 2, 4, 8, 15, 15, 15, 0.5)]


def test_what_waits_in_its_row_is_sent_again_and_runs_once_it_can(
    handle: Handle, sqs: LocalSqs, queue: str
) -> None:
    record = stored(kwargs={"a": 1, "later": 2})
    deliver(record, handle)
    received(sqs, queue)
    assert relay() == 0, "it is not due yet"
    TaskRecord.objects.update(look_at=timezone.now(), kwargs={"a": 1})  # another release

    assert relay() == 1
    (message,) = received(sqs, queue)
    handle(message["Body"])

    record.refresh_from_db()
    assert (record.status, record.n_attempts) == ("SUCCESS", 1)


@pytest.mark.parametrize("seconds", [0, 120])
def test_the_setting_says_how_long(handle: Handle, settings: Any, seconds: int) -> None:
    settings.LAMBDA_TASKS_DEPLOYMENT_GRACE = seconds
    record = stored(task_name=NAMES["no such module"])

    deliver(record, handle)
    if seconds:
        assert record.status == "QUEUED"
        TaskRecord.objects.update(refused_at=timezone.now() - timedelta(seconds=seconds))
        deliver(record, handle)

    assert record.status == "FAILED"


def test_the_grace_begins_anew_after_a_run(handle: Handle) -> None:
    now = timezone.now()
    record = stored(
        task_name=NAMES["no such module"], refused_at=now - 3 * HOUR, status="RUNNING",
        start_time=now - 2 * HOUR, lease_until=now - HOUR, n_attempts=1, claim_token=uuid.uuid4(),
    )  # fmt: skip

    assert deliver(record, handle) == []

    assert record.status == "RUNNING", "a lost run, which another release may repeat"
    assert record.refused_at is not None
    assert record.refused_at >= now


def test_a_run_that_is_cut_off_ends_the_grace_before_it(handle: Handle) -> None:
    id = turns.hang.execute_on_commit().id
    TaskRecord.objects.update(refused_at=timezone.now() - HOUR)

    assert handle(wake_up(id, turns.hang.name), timeout_s=3) == [0]

    record = TaskRecord.objects.get(id=id)
    assert (record.status, record.refused_at) == ("QUEUED", None)


@pytest.mark.parametrize(
    "state", [{"status": "SUCCESS"}, {"status": "CANCELLED"}], ids=["finished", "cancelled"]
)
def test_what_has_ended_is_acknowledged(handle: Handle, state: dict[str, Any]) -> None:
    record = stored(task_name=NAMES["no such module"], **state)

    assert deliver(record, handle) == []

    assert (record.status, record.refused_at) == (state["status"], None)


def test_what_is_due_much_later_is_sent_again_when_it_is_due(handle: Handle) -> None:
    run_after = timezone.now() + 13 * HOUR
    record = stored(task_name=NAMES["no such module"], run_after=run_after)

    assert deliver(record, handle) == []

    assert (record.status, record.refused_at, record.sent_at) == ("QUEUED", None, None)
    assert relay() == 0
    record.refresh_from_db()
    assert record.look_at == run_after - timedelta(minutes=15)


def test_what_runs_elsewhere_is_not_disturbed(handle: Handle) -> None:
    lease_until = timezone.now() + HOUR
    record = stored(
        task_name=NAMES["no such module"],
        status="RUNNING", lease_until=lease_until, claim_token=uuid.uuid4(),
    )  # fmt: skip

    assert deliver(record, handle) == [0]

    assert (record.status, record.refused_at, record.lease_until) == ("RUNNING", None, lease_until)


@pytest.mark.usefixtures("transactional_db")
@pytest.mark.parametrize(
    "message",
    [{"task_name": name, "kwargs": {"a": 1}} for name in NAMES.values()]
    + [{"task_name": tasks.add.name, "kwargs": kwargs} for kwargs in ARGUMENTS.values()],
    ids=[*NAMES, *ARGUMENTS],
)
def test_a_direct_message_goes_back_four_times_and_then_has_a_failed_record(
    handle: Handle, seconds: list[float], message: dict[str, Any], caplog: Any
) -> None:
    text = json.dumps(message | {"invocation_id": str(uuid.uuid4())})

    for receives in (1, 2, 3, 4):
        assert len(receive(text, receives=receives, sent_ago=2 * HOUR)) == 1
    assert seconds == [60, 240, 900, 2400]
    assert refusals_in(caplog)
    TaskRecord.objects.update(refused_at=timezone.now() - HOUR)

    assert receive(text, receives=5, sent_ago=2 * HOUR) == []

    record = record_of(text)
    assert (record.status, record.n_attempts) == ("FAILED", 0)
    assert record.task_name == message["task_name"]
    if message["task_name"] != tasks.add.name:
        assert record.kwargs == {"a": "**********"}, "nobody here knows whether it is secret"
        assert record.secrets
    elif "later" in message["kwargs"]:
        assert record.kwargs == {"a": 1, "later": "**********"}, "nor whether this is"


def test_receives_that_were_used_up_otherwise_do_not_shorten_the_grace(
    handle: Handle, seconds: list[float]
) -> None:
    message = json.dumps({"task_name": NAMES["no such module"], "kwargs": {}})

    assert len(receive(message, receives=7, sent_ago=timedelta(minutes=10))) == 1

    assert seconds == [pytest.approx(3000, abs=60)]
    assert not TaskRecord.objects.exists()


def test_a_direct_message_that_is_not_due_goes_back_until_it_is(
    handle: Handle, seconds: list[float]
) -> None:
    run_after = (timezone.now() + HOUR).isoformat()
    message = {"task_name": NAMES["no such module"], "kwargs": {}, "run_after": run_after}

    assert len(receive(json.dumps(message), receives=9, sent_ago=24 * HOUR)) == 1

    assert seconds == [pytest.approx(3600, abs=60)]


def test_a_record_that_could_not_keep_the_arguments_is_not_made(
    handle: Handle, monkeypatch: Any, caplog: Any
) -> None:
    monkeypatch.setattr("lambda_tasks.records.claims.is_available", lambda: False)
    message = json.dumps({"task_name": NAMES["no such module"], "kwargs": {"a": 1}})

    assert len(receive(message, receives=5, sent_ago=2 * HOUR)) == 1

    assert not TaskRecord.objects.exists()
    assert "dead letters" in caplog.text


def test_a_newer_format_goes_back_for_longer_each_time(
    handle: Handle, seconds: list[float], caplog: Any
) -> None:
    message = json.dumps({"v": 2, "task_name": tasks.add.name, "kwargs": {"a": 1}})

    for receives in (1, 2, 3, 4, 5):
        assert len(receive(message, receives=receives, sent_ago=2 * HOUR)) == 1

    assert seconds == [60, 240, 900, 2400]
    assert len(refusals_in(caplog)) == 5
    assert not TaskRecord.objects.exists(), "nobody here knows what it says"


def test_on_a_fifo_queue_the_group_waits_behind_it_in_its_order(
    handle: Handle, fifo: str, sqs: LocalSqs, seconds: list[float]
) -> None:
    ordered = tasks.leave_effect.using(queue="ordered", group_key="one")
    first, second = (ordered.execute_on_commit(name=name).id for name in "ab")
    TaskRecord.objects.filter(id=first).update(task_name=NAMES["no such attribute"])
    wait_for_two = [wake_up(first, NAMES["no such attribute"]), wake_up(second, ordered.name)]

    def receive_group(receives: int) -> int:
        event = sqs_event(*wait_for_two)
        for record in event["Records"]:
            record["eventSourceARN"] = (
                f"arn:aws:sqs:us-east-1:000000000000:{fifo.rsplit('/', maxsplit=1)[-1]}"
            )
            record["receiptHandle"] = "a handle"
            record["attributes"] |= {
                "MessageGroupId": "one",
                "ApproximateReceiveCount": str(receives),
            }
        return len(handler.handler(event, LambdaContext())["batchItemFailures"])

    assert [receive_group(receives) for receives in (1, 2)] == [2, 2]
    assert [each for each in seconds if each] == [60, 240]
    record = TaskRecord.objects.get(id=first)
    assert (record.status, record.n_waits) == ("QUEUED", 0), "its place is in the queue"
    TaskRecord.objects.filter(id=first).update(refused_at=timezone.now() - HOUR)

    assert receive_group(5) == 0
    statuses = dict(TaskRecord.objects.values_list("id", "status"))
    assert statuses == {first: "FAILED", second: "SUCCESS"}


@pytest.mark.parametrize(
    "changes",
    [
        {"task_name": NAMES["no such module"]},
        {
            "task_name": NAMES["no such module"], "status": "RUNNING", "n_attempts": 1,
            "lease_until": timezone.now() - HOUR, "start_time": timezone.now() - 2 * HOUR,
        },
        {"kwargs": {"later": 1}},
    ],
    ids=["a name", "a lost run", "arguments"],
)  # fmt: skip
def test_a_worker_of_the_table_leaves_it_to_others_and_goes_on(
    changes: dict[str, Any], caplog: Any
) -> None:
    in_table = tasks.aadd.using(queue="table", priority=100)
    in_table.execute_many_on_commit([{"a": number} for number in range(25)])
    due_at = timezone.now() - timedelta(minutes=5)
    TaskRecord.objects.update(look_at=due_at, **changes)
    healthy = tasks.aadd.using(queue="table").execute_on_commit(a=1)

    call_command("lambda_tasks", "worker", "--queue", "table", "--once")

    record = healthy.record()
    assert record is not None
    assert record.status == "SUCCESS"
    left = TaskRecord.objects.exclude(id=healthy.id)
    assert left.filter(n_attempts=changes.get("n_attempts", 0)).count() == 25
    assert {each.n_waits for each in left} == {0}
    assert left.filter(look_at__lte=timezone.now()).count() == 25, "others may run it at once"
    assert 0 < len(refusals_in(caplog)) <= 25

    TaskRecord.objects.exclude(id=healthy.id).update(refused_at=timezone.now() - HOUR)
    call_command("lambda_tasks", "worker", "--queue", "table", "--once")
    assert {each.status for each in TaskRecord.objects.exclude(id=healthy.id)} == {"FAILED"}


def test_a_call_of_another_interface_that_does_not_fit_has_not_started(handle: Handle) -> None:
    started: list[object] = []

    def note(**kwargs: Any) -> None:
        started.append(kwargs["task_result"].id)

    result = django_tasks.aadd.enqueue(1, b=2)
    TaskRecord.objects.update(kwargs={"later": 1})
    task_started.connect(note)
    try:
        (record,) = TaskRecord.objects.all()
        message = wake_up(record.id, record.task_name, record.backend)
        assert handle(message) == []
        record.refresh_from_db()
        assert (record.status, record.n_attempts, started) == ("QUEUED", 0, [])
        TaskRecord.objects.update(kwargs={"b": 2})
        assert handle(message) == []
    finally:
        task_started.disconnect(note)

    result.refresh()
    assert result.status == TaskResultStatus.SUCCESSFUL
    assert started == [result.id]


def test_a_call_of_another_interface_waits_for_its_name_and_its_backend(handle: Handle) -> None:
    for changes in ({"task_name": "tests.app.django_tasks.gone"}, {"backend": "later"}):
        django_tasks.aadd.enqueue(1)
        TaskRecord.objects.filter(refused_at=None).update(**changes)
        record = TaskRecord.objects.get(refused_at=None)

        assert handle(wake_up(record.id, record.task_name, record.backend)) == []

    assert {each.status for each in TaskRecord.objects.all()} == {"QUEUED"}
    assert not TaskRecord.objects.filter(refused_at=None).exists()


def test_what_a_task_raises_itself_is_its_failure(handle: Handle) -> None:
    message = body(tasks.call_another_badly)

    assert handle(message) == []

    assert record_of(message).status == "FAILED"


def test_a_secret_that_no_release_can_read_fails_in_the_end(settings: Any, caplog: Any) -> None:
    secretive.pay.using(queue="table").execute_on_commit(account="a", token=SecretStr("hush"))
    settings.SECRET_KEY = "another key"
    call_command("lambda_tasks", "worker", "--queue", "table", "--once")
    record = TaskRecord.objects.get()
    assert (record.status, record.n_waits) == ("QUEUED", 1)
    TaskRecord.objects.update(refused_at=timezone.now() - HOUR, look_at=timezone.now())

    call_command("lambda_tasks", "worker", "--queue", "table", "--once")

    record.refresh_from_db()
    assert record.status == "FAILED"
    assert "unknown key" in (record.traceback or "")
