"""The envelope: there and back, and every format that was ever released."""

import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lambda_tasks.core.message import (
    GROUP_KEY_PATTERN,
    MAX_HEADERS_BYTES,
    Message,
    check_headers,
    check_size,
    decode,
    group_of,
    size_bytes,
)
from lambda_tasks.errors import MessageRefused, MessageTooLarge

ID = UUID("12345678-1234-4234-8234-123456789abc")

text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))
numbers = st.floats(allow_nan=False, allow_infinity=False)
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64) | numbers | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=20,
)  # fmt: skip
names = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=128
)
moments = st.datetimes(datetime(1970, 1, 1), datetime(8999, 12, 31), timezones=st.just(UTC))
messages = st.builds(
    Message,
    task_name=names,
    kwargs=st.dictionaries(text, json_values, max_size=5),
    invocation_id=st.uuids(),
    n_retries=st.integers(0, 32_767),
    queue=st.none() | names,
    durable=st.booleans(),
    run_after=st.none() | moments,
    group_key=st.none() | names,
    root_id=st.none() | st.uuids(),
    retry_of=st.none() | st.uuids(),
    keeps_arguments=st.booleans(),
)


TAKEN_BY_SQS = re.compile("[\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]*")
"""The characters of a body (SendMessage, Amazon SQS API reference)."""


@given(messages)
def test_every_message_is_read_back_as_it_was_written(message: Message) -> None:
    body = message.encode()

    read = decode(body, fallback_id=ID)
    if message.durable and not message.keeps_arguments:
        name, id = message.task_name, message.invocation_id
        assert read == Message(task_name=name, kwargs={}, invocation_id=id, durable=True)
        assert not read.has_arguments
    else:
        assert read == replace(message, root_id=None, retry_of=None), "its links are its record's"
        assert read.has_arguments
    assert TAKEN_BY_SQS.fullmatch(body)


@given(st.text() | st.binary().map(lambda raw: raw.decode("latin-1")) | json_values.map(json.dumps))
def test_whatever_a_body_holds_it_is_read_or_refused_with_a_reason(body: str) -> None:
    try:
        decode(body, fallback_id=ID)
    except MessageRefused as reason:
        assert str(reason)


def test_keys_that_hold_their_default_are_left_out() -> None:
    message = Message(task_name="app.tasks.f", kwargs={}, invocation_id=ID)

    assert message.encode() == (
        '{"task_name":"app.tasks.f","kwargs":{},"n_retries":0,'
        '"invocation_id":"12345678-1234-4234-8234-123456789abc"}'
    )


@pytest.mark.parametrize("text", ["\ufffe", "\uffff", "漢\uffff", "\x7f\x85\u2028"])
def test_what_sqs_refuses_and_json_holds_is_escaped(text: str) -> None:
    message = Message(task_name="f", kwargs={"a": text, text: 1}, invocation_id=ID)

    body = message.encode()

    assert TAKEN_BY_SQS.fullmatch(body)
    assert decode(body, fallback_id=ID) == message


def test_a_size_is_that_of_utf_8() -> None:
    body = Message(task_name="f", kwargs={"a": "漢" * 1000}, invocation_id=ID).encode()

    assert size_bytes(body) == len(body.encode()) < 3200
    check_size(body, task_name="f", limit_bytes=size_bytes(body))
    with pytest.raises(MessageTooLarge, match=f"has {size_bytes(body)} bytes"):
        check_size(body, task_name="f", limit_bytes=size_bytes(body) - 1)


