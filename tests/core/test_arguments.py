"""From signatures to models, and values through JSON."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lambda_tasks.context import TaskContext
from lambda_tasks.core.arguments import Arguments
from lambda_tasks.core.functions import check_function
from lambda_tasks.core.results import to_json_values


class Size(Enum):
    SMALL = "s"
    LARGE = "l"


@dataclass
class Point:
    x: int
    y: float


class Line(pydantic.BaseModel):
    start: Point
    labels: dict[str, int]


def with_everything(
    *,
    a: int,
    b: str,
    c: datetime,
    d: date,
    e: Decimal,
    f: UUID,
    g: Size,
    h: Point,
    i: Line,
    j: list[int] | None,
    k: timedelta,
    json: bool,
    copy: tuple[int, str],
    model_config: int = 3,
) -> None: ...


finite = st.floats(allow_nan=False, allow_infinity=False)
points = st.builds(Point, x=st.integers(-(2**60), 2**60), y=finite)
words = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
# What travels is the moment and its offset, in minutes as ISO 8601 has it, not the zone's name.
offsets = st.integers(-720, 840).map(lambda minutes: timezone(timedelta(minutes=minutes)))
calls = st.fixed_dictionaries(
    {
        "a": st.integers(-(2**60), 2**60),
        "b": words,
        "c": st.datetimes(timezones=offsets),
        "d": st.dates(),
        "e": st.decimals(allow_nan=False, allow_infinity=False),
        "f": st.uuids(),
        "g": st.sampled_from(Size),
        "h": points,
        "i": st.builds(Line, start=points, labels=st.dictionaries(words, st.integers(0, 9))),
        "j": st.none() | st.lists(st.integers(0, 9)),
        "k": st.timedeltas(timedelta(days=-999), timedelta(days=999)),
        "json": st.booleans(),
        "copy": st.tuples(st.integers(0, 9), words),
    },
    optional={"model_config": st.integers(0, 9)},
)


@given(calls)
def test_what_is_passed_arrives_as_its_type(call: dict[str, Any]) -> None:
    arguments = Arguments(with_everything, takes_context=False)

    arrived = arguments.from_json(arguments.to_json(call))

    assert {name: type(value) for name, value in arrived.items()} == {
        name: type(value) for name, value in call.items()
    }
    assert arrived == call


def positional(a: int) -> None: ...
def positional_only(a: int, /) -> None: ...
def many(*args: int) -> None: ...
def keywords(**kwargs: int) -> None: ...
def underscore(*, _a: int) -> None: ...
def unannotated(*, a) -> None: ...  # type: ignore[no-untyped-def]
def no_context(*, a: int) -> None: ...


@pytest.mark.parametrize(
    ("func", "words"),
    [
        (positional, "positional parameter 'a'"),
        (positional_only, "positional parameter 'a'"),
        (many, "positional parameter 'args'"),
        (keywords, r"\*\*kwargs"),
        (underscore, "'_a'"),
        (unannotated, "'a' without an annotation"),
    ],
)
def test_a_signature_that_can_be_no_tasks_is_refused_by_name(func: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words) as refused:
        check_function(func, takes_context=False)
    assert func.__name__ in str(refused.value)


def test_a_nested_function_is_refused() -> None:
    def nested(*, a: int) -> None: ...

    with pytest.raises(TypeError, match="top level"):
        check_function(nested, takes_context=False)


def test_takes_context_needs_the_parameter() -> None:
    with pytest.raises(TypeError, match="context"):
        check_function(no_context, takes_context=True)


@pytest.mark.parametrize("value", ["1", 1.5, None, [1], True])
def test_validation_is_strict(value: Any) -> None:
    arguments = Arguments(no_context, takes_context=False)

    with pytest.raises(pydantic.ValidationError, match="a"):
        arguments.to_json({"a": value})


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (object(), "object"),
        ({"a": {1, object()}}, "dict"),
        (float("nan"), "float"),
        ("a\x00", "NUL"),
        (lambda: None, "function"),
    ],
)
def test_a_result_that_is_no_json_is_a_type_error(result: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        to_json_values(result, what="the result of app.tasks.f")


def test_results_are_serialized_as_pydantic_does() -> None:
    line = Line(start=Point(1, 2), labels={})
    result = {"when": date(2026, 1, 2), "at": Point(1, 2.0), "all": {3}, "line": line}

    assert to_json_values(result, what="the result") == {
        "when": "2026-01-02",
        "at": {"x": 1, "y": 2.0},
        "all": [3],
        "line": {"start": {"x": 1, "y": 2.0}, "labels": {}},
    }


def positional_context(context: TaskContext, *, a: int) -> None: ...


def other_positional(context: TaskContext, a: int) -> None: ...


def forgotten_option(context: TaskContext, *, a: int) -> None: ...


def forgotten_option_by_keyword(*, a: int, context: TaskContext | None = None) -> None: ...


def a_context_of_its_own(context: str) -> None: ...


def test_the_context_may_be_positional_and_nothing_else() -> None:
    check_function(positional_context, takes_context=True)
    with pytest.raises(TypeError, match="the positional parameter 'a'"):
        check_function(other_positional, takes_context=True)
    with pytest.raises(TypeError, match="the positional parameter 'context'"):
        check_function(a_context_of_its_own, takes_context=False)


@pytest.mark.parametrize("func", [forgotten_option, forgotten_option_by_keyword])
def test_a_context_without_its_option_is_refused(func: Any) -> None:
    with pytest.raises(TypeError, match=r"Write `@lambda_task\(takes_context=True\)`"):
        check_function(func, takes_context=False)
