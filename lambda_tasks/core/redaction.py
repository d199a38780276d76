"""Redaction of secret values in texts that people read."""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any, Final

REDACTED: Final = "**********"

MIN_PLAIN_CHARS: Final = 4
"""The fewest characters of a value that is redacted inside of words, too. Shorter values, and short
numbers, are redacted only where they are words of their own."""

MAX_SEPARATE_SEARCHES: Final = 16
"""The most values that are replaced one after the other; for more, one pass looks for all."""

MIN_PLAIN_NUMBER_CHARS: Final = 8
"""The fewest characters of a number that is redacted inside of words, too, like `card_4111...`.

Such a number hardly appears in a text by chance.
"""

_NUMBER_PATTERN: Final = re.compile(r"[-+]?[0-9.]+(?:e[-+]?[0-9]+)?")

_TOKEN_PATTERNS: Final = (
    re.compile(r"(?<!\w)-?[0-9]+(?:\.[0-9]+)?(?:e[-+]?[0-9]+)?(?!\w)"),
    re.compile(r"\w+"),
)
"""The patterns of most short values: one pass with each finds all of them."""


def redact(text: str, secrets: Iterable[object]) -> str:
    """Return the text with these JSON values redacted, at any depth.

    Also redacts them as `repr()` and JSON write them: a KeyError shows the `repr()` of its key.
    """
    forms = {form for value in _leaves(list(secrets)) for form in _written_forms(value)}
    plain = {form for form in forms if _is_plain(form)}
    hidden = (
        _redact_in_one_pass(text, plain)
        if len(plain) > MAX_SEPARATE_SEARCHES
        else _redact_one_by_one(text, plain)
    )
    return _redact_words(hidden, forms - plain)


def _redact_one_by_one(text: str, forms: set[str]) -> str:
    # The longest first, because one secret may start with another.
    for form in sorted(forms, key=len, reverse=True):
        text = text.replace(form, REDACTED)
    return text


def _redact_in_one_pass(text: str, forms: set[str]) -> str:
    """Redact values in one pass, which takes a time that does not grow with their number.

    At each position, the next MIN_PLAIN_CHARS characters select the lengths of values that may
    start there.
    """
    lengths: defaultdict[str, set[int]] = defaultdict(set)
    for form in forms:
        lengths[form[:MIN_PLAIN_CHARS]].add(len(form))
    longest_first = {start: sorted(each, reverse=True) for start, each in lengths.items()}
    parts: list[str] = []
    at = kept = 0
    while at < len(text):
        tried = longest_first.get(text[at : at + MIN_PLAIN_CHARS], ())
        found = next((length for length in tried if text[at : at + length] in forms), 0)
        if found:
            parts += text[kept:at], REDACTED
            kept = at + found
        at += found or 1
    return "".join((*parts, text[kept:]))


def _redact_words(text: str, words: set[str]) -> str:
    for token in _TOKEN_PATTERNS if words else ():
        text = token.sub(partial(_redact_token, words), text)
    others = {word for word in words if not any(token.fullmatch(word) for token in _TOKEN_PATTERNS)}
    for word in sorted(others, key=len, reverse=True):
        if word in text:
            text = re.sub(rf"(?<!\w){re.escape(word)}(?!\w)", REDACTED, text)
    return text


def _redact_token(words: set[str], match: re.Match[str]) -> str:
    return REDACTED if match[0] in words else match[0]


def redact_value(value: Any, secrets: Iterable[object]) -> Any:
    """Return a value of a log record with the secrets redacted, in containers, too."""
    if isinstance(value, str):
        return redact(value, secrets)
    if isinstance(value, Mapping):
        return {
            redact_value(key, secrets): redact_value(each, secrets) for key, each in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [redact_value(each, secrets) for each in value]
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


def _written_forms(value: str | float) -> Iterator[str]:
    if not isinstance(value, str):
        yield repr(value)
        return
    forms = [value, repr(value)[1:-1], json.dumps(value)[1:-1]]
    if not value.isascii():  # as bytes show it
        forms.append(repr(value.encode(errors="surrogatepass"))[2:-1])
    # A traceback of a group of exceptions indents each line.
    forms += [line.strip() for line in value.splitlines() if len(line.strip()) >= MIN_PLAIN_CHARS]
    yield from filter(None, forms)


def _is_plain(form: str) -> bool:
    return len(form) >= (
        MIN_PLAIN_NUMBER_CHARS if _NUMBER_PATTERN.fullmatch(form) else MIN_PLAIN_CHARS
    )
