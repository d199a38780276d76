"""The words closest to one that is unknown, for the messages of errors."""

import difflib
from collections.abc import Iterable
from typing import Final

MAX_SUGGESTED: Final = 3


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """Return a sentence with the closest known word, after a space; an empty text for none.

    The last part of a dotted name, such as `add`, means the names that end with it.
    """
    names = list(known)
    longer = sorted(name for name in names if name.endswith(f".{word}"))
    close = longer[:MAX_SUGGESTED] or difflib.get_close_matches(str(word), names, n=1)
    return f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
