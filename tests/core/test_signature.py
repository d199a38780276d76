"""Signatures: what was signed is read, and whatever was altered is refused."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lambda_tasks.core.signature import SIGNATURE_BYTES, sign, verify
from lambda_tasks.errors import MessageRefused

KEY, OTHER = "k" * 32, "o" * 32

bodies = st.dictionaries(st.text(), st.text() | st.integers(), min_size=1).map(json.dumps)


@given(bodies)
def test_a_signed_body_is_given_back_as_it_was(body: str) -> None:
    signed = sign(body, key=KEY, queue="jobs")

    assert verify(signed, keys=[OTHER, KEY], queue="jobs") == body
    assert len(signed) == len(body) + SIGNATURE_BYTES
    assert json.loads(signed) == json.loads(body) | {"signature": json.loads(signed)["signature"]}


@given(bodies, st.data())
def test_a_body_with_any_character_changed_is_refused(body: str, data: st.DataObject) -> None:
    signed = sign(body, key=KEY, queue="jobs")
    place = data.draw(st.integers(0, len(signed) - 1))
    other = data.draw(st.characters().filter(lambda character: character != signed[place]))
    altered = signed[:place] + other + signed[place + 1 :]

    with pytest.raises(MessageRefused):
        verify(altered, keys=[KEY], queue="jobs")


@pytest.mark.parametrize(("key", "queue"), [(OTHER, "jobs"), (KEY, "mails")])
def test_a_body_of_another_key_or_queue_is_refused(key: str, queue: str) -> None:
    signed = sign('{"a":1}', key=key, queue=queue)

    with pytest.raises(MessageRefused, match="for the queue 'jobs'"):
        verify(signed, keys=[KEY], queue="jobs")


def test_a_body_without_a_signature_is_refused_where_there_are_keys() -> None:
    with pytest.raises(MessageRefused, match="asks for one"):
        verify('{"a":1}', keys=[KEY], queue="jobs")

    assert verify('{"a":1}', keys=[], queue="jobs") == '{"a":1}'
