"""Secret values in texts that people read."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

REDACTED: Final = "**********"

SHORTEST: Final = 4
"""A shorter value, and a number, is taken for itself only where it is not part of a word."""


_NUMBER: Final = re.compile(r"[-+]?[0-9.]+(?:e[-+]?[0-9]+)?")


def redact(text: str, secrets: Iterable[object]) -> str:
    """The text without these values, JSON values at any depth: as they are, and as `repr()` and
    JSON write them, which is how a KeyError shows a key of several lines."""
    forms = {form for value in _leaves(list(secrets)) for form in _forms(value)}
    if not forms:
        return text
    # The longest first: one secret may begin with another.
    patterns = [_pattern(form) for form in sorted(forms, key=len, reverse=True)]
    return re.sub("|".join(patterns), REDACTED, text)


def redacted(value: Any, secrets: Iterable[object]) -> Any:
    """A value of a log record without these: texts, and containers of texts."""
    if isinstance(value, str):
        return redact(value, secrets)
    if isinstance(value, Mapping):
        return {redacted(key, secrets): redacted(each, secrets) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [redacted(each, secrets) for each in value]
    if value is None or isinstance(value, bool):
        return value
    text = str(value)
    hidden = redact(text, secrets)
    return value if hidden == text else hidden


def _leaves(value: object) -> Iterator[str | int | float]:
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from _leaves(key)
            yield from _leaves(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _leaves(each)
    elif isinstance(value, str | int | float) and not isinstance(value, bool):
        yield value


def _forms(value: str | float) -> Iterator[str]:
    if not isinstance(value, str):
        yield repr(value)
        return
    forms = [value, repr(value)[1:-1], json.dumps(value)[1:-1]]
    # A traceback of a group of exceptions indents each line.
    forms += [line.strip() for line in value.splitlines() if len(line.strip()) >= SHORTEST]
    yield from filter(None, forms)


def _pattern(form: str) -> str:
    pattern = re.escape(form)
    if len(form) >= SHORTEST and not _NUMBER.fullmatch(form):
        return pattern
    return rf"(?<!\w){pattern}(?!\w)"
