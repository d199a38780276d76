"""`queues` makes and compares queues in SQS; `dlq` shows, sends back and deletes dead letters."""

import asyncio
import json
import logging
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from django.core.management import CommandError

from lambda_tasks import conf, operations, runtime
from lambda_tasks.core.aws_values import as_texts, tls_only_policy
from lambda_tasks.errors import InvalidFilter, QueueUnavailable
from lambda_tasks.local import LocalSqs
from lambda_tasks.models import TaskRecord
from lambda_tasks.operations import dead_letters
from lambda_tasks.operations.dead_letter_box import Box
from lambda_tasks.ports import SendFailure
from lambda_tasks.queues import dead_letters as sqs_dead_letters
from lambda_tasks.queues import sqs_provision
from lambda_tasks.queues.aws.client import AwsClient
from lambda_tasks.queues.aws.errors import RequestFailed
from lambda_tasks.queues.sqs_attributes import differences, read
from tests.app import tasks
from tests.conftest import bodies_in, body, wake_up
from tests.servers import Moto
from tests.test_operations import record
from tests.test_verbs import refused, verb

pytestmark = pytest.mark.django_db(transaction=True)

SIZE = 2**18
"""The largest message of the local SQS."""


@pytest.fixture(autouse=True)
def _short_polls(monkeypatch: Any) -> None:
    """The local SQS has one server, so that a poll need not wait for others."""
    monkeypatch.setattr(sqs_dead_letters, "POLL_S", 0)


@pytest.fixture
def prefix(sqs: LocalSqs, settings: Any) -> Iterator[str]:
    """A stage of this test's own, whose queues are there by name only."""
    stage = f"{uuid.uuid4().hex[:12]}-"
    settings.LAMBDA_TASKS_QUEUE_PREFIX = stage
    settings.LAMBDA_TASKS_AWS = sqs.client_options | {"aws_account_id": "0" * 12}
    settings.LAMBDA_TASKS_QUEUES = {
        "default": {"queue_name": "orders", "max_message_bytes": SIZE},
        "fifo": {"queue_name": "mail.fifo", "max_message_bytes": SIZE},
        "table": {"database": True},
    }
    yield stage
    runtime.close()


