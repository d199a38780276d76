"""Secret values in texts that people read."""

from collections.abc import Iterable
from typing import Final

REDACTED: Final = "**********"

SHORTEST: Final = 4
"""A shorter value is in too many words to be told from them."""


def redact(text: str, secrets: Iterable[object]) -> str:
    """The text without these values; those that are no texts stay."""
    for secret in secrets:
        if isinstance(secret, str) and len(secret) >= SHORTEST:
            text = text.replace(secret, REDACTED)
    return text