def test_headers_are_counted_in_utf_8_by_who_sends_and_who_receives() -> None:
    headers = {"tenant": "漢" * (MAX_HEADERS_BYTES // 3)}

    with pytest.raises(ValueError, match=f"have {MAX_HEADERS_BYTES + 12} bytes as JSON"):
        check_headers(headers, what="The headers")
    body = Message(task_name="f", kwargs={}, invocation_id=ID, headers=headers).encode()
    with pytest.raises(MessageRefused, match="'headers' have more than"):
        decode(body, fallback_id=ID)


def test_the_group_of_a_task_is_one_that_sqs_takes() -> None:
    groups = [group_of(None, f"app.tasks.{name}") for name in ("größe", "große", "x" * 200)]

    assert all(GROUP_KEY_PATTERN.fullmatch(group) for group in groups)
    assert len(set(groups)) == 3
    assert group_of("tenant", "app.tasks.größe") == "tenant"


GOLDEN: dict[str, tuple[str, Message]] = {
    "django-lambda-tasks 0.1": (
        '{"task_name": "app.tasks.f", "kwargs": {"a": 1}}',
        Message(task_name="app.tasks.f", kwargs={"a": 1}, invocation_id=ID),
    ),
    "django-lambda-tasks 0.8": (
        '{"task_name":"app.tasks.f","kwargs":{"a":1},"n_retries":2}',
        Message(task_name="app.tasks.f", kwargs={"a": 1}, n_retries=2, invocation_id=ID),
    ),
    "1.0, before messages were wake-ups": (
        '{"task_name":"app.tasks.f","kwargs":{"a":1},"n_retries":1,'
        '"invocation_id":"00000000-0000-4000-8000-000000000001","queue":"slow","durable":true,'
        '"run_after":"2026-11-20T12:00:00+00:00","group_key":"tenant",'
        '"root_id":"00000000-0000-4000-8000-000000000002",'
        '"retry_of":"00000000-0000-4000-8000-000000000003"}',
        Message(
            task_name="app.tasks.f",
            kwargs={"a": 1},
            n_retries=1,
            invocation_id=UUID("00000000-0000-4000-8000-000000000001"),
            queue="slow",
            durable=True,
            run_after=datetime(2026, 11, 20, 12, tzinfo=UTC),
            group_key="tenant",
        ),
    ),
    "1.0, a wake-up": (
        '{"task_name":"app.tasks.f","invocation_id":"00000000-0000-4000-8000-000000000001",'
        '"durable":true}',
        Message(
            task_name="app.tasks.f",
            kwargs={},
            invocation_id=UUID("00000000-0000-4000-8000-000000000001"),
            durable=True,
        ),
    ),
    "1.0, by way of django.tasks": (
        '{"task_name":"app.tasks.f","kwargs":{"b":2},"n_retries":0,'
        '"invocation_id":"00000000-0000-4000-8000-000000000001","args":[1],"backend":"default",'
        '"queue":"default","durable":true}',
        Message(
            task_name="app.tasks.f",
            args=(1,),
            kwargs={"b": 2},
            invocation_id=UUID("00000000-0000-4000-8000-000000000001"),
            backend="default",
            queue="default",
            durable=True,
        ),
    ),
    "of a later release": (
        '{"task_name":"app.tasks.f","kwargs":{},"n_retries":0,"something_new":[1]}',
        Message(task_name="app.tasks.f", kwargs={}, invocation_id=ID),
    ),
}


@pytest.mark.parametrize("release", GOLDEN)
def test_a_body_of_every_release_is_understood(release: str) -> None:
    body, message = GOLDEN[release]

    assert decode(body, fallback_id=ID) == message


def test_a_later_format_version_is_refused_by_name() -> None:
    with pytest.raises(MessageRefused, match="version 2"):
        decode('{"v": 2, "task_name": "app.tasks.f", "kwargs": {}}', fallback_id=ID)


def test_a_refusal_does_not_repeat_the_body() -> None:
    with pytest.raises(MessageRefused) as refused:
        decode('{"secret": "hunter2', fallback_id=ID)

    assert "hunter2" not in str(refused.value)


def test_a_message_over_the_limit_names_both_sizes() -> None:
    with pytest.raises(MessageTooLarge, match=r"app\.f has 11 bytes and the queue takes 10"):
        check_size("x" * 11, task_name="app.f", limit_bytes=10)
    check_size("x" * 10, task_name="app.f", limit_bytes=10)


def nested(levels: int) -> Any:
    value: Any = "inside"
    for _ in range(levels):
        value = [value]
    return value


def test_what_is_nested_too_deeply_is_refused_at_the_call_and_on_its_way_in() -> None:
    deepest = Message(task_name="app.tasks.f", kwargs={"a": nested(98)}, invocation_id=ID)
    deeper = {"a": nested(99)}

    assert decode(deepest.encode(), fallback_id=ID) == deepest
    with pytest.raises(ValueError, match="more than 100 levels"):
        replace(deepest, kwargs=deeper, durable=True).encode_arguments()
    with pytest.raises(MessageRefused, match="nested too deeply"):
        decode(json.dumps({"task_name": "f", "kwargs": {"a": nested(300)}}), fallback_id=ID)
