"""Durable functions: the names of their steps, and what is kept of each as JSON values."""

import importlib
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import lru_cache, reduce
from typing import Any, Final

import pydantic

from ..errors import StepFailed
from .message import YEARS, encode_json, size_bytes
from .redaction import redact_value
from .results import to_json_values

MAX_NAME: Final = 200
"""The most characters of a step's name; the column is part of a key, which MySQL limits."""

MAX_VALUE_BYTES: Final = 64 * 1024
"""The most bytes of a step's value, as JSON: each run of the function reads those of all steps."""

MAX_ERROR_CHARS: Final = 4096
"""The most characters that are kept of one argument of an error."""

MAX_SLEEP: Final = timedelta(days=3652)
"""Ten years. A longer time is most likely a mistake."""

MAX_ADAPTERS: Final = 128
"""The most adapters of types that are kept, those that were used last. They keep their classes."""

FOREVER: Final = datetime(YEARS.stop - 1, 1, 1, tzinfo=UTC)
"""When a run is due that waits until somebody wakes it."""


class Kind(StrEnum):
    """The kinds of steps, by the method of the context that makes them."""

    STEP = "step"
    SLEEP = "sleep"
    WAIT = "wait_for"
    RUN = "run"
    GATHER = "gather"
    UNDO = "on_failure"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What is kept of a step."""

    name: str
    kind: str
    number: int = 0
    """Its place in the order in which steps began, from 1; 0 before it is written."""
    value: Any = None
    """The result as a JSON value; of a sleep its end, of children their workflow's id."""
    error: Any = None
    """The error that the function has caught, or that of a compensation: see error_to_json()."""
    function: str = ""
    """The function that undoes something, as a reference."""
    is_over: bool = True
    """Whether the step has ended. A compensation is not over until it has run."""
    ran: tuple[float, float] | None = None
    """The start and the end of a step's function, by time.monotonic(), until they are written."""
    began_at: datetime | None = None
    """When it began, by the database's clock; None before it is written."""
    ended_at: datetime | None = None


def check_name(name: object) -> str:
    """Return the name of a step. Raises ValueError unless it is a text of 1 to 200 characters."""
    if isinstance(name, str) and 0 < len(name) <= MAX_NAME and name.isprintable():
        if name == name.strip(" "):  # MySQL compares without them
            return name
        raise ValueError(f"The step's name {name!r} begins or ends with a space. Remove it.")
    raise ValueError(f"A step's name has 1 to {MAX_NAME} printable characters, not {name!r:.80}.")


def value_to_json(value: object, *, what: str) -> Any:
    """Return a value as JSON values.

    `what` starts the error's sentence. Raises TypeError where it is not JSON, and ValueError where
    it is larger than MAX_VALUE_BYTES.
    """
    values = to_json_values(value, what=what)
    size = size_bytes(encode_json(values, what=what))
    if size > MAX_VALUE_BYTES:
        raise ValueError(
            f"{what} has {size} bytes and may have {MAX_VALUE_BYTES}. Store the data in one of "
            "your tables, and return its key."
        )
    return values


def value_from_json(value: Any, hint: Any, *, what: str) -> Any:
    """Return a kept value as a type. Raises TypeError where it does not fit."""
    if hint is Any:
        return value
    try:
        return _adapter(hint).validate_json(json.dumps(value))
    except (pydantic.ValidationError, pydantic.errors.PydanticUserError) as error:
        raise TypeError(f"{what} is no {getattr(hint, '__name__', hint)}: {error}") from error


def _adapter(hint: Any) -> "pydantic.TypeAdapter[Any]":
    """Return the adapter of a type: a replay converts the results of all its steps again.

    A type that can't be hashed, such as one with a list in its Annotated, has a new one each time.
    """
    try:
        hash(hint)
    except TypeError:
        return pydantic.TypeAdapter(hint)
    return _kept_adapter(hint, repr(hint))


@lru_cache(maxsize=MAX_ADAPTERS)
def _kept_adapter(hint: Any, text: str) -> "pydantic.TypeAdapter[Any]":
    # By its text, too: A | B and B | A are equal, and pydantic takes the first that fits.
    return pydantic.TypeAdapter(hint)


def due_of(until: object, now: datetime, *, what: str) -> datetime:
    """Return the end of a sleep or a timeout.

    Raises TypeError for what is no time, and ValueError for a naive datetime or one too far off.
    """
    if isinstance(until, timedelta):
        due = now + min(until, MAX_SLEEP + timedelta(days=1))
    elif not isinstance(until, datetime):
        raise TypeError(f"{what} is {until!r:.80}. Use a timedelta, or an aware datetime.")
    elif until.tzinfo is None:
        raise ValueError(f"{what} is {until!r}, which has no time zone. Use an aware datetime.")
    else:
        due = until
    if due - now > MAX_SLEEP:
        raise ValueError(f"{what} is {until!r}, and the longest time is ten years.")
    return due


# References to functions and types


def reference_to(target: Any) -> str | None:
    """Return how a function or type of a module is found again; None where it is not."""
    module, name = getattr(target, "__module__", None), getattr(target, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str):
        return None
    found = _find(sys.modules.get(module), name)
    # A task stands in the place of its function.
    is_same = found is target or getattr(found, "__wrapped__", None) is target
    return f"{module}:{name}" if is_same else None


def find_reference(reference: str) -> Any:
    """Return what a reference names; None where this release has no such thing."""
    module, _, name = reference.partition(":")
    try:
        return _find(importlib.import_module(module), name)
    except ImportError:
        return None


def _find(module: object, name: str) -> Any:
    return reduce(lambda found, part: getattr(found, part, None), name.split("."), module)


# Errors that a function has caught


def error_to_json(error: Exception, secrets: Iterable[object]) -> dict[str, Any]:
    """Return an error as JSON values, with secrets redacted."""
    attributes = {name: each for name, each in vars(error).items() if _is_kept(name, each)}
    args = [each if _is_kept(each) else f"{each!r:.{MAX_ERROR_CHARS}}" for each in error.args]
    return {
        "class": f"{type(error).__module__}:{type(error).__qualname__}",
        "args": redact_value(args, secrets),
        "attributes": redact_value(attributes, secrets),
    }


def error_text(values: Any) -> str:
    """Return what is shown of an error that is kept: its class, and what it says."""
    name, said = values["class"].replace(":", "."), ", ".join(map(str, values["args"]))
    return f"{name}: {said:.500}" if said else name


def error_from_json(values: Any) -> Exception:
    """Return an error that an earlier run has caught, so that the same code catches it again.

    Returns StepFailed where its class is gone.
    """
    kind, args = find_reference(values["class"]), values["args"]
    if isinstance(kind, type) and issubclass(kind, Exception):
        try:
            # Not by its __init__, which may take something else than what it keeps.
            error = kind.__new__(kind, *args)
            error.args = tuple(args)
            vars(error).update(values["attributes"])
        except Exception:
            return StepFailed(values["class"], args)
        return error
    return StepFailed(values["class"], args)


def _is_kept(*values: object) -> bool:
    """Return whether these, of an error, are JSON that every database takes, and not large."""
    try:
        return all(len(encode_json(each, what="")) < MAX_ERROR_CHARS for each in values)
    except (TypeError, ValueError):
        return False
