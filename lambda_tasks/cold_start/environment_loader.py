"""The whole environment from one secret: a flat JSON object of strings."""

import os
from typing import Final

from .secrets_manager import ARN_SEGMENTS, SecretVersion, fetch, parse_object

VARIABLE: Final = "LAMBDA_TASKS_ENVIRONMENT_SECRETS_MANAGER_ARN"


def load_environment() -> None:
    """Put what the secret holds into os.environ, over what is there.

    The variable is `<arn>:<version-id>`; nothing happens without it. Raises ValueError, naming
    the variable and never a value, for a malformed reference and for a secret that is no flat
    JSON object of strings; SecretUnavailable where AWS does not give it.
    """
    reference = os.environ.get(VARIABLE, "")
    if not reference:
        return
    version = _parse(reference)
    content = parse_object(fetch({version: VARIABLE})[version], variable=VARIABLE)
    for name, value in content.items():
        if not name or "=" in name or "\0" in name:
            raise ValueError(f"{VARIABLE}: the secret has a key that can't name a variable.")
        if not isinstance(value, str) or "\0" in value:
            raise ValueError(f"{VARIABLE}: the value of {name!r} in the secret is no plain string.")
    os.environ.update(content)


def _parse(reference: str) -> SecretVersion:
    *arn, version_id = reference.split(":")
    try:
        if len(arn) != ARN_SEGMENTS or not version_id:
            raise ValueError(
                f"it has {len(arn) + 1} segments and not {ARN_SEGMENTS + 1}, the last the version"
            )
        return SecretVersion.of_arn(arn, version_id=version_id)
    except ValueError as reason:
        raise ValueError(f"{VARIABLE} is no <arn>:<version-id>: {reason}.") from None
