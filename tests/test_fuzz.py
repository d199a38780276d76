"""Tens of thousands of things that nobody should send: none ends the handler, none is run by
mistake, each is refused with a reason, and its neighbours run.

What is drawn follows from the run's seed, which pytest prints: `-p randomly --randomly-seed=...`
draws the same again.
"""

import json
import logging
import os
import random
import string
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from lambda_tasks import conf, handler
from lambda_tasks.core.signature import Signer
from lambda_tasks.local import LambdaContext
from lambda_tasks.models import TaskRecord
from tests.app import tasks
from tests.app.models import Effect
from tests.conftest import Event, Handle, Task, body, record_of, sqs_event

MANY = int(os.environ.get("LAMBDA_TASKS_TEST_FUZZ", "5000"))
"""A longer run: LAMBDA_TASKS_TEST_FUZZ=100000."""

A_BATCH = 200
SECRET_WORD = "do-not-log-me"

ODD: list[Any] = [
    None, True, False, 0, -1, 1, 2**15, 2**63, 10**400, -(10**30), 0.5, -0.0, 1e308,
    "", " ", "x" * 300, "0" * 40, "\x00", "a\x00b", "\ud800", "é" * 130, "𝄞", "null", "{}",
    "tests.app.tasks.add", "tests.app.tasks.not_a_task", "tests.app.tasks", "os.system",
    "tests..app", ".", "1.2", "tests.app.tasks.add\n", "__main__.add",
    "2026-01-01", "2026-01-01T00:00:00", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59",
    "00000000-0000-0000-0000-000000000000", "not-a-uuid", str(uuid.uuid4()) + "0",
    [], {}, [[]], {"": None}, {"a": {"a": {}}}, [None] * 50, {"a": "\x00"}, {"b": "\udfff"},
]  # fmt: skip

ODD_TEXTS = [
    "", " ", "\ufeff{}", "null", "0", '"', "{", "}", "[]", "{}", "{}{}", "[" * 5_000,
    '{"a":' * 3_000, "9" * 5_000, "-", "1e999", "NaN", "Infinity", "-Infinity", "\x00", "\ud800",
    "'{}'", "<xml/>", "\u2028", "true", '{"task_name":NaN}',
]  # fmt: skip

FRAGMENTS = [
    '"', "\\", "{", "}", "[", "]", ",", ":", "\\u0000", "\\ud800", "NaN", "1e999", "9" * 4_400,
    "[" * 2_000, "null", "true", "\x00", "\n", '"kwargs":{}', '"task_name":"os.system"', "é",
]  # fmt: skip

OBJECTS: list[Any] = [
    object(), b"bytes", bytearray(b"x"), {1, 2}, frozenset(), range(3), 1j, float("nan"),
    float("inf"), Decimal("NaN"), Decimal("1e400"), date.max, datetime.min, timedelta.max,
    datetime(2026, 1, 1, tzinfo=UTC), len, int, ..., NotImplemented, ValueError("x"),
    (number for number in range(2)), lambda: None, uuid.UUID(int=0), memoryview(b"x"),
]  # fmt: skip


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """A refusal is a log line; the tests that read them turn them on."""
    caplog.set_level(logging.CRITICAL, logger="lambda_tasks")


@pytest.fixture
def reasons() -> Iterator[list[str]]:
    """What the library logs, formatted, from warnings on."""
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())
            if record.exc_info:
                lines.append(str(record.exc_info[1]))

    logger, keep = logging.getLogger("lambda_tasks"), Keep()
    level, propagates = logger.level, logger.propagate
    logger.addHandler(keep)
    logger.setLevel(logging.WARNING)
    logger.propagate = False
    yield lines
    logger.removeHandler(keep)
    logger.setLevel(level)
    logger.propagate = propagates


def mangled(text: str) -> str:
    """A few random cuts, insertions and repetitions."""
    for _ in range(random.randint(1, 3)):
        start = random.randrange(len(text) + 1)
        end = min(len(text), start + random.randrange(12))
        piece = random.choice(
            ["", random.choice(string.printable), random.choice(FRAGMENTS), text[start:end] * 2]
        )
        text = text[:start] + piece + text[end:]
    return text