def attributes(sqs: LocalSqs, name: str) -> dict[str, Any]:
    url = sqs.client.get_queue_url(QueueName=name)["QueueUrl"]
    return read(sqs.client.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"])


def names(sqs: LocalSqs, prefix: str) -> list[str]:
    urls = sqs.client.list_queues(QueueNamePrefix=prefix).get("QueueUrls", [])
    return sorted(url.rpartition("/")[2].removeprefix(prefix) for url in urls)


# queues


def test_ensure_makes_queues_with_dead_letters_as_recommended(sqs: LocalSqs, prefix: str) -> None:
    done = verb("queues", "ensure", "--yes", "--json")

    assert done.code == 0
    assert names(sqs, prefix) == ["mail-dlq.fifo", "mail.fifo", "orders", "orders-dlq"]
    orders, dead = attributes(sqs, f"{prefix}orders"), attributes(sqs, f"{prefix}orders-dlq")
    assert orders["RedrivePolicy"] == {
        "deadLetterTargetArn": dead["QueueArn"],
        "maxReceiveCount": 5,
    }
    assert dead["RedriveAllowPolicy"]["sourceQueueArns"] == [orders["QueueArn"]]
    assert (orders["MessageRetentionPeriod"], dead["MessageRetentionPeriod"]) == (604800, 1209600)
    assert orders["VisibilityTimeout"] >= 6 * 300
    assert orders["ReceiveMessageWaitTimeSeconds"] == 20
    assert orders["SqsManagedSseEnabled"] is True
    assert orders["Policy"] == tls_only_policy(orders["QueueArn"])
    assert attributes(sqs, f"{prefix}mail.fifo")["RedrivePolicy"]["maxReceiveCount"] == 20
    created = [each["name"] for each in done.of_kind("queue_change") if each["action"] == "create"]
    assert sorted(name.removeprefix(prefix) for name in created) == names(sqs, prefix)
    assert done.of_kind("summary")[0]["done"] == len(done.of_kind("queue_change"))


def test_what_is_as_recommended_is_left_alone(sqs: LocalSqs, prefix: str) -> None:
    assert verb("queues", "diff").code == 4
    verb("queues", "ensure", "--yes")

    again = verb("queues", "ensure", "--yes")

    assert (again.code, again.output) == (3, "0 changes were made.\n")
    assert (verb("queues", "diff").code, verb("queues", "diff", "--json").output) == (0, "")


def test_a_dry_run_creates_nothing(sqs: LocalSqs, prefix: str) -> None:
    done = verb("queues", "ensure", "default", "--dry-run")

    assert done.code == 0
    assert names(sqs, prefix) == []
    assert f"{prefix}orders-dlq: create the queue" in done.output
    assert "would be made." in done.output


def test_nobody_at_a_terminal_makes_nothing(sqs: LocalSqs, prefix: str) -> None:
    assert "Add --yes" in refused("queues", "ensure")
    assert names(sqs, prefix) == []


def test_ensure_sets_only_what_differs_and_says_what(sqs: LocalSqs, prefix: str) -> None:
    verb("queues", "ensure", "--yes")
    url = sqs.client.get_queue_url(QueueName=f"{prefix}orders")["QueueUrl"]
    mine = {"Sid": "Mine", "Effect": "Allow", "Principal": "*", "Action": "sqs:SendMessage"}
    policy = {"Version": "2012-10-17", "Statement": [mine]}
    changed = {
        "VisibilityTimeout": "30",
        "MessageRetentionPeriod": "1209600",
        "Policy": json.dumps(policy),
    }
    sqs.client.set_queue_attributes(QueueUrl=url, Attributes=changed)

    done = verb("queues", "ensure", "--yes", "--json")

    changes = done.of_kind("queue_change")
    assert {each["attribute"] for each in changes} == {"VisibilityTimeout", "Policy"}
    assert next(each["before"] for each in changes if each["attribute"] != "Policy") == 30
    after = attributes(sqs, f"{prefix}orders")
    assert after["MessageRetentionPeriod"] == 1209600, "what is longer stays"
    assert after["VisibilityTimeout"] > 30
    assert after["Policy"]["Statement"][0] == mine
    assert len(after["Policy"]["Statement"]) == 2


def test_ensure_goes_on_where_it_was_cut_off(sqs: LocalSqs, prefix: str) -> None:
    sqs.create_queue(f"{prefix}orders-dlq", visibility_timeout_s=30)
    url = sqs.client.get_queue_url(QueueName=f"{prefix}orders-dlq")["QueueUrl"]
    allowed = {"redrivePermission": "byQueue", "sourceQueueArns": ["arn:aws:sqs:x:1:another"]}
    sqs.client.set_queue_attributes(
        QueueUrl=url, Attributes={"RedriveAllowPolicy": json.dumps(allowed)}
    )

    verb("queues", "ensure", "default", "--yes")

    assert verb("queues", "diff", "default").code == 0
    sources = attributes(sqs, f"{prefix}orders-dlq")["RedriveAllowPolicy"]["sourceQueueArns"]
    assert sources == ["arn:aws:sqs:x:1:another", attributes(sqs, f"{prefix}orders")["QueueArn"]]


def test_a_new_queue_is_set_only_once_sqs_knows_it(
    sqs: LocalSqs, prefix: str, monkeypatch: Any
) -> None:
    set_to: list[Any] = []
    hidden = [False, False, True, False, True]  # two are missing; then each new one is late
    call = AwsClient.call

    async def call_late(self: AwsClient, operation: str, **parameters: Any) -> Any:
        if operation == "set_queue_attributes":
            set_to.append(parameters["Attributes"])
        if operation == "get_queue_attributes" and hidden and hidden.pop(0):
            late = SendFailure("it is new", retryable=False)
            raise RequestFailed(late, code="QueueDoesNotExist")
        return await call(self, operation, **parameters)

    monkeypatch.setattr(AwsClient, "call", call_late)
    monkeypatch.setattr(sqs_provision, "NEW_POLL_S", 0)

    operations.ensure_queues("fifo")

    assert operations.diff_queues("fifo") == []
    assert len(set_to) == 2
    assert not any("FifoQueue" in each for each in set_to), "SQS lets nobody set this later"


def test_describe_shows_what_there_is(sqs: LocalSqs, prefix: str) -> None:
    before = verb("queues", "describe", "--json").objects
    assert [each["exists"] for each in before] == [False, False, False, False, True]
    verb("queues", "ensure", "--yes")
    tasks.add.execute_on_commit(a=1, b=2)

    default, dead, *_, table = verb("queues", "describe", "--json").objects

    assert (default["visible"], default["n_differences"]) == (1, 0)
    assert default["oldest_waiting_s"] is not None
    assert dead["is_dead_letters"]
    assert dead["attributes"]["MessageRetentionPeriod"] == 1209600
    assert (table["kind"], table["url"]) == ("DatabaseQueue", None)
    text = verb("queues", "describe", "default").output
    assert "1 waiting, 0 in flight, 0 delayed" in text
    assert "VisibilityTimeout" in text


def test_queues_that_are_unknown_or_not_in_sqs_are_refused(prefix: str) -> None:
    assert "There is no queue 'defualt'" in refused("queues", "diff", "defualt")
    assert "is not in SQS" in refused("queues", "ensure", "table", "--yes")
    assert "is not in SQS" in refused("dlq", "peek", "table")


def test_what_aws_refuses_is_told_in_its_words(prefix: str, settings: Any) -> None:
    settings.LAMBDA_TASKS_AWS = settings.LAMBDA_TASKS_AWS | {"aws_access_key_id": "another"}

    with pytest.raises(CommandError, match="The queue 'default'") as caught:
        verb("queues", "diff")

    assert caught.value.returncode == 1
    with pytest.raises(QueueUnavailable):
        operations.describe_queues("default")


def test_a_dead_letter_queue_that_others_use_stays_open_to_them(
    moto: Moto, monkeypatch: Any, settings: Any
) -> None:
    import boto3

    options: dict[str, Any] = {
        "endpoint_url": moto.endpoint_url, "region_name": "us-east-1",
        "aws_access_key_id": "test", "aws_secret_access_key": "test",
    }  # fmt: skip
    client = boto3.client("sqs", **options)
    name = uuid.uuid4().hex
    dead = client.create_queue(QueueName=f"{name}-dlq")["QueueUrl"]
    arn = client.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]
    redrive = {"deadLetterTargetArn": arn["QueueArn"], "maxReceiveCount": 9}
    for each in (name, f"{name}-other"):
        url = client.create_queue(QueueName=each)["QueueUrl"]
        client.set_queue_attributes(QueueUrl=url, Attributes={"RedrivePolicy": json.dumps(redrive)})
    client.close()
    settings.LAMBDA_TASKS_AWS = options | {"aws_account_id": "123456789012"}
    settings.LAMBDA_TASKS_QUEUES = {"default": {"queue_name": name}}

    changes = operations.diff_queues()

    (allow,) = [each for each in changes if each.attribute == "RedriveAllowPolicy"]
    sources = [each.rpartition(":")[2] for each in allow.after["sourceQueueArns"]]
    assert sorted(sources) == [name, f"{name}-other"]
    assert "RedrivePolicy" not in {each.attribute for each in changes if each.name == name}
    runtime.close()


