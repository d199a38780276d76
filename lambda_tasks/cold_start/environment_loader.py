"""The loader of environment variables from one secret, a flat JSON object of strings."""

import os
from typing import Final

from .secrets_manager import ARN_SEGMENTS, SecretVersion, fetch, parse_object
from .variables import apply_to_all, warn_about_code_variables

ARN_VARIABLE: Final = "LAMBDA_TASKS_ENVIRONMENT_SECRETS_MANAGER_ARN"

_loaded: set[str] = set()
"""The reference that this process has loaded. A cold start that is tried again skips it."""


def load_environment() -> None:
    """Copy the secret's variables into os.environ, over existing ones.

    LAMBDA_TASKS_ENVIRONMENT_SECRETS_MANAGER_ARN names the secret as `<arn>:<version-id>`, or as
    `<arn>:<version-stage>:<version-id>`. Without it, and the second time, nothing happens.
    Variables that decide which code runs are copied too, with a warning.

    Raises ValueError for a malformed reference, and, with all reasons, for a secret that is not a
    flat JSON object of strings; SecretUnavailable where AWS does not return it. No error contains a
    secret's value.
    """
    reference = os.environ.get(ARN_VARIABLE, "")
    if not reference or reference in _loaded:
        return
    version = _parse(reference)
    content = parse_object(fetch({version: ARN_VARIABLE})[version], variable=ARN_VARIABLE)
    apply_to_all(_check_variable, content.items())
    warn_about_code_variables(content, ARN_VARIABLE)
    os.environ.update(content)
    _loaded.add(reference)


def _check_variable(name: str, value: object) -> None:
    if not name or "=" in name or "\0" in name:
        raise ValueError(
            f"{ARN_VARIABLE}: the secret's key {name!r} can't be the name of a variable. Names are "
            "not empty and have no '=' and no NUL character."
        )
    if not isinstance(value, str) or "\0" in value:
        raise ValueError(
            f"{ARN_VARIABLE}: the value of {name!r} in the secret is not a string without NUL "
            "characters."
        )


def _parse(reference: str) -> SecretVersion:
    segments = reference.split(":")
    arn, version = segments[:ARN_SEGMENTS], segments[ARN_SEGMENTS:]
    try:
        if len(version) not in (1, 2) or not version[-1]:
            raise ValueError(
                f"it has {len(segments)} segments instead of {ARN_SEGMENTS + 1} or "
                f"{ARN_SEGMENTS + 2}, or no version id"
            )
        stage = version[0] if len(version) == 2 else ""
        return SecretVersion.from_arn(arn, version_id=version[-1], version_stage=stage)
    except ValueError as reason:
        raise ValueError(
            f"{ARN_VARIABLE} is neither <arn>:<version-id> nor <arn>:<version-stage>:<version-id>: "
            f"{reason}."
        ) from None
