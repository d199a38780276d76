"""The check of a parameter's type: whether its values arrive as what was sent."""

import json
from collections.abc import Iterator, Set
from enum import Enum
from types import UnionType
from typing import Annotated, Any, Final, Union, get_args, get_origin

import pydantic
from pydantic_core import PydanticSerializationError, to_json

INSTEAD: Final = "of a Django model the primary key, of a file its path"
"""What to pass in place of values that can't travel."""

UNSERIALIZABLE: Final = (PydanticSerializationError, UnicodeDecodeError)
"""The errors of pydantic for values that it can't serialize. The second is that of bytes."""

SECRET_TYPES: Final = (pydantic.SecretStr, pydantic.SecretBytes)


def check_type(function: str, name: str, hint: Any) -> None:
    """Raise TypeError, with the fix, for a type that can't travel through JSON and back."""
    for kind in parts_of(hint):
        if is_django_model(kind):
            raise TypeError(pass_the_primary_key(function, name, kind))
    adapter = _make_adapter(function, name, hint)
    _refuse_enums_in_literals(function, name, adapter)
    if not is_secret(hint):
        _refuse_hidden_secrets(function, name, adapter)


def describe_unserializable(function: str, name: str, error: Exception) -> str:
    """Return the error for an argument that can't be serialized, with the fix."""
    if isinstance(error, UnicodeDecodeError):
        fix = "Encode bytes as text first, with base64.b64encode() for example."
    else:
        fix = f"Annotate its type, so that pydantic converts it, or pass other values: {INSTEAD}."
    return f"{function}: the argument {name!r} can't be sent as JSON: {error}. {fix}"


def parts_of(hint: Any) -> Iterator[Any]:
    """Yield an annotation and all that it is made of: `list[A | None]` has A in it."""
    yield hint
    for part in get_args(hint):
        yield from parts_of(part)


def is_secret(hint: Any) -> bool:
    """Return whether an annotation is that of a secret, or has one in it."""
    return any(part in SECRET_TYPES for part in parts_of(hint))


def is_set(hint: Any) -> bool:
    """Return whether values of an annotation may be sets, whose items have no order."""
    if get_origin(hint) in (Union, UnionType):
        return any(map(is_set, get_args(hint)))
    if get_origin(hint) is Annotated:
        return is_set(get_args(hint)[0])
    kind = get_origin(hint) or hint
    return isinstance(kind, type) and issubclass(kind, Set)


def is_django_model(kind: object) -> bool:
    """Return whether this is a model class of Django."""
    # Recognized by its attributes, because the core does not import Django.
    return isinstance(kind, type) and hasattr(kind, "_meta") and hasattr(kind, "_base_manager")


def pass_the_primary_key(function: str, name: str, kind: type) -> str:
    """Return the error for a parameter that is a model instance."""
    return (
        f"{function}: {name!r} is the Django model {kind.__name__}. Pass its primary key and load "
        "it in the task: the row may have changed by the time the task runs."
    )


def _make_adapter(function: str, name: str, hint: Any) -> "pydantic.TypeAdapter[Any]":
    try:
        adapter = pydantic.TypeAdapter(hint)
        if hasattr(adapter, "rebuild"):  # from pydantic 2.10 on
            adapter.rebuild(raise_errors=True)
    except pydantic.errors.PydanticUndefinedAnnotation as error:
        raise TypeError(
            f"{function} has the parameter {name!r}, whose type uses {error.name!r}, which is not "
            "there at run time. Import it outside of `if TYPE_CHECKING:`."
        ) from error
    except pydantic.errors.PydanticSchemaGenerationError as error:
        raise TypeError(
            f"{function} has the parameter {name!r} of a type that pydantic can't carry through "
            f"JSON. Pass something else, {INSTEAD}. {error.message.splitlines()[0]}"
        ) from error
    return adapter


def _refuse_hidden_secrets(function: str, name: str, adapter: "pydantic.TypeAdapter[Any]") -> None:
    """Raise TypeError for a secret inside a model, which would be redacted before it is sent."""
    try:
        schema = adapter.json_schema()
    except (pydantic.errors.PydanticInvalidForJsonSchema, pydantic.errors.PydanticUserError):
        return
    if '"writeOnly": true' in json.dumps(schema):
        raise TypeError(
            f"{function} has the parameter {name!r}, a model with a secret field, which would "
            "arrive redacted. Pass the secret as a separate parameter."
        )


def _refuse_enums_in_literals(
    function: str, name: str, adapter: "pydantic.TypeAdapter[Any]"
) -> None:
    for member in _literals(adapter.core_schema):
        value = json.loads(to_json(member))
        if isinstance(member, Enum) and member != value:
            raise TypeError(
                f"{function} has the parameter {name!r} with a Literal of {member}, which would "
                f"arrive as {value!r} and be refused. Annotate it as {type(member).__name__}, or "
                "use a Literal of values."
            )


def _literals(schema: Any) -> Iterator[Any]:
    """Yield the members of all Literals in a schema of pydantic-core."""
    if isinstance(schema, dict):
        if schema.get("type") == "literal":
            yield from schema["expected"]
        for part in schema.values():
            yield from _literals(part)
    elif isinstance(schema, list | tuple):
        for part in schema:
            yield from _literals(part)
