"""The loader of single secrets: LAMBDA_TASKS_SECRET_<NAME> refers to the value of <NAME>."""

import json
import os
from dataclasses import dataclass
from typing import Any, Final

from .secrets_manager import ARN_SEGMENTS, SecretVersion, fetch, parse_object
from .variables import REFERENCE_PREFIX, apply_to_all

REFERENCE_SEGMENTS: Final = 10
"""The segments of <arn>:<json-key>:<version-stage>:<version-id>, which ECS uses too."""

_loaded: set[tuple[str, str]] = set()
"""The references that this process has loaded. A cold start that is tried again skips them."""


@dataclass(frozen=True, slots=True)
class _Reference:
    """One LAMBDA_TASKS_SECRET_<NAME>, parsed."""

    variable: str
    name: str
    version: SecretVersion
    key: str | None
    """The JSON key of the value; None where the whole secret is the value."""


def load_secrets() -> None:
    """Set <NAME> to the secret value of each LAMBDA_TASKS_SECRET_<NAME>, all of them or none.

    References that are loaded already are skipped.
    Raises ValueError, with all reasons, for malformed references, missing or nested keys, secrets
    that are not JSON objects, and each <NAME> that is set already; SecretUnavailable where AWS does
    not return the secret. No error contains a secret's value.
    """
    found = {item for item in os.environ.items() if item[0].startswith(REFERENCE_PREFIX)} - _loaded
    references = apply_to_all(_parse, sorted(found))
    texts = fetch({reference.version: reference.variable for reference in references})
    resolved = apply_to_all(_resolve_value, [(each, texts[each.version]) for each in references])
    values = {each.name: value for each, value in zip(references, resolved, strict=True)}
    os.environ.update(values)
    _loaded.update(found)


def _parse(variable: str, value: str) -> _Reference:
    name = variable.removeprefix(REFERENCE_PREFIX)
    if not name:
        raise ValueError(f"{variable} names no variable. Append the name of the one to set.")
    if name in os.environ:
        raise ValueError(f"{variable}: {name} is set already. Remove one of the two.")
    segments = value.split(":")
    try:
        if len(segments) == ARN_SEGMENTS:
            return _Reference(variable, name, SecretVersion.from_arn(segments), None)
        if len(segments) != REFERENCE_SEGMENTS:
            raise ValueError(
                f"it has {len(segments)} segments instead of {ARN_SEGMENTS} or {REFERENCE_SEGMENTS}"
            )
        *arn, key, stage, version_id = segments
        if not key:
            raise ValueError("its JSON key is empty")
        version = SecretVersion.from_arn(arn, version_id=version_id, version_stage=stage)
    except ValueError as reason:
        raise ValueError(
            f"{variable} is neither <arn> nor <arn>:<json-key>:<version-stage>:<version-id>: "
            f"{reason}."
        ) from None
    return _Reference(variable, name, version, key)


def _resolve_value(reference: _Reference, text: str) -> str:
    value = text if reference.key is None else _value_of_key(reference, reference.key, text)
    if "\0" in value:
        raise ValueError(f"{reference.variable}: the value contains a NUL character.")
    return value


def _value_of_key(reference: _Reference, key: str, text: str) -> str:
    content: dict[str, Any] = parse_object(text, variable=reference.variable)
    if key not in content:
        raise ValueError(f"{reference.variable}: the secret has no key {key!r}.")
    value = content[key]
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, dict | list):
        raise ValueError(
            f"{reference.variable}: the value of {key!r} in the secret is not a string, number or "
            "boolean."
        )
    return json.dumps(value)  # The port in a secret of RDS is a number.
