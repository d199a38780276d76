"""From a call, through the caller's transaction, into a real SQS queue."""

import asyncio
import json
import os
import unittest
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar, cast

import pydantic
import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.core.exceptions import ImproperlyConfigured, SynchronousOnlyOperation
from django.db import connection, connections, transaction
from django.test import AsyncClient, Client, TestCase
from django.test.utils import CaptureQueriesContext
from django.utils.timezone import now

from lambda_tasks import EnqueueError, MessageTooLarge, conf, runtime
from lambda_tasks.core.message import decode
from lambda_tasks.local import LocalSqs
from lambda_tasks.models import SQSLambdaTask, SQSLambdaTaskMessage, TaskRecord
from tests.app import resuming, tasks, unique
from tests.app.models import Effect
from tests.conftest import Handle, Task, bodies_in, body, carries, kwargs_of, relay
from tests.servers.faulty_sqs import Fault, FaultySqs

pytestmark = pytest.mark.django_db(transaction=True)

SENDS = "SendMessageBatch"


@pytest.fixture
def proxy(queue: str, sqs: LocalSqs, settings: Any) -> Any:
    """The default queue behind a proxy that counts, and that tests make faulty."""
    with FaultySqs(sqs.endpoint_url) as proxy:
        settings.LAMBDA_TASKS_AWS = sqs.client_options | {"endpoint_url": proxy.endpoint_url}
        yield proxy


def test_a_committed_transaction_sends_and_marks_its_record(sqs: LocalSqs, queue: str) -> None:
    with transaction.atomic():
        invocation = tasks.add.execute_on_commit(a=1)
        before_the_commit = bodies_in(sqs, queue)

    (message,) = bodies_in(sqs, queue)
    record = invocation.record()
    assert before_the_commit == []
    assert message["invocation_id"] == str(invocation.id)
    assert (message["task_name"], kwargs_of(message)) == ("tests.app.tasks.add", {"a": 1})
    assert record is not None
    assert (record.status, record.kwargs, record.queue) == ("QUEUED", {"a": 1}, "default")
    assert record.enqueued_at is not None
    assert record.sent_at is not None


@pytest.mark.parametrize("task", [tasks.add, tasks.add_direct])
def test_a_rolled_back_transaction_sends_nothing(sqs: LocalSqs, queue: str, task: Task) -> None:
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        task.execute_on_commit(a=1)
        raise ZeroDivisionError

    assert bodies_in(sqs, queue) == []
    assert not TaskRecord.objects.exists()


@pytest.mark.parametrize("task", [tasks.add, tasks.add_direct])
def test_a_rolled_back_savepoint_takes_its_messages_along_and_no_others(
    sqs: LocalSqs, queue: str, task: Task
) -> None:
    with transaction.atomic():
        task.execute_on_commit(a=1)
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            task.execute_on_commit(a=2)
            raise ZeroDivisionError
        task.execute_on_commit(a=3)
        with transaction.atomic():
            task.execute_on_commit(a=4)

    assert sorted(kwargs_of(each)["a"] for each in bodies_in(sqs, queue)) == [1, 3, 4]


@pytest.mark.parametrize("task", [tasks.add, tasks.add_direct])
def test_a_thousand_calls_in_one_transaction_make_a_hundred_requests(
    proxy: FaultySqs, task: Task
) -> None:
    with transaction.atomic():
        for number in range(1000):
            task.execute_on_commit(a=number)

    assert proxy.requests.by_action[SENDS] == 100
    assert sum(map(len, proxy.requests.batches)) == 1000


@pytest.mark.parametrize("task", [tasks.aadd, tasks.aadd_direct])
def test_a_thousand_concurrent_async_calls_make_at_most_110_requests(
    proxy: FaultySqs, task: Task
) -> None:
    async def enqueue() -> None:
        await asyncio.gather(*(task.aexecute_on_commit(a=number) for number in range(1000)))

    async_to_sync(enqueue)()

    assert proxy.requests.by_action[SENDS] <= 110
    sent = [kwargs_of(json.loads(each))["a"] for batch in proxy.requests.batches for each in batch]
    assert sorted(sent) == list(range(1000))


