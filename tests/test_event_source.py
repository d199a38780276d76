"""The event source mapping is as strict as Lambda's with ReportBatchItemFailures."""

import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

from lambda_tasks import handler
from lambda_tasks.local import EventSourceMapping, LambdaContext, LocalSqs
from lambda_tasks.local import function as local_function
from lambda_tasks.local.chaos import Chaos
from lambda_tasks.local.event_source import failed_ids
from lambda_tasks.local.function import LocalFunction
from tests.conftest import wait_for
from tests.servers.faulty_sqs import Fault, FaultySqs

Event = dict[str, Any]
Deliver = Callable[..., int]


@pytest.fixture(scope="module")
def sqs() -> Iterator[LocalSqs]:
    with LocalSqs() as server:
        yield server


@pytest.fixture
def queue_url(sqs: LocalSqs) -> str:
    return sqs.create_queue(uuid.uuid4().hex)


@pytest.fixture
def deliver(sqs: LocalSqs, queue_url: str) -> Deliver:
    """Put bodies into the queue and poll once; the number of records that the function got."""

    def deliver_bodies(invoke: Callable[[Event], Any], *bodies: str, **options: Any) -> int:
        for body in bodies:
            sqs.client.send_message(QueueUrl=queue_url, MessageBody=body)
        with EventSourceMapping(
            queue_url, invoke, client_options=sqs.client_options, **options
        ) as mapping:
            return mapping.poll_once(wait_s=0)

    return deliver_bodies


def _left(sqs: LocalSqs, queue_url: str) -> int:
    counts = sqs.counts(queue_url)
    assert counts["visible"] == 0, "what failed stays invisible until its visibility timeout"
    return counts["in_flight"]


def _failing(*identifiers: Any) -> dict[str, Any]:
    return {"batchItemFailures": [{"itemIdentifier": each} for each in identifiers]}


@pytest.mark.parametrize(
    "answer", [None, {}, {"batchItemFailures": []}, {"batchItemFailures": None}], ids=repr
)
def test_an_empty_answer_is_success_for_the_whole_batch(
    sqs: LocalSqs, queue_url: str, deliver: Deliver, answer: Any
) -> None:
    assert deliver(lambda event: answer, "a", "b") == 2

    assert _left(sqs, queue_url) == 0


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "fine",
        [],
        0,
        True,
        object(),
        {"batchItemFailure": []},
        {"statusCode": 200},
        {"batchItemFailures": ""},
        {"batchItemFailures": {}},
        {"batchItemFailures": ["id"]},
        {"batchItemFailures": [{}]},
        {"batchItemFailures": [{"messageId": "id"}]},
        _failing(""),
        _failing(None),
        _failing(1),
        _failing("unknown"),
    ],
    ids=lambda answer: str(answer).partition(" at 0x")[0],
)
def test_a_malformed_answer_is_failure_for_the_whole_batch(
    sqs: LocalSqs, queue_url: str, deliver: Deliver, answer: Any
) -> None:
    assert deliver(lambda event: answer, "a", "b") == 2

    assert _left(sqs, queue_url) == 2


def test_one_bad_identifier_beside_a_good_one_fails_the_whole_batch(
    sqs: LocalSqs, queue_url: str, deliver: Deliver
) -> None:
    deliver(lambda event: _failing(event["Records"][0]["messageId"], "unknown"), "a", "b")

    assert _left(sqs, queue_url) == 2


def test_an_exception_of_the_function_leaves_the_whole_batch(
    sqs: LocalSqs, queue_url: str, deliver: Deliver
) -> None:
    def fail(event: Event) -> None:
        raise OSError("the database is gone")

    assert deliver(fail, "a", "b") == 2

    assert _left(sqs, queue_url) == 2


def test_all_but_the_named_failures_are_deleted(
    sqs: LocalSqs, queue_url: str, deliver: Deliver
) -> None:
    def fail_b(event: Event) -> Any:
        failed = [each["messageId"] for each in event["Records"] if each["body"] == "b"]
        return _failing(*failed)

    deliver(fail_b, "a", "b", "c")

    assert _left(sqs, queue_url) == 1


