"""Dataclasses that are made quickly compare and hash as the frozen ones that they stand for."""

from dataclasses import dataclass
from typing import Any

import pytest

from lambda_tasks.core.quick import quick_dataclass


@pytest.mark.parametrize("eq", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
def test_it_compares_and_hashes_as_a_dataclass_does(frozen: bool, eq: bool) -> None:
    assert traits(quick_dataclass, frozen, eq) == traits(dataclass, frozen, eq)


def traits(decorator: Any, frozen: bool, eq: bool) -> tuple[bool, ...]:
    """Return whether equal objects of a decorated class are equal, have a hash, and the same."""

    @decorator(frozen=frozen, eq=eq)
    class Point:
        x: int

    one, other = Point(1), Point(1)  # type: ignore[call-arg]
    is_hashable = Point.__hash__ is not None
    return one == other, is_hashable, is_hashable and hash(one) == hash(other)