@pytest.mark.parametrize(
    ("live", "wanted"),
    [
        ({"RedrivePolicy": {"deadLetterTargetArn": "mine", "maxReceiveCount": "10"}}, None),
        (
            {"RedrivePolicy": {"deadLetterTargetArn": "mine", "maxReceiveCount": 2}},
            {"deadLetterTargetArn": "mine", "maxReceiveCount": 5},
        ),
        ({"RedrivePolicy": {"deadLetterTargetArn": "mine", "maxReceiveCount": "x"}}, {
            "deadLetterTargetArn": "mine", "maxReceiveCount": 5,
        }),
        ({}, {"deadLetterTargetArn": "ours", "maxReceiveCount": 5}),
    ],
)  # fmt: skip
def test_a_dead_letter_queue_that_the_project_has_chosen_is_kept(live: Any, wanted: Any) -> None:
    recommended = {"RedrivePolicy": {"deadLetterTargetArn": "ours", "maxReceiveCount": 5}}

    found = differences(recommended, live)

    assert [each.wanted for each in found] == ([] if wanted is None else [wanted])


@pytest.mark.parametrize(
    ("chosen", "changed"),
    [
        ({"SqsManagedSseEnabled": False}, {"SqsManagedSseEnabled": True}),
        ({"KmsMasterKeyId": "alias/mine", "KmsDataKeyReusePeriodSeconds": 7200}, {}),
        (
            {"KmsMasterKeyId": "alias/mine", "KmsDataKeyReusePeriodSeconds": 300},
            {"KmsDataKeyReusePeriodSeconds": 3600},
        ),
    ],
)
def test_a_queue_is_encrypted_by_sqs_or_by_the_key_that_the_project_has_chosen(
    sqs: LocalSqs, prefix: str, chosen: Any, changed: Any
) -> None:
    verb("queues", "ensure", "--yes")
    for name in ("orders", "orders-dlq"):
        sqs.client.set_queue_attributes(
            QueueUrl=sqs.client.get_queue_url(QueueName=prefix + name)["QueueUrl"],
            Attributes=as_texts({"SqsManagedSseEnabled": False, **chosen}),
        )

    done = verb("queues", "ensure", "--yes", "--json", "--empty-exit-code", "0")

    changes = done.of_kind("queue_change")
    for name in ("orders", "orders-dlq"):
        mine = [each for each in changes if each["name"] == prefix + name]
        assert {each["attribute"]: each["after"] for each in mine} == changed


