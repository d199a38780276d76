"""A check, and what it finds."""

import json
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Generic, Literal, TypeVar

S = TypeVar("S")
T = TypeVar("T")

Severity = Literal["error", "warning", "info"]

SEVERITIES: Final[tuple[Severity, ...]] = ("error", "warning", "info")
"""The severities, the worst first."""


class NotChecked(Exception):
    """A check can't be made. The text says why."""


@dataclass(frozen=True, slots=True)
class Change:
    """A request to AWS that puts something right, and does no harm if it is made twice."""

    service: str
    operation: str
    parameters: Mapping[str, Any]
    region: str

    def __str__(self) -> str:
        """Return the request as a command of AWS's command line."""
        words = ["aws", self.service, self.operation.replace("_", "-"), "--region", self.region]
        for name, value in self.parameters.items():
            words.append(f"--{_kebab(name)}")
            is_plain = isinstance(value, str | int) and not isinstance(value, bool)
            words.append(str(value) if is_plain else json.dumps(value))
        return shlex.join(words)


@dataclass(frozen=True, slots=True)
class Found:
    """What is wrong, what it should be, and how to put it right."""

    found: str
    expected: str
    fix: str | Change
    """A command, a line of the template or of the settings, or what to do; or a Change."""
    template: str = ""
    """The line of a template that has the value, for what a deployment would set back."""
    severity: Severity | None = None
    """How bad it is, where that differs from the check's own severity."""


@dataclass(frozen=True, slots=True)
class Check(Generic[S]):
    """A check of one subject. `find` yields what is wrong, and raises NotChecked."""

    id: str
    """The name, which stays the same from version to version: SUBJECT.WHAT."""
    severity: Severity
    why: str
    """One sentence that says why it matters."""
    find: Callable[[S], Iterator[Found]]


def check(
    id: str, severity: Severity, *, why: str
) -> Callable[[Callable[[S], Iterator[Found]]], Check[S]]:
    """Make a check of a function that yields what is wrong with its subject."""

    def make(find: Callable[[S], Iterator[Found]]) -> Check[S]:
        return Check(id, severity, why, find)

    return make


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong with a deployment, or that could not be looked at."""

    id: str
    """The check's name, such as "queue.visibility_timeout". docs/doctor.md lists them."""
    severity: Severity
    is_checked: bool = True
    """Whether the check was made. If not, `found` says why."""
    where: str
    """What it is about, such as "queue default"."""
    found: str
    expected: str = ""
    why: str
    fix: str = ""
    template: str = ""
    change: Change | None = field(default=None, repr=False, compare=False)
    """The request that `fix` makes; None where a person must decide."""

    def as_json(self) -> dict[str, Any]:
        """Return the finding as JSON values. docs/doctor.md has the keys."""
        return {
            "id": self.id,
            "severity": self.severity,
            "is_checked": self.is_checked,
            "where": self.where,
            "found": self.found,
            "expected": self.expected,
            "why": self.why,
            "fix": self.fix,
            "template": self.template,
            "is_fixable": self.change is not None,
        }


@dataclass(frozen=True, slots=True)
class Fact(Generic[T]):
    """Something that was read, or the reason why it could not be."""

    known: T | None = None
    error: NotChecked | None = None

    @property
    def value(self) -> T:
        """What was read. Raises NotChecked where it could not be."""
        if self.error is not None:
            raise type(self.error)(str(self.error))
        return self.known  # type: ignore[return-value]


def _kebab(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", name).lower()
