"""The loader of environment variables from Parameter Store: LAMBDA_TASKS_SSM_ENVIRONMENT."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from .parameter_store import Parameter, fetch
from .variables import apply_to_all, warn_about_code_variables

VARIABLE: Final = "LAMBDA_TASKS_SSM_ENVIRONMENT"

NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
"""The names of variables that shells and programs know."""

PATH: Final = re.compile(r"/[\w.-]+(?:/[\w.-]+)*/", re.ASCII)
"""A path: parameters below it are meant."""

PARAMETER: Final = re.compile(
    r"(?:arn:[\w-]+:ssm:[\w-]+:\d{12}:parameter)?/?[\w.-]+(?:/[\w.-]+)*(?::[\w.-]+)?", re.ASCII
)
"""A name or an ARN, with a version or a label after a colon ("Working with parameter versions",
AWS Systems Manager user guide)."""

_loaded: set[str] = set()
"""The value that this process has loaded. A cold start that is tried again skips it."""


@dataclass(frozen=True, slots=True)
class _Reference:
    """One part of the variable's value, parsed."""

    parameter: str
    """The name, ARN or path."""
    variable: str | None
    """The variable to set; None for the parameter's own name."""

    @property
    def is_path(self) -> bool:
        """Whether it means all parameters below."""
        return self.parameter.endswith("/")


def load_parameters() -> None:
    """Set variables to parameters of Parameter Store, decrypted, all of them or none.

    LAMBDA_TASKS_SSM_ENVIRONMENT has, separated by commas, paths such as `/mysite/` (each parameter
    below sets the variable of its own last name), names such as `/mysite/SECRET_KEY`, and
    `VARIABLE=name`. Without it, and the second time, nothing happens.

    Raises ValueError, with all reasons, for what is malformed, empty paths, names that no variable
    can have, and each variable that two parameters set or that is set already; SecretUnavailable
    for what AWS does not return. No error contains a parameter's value.
    """
    value = os.environ.get(VARIABLE, "")
    parts = [part for each in value.split(",") if (part := each.strip())]
    if not parts or value in _loaded:
        return
    references = apply_to_all(_parse, [(part,) for part in parts])
    found = _fetch(references)
    setters = _setters(found)
    apply_to_all(_check, [(*each, setters) for each in found])
    values = {name: parameter.value for name, parameter in found}
    warn_about_code_variables(values, f"Parameter Store, by {VARIABLE},")
    os.environ.update(values)
    _loaded.add(value)


def _parse(part: str) -> _Reference:
    variable, equals, parameter = part.rpartition("=")
    is_path = parameter.endswith("/")
    if equals and (is_path or not NAME.fullmatch(variable)):
        raise ValueError(
            f"{VARIABLE}: {part!r} names no variable for one parameter. Use VARIABLE=/a/parameter."
        )
    if not (PATH if is_path else PARAMETER).fullmatch(parameter):
        raise ValueError(
            f"{VARIABLE}: {part!r} is neither a path such as /mysite/ nor a parameter such as "
            "/mysite/SECRET_KEY."
        )
    return _Reference(parameter, variable or None)


def _fetch(references: Sequence[_Reference]) -> list[tuple[str, Parameter]]:
    """Return the variables to set, each with its parameter."""
    single = [each for each in references if not each.is_path]
    paths = {each.parameter for each in references if each.is_path}
    named, below = fetch({each.parameter for each in single}, paths, variable=VARIABLE)
    apply_to_all(_check_path, below.items())
    return [
        *((each.variable or _last(each.parameter), named[each.parameter]) for each in single),
        *((_last(each.name), each) for path in below for each in below[path]),
    ]


def _check_path(path: str, found: list[Parameter]) -> None:
    if not found:
        raise ValueError(f"{VARIABLE}: there is no parameter below {path}.")


def _setters(found: Iterable[tuple[str, Parameter]]) -> dict[str, set[str]]:
    """Return the names of the parameters that set each variable."""
    setters: dict[str, set[str]] = {}
    for name, parameter in found:
        setters.setdefault(name, set()).add(parameter.name)
    return setters


def _check(name: str, parameter: Parameter, setters: Mapping[str, set[str]]) -> None:
    """Raise ValueError where a parameter can't set its variable."""
    if not NAME.fullmatch(name):
        raise ValueError(
            f"{VARIABLE}: {parameter.name} can't set a variable {name!r}. Name the variable: "
            f"VARIABLE={parameter.name}."
        )
    if name in os.environ:
        raise ValueError(f"{VARIABLE}: {parameter.name} sets {name}, which is set already.")
    if others := setters[name] - {parameter.name}:
        raise ValueError(
            f"{VARIABLE}: {parameter.name} sets {name}, and so does {', '.join(sorted(others))}."
        )
    if "\0" in parameter.value:
        raise ValueError(f"{VARIABLE}: the value of {parameter.name} contains a NUL character.")


def _last(parameter: str) -> str:
    """Return the last part of a parameter's name, without its version or label."""
    name = parameter.rpartition(":parameter")[2] if parameter.startswith("arn:") else parameter
    return name.partition(":")[0].rpartition("/")[2]