@pytest.mark.parametrize(
    "statement",
    [
        {"Effect": "Allow"},
        {"Principal": {"AWS": "arn:aws:iam::1:root"}},
        {"Action": "sqs:SendMessage"},
        {"Condition": {"Bool": {"aws:SecureTransport": "true"}}},
        {"Condition": {}},
    ],
)
def test_a_policy_that_lets_somebody_in_without_tls_differs(statement: Any) -> None:
    wanted = tls_only_policy("arn")
    denied = {
        "Effect": "Deny", "Principal": {"AWS": "*"}, "Action": ["SQS:*"],
        "Condition": {"Bool": {"AWS:SecureTransport": ["false"]}},
    }  # fmt: skip

    assert differences({"Policy": wanted}, {"Policy": {"Statement": denied}}) == []
    (found,) = differences({"Policy": wanted}, {"Policy": {"Statement": [denied | statement]}})
    assert found.wanted["Statement"][-1] == wanted["Statement"][0]


# dlq


Die = Callable[..., None]


@pytest.fixture
def die(sqs: LocalSqs, prefix: str) -> Die:
    """Put bodies among the dead letters of the default queue."""
    verb("queues", "ensure", "default", "--yes")

    def put(*bodies: str) -> None:
        url = sqs.client.get_queue_url(QueueName=f"{prefix}orders-dlq")["QueueUrl"]
        for each in bodies:
            sqs.client.send_message(QueueUrl=url, MessageBody=each)

    return put


def waiting() -> list[dict[str, Any]]:
    """Return the bodies in the default queue."""
    url: Any = conf.current().queue("default")
    from tests import environment

    return bodies_in(environment.sqs, url.queue_url)


def left() -> int:
    (count,) = operations.count_dead_letters("default")
    return count.visible


def queued() -> TaskRecord:
    return record("QUEUED", queue="default", kwargs={"a": 1, "b": 2})


def test_list_counts_the_dead_letters_of_each_queue(die: Die) -> None:
    assert verb("dlq", "list").code == 3
    die(body(tasks.add, a=1, b=2), "no JSON")

    done = verb("dlq", "list", "--json")

    assert done.code == 0
    assert [(each["queue"], each["visible"]) for each in done.objects] == [
        ("default", 2),
        ("fifo", 0),
    ]
    assert "no dead-letter queue; `queues ensure` makes one" in verb("dlq", "list").output


def test_peek_joins_messages_with_their_records_and_leaves_them(die: Die) -> None:
    failed = record("FAILED", kwargs={"a": 1})
    die(wake_up(failed.id), wake_up(uuid.uuid4()), body(tasks.add, a=1, b=2), "no JSON")

    done = verb("dlq", "peek", "default", "--json")

    letters = {each["error"]: each for each in done.of_kind("dead_letter")}
    assert len(letters) == 4
    of_record = letters["ValueError: what was wrong"]
    assert (of_record["status"], of_record["kwargs"]) == ("FAILED", {"a": 1})
    assert of_record["invocation_id"] == str(failed.id)
    assert letters["there is no record of it"]["status"] is None
    assert letters[None]["kwargs"] == {"a": 1, "b": 2}
    (unreadable,) = [each for each in letters.values() if each["task_name"] is None]
    assert "not valid JSON" in unreadable["error"]
    assert sum(each["count"] for each in done.of_kind("dead_letter_group")) == 4
    assert left() == 4, "nobody waits until they are seen again"