def warped(text: str) -> str:
    """Still JSON, with odd values, missing keys and keys of somebody else's."""
    content = json.loads(text)
    for _ in range(random.randint(1, 3)):
        key = random.choice([*content, "queue", "durable", "run_after", "group_key", "root_id",
                             "retry_of", "v", "signature", ""])  # fmt: skip
        if random.random() < 0.2:
            content.pop(key, None)
        else:
            content[key] = random.choice(ODD)
    return json.dumps(content, ensure_ascii=random.random() < 0.5)


def no_text(text: str) -> Any:
    return random.choice([*ODD, *OBJECTS, text.encode(), json.loads(text)])


def odd_text(_: str) -> str:
    return random.choice(ODD_TEXTS) + random.choice(["", " ", random.choice(ODD_TEXTS)])


BREAK: list[Callable[[str], Any]] = [mangled, mangled, warped, warped, no_text, odd_text]


def a_body(**kwargs: Any) -> str:
    return body(tasks.add_direct, **kwargs)


def has_an_end(message: Any) -> bool:
    """Its record says how it went; a body without an id of its own has its delivery's."""
    try:
        id = uuid.UUID(json.loads(message)["invocation_id"])
    except (KeyError, TypeError):
        return TaskRecord.objects.filter(end_time__isnull=False).exists()
    return TaskRecord.objects.filter(id=id, end_time__isnull=False).exists()


