"""What a form asks for a task's parameters: their kinds, choices and defaults, from their types."""

import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

import pydantic


class Kind(Enum):
    """What people write for a parameter."""

    TEXT = "text"
    INTEGER = "integer"
    NUMBER = "number"
    BOOLEAN = "boolean"
    CHOICE = "choice"
    DATE = "date"
    DATETIME = "datetime"
    JSON = "json"
    """JSON; text that is none is text, if the parameter takes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A parameter of a task, for a form."""

    name: str
    kind: Kind = Kind.JSON
    annotation: str = ""
    """The type as the code has it; "" for none."""
    choices: Sequence[Any] = ()
    """The JSON values of a CHOICE."""
    is_nullable: bool = False
    """Whether None is among its values."""
    is_required: bool = True
    is_secret: bool = False
    default: Any = None
    """The default as a JSON value, where it is not required."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """A task as people read of it."""

    signature: str
    documentation: str
    """Its docstring; "" for none."""
    parameters: Sequence[Parameter]


STRING_KINDS: Final = {"date": Kind.DATE, "date-time": Kind.DATETIME}
"""The kinds of strings by their `format` in JSON Schema."""

KINDS: Final = {"integer": Kind.INTEGER, "number": Kind.NUMBER, "boolean": Kind.BOOLEAN}
"""The kinds of other values by their `type`."""


def read_type(hint: Any) -> tuple[Kind, Sequence[Any], bool]:
    """Return the kind of a type, its choices, and whether None is among its values."""
    try:
        schema = pydantic.TypeAdapter(hint).json_schema()
    except pydantic.errors.PydanticUserError:  # not every type has a schema
        return Kind.JSON, (), False
    kinds, is_nullable = _options(schema, schema.get("$defs", {}))
    if len(kinds) != 1:
        return Kind.JSON, (), is_nullable
    return *_kind_of(kinds[0]), is_nullable


def _options(
    schema: Mapping[str, Any], definitions: Mapping[str, Any]
) -> tuple[list[Mapping[str, Any]], bool]:
    """Return the alternatives of a schema without null, and whether null is one of them."""
    if "$ref" in schema:
        schema = definitions.get(schema["$ref"].rpartition("/")[2], {})
    found = [_resolved(each, definitions) for each in schema.get("anyOf", [schema])]
    others = [each for each in found if each.get("type") != "null"]
    return others, len(others) < len(found)


def _resolved(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    name = schema.get("$ref", "").rpartition("/")[2]
    found: Mapping[str, Any] = definitions.get(name, schema)
    return found


def _kind_of(schema: Mapping[str, Any]) -> tuple[Kind, Sequence[Any]]:
    if choices := schema.get("enum", [schema["const"]] if "const" in schema else []):
        return Kind.CHOICE, choices
    if schema.get("type") == "string":
        return STRING_KINDS.get(schema.get("format", ""), Kind.TEXT), ()
    return KINDS.get(schema.get("type", ""), Kind.JSON), ()


def annotation_of(parameter: inspect.Parameter) -> str:
    """Return a parameter's annotation as it stands in the code."""
    if parameter.annotation is parameter.empty:
        return ""
    return inspect.formatannotation(parameter.annotation).strip("'")


def is_json(value: Any) -> bool:
    """Return whether a value can be written as JSON."""
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True