def test_peek_groups_by_task_and_error(die: Die) -> None:
    die(*(body(tasks.add, a=number, b=2) for number in range(12)), "no JSON")

    output = verb("dlq", "peek").output

    assert output.startswith("12 x tests.app.tasks.add: -\n")
    assert output.count("tests.app.tasks.add(a=") == 10
    assert "and 2 more" in output
    assert "1 x unreadable" in output


def test_peek_shows_no_secret_and_nothing_of_a_task_that_is_unknown(
    die: Die, settings: Any
) -> None:
    settings.LAMBDA_TASKS_REDACT = ["name"]
    unknown = json.dumps({"task_name": "tests.app.tasks.gone", "kwargs": {"x": "hidden"}})
    die(body(tasks.leave_effect, name="hidden"), unknown)

    output = verb("dlq", "peek", "--json").output

    assert output.count("**********") == 2
    assert "hidden" not in output


def test_peek_tells_that_a_signature_is_the_reason(die: Die, settings: Any) -> None:
    settings.LAMBDA_TASKS_SIGNING_KEYS = ["k" * 43]
    die(body(tasks.add, a=1, b=2))

    (letter,) = operations.peek_dead_letters("default")

    assert letter.refused is not None
    assert "no signature" in letter.refused
    redriven = operations.redrive_dead_letters("default", drop_ended=True, per_second=1000)
    assert (len(redriven.sent), len(redriven.dropped), len(redriven.skipped)) == (0, 0, 1)


def test_a_call_that_its_task_does_not_take_from_a_message_stays(die: Die, settings: Any) -> None:
    settings.LAMBDA_TASKS_DIRECT_MESSAGES = "declared"
    die(body(tasks.leave_effect, name="x"))

    (skipped,) = operations.redrive_dead_letters("default").skipped

    assert "runs only from its record" in skipped.must_not_go_back


def test_redrive_sends_back_what_can_run_and_leaves_what_has_ended(die: Die) -> None:
    open_, ended = queued(), record("SUCCESS")
    die(wake_up(open_.id), wake_up(ended.id), body(tasks.add, a=3, b=4))

    done = verb("dlq", "redrive", "default", "--yes", "--per-second", "1000")

    assert done.code == 0
    assert sorted(str(each.get("invocation_id") == str(open_.id)) for each in waiting()) == [
        "False", "True",
    ]  # fmt: skip
    assert "its record is SUCCESS" in done.output
    assert "2 dead letters were sent back; 0 dropped, 1 left." in done.output
    assert left() == 1


def test_redrive_drops_what_has_ended_only_if_asked(die: Die, caplog: Any) -> None:
    ended = record("FAILED")
    die(wake_up(ended.id), wake_up(uuid.uuid4()))
    assert verb("dlq", "redrive", "default", "--yes").code == 3

    done = verb("dlq", "redrive", "default", "--drop-ended", "--yes", "--json")

    assert done.of_kind("summary")[0] == {
        "kind": "summary", "what": "sent back", "dry_run": False, "done": 0, "dropped": 2,
        "skipped": 0,
    }  # fmt: skip
    assert "its record is FAILED" in caplog.text
    assert (left(), waiting()) == (0, [])


def test_redrive_takes_so_many_and_of_one_task(die: Die) -> None:
    die(
        *(body(tasks.add, a=number, b=2) for number in range(3)),
        *(body(tasks.leave_effect, name=str(number)) for number in range(3)),
    )

    operations.redrive_dead_letters(
        "default", task="tests.app.tasks.leave_effect", limit=2, per_second=1000
    )

    assert [each["task_name"] for each in waiting()] == ["tests.app.tasks.leave_effect"] * 2
    assert left() == 4


def test_messages_are_chosen_by_their_ids(die: Die) -> None:
    die(*(body(tasks.add, a=number, b=2) for number in range(5)))
    ids = {each.kwargs["a"]: each.message_id for each in operations.peek_dead_letters("default")}

    sent = verb("dlq", "redrive", "default", "--id", ids[0], "--id", ids[1], "--yes", "--json")
    deleted = verb("dlq", "purge", "default", "--id", ids[2], "--yes", "--json")

    chosen = {each["message_id"] for each in sent.of_kind("dead_letter")}
    assert chosen == {ids[0], ids[1]}
    assert [each["message_id"] for each in deleted.of_kind("dead_letter")] == [ids[2]]
    assert left() == 2
    nothing = operations.redrive_dead_letters("default", ids=["gone"])
    assert (nothing.sent, nothing.skipped, nothing.is_cut_off) == ([], [], False)