@pytest.mark.parametrize("part", range(4))
def test_bodies_that_are_none_are_refused_and_their_neighbours_run(
    handle: Handle, reasons: list[str], part: int
) -> None:
    for _ in range(MANY // A_BATCH):
        originals = [a_body(a=1) for _ in range(A_BATCH)]
        broken = [random.choice(BREAK)(each) for each in originals]
        good = [a_body(a=2), body(tasks.aadd_direct, a=3)]
        reasons.clear()

        failures = handle(good[0], *broken, good[1])

        assert 0 not in failures
        assert A_BATCH + 1 not in failures
        assert [record_of(each).status for each in good] == ["SUCCESS", "SUCCESS"]
        for index, message in enumerate(broken, start=1):
            assert index in failures or has_an_end(message), message
        refusals = [line for line in reasons if " back" in line]
        assert len(refusals) >= len(failures)
        TaskRecord.objects.all().delete()


def audience() -> str:
    return conf.current().queue("default").audience


def forged(key: str) -> str:
    """A signed body that was altered, or is meant for another queue."""
    original = body(tasks.leave_effect_direct, name="never")
    if random.random() < 0.1:
        return Signer(key, "another").sign(original, now=time.time())
    signed = Signer(key, audience()).sign(original, now=time.time())
    while (altered := random.choice([mangled, warped, odd_text])(signed)) == signed:
        pass
    return altered


def test_of_signed_bodies_only_the_very_text_is_run(
    handle: Handle, reasons: list[str], settings: Any
) -> None:
    keys = ["new-" + "k" * 40, "old-" + "k" * 40]
    settings.LAMBDA_TASKS_SIGNING_KEYS = keys
    for _ in range(MANY // A_BATCH):
        good = Signer(keys[1], audience()).sign(a_body(a=2), now=time.time())
        reasons.clear()

        failures = handle(*(forged(random.choice(keys)) for _ in range(A_BATCH)), good)

        assert failures == list(range(A_BATCH))
        assert len(reasons) >= A_BATCH
        assert TaskRecord.objects.get().status == "SUCCESS"
        TaskRecord.objects.all().delete()
    assert not Effect.objects.exists()


def test_a_refusal_never_repeats_the_body(handle: Handle, reasons: list[str]) -> None:
    for _ in range(MANY // 3 // A_BATCH):
        texts = [body(tasks.leave_effect_direct, name=SECRET_WORD) for _ in range(A_BATCH)]
        cut = [mangled(each[: each.index(SECRET_WORD)]) + SECRET_WORD + '"' for each in texts]

        handle(*cut)

        assert reasons
        assert not [line for line in reasons if SECRET_WORD in line]
        reasons.clear()
        TaskRecord.objects.all().delete()


def broken_record(record: Any) -> Any:
    record = dict(record)
    for _ in range(random.randint(1, 2)):
        key = random.choice([*record, "body", "messageId"])
        if random.random() < 0.4:
            record.pop(key, None)
        else:
            record[key] = random.choice([*ODD, {"SentTimestamp": random.choice(ODD)}])
    return random.choice([record, record, record, random.choice(ODD)])


@pytest.mark.usefixtures("transactional_db", "_warm_handler")
def test_a_broken_record_takes_no_other_along() -> None:
    for _ in range(MANY // 10):
        event = sqs_event(*(a_body(a=1) for _ in range(3)))
        broken = broken_record(event["Records"][1])
        event["Records"][1] = broken

        answer = handler.handler(event, LambdaContext())

        ids = [each["itemIdentifier"] for each in answer["batchItemFailures"]]
        assert not {event["Records"][0]["messageId"], event["Records"][2]["messageId"]} & set(ids)
        assert TaskRecord.objects.filter(status="SUCCESS").count() >= 2
        id = broken.get("messageId") if isinstance(broken, dict) else None
        if not isinstance(id, str) or not id or broken.get("eventSource") != "aws:sqs":
            assert "" in ids, "Lambda returns the whole batch"
        TaskRecord.objects.all().delete()


@pytest.mark.usefixtures("transactional_db", "_warm_handler")
def test_an_event_of_another_kind_is_refused_by_name() -> None:
    events: list[Any] = [*ODD, {"Records": []}, {"Records": [{}]}, {"Records": [{"body": "{}"}]}]
    sources = ["aws:s3", "aws:sns", "AWS:SQS", "", None, ["aws:sqs"]]
    for _ in range(MANY):
        event: Event = {random.choice(["Records", "records", "lambda_tasks", "detail", ""]): None}
        event[next(iter(event))] = random.choice([*ODD, [{"eventSource": random.choice(sources)}]])
        events.append(event)
    for event in events:
        with pytest.raises(ValueError, match=r"accepts SQS events, .* It received an? "):
            handler.handler(event, LambdaContext())


@pytest.mark.django_db(transaction=True)
def test_arguments_that_do_not_fit_are_refused_at_the_call(settings: Any) -> None:
    settings.LAMBDA_TASKS_NOOP_EXECUTION = True
    targets: list[Task] = [tasks.typed, tasks.add, tasks.echo, tasks.aadd]
    names = ["moment", "day", "amount", "key", "colour", "path", "point", "order", "anything",
             "a", "b", "value", "args", "self", "task", "class", "a b", "", "_"]  # fmt: skip
    refused = 0
    for _ in range(MANY):
        task = random.choice(targets)
        kwargs = {
            random.choice(names): random.choice([random.choice(ODD), random.choice(OBJECTS)])
            for _ in range(random.randint(0, 10))
        }
        try:
            task.execute_on_commit(**kwargs)
        except (TypeError, ValueError) as error:  # pydantic's ValidationError is a ValueError
            refused += 1
            assert task.name.rpartition(".")[2] in str(error), error
    assert refused > MANY * 0.6


def test_settings_that_mean_nothing_are_refused_by_name() -> None:
    names = ["QUEUES", "DEFAULT_SOFT_TIMEOUT", "DEFAULT_HARD_TIMEOUT", "EAGER", "LOCAL_WORKERS",
             "NOOP_EXECUTION", "MAX_RETRIES", "SINGLETON_CACHE", "DURABLE", "CONCURRENCY",
             "PROCESSES", "MAX_ATTEMPTS", "MODULES", "SIGNING_KEYS", "REDACT", "AWS",
             "QUEUE", "TIMEOUT", ""]  # fmt: skip
    refused = 0
    for _ in range(MANY):
        name = "LAMBDA_TASKS_" + random.choice(names)
        value = random.choice([*ODD, *OBJECTS, *map(queues, ODD_TEXTS), queues(random.choice(ODD))])
        with override_settings(**{name: value}):
            try:
                conf.current()
            except ImproperlyConfigured as error:
                refused += 1
                assert name in str(error), error
    assert refused > MANY * 0.6


def queues(value: Any) -> Any:
    return random.choice(
        [{"default": value}, {"default": {"queue_url": value}}, {"default": f"http://[{value}"}]
    )
