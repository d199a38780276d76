"""The check of a parameter's type: whether its values arrive as what was sent."""

import json
from collections.abc import Iterable, Iterator, Mapping, Set
from enum import Enum
from types import UnionType
from typing import Annotated, Any, Final, Union, get_args, get_origin

import pydantic
from pydantic_core import PydanticSerializationError, to_json

INSTEAD: Final = "of a Django model the primary key, of a file its path"
"""What to pass in place of values that can't travel."""

UNSERIALIZABLE: Final = (PydanticSerializationError, UnicodeDecodeError)
"""The errors of pydantic for values that it can't serialize. The second is that of bytes."""

_READ_BEFORE: Final = ("function-before", "function-wrap", "function-plain")
"""The schemas of validators that see a value before pydantic does, and may turn it into another."""

SECRET_TYPES: Final = (pydantic.SecretStr, pydantic.SecretBytes)


def check_type(function: str, name: str, hint: Any) -> None:
    """Raise TypeError, with the fix, for a type that can't travel through JSON and back."""
    for kind in parts_of(hint):
        if is_django_model(kind):
            raise TypeError(pass_the_primary_key(function, name, kind))
    adapter = _make_adapter(function, name, hint)
    _refuse_enums_in_literals(function, name, adapter)
    _refuse_enum_values(function, name, adapter)
    _refuse_other_names(function, name, adapter)
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


def _refuse_enum_values(function: str, name: str, adapter: "pydantic.TypeAdapter[Any]") -> None:
    """Raise TypeError for an enum with a value that JSON changes, as a tuple into a list."""
    for kind in _enums(adapter.core_schema):
        member = _lost_member(kind)
        if member is not None:
            raise TypeError(
                f"{function} has the parameter {name!r} with {member}, whose value "
                f"{member.value!r} JSON can't carry: it would be refused where it arrives. "
                f"Give the members of {kind.__name__} texts or numbers as values."
            )


def _lost_member(kind: type[Enum]) -> Enum | None:
    adapter = pydantic.TypeAdapter(kind)
    for member in kind:
        try:
            adapter.validate_json(to_json(member), strict=True)
        except (pydantic.ValidationError, *UNSERIALIZABLE):
            return member
    return None


def _enums(schema: Any) -> Iterator[type[Enum]]:
    """Yield the enums in a schema of pydantic-core that it writes and reads by itself."""
    if isinstance(schema, dict):
        if "serialization" in schema or schema.get("type") in _READ_BEFORE:
            return
        if schema.get("type") == "enum":
            yield schema["cls"]
    for part in _written_parts(schema):
        yield from _enums(part)


def _written_parts(schema: Any) -> Iterable[Any]:
    """Return the parts of a schema whose values pydantic writes by itself."""
    if isinstance(schema, dict):
        return [] if "serialization" in schema else schema.values()
    return schema if isinstance(schema, list | tuple) else []


def _refuse_other_names(function: str, name: str, adapter: "pydantic.TypeAdapter[Any]") -> None:
    """Raise TypeError for a model's field that is sent by one name and read by another.

    pydantic would ignore what has the other name, and the task would get the field's default.
    """
    for field_name, field, config in _fields(adapter.core_schema, None):
        sent, read = field.get("serialization_alias", field_name), _keys(field_name, field, config)
        parameter = (
            f"{function} has the parameter {name!r} with the field "
            f"{config.get('title', 'of a dict')}.{field_name}"
        )
        if sent not in read:
            raise TypeError(
                f"{parameter}, which would be sent as {sent!r} and read as "
                f"{' or '.join(map(repr, read)) or 'a part of another'}. Give it one name for both "
                "with `alias=`, or let its model validate by name."
            )
        if field.get("serialization_exclude") and not _has_default(field):
            raise TypeError(
                f"{parameter}, which is required and has `exclude=True`: it would be missing where "
                "it arrives. Give it a default."
            )


def _keys(name: str, field: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    """Return the keys from which pydantic reads a field."""
    alias = field.get("validation_alias")
    if alias is None:
        return [name]
    # The second is what pydantic before 2.11 calls it.
    by_name = config.get("validate_by_name") or config.get("populate_by_name")
    paths: list[Any] = [[alias]] if isinstance(alias, str) else alias
    paths = paths if isinstance(paths[0], list) else [paths]
    aliases = [path[0] for path in paths if len(path) == 1]
    return [
        *(aliases if config.get("validate_by_alias", True) else []),
        *([name] if by_name else []),
    ]


def _has_default(field: Mapping[str, Any]) -> bool:
    if not field.get("required", True):
        return True
    schema = field.get("schema")
    while isinstance(schema, dict):
        if schema.get("type") == "default":
            return True
        schema = schema.get("schema")
    return False


def _fields(
    schema: Any, config: Mapping[str, Any] | None
) -> Iterator[tuple[str, Mapping[str, Any], Mapping[str, Any]]]:
    """Yield the fields in a schema of pydantic-core, each with its name and its model's config.

    Without those of models with code of their own that may rename them: a serializer, or a
    validator that sees the values before pydantic does.
    """
    if isinstance(schema, dict) and "serialization" not in schema:
        if schema.get("type") in ("model", "dataclass", "typed-dict"):
            config = schema.get("config", {})
        elif schema.get("type") in _READ_BEFORE:
            config = None
        if config is not None:
            yield from ((name, field, config) for name, field in _own_fields(schema))
    for part in _written_parts(schema):
        yield from _fields(part, config)


def _own_fields(schema: Mapping[str, Any]) -> Iterable[tuple[str, Mapping[str, Any]]]:
    if schema.get("type") in ("model-fields", "typed-dict"):
        return schema["fields"].items()  # type: ignore[no-any-return]
    if schema.get("type") == "dataclass-args":
        return [(field["name"], field) for field in schema["fields"]]
    return []


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
