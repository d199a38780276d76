"""The values of a durable function's steps come back as their annotated types."""

import gc
import weakref
from dataclasses import dataclass, make_dataclass
from typing import Annotated, Any, Literal

import pydantic
import pytest

from lambda_tasks.core.durable import MAX_ADAPTERS, value_from_json


@dataclass
class Left:
    n: int


@dataclass
class Right:
    n: int


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The types for which adapters are built."""
    hints: list[Any] = []

    build = pydantic.TypeAdapter

    def note(hint: Any) -> Any:
        hints.append(hint)
        return build(hint)

    monkeypatch.setattr(pydantic, "TypeAdapter", note)
    return hints


def _read(hint: Any, value: Any) -> Any:
    return value_from_json(value, hint, what="it")


def test_a_replay_builds_one_adapter_for_each_type_not_for_each_step(built: list[Any]) -> None:
    kind: Any = make_dataclass("Receipt", [("n", int)])

    read = [_read(list[kind], [{"n": n}]) for n in range(50)]

    assert read == [[kind(n)] for n in range(50)]
    assert built == [list[kind]]


def test_types_that_are_equal_are_not_taken_for_each_other() -> None:
    assert Left | Right == Right | Left

    assert _read(Left | Right, {"n": 1}) == Left(1)
    assert _read(Right | Left, {"n": 1}) == Right(1)
    assert _read(list[Left | Right], [{"n": 1}]) == [Left(1)]
    assert _read(list[Right | Left], [{"n": 1}]) == [Right(1)]


def test_a_type_that_can_not_be_hashed_is_read_all_the_same() -> None:
    hint = Annotated[int, ["of a list"]]

    assert [_read(hint, 1), _read(hint, 2)] == [1, 2]
    with pytest.raises(TypeError, match="it is no"):
        _read(hint, "x")


def test_classes_are_not_kept_for_ever() -> None:
    kind: Any = make_dataclass("Forgotten", [("n", int)])
    assert _read(kind, {"n": 1}) == kind(1)
    forgotten = weakref.ref(kind)

    del kind
    for number in range(MAX_ADAPTERS):
        _read(Literal[f"of test {number}"], f"of test {number}")
    gc.collect()

    assert forgotten() is None
