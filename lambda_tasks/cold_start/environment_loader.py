"""The whole environment from one secret: a flat JSON object of strings."""

import logging
import os
from collections.abc import Iterable
from typing import Final

from .secret_loader import PREFIX as SINGLE_PREFIX
from .secrets_manager import ARN_SEGMENTS, SecretVersion, fetch, parse_object

logger = logging.getLogger("lambda_tasks")

VARIABLE: Final = "LAMBDA_TASKS_ENVIRONMENT_SECRETS_MANAGER_ARN"

CODE_VARIABLES: Final = frozenset(
    {
        "BASH_ENV",
        "GCONV_PATH",
        "LD_AUDIT",
        "LD_LIBRARY_PATH",
        "LD_PRELOAD",
        "OPENSSL_CONF",
        "OPENSSL_ENGINES",
        "OPENSSL_MODULES",
        "PATH",
        "PYTHONBREAKPOINT",
        "PYTHONHOME",
        "PYTHONPATH",
        "PYTHONPLATLIBDIR",
        "PYTHONPYCACHEPREFIX",
        "PYTHONSTARTUP",
        "PYTHONUSERBASE",
        "PYTHONWARNINGS",
    }
)
"""What tells Python, the dynamic linker, shells and OpenSSL to load other code. Whoever may write
the secret runs code by it in each process that starts from then on. Names and no prefixes, as
projects have settings like LD_SDK_KEY."""


def load_environment() -> None:
    """Put what the secret holds into os.environ, over what is there.

    The variable is `<arn>:<version-id>`; nothing happens without it. Raises ValueError, naming
    the variable and never a value, for a malformed reference and for a secret that is no flat
    JSON object of strings; SecretUnavailable where AWS does not give it. What changes which code
    runs is loaded too, with a warning.
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
    _warn_of_code_variables(content)
    os.environ.update(content)


def _warn_of_code_variables(names: Iterable[str]) -> None:
    # A reference to a single secret sets its variable a moment later.
    found = [name for name in names if name.removeprefix(SINGLE_PREFIX) in CODE_VARIABLES]
    if found:
        logger.warning(
            "The secret of %s sets %s, which decides what code the next processes load: whoever "
            "may write the secret can run anything here. Set it on the function instead.",
            VARIABLE,
            ", ".join(sorted(found)),
        )


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