def test_an_async_call_joins_the_transaction_of_the_surrounding_code(
    sqs: LocalSqs, queue: str
) -> None:
    def in_a_transaction(fail: bool) -> None:
        with transaction.atomic():
            async_to_sync(tasks.aadd.aexecute_on_commit)(a=1)
            assert bodies_in(sqs, queue) == []
            if fail:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        in_a_transaction(fail=True)
    assert bodies_in(sqs, queue) == []

    in_a_transaction(fail=False)
    assert len(bodies_in(sqs, queue)) == 1


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[str]:
    """Another database than that of the records, without tables."""
    own = {"ENGINE": "django.db.backends.sqlite3", "NAME": tmp_path / "db", "OPTIONS": {}}
    connections.databases["elsewhere"] = connections.databases["default"] | own
    connections["elsewhere"].connect()  # Django's tests open none that their settings don't name
    yield "elsewhere"
    connections["elsewhere"].close()
    del connections["elsewhere"]
    del connections.databases["elsewhere"]


def test_a_call_in_a_transaction_on_another_database_is_refused(queue: str, elsewhere: str) -> None:
    task = unique.bill.using(using=elsewhere)
    assert task.execute_on_commit(order_id=1).created
    assert not task.execute_on_commit(order_id=1).created

    with (
        pytest.raises(ImproperlyConfigured, match="can't be checked before the commit"),
        transaction.atomic(using=elsewhere),
    ):
        task.execute_on_commit(order_id=2)


def test_a_transaction_of_another_database_is_joined_and_its_records_are_stored_after_it(
    sqs: LocalSqs, queue: str, elsewhere: str, work_off: Callable[[str], int]
) -> None:
    task = tasks.leave_effect.using(using=elsewhere)
    with pytest.raises(ZeroDivisionError), transaction.atomic(using=elsewhere):
        task.execute_on_commit(name="rolled back")
        raise ZeroDivisionError
    with transaction.atomic(using=elsewhere):
        task.execute_on_commit(name="committed")
        async_to_sync(task.aexecute_on_commit)(name="committed by async code")
        assert not TaskRecord.objects.exists(), "it could not be rolled back"

    assert work_off(queue) == 2

    names = Effect.objects.values_list("name", flat=True)
    assert sorted(names) == ["committed", "committed by async code"]
    assert TaskRecord.objects.filter(status="SUCCESS").count() == 2


def test_an_async_call_outside_a_transaction_returns_when_it_is_sent(
    sqs: LocalSqs, queue: str
) -> None:
    async def enqueue() -> int:
        await tasks.aadd.aexecute_on_commit(a=1)
        return len(await sync_to_async(bodies_in)(sqs, queue))

    assert async_to_sync(enqueue)() == 1


def test_a_cancelled_caller_does_not_take_its_message_back(sqs: LocalSqs, queue: str) -> None:
    async def cancelled() -> None:
        call = asyncio.ensure_future(tasks.aadd_direct.aexecute_on_commit(a=1))
        await asyncio.sleep(0)
        neighbour = asyncio.ensure_future(tasks.aadd_direct.aexecute_on_commit(a=2))
        call.cancel()
        await neighbour

    async_to_sync(cancelled)()

    assert {kwargs_of(each)["a"] for each in bodies_in(sqs, queue)} == {1, 2}


def test_the_order_relative_to_other_hooks_is_kept(proxy: FaultySqs) -> None:
    sent_before_the_hook: list[int] = []
    with transaction.atomic():
        tasks.add.execute_on_commit(a=1)
        transaction.on_commit(
            lambda: sent_before_the_hook.append(sum(map(len, proxy.requests.batches)))
        )
        tasks.add.execute_on_commit(a=2)

    assert sent_before_the_hook == [1]
    assert sum(map(len, proxy.requests.batches)) == 2


class _Case(TestCase):
    captured: ClassVar[set[str]] = set()

    def runTest(self) -> None:  # noqa: N802
        self.captured.clear()
        tasks.add.execute_on_commit(a=0)
        with self.captureOnCommitCallbacks(execute=True) as callbacks:
            ids = [tasks.add.execute_on_commit(a=1).id]
            with transaction.atomic():
                ids += [tasks.add.execute_on_commit(a=a).id for a in (2, 3)]
        assert len(callbacks) == 2
        with self.captureOnCommitCallbacks(execute=True) as callbacks:
            ids.append(tasks.add.execute_on_commit(a=4).id)
        assert len(callbacks) == 1
        self.captured.update(map(str, ids))