def test_a_failed_message_is_delivered_again_with_a_higher_receive_count(
    sqs: LocalSqs, queue_url: str, deliver: Deliver
) -> None:
    sqs.client.set_queue_attributes(QueueUrl=queue_url, Attributes={"VisibilityTimeout": "0"})
    seen: list[tuple[str, str]] = []

    def fail(event: Event) -> Any:
        [record] = event["Records"]
        seen.append((record["body"], record["attributes"]["ApproximateReceiveCount"]))
        return _failing(record["messageId"])

    deliver(fail, "again")
    deliver(fail)

    assert seen == [("again", "1"), ("again", "2")]


def test_the_event_is_lambdas(sqs: LocalSqs, queue_url: str, deliver: Deliver) -> None:
    sent = sqs.client.send_message(
        QueueUrl=queue_url,
        MessageBody="hello",
        MessageAttributes={
            "text": {"DataType": "String", "StringValue": "yes"},
            "bytes": {"DataType": "Binary", "BinaryValue": b"\x00\xff"},
        },
    )
    events: list[Event] = []

    deliver(events.append)

    [record] = events[0]["Records"]
    attributes, handle = record.pop("attributes"), record.pop("receiptHandle")
    assert record == {
        "messageId": sent["MessageId"],
        "body": "hello",
        "md5OfBody": sent["MD5OfMessageBody"],
        "md5OfMessageAttributes": sent["MD5OfMessageAttributes"],
        "messageAttributes": {
            "text": {
                "stringValue": "yes",
                "stringListValues": [],
                "binaryListValues": [],
                "dataType": "String",
            },
            "bytes": {
                "binaryValue": "AP8=",
                "stringListValues": [],
                "binaryListValues": [],
                "dataType": "Binary",
            },
        },
        "eventSource": "aws:sqs",
        "eventSourceARN": f"arn:aws:sqs:us-east-1:000000000000:{queue_url.rsplit('/', 1)[1]}",
        "awsRegion": "us-east-1",
    }
    assert handle
    assert attributes["ApproximateReceiveCount"] == "1"
    assert attributes["SentTimestamp"].isdecimal()
    assert attributes["ApproximateFirstReceiveTimestamp"].isdecimal()
    assert "SenderId" in attributes


def test_a_function_that_changes_its_event_does_not_change_what_is_deleted(
    sqs: LocalSqs, queue_url: str, deliver: Deliver
) -> None:
    deliver(lambda event: event.clear(), "a")

    assert _left(sqs, queue_url) == 0


def test_an_empty_queue_invokes_nothing(deliver: Deliver) -> None:
    events: list[Event] = []

    assert deliver(events.append) == 0

    assert events == []


@pytest.mark.parametrize(("batch_size", "handled"), [(1, 1), (10, 10), (25, 23)])
def test_a_batch_has_as_many_records_as_it_is_told_even_more_than_one_request_brings(
    sqs: LocalSqs, queue_url: str, deliver: Deliver, batch_size: int, handled: int
) -> None:
    events: list[Event] = []

    assert deliver(events.append, *map(str, range(23)), batch_size=batch_size) == handled

    assert [len(each["Records"]) for each in events] == [handled]
    assert sqs.counts(queue_url) == {"visible": 23 - handled, "in_flight": 0, "delayed": 0}


@pytest.mark.parametrize("batch_size", [0, 10_001])
def test_a_batch_size_that_lambda_refuses_is_refused(
    sqs: LocalSqs, queue_url: str, batch_size: int
) -> None:
    with pytest.raises(ValueError, match="1 to 10000"):
        EventSourceMapping(
            queue_url, print, client_options=sqs.client_options, batch_size=batch_size
        )


def test_a_visibility_timeout_shorter_than_the_functions_is_refused(
    sqs: LocalSqs, queue_url: str
) -> None:
    EventSourceMapping(
        queue_url, print, client_options=sqs.client_options, function_timeout_s=30
    ).close()

    with pytest.raises(ValueError, match=r"30 s is shorter .* 31 s"):
        EventSourceMapping(
            queue_url, print, client_options=sqs.client_options, function_timeout_s=31
        )


