"""Environment variables from elsewhere: which names they may have, and all mistakes at once."""

import logging
from collections.abc import Callable, Iterable
from typing import Final, TypeVar, TypeVarTuple

logger = logging.getLogger("lambda_tasks")

R = TypeVar("R")
Ts = TypeVarTuple("Ts")

REFERENCE_PREFIX: Final = "LAMBDA_TASKS_SECRET_"
"""The prefix of a variable that refers to a single secret."""

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
"""The variables that make Python, the dynamic linker, shells or OpenSSL load other code.

Whoever may write what they come from can run code by them in each process that starts later. These
are full names, not prefixes, as projects have settings like LD_SDK_KEY.
"""


def apply_to_all(function: Callable[[*Ts], R], arguments: Iterable[tuple[*Ts]]) -> list[R]:
    """Return the results of a function. Raises ValueError with the reasons of all its ValueErrors.

    Each cold start takes a deployment: whoever has several mistakes should see all of them.
    """
    results, reasons = [], []
    for each in arguments:
        try:
            results.append(function(*each))
        except ValueError as reason:
            reasons.append(str(reason))
    if reasons:
        raise ValueError("\n".join(reasons))
    return results


def warn_about_code_variables(names: Iterable[str], source: str) -> None:
    """Log a warning of variables that decide which code runs; `source` is who sets them."""
    # A reference to a single secret counts as its variable: load_secrets() sets that next.
    found = [name for name in names if name.removeprefix(REFERENCE_PREFIX) in CODE_VARIABLES]
    if found:
        logger.warning(
            "%s sets %s, which decides which code later processes load. Whoever may write there "
            "can run any code here. Set the variable on the function instead.",
            source,
            ", ".join(sorted(found)),
        )