def test_it_works_under_capture_on_commit_callbacks(sqs: LocalSqs, queue: str) -> None:
    result = unittest.TestResult()
    unittest.TestSuite([_Case()]).run(result)

    assert result.wasSuccessful(), result.errors + result.failures
    assert {each["invocation_id"] for each in bodies_in(sqs, queue)} == _Case.captured


def test_views_enqueue_from_classic_and_async_code(
    sqs: LocalSqs, queue: str, work_off: Callable[[str], int]
) -> None:
    Client().get("/classic/")
    Client().get("/classic/?fail=1")
    async_to_sync(AsyncClient().get)("/async/")

    assert work_off(queue) == 2
    names = Effect.objects.values_list("name", flat=True)
    assert sorted(names) == ["from the async view", "from the classic view", "view"]


def test_the_bulk_forms_check_all_before_they_hand_over_any(sqs: LocalSqs, queue: str) -> None:
    with pytest.raises(ValueError, match="add"):
        tasks.add.execute_many_on_commit([{"a": 1}, {"a": "two"}])
    assert not TaskRecord.objects.exists()

    invocations = tasks.add.execute_many_on_commit({"a": number} for number in range(25))
    later = async_to_sync(tasks.aadd.aexecute_many_on_commit)([{"a": 25}])

    sent = {each["invocation_id"] for each in bodies_in(sqs, queue)}
    assert sent == {str(each.id) for each in [*invocations, *later]}
    assert TaskRecord.objects.exclude(sent_at=None).count() == 26


def test_a_bulk_call_stores_its_records_with_one_insert(
    queue: str,
) -> None:
    with CaptureQueriesContext(connection) as captured, transaction.atomic():
        tasks.add.execute_many_on_commit(
            {"a": number} for number in range(20)
        )  # SQLite takes 999 parameters

    statements = [query["sql"].split()[0] for query in captured.captured_queries]
    statements = [each for each in statements if each in ("INSERT", "UPDATE")]
    assert statements == ["INSERT", "UPDATE"]


def test_nothing_to_enqueue_is_nothing_to_send(proxy: FaultySqs) -> None:
    assert tasks.add.execute_many_on_commit([]) == []
    assert async_to_sync(tasks.add.aexecute_many_on_commit)([]) == []

    assert not proxy.requests.by_action


def test_using_overrides_queue_and_delay_for_every_call_form(sqs: LocalSqs, queue: str) -> None:
    other = f"{queue}-other"

    tasks.add.using(queue="other").execute_on_commit(a=1)
    tasks.add.execute_on_commit(a=2, _queue="other")  # type: ignore[call-arg]
    tasks.add.using(delay=600).execute_on_commit(a=3)
    tasks.add.execute_on_commit(a=4, _delay=600)  # type: ignore[call-arg]
    tasks.add.using(run_after=timedelta(minutes=10)).execute_on_commit(a=5)

    assert {kwargs_of(each)["a"] for each in bodies_in(sqs, other)} == {1, 2}
    assert all(each["queue"] == "other" for each in bodies_in(sqs, other))
    assert sqs.counts(queue) == {"visible": 0, "in_flight": 0, "delayed": 3}
    delayed = TaskRecord.objects.filter(queue="default")
    waits = [each.run_after - each.enqueued_at for each in delayed]  # type: ignore[operator]
    assert all(timedelta(seconds=595) < wait < timedelta(seconds=605) for wait in waits)
    assert tasks.add.using(delay=5) is not tasks.add


def test_run_after_needs_a_time_zone() -> None:
    with pytest.raises(ValueError, match="no time zone"):
        tasks.add.using(run_after=now().replace(tzinfo=None))


def test_what_is_due_later_than_sqs_can_delay_comes_back_until_then(
    sqs: LocalSqs, queue: str, work_off: Callable[[str], int]
) -> None:
    invocation = tasks.add.using(run_after=timedelta(hours=3)).execute_on_commit(a=1)
    record = invocation.record()
    assert record is not None
    early = json.dumps(
        {
            "task_name": "tests.app.tasks.add",
            "kwargs": {"a": 1},
            "invocation_id": str(invocation.id),
            "durable": True,
        }
    )
    sqs.client.send_message(QueueUrl=queue, MessageBody=early)

    work_off(queue)

    record.refresh_from_db()
    assert record.status == "QUEUED"
    assert sqs.counts(queue)["in_flight"] == 1


