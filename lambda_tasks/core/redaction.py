"""Secret values in texts that people read."""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any, Final

REDACTED: Final = "**********"

SHORTEST: Final = 4
"""A shorter value, and a number, is taken for itself only where it is not part of a word."""

FEW: Final = 16
"""So many are looked for one after the other; a pattern of more would be tried at each place."""

LONG_NUMBER: Final = 8
"""Characters from which on a number is a secret wherever it stands, as of a card in `card_4111...`:
others hardly have it in them."""

_NUMBER: Final = re.compile(r"[-+]?[0-9.]+(?:e[-+]?[0-9]+)?")

_TOKENS: Final = (
    re.compile(r"(?<!\w)-?[0-9]+(?:\.[0-9]+)?(?:e[-+]?[0-9]+)?(?!\w)"),
    re.compile(r"\w+"),
)
"""What most of those are: then one walk through the text finds all."""


def redact(text: str, secrets: Iterable[object]) -> str:
    """The text without these values, JSON values at any depth: as they are, and as `repr()` and
    JSON write them, which is how a KeyError shows a key of several lines."""
    forms = {form for value in _leaves(list(secrets)) for form in _forms(value)}
    plain = {form for form in forms if _is_plain(form)}
    hidden = _without(text, plain) if len(plain) > FEW else _without_few(text, plain)
    return _without_words(hidden, forms - plain)


def _without_few(text: str, forms: set[str]) -> str:
    # The longest first: one secret may begin with another.
    for form in sorted(forms, key=len, reverse=True):
        text = text.replace(form, REDACTED)
    return text


def _without(text: str, forms: set[str]) -> str:
    """In one walk, however many they are: what may begin at a place is looked up by its first
    characters, and by the lengths that go with these."""
    lengths: defaultdict[str, set[int]] = defaultdict(set)
    for form in forms:
        lengths[form[:SHORTEST]].add(len(form))
    longest_first = {start: sorted(each, reverse=True) for start, each in lengths.items()}
    parts: list[str] = []
    at = kept = 0
    while at < len(text):
        tried = longest_first.get(text[at : at + SHORTEST], ())
        found = next((length for length in tried if text[at : at + length] in forms), 0)
        if found:
            parts += text[kept:at], REDACTED
            kept = at + found
        at += found or 1
    return "".join((*parts, text[kept:]))


def _without_words(text: str, words: set[str]) -> str:
    for token in _TOKENS if words else ():
        text = token.sub(partial(_hide, words), text)
    others = {word for word in words if not any(token.fullmatch(word) for token in _TOKENS)}
    for word in sorted(others, key=len, reverse=True):
        if word in text:
            text = re.sub(rf"(?<!\w){re.escape(word)}(?!\w)", REDACTED, text)
    return text


def _hide(words: set[str], match: re.Match[str]) -> str:
    return REDACTED if match[0] in words else match[0]


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
    if not value.isascii():  # as bytes show it
        forms.append(repr(value.encode(errors="surrogatepass"))[2:-1])
    # A traceback of a group of exceptions indents each line.
    forms += [line.strip() for line in value.splitlines() if len(line.strip()) >= SHORTEST]
    yield from filter(None, forms)


def _is_plain(form: str) -> bool:
    return len(form) >= (LONG_NUMBER if _NUMBER.fullmatch(form) else SHORTEST)
