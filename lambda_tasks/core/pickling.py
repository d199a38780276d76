"""Pickles dataclasses that travel between processes, field by field."""

from collections.abc import Callable, Sequence
from dataclasses import fields
from operator import attrgetter
from typing import Any, Final, TypeVar

T = TypeVar("T")

_set: Final = object.__setattr__
"""Sets an attribute, also of a frozen object."""


def pickled_by_position(cls: type[T]) -> type[T]:
    """Decorate a dataclass with slots and two fields or more, to be pickled fast.

    Python's own way asks for the fields anew with each object. For the run that a process gets,
    that was a seventh of all the calls that its parent makes for it.
    """
    names = [each.name for each in fields(cls)]  # type: ignore[arg-type]
    values_of: Callable[[T], Sequence[Any]] = attrgetter(*names)

    def get_state(self: T) -> Sequence[Any]:
        return values_of(self)

    def set_state(self: T, values: Sequence[Any]) -> None:
        for name, value in zip(names, values, strict=True):
            _set(self, name, value)

    cls.__getstate__ = get_state  # type: ignore[method-assign, assignment]
    cls.__setstate__ = set_state  # type: ignore[attr-defined]
    return cls