def test_serialize_gives_a_payload_that_runs_once_however_often_it_is_enqueued(
    queue: str, work_off: Callable[[str], int]
) -> None:
    payload = json.loads(json.dumps(tasks.leave_effect.serialize(name="stored")))

    assert payload["message"]["kwargs"] == {"name": "stored"}
    assert set(payload) == {"message", "delay", "queue"}
    assert set(payload["message"]) == {"task_name", "kwargs", "n_retries", "invocation_id"}
    SQSLambdaTask.model_validate(payload).execute_on_commit()
    async_to_sync(SQSLambdaTask.model_validate(payload).aexecute_on_commit)()
    with transaction.atomic():
        SQSLambdaTask.model_validate(payload).execute_on_commit()
        SQSLambdaTask.model_validate(payload).execute_on_commit()
    work_off(queue)

    assert Effect.objects.count() == 1


def test_a_payload_of_the_predecessor_is_accepted(
    queue: str, work_off: Callable[[str], int]
) -> None:
    payload = {
        "message": {"task_name": "tests.app.tasks.leave_effect", "kwargs": {"name": "old"}},
        "delay": 0,
        "queue": "default",
    }

    SQSLambdaTask.model_validate(payload).execute_on_commit()
    work_off(queue)

    assert Effect.objects.get().name == "old"


def _payload_of(**kwargs: Any) -> SQSLambdaTask:
    message = SQSLambdaTaskMessage(task_name="tests.app.tasks.leave_effect", kwargs=kwargs)
    return SQSLambdaTask(message=message)


@pytest.mark.usefixtures("queue")
def test_a_payload_may_have_what_pydantic_makes_json_of() -> None:
    moment, key = datetime(2026, 1, 2, tzinfo=UTC), uuid.UUID(int=1)

    _payload_of(moments=[moment], key=key, amount=Decimal("1.50")).execute_on_commit()

    assert TaskRecord.objects.get().kwargs == {
        "moments": ["2026-01-02T00:00:00Z"],
        "key": str(key),
        "amount": "1.50",
    }


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (object(), "A payload has a object, which is not JSON"),
        (b"\xff", "A payload has a bytes, which is not JSON"),
        (pydantic.SecretStr("hunter2"), "a SecretStr, which JSON would show as asterisks"),
    ],
)
def test_a_payload_with_anything_else_is_refused_by_name(value: object, reason: str) -> None:
    with pytest.raises(TypeError, match=reason):
        _payload_of(value=value).execute_on_commit()

    assert not TaskRecord.objects.exists()