def test_what_has_a_time_limit_begins_nothing_after_it(die: Die) -> None:
    die(body(tasks.add, a=1, b=2), body(tasks.add, a=2, b=2))
    over = timedelta(microseconds=1)

    redriven = operations.redrive_dead_letters("default", within=over)
    purged = operations.purge_dead_letters("default", all_time=True, within=over)

    assert (redriven.sent, redriven.is_cut_off) == ([], True)
    assert (purged.deleted, purged.is_cut_off) == ([], True)
    with pytest.raises(QueueUnavailable, match="too slow"):
        operations.peek_dead_letters("default", within=over)
    assert left() == 2
    assert not operations.redrive_dead_letters("default", within=timedelta(minutes=5)).is_cut_off


def test_redrive_keeps_to_its_rate(die: Die, monkeypatch: Any) -> None:
    waits: list[float] = []
    clock = SimpleNamespace(sleep=waits.append, monotonic=lambda: 0.0)
    monkeypatch.setattr(dead_letters, "time", clock)
    die(*(body(tasks.add, a=number, b=2) for number in range(4)))

    operations.redrive_dead_letters("default", per_second=2)

    assert waits == [0.5, 1.0, 1.5]


def test_a_dry_run_sends_nothing_back(die: Die) -> None:
    die(body(tasks.add, a=1, b=2))

    done = verb("dlq", "redrive", "default", "--dry-run")

    assert "1 dead letter would be sent back" in done.output
    assert (left(), waiting()) == (1, [])
    assert "Add --yes" in refused("dlq", "redrive", "default")
    assert left() == 1


def test_a_redrive_that_is_cut_off_has_sent_before_it_deletes(die: Die, monkeypatch: Any) -> None:
    die(body(tasks.add, a=1, b=2))
    with monkeypatch.context() as patch:
        patch.setattr(sqs_dead_letters.DeadLetterQueue, "delete", _interrupted)
        with pytest.raises(Interrupted):
            operations.redrive_dead_letters("default")

    assert len(waiting()) == 1
    assert left() == 1, "what was held is released"


def test_a_redrive_ends_although_all_dies_again(die: Die, monkeypatch: Any) -> None:
    text = body(tasks.add, a=1, b=2)
    die(text)
    sent: list[Any] = []
    send_back = Box.send_back

    def send_and_die(*args: Any) -> None:
        send_back(*args)
        sent.append(args)
        if len(sent) < 5:  # so that the test ends, too
            die(text)

    monkeypatch.setattr(Box, "send_back", send_and_die)

    done = verb("dlq", "redrive", "default", "--yes", "--per-second", "1000")

    assert "1 dead letter was sent back; 0 dropped, 1 left." in done.output
    assert "stays: it had gone back, and came again." in done.output
    assert left() == 1


def test_what_came_from_another_queue_is_neither_sent_nor_deleted(
    die: Die, monkeypatch: Any
) -> None:
    another = "arn:aws:sqs:us-east-1:000000000000:another"
    die(body(tasks.add, a=1, b=2), body(tasks.add, a=3, b=4))
    receive = sqs_dead_letters.DeadLetterQueue.receive

    async def receive_with_sources(*args: Any) -> list[Any]:  # this SQS tells none
        sources = {1: another, 3: conf.current().queue("default").source}
        return [
            replace(each, source_arn=sources[json.loads(str(each.body))["kwargs"]["a"]])
            for each in await receive(*args)
        ]

    monkeypatch.setattr(sqs_dead_letters.DeadLetterQueue, "receive", receive_with_sources)

    redriven = operations.redrive_dead_letters("default", drop_ended=True)
    purged = operations.purge_dead_letters("default", all_time=True)

    assert [each.came_from for each in redriven.sent] == [None]
    assert [each.must_not_go_back for each in redriven.skipped] == [f"it came from {another}"]
    assert (len(purged.deleted), purged.kept, left()) == (0, 1, 1)


