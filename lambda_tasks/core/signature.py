"""Signed bodies: HMAC-SHA256 over the body's very text, the queue that it is meant for, and the
time until which it counts.

The signature is the last key of the body, so that it can be taken off without reading the rest. It
names its key by a hash, so that a receiver with several keys computes one signature.
"""

import hashlib
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from ..errors import MessageRefused

SIGNED_FOR_S: Final = 14 * 24 * 3600
"""For how long a signature counts: SQS keeps no message for longer (MessageRetentionPeriod of
SetQueueAttributes, Amazon SQS API reference)."""

SHORTEST_KEY: Final = 32
"""Characters of a key."""

_KEY_ID_LENGTH: Final = 16
_EXPIRY_LENGTH: Final = 10
"""Digits of seconds since 1970, until the year 2286."""

_SIGNED: Final = re.compile(
    r'(?P<text>.*),"signature":"'
    rf"(?P<key_id>[0-9a-f]{{{_KEY_ID_LENGTH}}})\.(?P<expires_at>[0-9]{{{_EXPIRY_LENGTH}}})\."
    r'(?P<signature>[0-9a-f]{64})"\}',
    re.DOTALL,
)

_MARK: Final = ',"signature":"'

SIGNATURE_BYTES: Final = len(',"signature":".."') + _KEY_ID_LENGTH + _EXPIRY_LENGTH + 64

SETTING: Final = "LAMBDA_TASKS_SIGNING_KEYS"


@dataclass(frozen=True, slots=True)
class Signer:
    """Signs bodies for one queue. `audience` tells it from those of other accounts and regions."""

    key: str
    audience: str

    def sign(self, body: str, *, now: float) -> str:
        """The body with its signature; `now` is in seconds since 1970."""
        key_id, expires_at = _key_id(self.key), int(now) + SIGNED_FOR_S
        signature = _signature(body, self.key, self.audience, expires_at)
        return f'{body[:-1]},"signature":"{key_id}.{expires_at}.{signature}"}}'


def verify(body: object, *, keys: Sequence[str], audience: str, now: float) -> object:
    """The body without its signature, which is of one of the keys, for this audience, and counts
    still.

    Without keys what is not signed passes as it is. Raises MessageRefused.
    """
    if not isinstance(body, str):
        return body
    # Most bodies are spared the match.
    may_be_signed = keys or _MARK in body[-SIGNATURE_BYTES - 1 :]
    signed = _SIGNED.fullmatch(body) if may_be_signed else None
    if signed is None:
        if not keys:
            return body
        raise MessageRefused(f"The body has no signature; {SETTING} asks for one.")
    key = next((key for key in keys if _key_id(key) == signed["key_id"]), None)
    if key is None:
        raise MessageRefused(
            f"The body is signed with the key {signed['key_id']}, which is none of {SETTING}. Give "
            "this process the keys of who sends to its queue."
        )
    unsigned, expires_at = signed["text"] + "}", int(signed["expires_at"])
    expected = _signature(unsigned, key, audience, expires_at)
    if not hmac.compare_digest(expected, signed["signature"]):
        raise MessageRefused(
            f"The body's signature is not for the queue {audience!r}: it was altered, or is meant "
            "for another queue, account or region."
        )
    if expires_at < now:
        raise MessageRefused(
            f"The body's signature has expired {round(now - expires_at)} s ago. Replay its record "
            "instead."
        )
    return unsigned


@lru_cache(maxsize=64)
def _key_id(key: str) -> str:
    """Tells keys apart, and nothing about them."""
    return hashlib.sha256(b"lambda_tasks key id\n" + key.encode()).hexdigest()[:_KEY_ID_LENGTH]


def _signature(body: str, key: str, audience: str, expires_at: int) -> str:
    text = f"{audience}\n{expires_at}\n{body}".encode(errors="surrogatepass")
    return hmac.new(key.encode(), text, hashlib.sha256).hexdigest()
