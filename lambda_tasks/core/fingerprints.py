"""Fingerprints of errors: equal for failures that differ in numbers, ids and quoted names only.

An error is its class, its text without what differs from one run to the next, and where in the
project's own code it was raised. All of it is read from a traceback's text, as records keep it.
"""

import re
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final
from uuid import UUID

MAX_MESSAGE_CHARS: Final = 300
"""The most characters of an exception's text that tell errors apart."""

NAMESPACE: Final = UUID("6f1c2b0e-3f7d-4c55-9f0a-6f4c7c1d2b90")
"""The ids of errors derive from it."""

HIDDEN: Final = "#"
"""What stands in place of a number or an id."""

QUOTED: Final = "'…'"
"""What stands in place of something in quotes."""

# In this order: a quoted text may be anything, and an id has numbers in it.
QUOTES: Final = re.compile(r"(?<!\w)(?:'[^'\n]*'|\"[^\"\n]*\"|`[^`\n]*`)(?!\w)")
IDS: Final = re.compile(
    r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}"  # a UUID
    r"|\b0x[0-9a-f]+\b"
    r"|\b(?=[a-f]*[0-9])[0-9a-f]{8,}\b"  # a digest
    r"|\b(?=[a-z]*[0-9])[0-9a-z]{20,}\b",  # a token
    re.IGNORECASE,
)
NUMBERS: Final = re.compile(r"[0-9]+(?:[.,:][0-9]+)*")
SPACES: Final = re.compile(r"\s+")

FRAME: Final = re.compile(r'File "(?P<path>[^"\n]+)", line \d+, in (?P<function>.+)')
DECORATION: Final = " |+-"
"""What an exception group puts in front of the lines of its exceptions."""

FOREIGN: Final = re.compile(
    r"/(?:site|dist)-packages/|/lib/python\d|^<|^/opt/python/|^/var/runtime/"
)
"""The paths of what is not the project's own code: packages, Python itself, and a layer's."""


@dataclass(frozen=True)
class Fingerprint:
    """What failures have in common that count as the same error."""

    exception_class: str
    """The dotted name of the exception's class."""
    message: str
    """See alike()."""
    raised_in: str
    """The innermost frame of the project's own code, as "shop/tasks.py in charge"; "" for none."""

    @cached_property
    def id(self) -> UUID:
        """The id that all processes derive for it."""
        text = "\n".join((self.exception_class, self.message, self.raised_in))
        return uuid.uuid5(NAMESPACE, text)


def fingerprint(exception_class: str, traceback: str) -> Fingerprint:
    """Return the fingerprint of an exception, by the text of its traceback."""
    lines = traceback.splitlines()
    number, message = _find_exception(exception_class, lines)
    return Fingerprint(exception_class, alike(message), _own_frame(lines[:number]))


def alike(message: str) -> str:
    """Return a text with placeholders for numbers, ids and what is in quotes.

    A long text is cut: its start tells what is wrong, its end is mostly data.
    """
    text = message[: 4 * MAX_MESSAGE_CHARS]
    text = QUOTES.sub(QUOTED, text)
    text = NUMBERS.sub(HIDDEN, IDS.sub(HIDDEN, text))
    return SPACES.sub(" ", text).strip()[:MAX_MESSAGE_CHARS]


def _find_exception(exception_class: str, lines: Sequence[str]) -> tuple[int, str]:
    """Return the number of the line that names the exception, and its text, without the class.

    It is the last such line: those before it are of what caused the exception. A text without one
    is a reason and no traceback.
    """
    name = exception_class.removeprefix("builtins.").removeprefix("__main__.")
    for number in reversed(range(len(lines))):
        line = lines[number].lstrip(DECORATION)
        if line.startswith(name):
            rest = line[len(name) :]
            if not rest or rest.startswith(":"):
                return number, rest[1:]
    return len(lines), next((line for line in lines if line.strip()), "")


def _own_frame(lines: Sequence[str]) -> str:
    """Return the last frame of the project's own code."""
    return next((shown for path, shown in _frames(lines) if not FOREIGN.search(path)), "")


def _frames(lines: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the path of each frame and how it is shown, the last one first."""
    for line in reversed(lines):
        if (frame := FRAME.search(line)) is not None:
            path = frame["path"]
            # Two names of a path: what is before them differs between a laptop and the function.
            short = "/".join(path.split("/")[-2:])
            yield path, f"{short} in {frame['function']}"