class Interrupted(Exception):
    """Something ends a redrive."""


async def _interrupted(self: Any, messages: Any) -> None:
    raise Interrupted


def test_a_redriven_message_keeps_its_attributes(die: Die, sqs: LocalSqs, prefix: str) -> None:
    url = sqs.client.get_queue_url(QueueName=f"{prefix}orders-dlq")["QueueUrl"]
    trace = {"traceparent": {"DataType": "String", "StringValue": "00-1-2-01"}}
    sqs.client.send_message(
        QueueUrl=url, MessageBody=body(tasks.add, a=1, b=2), MessageAttributes=trace
    )

    operations.redrive_dead_letters("default")

    url = sqs.client.get_queue_url(QueueName=f"{prefix}orders")["QueueUrl"]
    (message,) = sqs.client.receive_message(QueueUrl=url, MessageAttributeNames=["All"])["Messages"]
    assert message["MessageAttributes"]["traceparent"]["StringValue"] == "00-1-2-01"


def test_fifo_dead_letters_go_back_although_they_were_just_sent(sqs: LocalSqs, prefix: str) -> None:
    verb("queues", "ensure", "fifo", "--yes")
    live, dead = (
        sqs.client.get_queue_url(QueueName=f"{prefix}{name}")["QueueUrl"]
        for name in ("mail.fifo", "mail-dlq.fifo")
    )
    text = body(tasks.add, a=1, b=2)
    for url in (live, dead):
        sqs.client.send_message(
            QueueUrl=url, MessageBody=text, MessageGroupId="g", MessageDeduplicationId="same"
        )
    (first,) = sqs.client.receive_message(QueueUrl=live)["Messages"]
    sqs.client.delete_message(QueueUrl=live, ReceiptHandle=first["ReceiptHandle"])

    assert len(operations.redrive_dead_letters("fifo").sent) == 1

    (message,) = sqs.client.receive_message(QueueUrl=live, MessageSystemAttributeNames=["All"])[
        "Messages"
    ]
    assert message["Attributes"]["MessageGroupId"] == "g"


def test_purge_needs_a_window_and_deletes_what_is_older(die: Die, caplog: Any) -> None:
    caplog.set_level(logging.WARNING, "lambda_tasks")
    die(body(tasks.add, a=1, b=2), wake_up(queued().id))
    assert "one of the arguments --older-than --all-time --id is required" in refused(
        "dlq", "purge", "default"
    )
    assert "Add --yes" in refused("dlq", "purge", "default", "--all-time")

    kept = verb("dlq", "purge", "default", "--older-than", "1h", "--yes")
    assert (kept.code, left()) == (3, 2)
    assert "2 others stay" in kept.output
    done = verb("dlq", "purge", "default", "--all-time", "--task", "tests.app.tasks.add", "--yes")

    assert "2 dead letters were deleted" in done.output
    assert left() == 0
    assert caplog.text.count("it has no record") == 1
    assert "2 dead letters of default" in caplog.text


def test_purge_shows_what_it_would_delete(die: Die) -> None:
    die(body(tasks.add, a=1, b=2), body(tasks.leave_effect, name="x"))

    done = verb(
        "dlq",
        "purge",
        "default",
        "--all-time",
        "--task",
        "tests.app.tasks.add",
        "--dry-run",
        "--json",
    )

    (letter,) = done.of_kind("dead_letter")
    assert (letter["what"], letter["dry_run"], letter["kwargs"]) == (
        "deleted",
        True,
        {"a": 1, "b": 2},
    )
    assert done.of_kind("summary")[0]["kept"] == 1
    assert left() == 2


@pytest.mark.parametrize(
    "ask",
    [
        lambda: operations.purge_dead_letters("default"),
        lambda: operations.purge_dead_letters(
            "default", older_than=timedelta(hours=1), all_time=True
        ),
        lambda: operations.purge_dead_letters("default", all_time=True, ids=["x"]),
        lambda: operations.peek_dead_letters(limit=0),
        lambda: operations.peek_dead_letters(within=timedelta(0)),
        lambda: operations.redrive_dead_letters("default", per_second=0),
        lambda: operations.redrive_dead_letters("default", limit=0),
        lambda: operations.redrive_dead_letters("default"),
    ],
)
def test_what_makes_no_sense_is_refused(ask: Callable[[], Any], prefix: str, sqs: LocalSqs) -> None:
    sqs.create_queue(f"{prefix}orders", visibility_timeout_s=30)

    with pytest.raises(InvalidFilter):
        ask()


