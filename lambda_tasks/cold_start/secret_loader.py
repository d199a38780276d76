"""Single values from secrets: LAMBDA_TASKS_SECRET_<NAME> says where the value of <NAME> is kept."""

import json
import os
from dataclasses import dataclass
from typing import Any, Final

from .secrets_manager import ARN_SEGMENTS, SecretVersion, fetch, parse_object

PREFIX: Final = "LAMBDA_TASKS_SECRET_"

REFERENCE_SEGMENTS: Final = 10
"""<arn>:<json-key>:<version-stage>:<version-id>, the form that ECS knows too."""

_loaded: set[str] = set()
"""Set by this process: a cold start that is tried again finds them."""


@dataclass(frozen=True, slots=True)
class _Reference:
    variable: str
    name: str
    version: SecretVersion
    key: str | None
    """None where the whole secret is the value."""


def load_secrets() -> None:
    """Put the value of each LAMBDA_TASKS_SECRET_<NAME> into <NAME>, all of them or none.

    Raises ValueError, naming the variable and never a secret's value, for a malformed reference,
    a key that is missing or nested, a secret that is no JSON object, and a <NAME> that is set
    already; SecretUnavailable where AWS does not give it.
    """
    references = [
        _parse(variable, value) for variable, value in os.environ.items() if _is_one(variable)
    ]
    texts = fetch({reference.version: reference.variable for reference in references})
    values = {each.name: _value(each, texts[each.version]) for each in references}
    os.environ.update(values)
    _loaded.update(values)


def _is_one(variable: str) -> bool:
    return variable.startswith(PREFIX)


def _parse(variable: str, value: str) -> _Reference:
    name = variable.removeprefix(PREFIX)
    if not name:
        raise ValueError(f"{variable} names no variable to set.")
    if name in os.environ and name not in _loaded:
        raise ValueError(f"{variable}: {name} is set already. Keep one of the two.")
    segments = value.split(":")
    try:
        if len(segments) == ARN_SEGMENTS:
            return _Reference(variable, name, SecretVersion.of_arn(segments), None)
        if len(segments) != REFERENCE_SEGMENTS:
            raise ValueError(
                f"it has {len(segments)} segments and not {ARN_SEGMENTS} or {REFERENCE_SEGMENTS}"
            )
        *arn, key, stage, version_id = segments
        if not key:
            raise ValueError("its JSON key is empty")
        version = SecretVersion.of_arn(arn, version_id=version_id, version_stage=stage)
    except ValueError as reason:
        raise ValueError(
            f"{variable} is neither <arn> nor <arn>:<json-key>:<version-stage>:<version-id>: "
            f"{reason}."
        ) from None
    return _Reference(variable, name, version, key)


def _value(reference: _Reference, text: str) -> str:
    value = text if reference.key is None else _of_key(reference, reference.key, text)
    if "\0" in value:
        raise ValueError(f"{reference.variable}: the value holds the NUL character.")
    return value


def _of_key(reference: _Reference, key: str, text: str) -> str:
    content: dict[str, Any] = parse_object(text, variable=reference.variable)
    if key not in content:
        raise ValueError(f"{reference.variable}: the secret has no key {key!r}.")
    value = content[key]
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, dict | list):
        raise ValueError(f"{reference.variable}: the value of {key!r} in the secret is no text.")
    return json.dumps(value)  # the port in a secret of RDS is a number
