"""Signatures: what was signed is read, and whatever was altered is refused."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lambda_tasks.core.signature import SIGNATURE_BYTES, SIGNATURE_LIFETIME_S, Signer, verify
from lambda_tasks.errors import MessageRefused

KEY, OTHER = "k" * 32, "o" * 32
JOBS = "us-east-1/123456789012/jobs"
NOW = 1_800_000_000.5

bodies = st.dictionaries(st.text(), st.text() | st.integers(), min_size=1).map(json.dumps)


def sign(body: str, *, key: str = KEY, audience: str = JOBS) -> str:
    return Signer(key, audience).sign(body, now=NOW)


def read(body: str, *keys: str, now: float = NOW) -> object:
    return verify(body, keys=keys, audience=JOBS, now=now)


@given(bodies)
def test_a_signed_body_is_given_back_as_it_was(body: str) -> None:
    signed = sign(body)

    assert read(signed, OTHER, KEY) == body
    assert len(signed) == len(body) + SIGNATURE_BYTES
    assert json.loads(signed) == json.loads(body) | {"signature": json.loads(signed)["signature"]}


@given(bodies, st.data())
def test_a_body_with_any_character_changed_is_refused(body: str, data: st.DataObject) -> None:
    signed = sign(body)
    place = data.draw(st.integers(0, len(signed) - 1))
    other = data.draw(st.characters().filter(lambda character: character != signed[place]))
    altered = signed[:place] + other + signed[place + 1 :]

    with pytest.raises(MessageRefused):
        read(altered, KEY)


@pytest.mark.parametrize(
    "audience",
    [
        "us-east-1/123456789012/mails",
        "us-east-1/999999999999/jobs",
        "eu-west-1/123456789012/jobs",
        "/123456789012/jobs",
        "",
    ],
    ids=["queue", "account", "region", "no region", "none"],
)
def test_a_body_for_another_audience_is_refused(audience: str) -> None:
    with pytest.raises(MessageRefused, match="not for the queue 'us-east-1/123456789012/jobs'"):
        read(sign('{"a":1}', audience=audience), KEY)


def test_a_body_of_another_key_is_refused_and_the_key_not_told() -> None:
    with pytest.raises(MessageRefused, match="which is not in LAMBDA_TASKS_SIGNING_KEYS") as error:
        read(sign('{"a":1}', key=OTHER), KEY)

    assert OTHER not in str(error.value)


def test_a_signature_counts_for_as_long_as_sqs_keeps_a_message() -> None:
    signed = sign('{"a":1}')

    assert read(signed, KEY, now=NOW + SIGNATURE_LIFETIME_S - 1) == '{"a":1}'
    with pytest.raises(MessageRefused, match="expired 60 s ago"):
        read(signed, KEY, now=int(NOW) + SIGNATURE_LIFETIME_S + 60)


def test_a_body_without_a_signature_is_refused_where_there_are_keys() -> None:
    with pytest.raises(MessageRefused, match="requires one"):
        read('{"a":1}', KEY)

    assert read('{"a":1}') == '{"a":1}'


def test_a_signed_body_is_refused_where_there_is_no_key() -> None:
    with pytest.raises(MessageRefused, match="Give this process the keys"):
        read(sign('{"a":1}'))