def test_each_has_an_async_twin(die: Die) -> None:
    die(body(tasks.add, a=1, b=2), body(tasks.add, a=2, b=2))

    async def scene() -> None:
        assert len(await operations.adescribe_queues()) == 5
        assert await operations.adiff_queues("default") == []
        assert await operations.aensure_queues("default", dry_run=True) == []
        assert (await operations.acount_dead_letters("default"))[0].visible == 2
        assert len(await operations.apeek_dead_letters()) == 2
        assert len((await operations.aredrive_dead_letters("default", limit=1)).sent) == 1
        purged = await operations.apurge_dead_letters("default", all_time=True)
        assert len(purged.deleted) == 1

    asyncio.run(scene())


# Names and prefixes


@pytest.mark.parametrize(
    ("options", "variables", "url"),
    [
        (
            {"region_name": "eu-west-1", "aws_account_id": "1" * 12},
            {},
            f"https://sqs.eu-west-1.amazonaws.com/{'1' * 12}/stage-orders",
        ),
        (
            {},
            {"AWS_REGION": "cn-north-1", "AWS_ACCOUNT_ID": "2" * 12},
            f"https://sqs.cn-north-1.amazonaws.com.cn/{'2' * 12}/stage-orders",
        ),
        (
            {"region_name": "eu-west-1", "aws_account_id": "1" * 12},
            {"AWS_ENDPOINT_URL": "http://localhost:4566/"},
            f"http://localhost:4566/{'1' * 12}/stage-orders",
        ),
    ],
)
def test_a_queue_that_is_given_by_its_name_has_its_url(
    options: Any, variables: dict[str, str], url: str, settings: Any, monkeypatch: Any
) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ACCOUNT_ID", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    settings.LAMBDA_TASKS_AWS = options
    settings.LAMBDA_TASKS_QUEUE_PREFIX = "stage-"
    settings.LAMBDA_TASKS_QUEUES = {"default": {"queue_name": "orders", "rate": "5/s"}}

    queue: Any = conf.current().queue("default")

    assert queue.queue_url == url
    assert queue.queue_name == "stage-orders"


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("orders", {"aws_account_id": "1" * 12}, "needs its region. Set region_name"),
        ("orders", {"region_name": "eu-west-1"}, "needs its account. Set aws_account_id"),
        ("orders", {"region_name": "eu-west-1", "aws_account_id": "12"}, "needs its account"),
        ("or ders", {}, "up to 80 letters"),
        ("x" * 80, {}, "With the prefix it is stage-x"),
        (7, {}, "queue_name is the name of an SQS queue"),
    ],
)
def test_a_name_from_which_no_url_follows_is_an_error_of_the_settings(
    name: Any, options: Any, told: str, settings: Any, monkeypatch: Any
) -> None:
    for variable in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ACCOUNT_ID"):
        monkeypatch.delenv(variable, raising=False)
    settings.LAMBDA_TASKS_AWS = options
    settings.LAMBDA_TASKS_QUEUE_PREFIX = "stage-"
    settings.LAMBDA_TASKS_QUEUES = {"default": {"queue_name": name}}

    assert told in " ".join(conf.errors())


def test_a_prefix_that_no_name_may_have_is_refused(settings: Any) -> None:
    settings.LAMBDA_TASKS_QUEUE_PREFIX = "staging/"

    assert "LAMBDA_TASKS_QUEUE_PREFIX is 'staging/'" in " ".join(conf.errors())


def test_a_url_without_the_prefix_is_told(settings: Any) -> None:
    from lambda_tasks.checks import check_queue_prefix

    base = f"https://sqs.eu-west-1.amazonaws.com/{'1' * 12}"
    settings.LAMBDA_TASKS_QUEUE_PREFIX = "staging-"
    settings.LAMBDA_TASKS_QUEUES = {"default": f"{base}/staging-a", "other": f"{base}/b"}

    (warning,) = check_queue_prefix(None)

    assert warning.id == "lambda_tasks.W014"
    assert "without it: other." in warning.msg
    settings.LAMBDA_TASKS_QUEUE_PREFIX = ""
    assert check_queue_prefix(None) == []