def test_run_polls_until_it_is_told_to_stop(sqs: LocalSqs, queue_url: str) -> None:
    for body in "abc":
        sqs.client.send_message(QueueUrl=queue_url, MessageBody=body)
    bodies: list[str] = []
    with EventSourceMapping(
        queue_url,
        lambda event: bodies.extend(each["body"] for each in event["Records"]),
        client_options=sqs.client_options,
        batch_size=1,
    ) as mapping:
        mapping.run(lambda: len(bodies) == 3, wait_s=0)

    assert sorted(bodies) == ["a", "b", "c"]


def test_run_outlives_a_queue_that_is_not_there_yet(
    sqs: LocalSqs, caplog: pytest.LogCaptureFixture
) -> None:
    name = uuid.uuid4().hex
    polls = 0
    bodies: list[str] = []

    def until() -> bool:
        nonlocal polls
        polls += 1
        if polls == 2:
            url = sqs.create_queue(name)
            sqs.client.send_message(QueueUrl=url, MessageBody="late")
        return bool(bodies)

    with EventSourceMapping(
        f"{sqs.endpoint_url}/000000000000/{name}",
        lambda event: bodies.extend(each["body"] for each in event["Records"]),
        client_options=sqs.client_options,
    ) as mapping:
        mapping.run(until, wait_s=0)

    assert bodies == ["late"]
    assert "does not answer" in caplog.text


def test_failures_named_twice_count_once() -> None:
    assert failed_ids(_failing("a", "a"), {"a", "b"}) == {"a"}


def test_the_remaining_time_runs_down_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    context = LambdaContext(timeout_s=3)
    clock = iter(context._started + passed for passed in (0, 2.5, 4))
    monkeypatch.setattr("lambda_tasks.local.event_source.time.monotonic", lambda: next(clock))

    readings = [context.get_remaining_time_in_millis() for _ in range(3)]

    assert readings == [3000, 500, 0]


def test_each_context_has_a_request_id_of_its_own() -> None:
    assert LambdaContext().aws_request_id != LambdaContext().aws_request_id


@pytest.fixture
def function(queue_url: str, monkeypatch: Any) -> Iterator[tuple[LocalFunction, list[Event]]]:
    """A local function that notes its events and runs nothing."""
    events: list[Event] = []
    monkeypatch.setattr(LocalFunction, "_handle", lambda self, event: events.append(event))
    monkeypatch.setattr(handler, "close", lambda: None)
    function = LocalFunction([queue_url], timeout_s=20, chaos=Chaos())
    yield function, events
    function.stop()


def test_a_function_outlives_an_sqs_that_is_away_for_a_while(
    sqs: LocalSqs, queue_url: str, function: tuple[LocalFunction, list[Event]]
) -> None:
    local, events = function
    with FaultySqs(sqs.endpoint_url) as proxy:
        options = sqs.client_options | {"endpoint_url": proxy.endpoint_url}
        thread = threading.Thread(target=local.run, args=(options,), daemon=True)
        thread.start()
        proxy.requests.wait_for("ReceiveMessage", timeout_s=60)
        proxy.inject(Fault(action="ReceiveMessage", status=400, error="InternalFailure", times=2))
        proxy.requests.wait_for(
            "ReceiveMessage", proxy.requests["ReceiveMessage"] + 3, timeout_s=60
        )
        sqs.client.send_message(QueueUrl=queue_url, MessageBody="after the outage")

        wait_for(lambda: any("Records" in each for each in events))
        local.stop()
        thread.join(60)
    assert not thread.is_alive()


def test_a_function_ends_with_the_error_of_an_sqs_that_does_not_come_back(
    sqs: LocalSqs, function: tuple[LocalFunction, list[Event]], monkeypatch: Any
) -> None:
    monkeypatch.setattr(local_function, "OUTAGE_S", 0.2)
    with FaultySqs(sqs.endpoint_url) as proxy:
        proxy.inject(Fault(action="ReceiveMessage", status=400, error="Away", times=None))

        with pytest.raises(ClientError, match="Away"):
            function[0].run(sqs.client_options | {"endpoint_url": proxy.endpoint_url})
