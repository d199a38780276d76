"""Failures with one cause have one fingerprint, and others have another."""

import time
import traceback
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lambda_tasks.core.fingerprints import MAX_MESSAGE_CHARS, alike, fingerprint

HEAD = "Traceback (most recent call last):\n"
CALL = '  File "/var/task/shop/tasks.py", line 12, in charge\n    pay(order)\n'
LIBRARY = (
    '  File "/var/lang/lib/python3.13/site-packages/stripe/client.py", line 7, in post\n    raise\n'
)


@given(
    st.text(st.characters(categories=["Ll", "Zs"], exclude_characters="abcdefx")),
    st.one_of(
        st.integers(0), st.uuids(), st.floats(0, 1e9, allow_subnormal=False).map("{:f}".format)
    ),
    st.one_of(st.integers(0), st.uuids(), st.datetimes()),
)
def test_what_differs_in_numbers_and_ids_alone_is_alike(
    text: str, one: object, other: object
) -> None:
    shown = alike(f"{text} {one} {text}")

    assert not any(each.isascii() and each.isdigit() for each in shown)
    if type(one) is type(other):
        assert shown == alike(f"{text} {other} {text}")


@given(st.text(), st.text())
def test_what_differs_in_quotes_alone_is_alike(one: str, other: str) -> None:
    first, second = (f"no file {each.replace(chr(10), '')!r} here"[:200] for each in (one, other))

    if "\\" not in first + second and "'" not in one + other and len(one + other) < 100:
        assert alike(first) == alike(second) == "no file '…' here"


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("Order 17 does not exist.", "Order # does not exist."),
        ("can't find user_42's cart", "can't find user_#'s cart"),
        ("HTTP 503 at 10.0.0.1:8080", "HTTP # at #"),
        ("2026-11-27T10:15:00.123Z is late", "#-#-#T#Z is late"),
        ("key `a b` and \"c\" and 'd'", "key '…' and '…' and '…'"),
        (f"no {uuid.UUID(int=7)}, 0x7f3a, {'ab1' * 9}", "no #, #, #"),
        ("a face added, a decade", "a face added, a decade"),
        ("  two\n lines ", "two lines"),
        ("", ""),
    ],
)
def test_placeholders_stand_for_what_differs(message: str, expected: str) -> None:
    assert alike(message) == expected


@given(st.text())
def test_any_text_can_be_an_error(text: str) -> None:
    found = fingerprint("shop.Wrong", text)

    assert len(found.message) <= MAX_MESSAGE_CHARS
    assert found.id == fingerprint("shop.Wrong", text).id


def test_a_long_text_takes_no_time() -> None:
    started_at = time.process_time()

    for text in ("'" * 100_000, "a" * 100_000, "0x" * 50_000, "1:" * 50_000, 'File "' * 9_000):
        fingerprint("shop.Wrong", f"{HEAD}{CALL}shop.Wrong: {text}")

    assert time.process_time() - started_at < 5.0


@pytest.mark.parametrize(
    ("text", "message", "raised_in"),
    [
        (f"{HEAD}{CALL}shop.Wrong: no 7\n", "no #", "shop/tasks.py in charge"),
        (f"{HEAD}{CALL}{LIBRARY}shop.Wrong\n", "", "shop/tasks.py in charge"),
        (f"{HEAD}{LIBRARY}shop.Wrong: no\n", "no", ""),
        (
            f"{HEAD}{LIBRARY}KeyError: 'x'\n\nDuring handling of the above exception, another "
            f"exception occurred:\n\n{HEAD}{CALL}shop.Wrong: second\n",
            "second",
            "shop/tasks.py in charge",
        ),
        (f"{HEAD}{CALL}shop.Wrong: first\nlambda_tasks.errors.X: no more retries\n", "first",
         "shop/tasks.py in charge"),
        ("It had not begun in time.", "It had not begun in time.", ""),
    ],
    ids=["plain", "in a library", "no own frame", "chained", "after the retries", "a reason"],
)  # fmt: skip
def test_an_error_is_read_from_its_traceback(text: str, message: str, raised_in: str) -> None:
    found = fingerprint("shop.Wrong", text)

    assert (found.message, found.raised_in) == (message, raised_in)


def test_a_real_traceback_names_the_function_that_raised() -> None:
    def charge(number: int) -> None:
        raise ValueError(f"order {number} is paid")

    found = []
    for number in (7, 8):
        try:
            charge(number)
        except ValueError:
            found.append(fingerprint("builtins.ValueError", traceback.format_exc()))

    assert found[0].id == found[1].id
    assert found[0].message == "order # is paid"
    assert found[0].raised_in.endswith("core/test_fingerprints.py in charge")


def test_a_group_of_exceptions_is_named_by_itself() -> None:
    try:
        raise ExceptionGroup("two of them", [ValueError("a"), TypeError("b")])
    except ExceptionGroup:
        text = traceback.format_exc()

    assert fingerprint("builtins.ExceptionGroup", text).message == "two of them (# sub-exceptions)"


@pytest.mark.parametrize(
    "other",
    [
        ("shop.Other", f"{HEAD}{CALL}shop.Other: no 7"),
        ("shop.Wrong", f"{HEAD}{CALL}shop.Wrong: none 7"),
        ("shop.Wrong", f"{HEAD}{CALL.replace('charge', 'refund')}shop.Wrong: no 7"),
    ],
    ids=["class", "text", "place"],
)
def test_another_error_has_another_fingerprint(other: tuple[str, str]) -> None:
    one = fingerprint("shop.Wrong", f"{HEAD}{CALL}shop.Wrong: no 7")

    assert one.id != fingerprint(*other).id
    assert one.id == fingerprint("shop.Wrong", f"{HEAD}{CALL}shop.Wrong: no 99").id
