"""A task's result as JSON values, and from them as the type of its return annotation."""

import json
from collections.abc import Callable
from functools import cached_property
from typing import Any

import pydantic
from pydantic_core import PydanticSerializationError, to_jsonable_python

from .hints import annotations_of, resolve_hint
from .message import encode_json


def to_json_values(value: object, *, what: str) -> Any:
    """Return a task's result or state as JSON values.

    `what` starts the error's sentence. Raises TypeError, with the type, for a value that JSON or a
    database can't hold.
    """
    try:
        values = to_jsonable_python(value)
        encode_json(values, what=what)
    except PydanticSerializationError as error:
        raise TypeError(
            f"{what} is a {type(value).__name__} that can't be serialized to JSON: {error}. "
            "Use plain values, dataclasses or pydantic models."
        ) from error
    except ValueError as error:
        raise TypeError(f"{what} is a {type(value).__name__}: {error}") from error
    return values


class ResultType:
    """The annotated type of one function's result. Its adapter is built at its first use."""

    def __init__(self, func: Callable[..., Any]) -> None:
        self._func = func

    def from_json(self, value: Any) -> Any:
        """Return a stored result as the annotated type; as it is where there is no annotation.

        Raises TypeError where pydantic can't make that type of JSON, or not of this value.
        """
        try:
            adapter = self._adapter
            return value if adapter is None else adapter.validate_json(json.dumps(value))
        except (pydantic.ValidationError, pydantic.errors.PydanticUserError) as error:
            raise TypeError(
                f"The result of {self._func.__qualname__} can't be converted to the type of its "
                f"return annotation: {error}\nThe record's `result` has the JSON value."
            ) from error

    @property
    def hint(self) -> Any:
        """The annotation of the result; Any where there is none."""
        has_one = "return" in annotations_of(self._func)
        return resolve_hint(self._func, "return") if has_one else Any

    @cached_property
    def _adapter(self) -> "pydantic.TypeAdapter[Any] | None":
        hint = self.hint
        return None if hint is Any else pydantic.TypeAdapter(hint)
