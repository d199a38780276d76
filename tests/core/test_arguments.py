"""From signatures to models, and values through JSON."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any
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


class OneAlias(pydantic.BaseModel):
    user_id: int = pydantic.Field(alias="userId")


class ByItsName(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(populate_by_name=True)

    user_id: int = pydantic.Field(validation_alias="userId")


class AnyOfTwo(pydantic.BaseModel):
    user_id: int = pydantic.Field(validation_alias=pydantic.AliasChoices("userId", "user_id"))


class ReadByItself(pydantic.BaseModel):
    user_id: int = pydantic.Field(validation_alias="userId")

    @pydantic.model_validator(mode="before")
    @classmethod
    def rename(cls, values: Any) -> Any:
        return {"userId": values["user_id"]} if "user_id" in values else values


class WrittenByItself(pydantic.BaseModel):
    user_id: int = pydantic.Field(validation_alias="userId")

    @pydantic.model_serializer
    def rename(self) -> dict[str, int]:
        return {"userId": self.user_id}


class WithoutSecondThoughts(pydantic.BaseModel):
    user_id: int
    cached: str | None = pydantic.Field(default=None, exclude=True)


@pytest.mark.parametrize(
    "user",
    [
        OneAlias(userId=1),
        ByItsName(user_id=1),
        AnyOfTwo.model_validate({"userId": 1}),
        ReadByItself.model_validate({"userId": 1}),
        WrittenByItself.model_validate({"userId": 1}),
        WithoutSecondThoughts(user_id=1),
    ],
)
def test_a_model_whose_fields_are_read_as_they_are_sent_arrives(user: pydantic.BaseModel) -> None:
    def any_user(*, user: Any) -> None: ...

    any_user.__annotations__["user"] = type(user)
    arguments = Arguments(any_user, takes_context=False)

    assert arguments.from_json(arguments.to_json({"user": user})) == {"user": user}


class ReadByAnother(pydantic.BaseModel):
    user_id: int = pydantic.Field(default=0, validation_alias="userId")


class SentByAnother(pydantic.BaseModel):
    user_id: int = pydantic.Field(default=0, serialization_alias="userId")


class FromInside(pydantic.BaseModel):
    user_id: int = pydantic.Field(default=0, validation_alias=pydantic.AliasPath("user", "id"))


class NeverSent(pydantic.BaseModel):
    user_id: int = pydantic.Field(exclude=True)


@pydantic.dataclasses.dataclass
class ReadDataclass:
    user_id: int = pydantic.Field(default=0, validation_alias="userId")


class Odd(Enum):
    TEXT = "a"
    PAIR = (1, 2)


class DayOff(Enum):
    NEW_YEAR = date(2027, 1, 1)


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (
            ReadByAnother,
            "the field ReadByAnother.user_id, .* sent as 'user_id' and read as 'userId'",
        ),
        (list[ReadByAnother], "the field ReadByAnother.user_id"),
        (SentByAnother, "sent as 'userId' and read as 'user_id'"),
        (FromInside, "sent as 'user_id' and read as a part of another"),
        (ReadDataclass | None, "the field ReadDataclass.user_id"),
        (NeverSent, "the field NeverSent.user_id, which is required and has `exclude=True`"),
        (Odd, r"Odd.PAIR, whose value \(1, 2\) JSON can't carry"),
        (dict[str, DayOff], "DayOff.NEW_YEAR"),
    ],
)
def test_a_type_that_is_sent_otherwise_than_it_is_read_is_refused(
    annotation: Any, words: str
) -> None:
    def any_value(*, a: Any) -> None: ...

    any_value.__annotations__["a"] = annotation

    with pytest.raises(TypeError, match=f"any_value has the parameter 'a' with .*{words}"):
        Arguments(any_value, takes_context=False).build()


def test_an_enum_that_pydantic_is_told_how_to_read_arrives() -> None:
    def any_value(*, a: Any) -> None: ...

    any_value.__annotations__["a"] = Annotated[
        Odd,
        pydantic.BeforeValidator(
            lambda value: Odd(tuple(value)) if isinstance(value, list) else value
        ),
    ]
    arguments = Arguments(any_value, takes_context=False)

    assert arguments.from_json(arguments.to_json({"a": Odd.PAIR})) == {"a": Odd.PAIR}


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