def test_an_invocation_waits_for_its_result(queue: str, work_off: Callable[[str], int]) -> None:
    good, bad = tasks.add.execute_on_commit(a=1), tasks.write_and_fail.execute_on_commit(name="x")
    with pytest.raises(TimeoutError):
        good.result(timeout=0)

    work_off(queue)

    assert good.result(timeout=1) == 3
    assert async_to_sync(good.aresult)(timeout=1) == 3
    with pytest.raises(Exception, match="ValueError: failed after writing x"):
        bad.result(timeout=1)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: tasks.add.execute_on_commit(a="1"), ValueError, "add"),  # type: ignore[arg-type]
        (lambda: tasks.add.execute_on_commit(a=1, c=2), ValueError, "c"),  # type: ignore[call-arg]
        (lambda: tasks.add.execute_on_commit(), ValueError, "a"),  # type: ignore[call-arg]
        (lambda: tasks.add.execute_on_commit(1), TypeError, "keyword"),  # type: ignore[call-arg]
        (lambda: tasks.add.using(queue="othr"), None, ""),
        (
            lambda: tasks.add.using(queue="othr").execute_on_commit(a=1),
            ImproperlyConfigured,
            "Did you mean 'other'",
        ),
        (lambda: tasks.add.using(delay=901), ValueError, "0 to 900"),
        (
            lambda: SQSLambdaTask.model_validate(
                tasks.add.serialize(a=1) | {"delay": 901}
            ).execute_on_commit(),
            ValueError,
            "delay is 901. Use whole seconds from 0 to 900; use run_after",
        ),
        (
            lambda: tasks.add.execute_on_commit(a=1, _delay=-1),  # type: ignore[call-arg]
            ValueError,
            "0 to 900",
        ),
        (lambda: tasks.echo.execute_on_commit(value=float("nan")), ValueError, "NaN"),
        (lambda: tasks.echo.execute_on_commit(value="a\x00b"), ValueError, "NUL"),
        (lambda: tasks.echo.execute_on_commit(value={"\ud800": 1}), ValueError, "surrogate"),
        (lambda: tasks.echo.execute_on_commit(value=object()), TypeError, "echo"),
        (
            lambda: tasks.echo.execute_on_commit(value=Effect(name="x")),
            TypeError,
            "Pass its primary key",
        ),
        (
            lambda: tasks.leave_effect_direct.execute_on_commit(name="x" * 2**20),
            MessageTooLarge,
            "the queue takes 1048576",
        ),
        (
            lambda: tasks.echo.execute_on_commit(value="x" * 2**22),
            MessageTooLarge,
            "LAMBDA_TASKS_MAX_ARGUMENT_BYTES allows 4194304",
        ),
        (
            lambda: tasks.leave_effect_direct.execute_on_commit(name="漢" * 350_000),
            MessageTooLarge,
            r"10501\d\d bytes and the queue takes 1048576",
        ),
        *[
            (
                lambda key=key: tasks.add.using(group_key=key).execute_on_commit(a=1),
                ValueError,
                r"group_key is .*, which SQS refuses as a MessageGroupId\. Use 1 to 128",
            )
            for key in cast("list[str]", ["x" * 129, "", "tenant 7", "Müller", "line\n", 7])
        ],
    ],
)
def test_what_can_be_known_at_the_call_is_raised_at_the_call(
    sqs: LocalSqs,
    queue: str,
    call: Callable[[], Any],
    error: type[Exception] | None,
    words: str,
) -> None:
    if error is None:
        call()
    else:
        with pytest.raises(error, match=words):
            call()

    assert not TaskRecord.objects.exists()
    assert sqs.counts(queue)["visible"] == 0


@pytest.mark.parametrize("form", ["execute_on_commit", "execute_many_on_commit"])
def test_a_sync_form_in_an_event_loop_names_its_async_twin(form: str) -> None:
    async def call() -> None:
        getattr(tasks.add, form)()

    with pytest.raises(SynchronousOnlyOperation, match=f"a{form}"):
        asyncio.run(call())


@pytest.mark.filterwarnings("ignore:Sending a large body")  # with the escapes of the request
def test_texts_in_other_scripts_count_as_sqs_counts_them(
    proxy: FaultySqs, sqs: LocalSqs, queue: str
) -> None:
    # 240,000 bytes each: the local queue takes 262,144, and four of them fit into a request.
    names = [character * 80_000 for character in "東西南北中"]

    tasks.leave_effect_direct.execute_many_on_commit({"name": name} for name in names)

    assert sorted(len(batch) for batch in proxy.requests.batches) == [1, 4]
    assert {each["kwargs"]["name"] for each in bodies_in(sqs, queue)} == set(names)


def test_a_queue_may_take_less_than_sqs_does(sqs: LocalSqs, queue: str, settings: Any) -> None:
    limited = {"queue_url": queue, "max_message_bytes": 262_144}
    settings.LAMBDA_TASKS_QUEUES = settings.LAMBDA_TASKS_QUEUES | {"default": limited}

    with pytest.raises(MessageTooLarge, match="and the queue takes 262144"):
        tasks.leave_effect_direct.execute_on_commit(name="x" * 262_144)
    tasks.leave_effect_direct.execute_on_commit(name="x" * 262_000)
    tasks.leave_effect.execute_on_commit(name="x" * 262_144)

    assert len(bodies_in(sqs, queue)) == 2


# --- what networks and AWS do ---------------------------------------------------------------


