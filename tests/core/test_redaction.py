"""No secret value is left in a text, in whatever form it stands there."""

import json
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lambda_tasks.core.redaction import REDACTED, redact, redact_value

PEM = "-----BEGIN KEY-----\nMIIEvQIBADANBgkq\nhkiG9w0BAQ==\n-----END KEY-----"


@given(st.text(st.characters(codec="ascii", min_codepoint=33), min_size=4), st.text())
def test_a_value_is_left_in_no_form(secret: str, around: str) -> None:
    for text in (f"{around}{secret}{around}", f"{around} {secret!r}", json.dumps([around, secret])):
        hidden = redact(text, [secret])

        if secret not in REDACTED and not set(secret) <= set("0123456789+-.e"):
            assert secret not in hidden


@pytest.mark.parametrize(
    ("text", "secrets", "expected"),
    [
        ("token abcdef", ["abcdef"], f"token {REDACTED}"),
        ("abcd abcdefgh", ["abcd", "abcdefgh"], f"{REDACTED} {REDACTED}"),
        ("pin 123 of 12345 in line 1234", ["123"], f"pin {REDACTED} of 12345 in line 1234"),
        ("card 4111111111111111.", [4111111111111111], f"card {REDACTED}."),
        ("order_4111111111111111x", ["4111111111111111"], f"order_{REDACTED}x"),
        ("order4111111111111111", [4111111111111111], f"order{REDACTED}"),
        ("at 3, -5 and 1e-07", [-5, 1e-07], f"at 3, {REDACTED} and {REDACTED}"),
        ("+b a+b", ["+b"], f"{REDACTED} a+b"),
        (repr("wörd".encode()), ["wörd"], f"b'{REDACTED}'"),
        ("rate 0.25, not 10.25", [0.25], f"rate {REDACTED}, not 10.25"),
        ("['one', 'two']", [["one", {"key": "two"}]], f"['{REDACTED}', '{REDACTED}']"),
        (f"KeyError: {PEM!r}", [PEM], f"KeyError: '{REDACTED}'"),
        ("a b", [""], "a b"),
        ("True None", [True, None], "True None"),
    ],
    ids=[
        "text", "prefix", "short", "number", "long text", "long number", "signs", "punctuation",
        "bytes", "fraction", "nested", "repr", "empty", "constants",
    ],
)  # fmt: skip
def test_what_is_redacted(text: str, secrets: list[object], expected: str) -> None:
    assert redact(text, secrets) == expected


def test_the_lines_of_a_value_are_hidden_where_something_indents_them() -> None:
    indented = "".join(f"  | {line}\n" for line in PEM.splitlines())

    assert "MIIEvQ" not in redact(indented, [PEM])


def test_values_keep_their_shape_but_for_what_is_hidden() -> None:
    value = {"token": "abcdef", "sizes": [1, None, ("abcdef", b"abcdef")], "flag": True}

    assert redact_value(value, ["abcdef"]) == {
        "token": REDACTED,
        "sizes": [1, None, [REDACTED, f"b'{REDACTED}'"]],
        "flag": True,
    }


@pytest.mark.parametrize("make", [int, "{:x} of many".format, float], ids=["int", "str", "float"])
def test_thousands_of_values_are_hidden_in_no_time(make: Callable[[int], object]) -> None:
    values = [make(each) for each in range(1_000_000, 1_010_000)]
    begun_at = time.process_time()

    assert redact("abcdefgh 1", [[*values, "abcd", "abcdefgh"]]) == f"{REDACTED} 1"
    hidden = redact(repr(values), [values])

    assert hidden.count(REDACTED) == len(values)
    assert time.process_time() - begun_at < 5