def test_a_refused_entry_is_sent_again_alone(proxy: FaultySqs) -> None:
    proxy.inject(Fault(refuse=lambda body: '"a":3' in body))

    with transaction.atomic():
        for number in range(10):
            tasks.add_direct.execute_on_commit(a=number)

    assert proxy.requests.by_action[SENDS] == 2
    assert [len(batch) for batch in proxy.requests.batches] == [9, 1]


def test_only_the_caller_of_a_message_that_fails_hears_of_it(proxy: FaultySqs) -> None:
    proxy.inject(Fault(times=100, refuse=lambda body: '"a":13' in body, sender_fault=True))

    async def enqueue() -> list[Any]:
        calls = (tasks.aadd_direct.aexecute_on_commit(a=number) for number in range(30))
        return await asyncio.gather(*calls, return_exceptions=True)

    results = async_to_sync(enqueue)()

    failed = [number for number, each in enumerate(results) if isinstance(each, EnqueueError)]
    assert failed == [13]
    assert "Refused: by the test" in str(results[13])
    assert len(results[13].failures) == 1


def test_a_direct_caller_hears_of_the_failure_and_of_its_reason(proxy: FaultySqs) -> None:
    proxy.inject(Fault(times=100, refuse=carries(a=1), sender_fault=True))

    with pytest.raises(EnqueueError, match="by the test") as caught, transaction.atomic():
        invocation = tasks.add_direct.execute_on_commit(a=1)
        tasks.add_direct.execute_on_commit(a=2)

    assert list(caught.value.failures) == [invocation.id]


@pytest.mark.parametrize("fault", [Fault(status=500), Fault(status=503), Fault(drop=True)])
def test_a_request_that_fails_is_sent_again(
    proxy: FaultySqs, sqs: LocalSqs, queue: str, fault: Fault
) -> None:
    proxy.inject(fault)

    tasks.add_direct.execute_on_commit(a=1)

    assert len(bodies_in(sqs, queue)) == 1


@pytest.mark.parametrize(
    "error",
    [
        "KmsThrottled",
        "OverLimit",
        "RequestThrottled",
        "ServiceUnavailable",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
    ],
)
def test_a_throttled_request_is_sent_again_although_its_status_blames_the_sender(
    proxy: FaultySqs, sqs: LocalSqs, queue: str, error: str
) -> None:
    # More often than AWS's own client tries it.
    proxy.inject(Fault(times=3, status=400, error=error))

    tasks.add_direct.execute_on_commit(a=1)

    assert len(bodies_in(sqs, queue)) == 1


def test_a_request_that_is_wrong_is_not_sent_again(proxy: FaultySqs) -> None:
    proxy.inject(Fault(times=None, status=400, error="InvalidAttributeValue"))

    with pytest.raises(EnqueueError, match="InvalidAttributeValue: by the test"):
        tasks.add_direct.execute_on_commit(a=1)

    assert proxy.requests[SENDS] == 1


def test_a_send_whose_answer_is_lost_is_sent_again_and_runs_once(
    proxy: FaultySqs, queue: str, sqs: LocalSqs, work_off: Callable[[str], int]
) -> None:
    proxy.inject(Fault(lose_answer=True))

    tasks.leave_effect.execute_on_commit(name="once")

    assert work_off(queue) == 2
    assert Effect.objects.count() == 1


@pytest.mark.parametrize("use_async", [False, True])
def test_a_durable_message_survives_an_unreachable_queue_and_the_relay_sends_it(
    proxy: FaultySqs, queue: str, caplog: Any, work_off: Callable[[str], int], use_async: bool
) -> None:
    proxy.stop()

    if use_async:
        invocation = async_to_sync(tasks.leave_effect.aexecute_on_commit)(name="safe")
    else:
        invocation = tasks.leave_effect.execute_on_commit(name="safe")

    record = invocation.record()
    assert record is not None
    assert (record.status, record.sent_at) == ("QUEUED", None)
    assert str(invocation.id) in caplog.text

    proxy.start()
    relay = runtime.current().relay
    assert async_to_sync(relay.run_once)() == 0, "its own process still has time to send it"
    assert async_to_sync(relay.run_once)(grace=timedelta(0)) == 1
    work_off(queue)
    assert Effect.objects.get().name == "safe"
    assert async_to_sync(relay.run_once)(grace=timedelta(0)) == 0


def test_a_queue_that_is_gone_from_the_settings_holds_up_no_other(
    queue: str, caplog: Any, work_off: Callable[[str], int]
) -> None:
    for name in ("old", "default"):
        TaskRecord.objects.create(
            task_name=tasks.leave_effect.name, kwargs={"name": name}, queue=name, look_at=now()
        )

    sent = async_to_sync(runtime.current().relay.run_once)(grace=timedelta(0))
    work_off(queue)

    assert sent == 1
    assert Effect.objects.get().name == "default"
    assert TaskRecord.objects.get(queue="old").status == "QUEUED"
    assert "no queue 'old' in LAMBDA_TASKS_QUEUES" in caplog.text


def test_what_the_relay_could_not_send_it_sends_the_next_time(
    proxy: FaultySqs, sqs: LocalSqs, queue: str
) -> None:
    for a in (1, 2):
        tasks.add.execute_on_commit(a=a)
    sqs.purge(queue)
    TaskRecord.objects.update(sent_at=None)
    proxy.inject(Fault(refuse=carries(a=1), sender_fault=True))

    assert relay() == 1
    assert [kwargs_of(each)["a"] for each in bodies_in(sqs, queue)] == [2]
    TaskRecord.objects.update(look_at=now())
    assert relay() == 1
    assert [kwargs_of(each)["a"] for each in bodies_in(sqs, queue)] == [1]


def test_a_direct_message_to_an_unreachable_queue_is_an_error(proxy: FaultySqs) -> None:
    proxy.stop()

    with pytest.raises(EnqueueError, match="connect"):
        tasks.add_direct.execute_on_commit(a=1)

    proxy.start()
    tasks.add_direct.execute_on_commit(a=2)
    assert sum(map(len, proxy.requests.batches)) == 1


def test_a_forked_child_sends_through_a_loop_of_its_own(sqs: LocalSqs, queue: str) -> None:
    tasks.add_direct.execute_on_commit(a=1)

    child = os.fork()
    if not child:
        try:
            tasks.add_direct.execute_on_commit(a=2)
            runtime.close()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    tasks.add_direct.execute_on_commit(a=3)

    assert {kwargs_of(each)["a"] for each in bodies_in(sqs, queue)} == {1, 2, 3}


def test_many_threads_fill_batches_together(proxy: FaultySqs) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(lambda number: tasks.add_direct.execute_on_commit(a=number), range(400)))

    assert sum(map(len, proxy.requests.batches)) == 400
    assert proxy.requests.by_action[SENDS] < 300


def test_a_message_is_read_back_as_it_was_written(sqs: LocalSqs, queue: str) -> None:
    import uuid

    tasks.add_direct.using(queue="other", group_key="tenant").execute_on_commit(a=1)

    (content,) = bodies_in(sqs, f"{queue}-other")
    message = decode(json.dumps(content), fallback_id=uuid.uuid4())
    assert (message.queue, message.group_key, message.kwargs) == ("other", "tenant", {"a": 1})


def test_what_follows_a_run_is_no_step_of_a_loop_that_lambda_counts(
    proxy: FaultySqs, handle: Handle, monkeypatch: pytest.MonkeyPatch
) -> None:
    lineage = "Root=1-5759e988-bd862e3fe1be46a994272793;Lineage=a1b2c3d4:15"
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "function")
    monkeypatch.setenv("_X_AMZN_TRACE_ID", lineage)
    conf.forget()
    call: Task = resuming.count_to_two
    handle(body(tasks.acall_another, a=1), body(call), body(resuming.ask_for_a_retry, delay=0))
    TaskRecord.objects.filter(status="QUEUED").update(sent_at=None)
    relay()

    sent = {"with": Counter[str](), "without": Counter[str]()}
    for headers, content in proxy.requests.raw:
        entries = [each for each in json.loads(content).get("Entries", []) if "MessageBody" in each]
        names = [json.loads(each["MessageBody"])["task_name"] for each in entries]
        sent["with" if "x-amzn-trace-id" in headers else "without"].update(names)

    assert sent["with"] == {tasks.aadd.name: 1}, "by the task that has called it"
    assert sent["without"] == {tasks.aadd.name: 1, call.name: 2, resuming.ask_for_a_retry.name: 2}
