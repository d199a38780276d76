"""Signed bodies: HMAC-SHA256 over the body's text, its queue, and its time of expiry.

The signature is the last key of the body, so that it can be removed without parsing the body. It
names its key by a hash, so that a receiver with several keys computes only one signature.
"""

import hashlib
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from ..errors import MessageRefused

SIGNATURE_LIFETIME_S: Final = 14 * 24 * 3600
"""Seconds for which a signature is valid. SQS keeps no message for longer (MessageRetentionPeriod
of SetQueueAttributes, Amazon SQS API reference)."""

MIN_KEY_CHARS: Final = 32
"""The fewest characters of a key."""

_KEY_ID_LENGTH: Final = 16
_EXPIRY_LENGTH: Final = 10
"""The number of digits of seconds since 1970, until the year 2286."""

_SIGNED_PATTERN: Final = re.compile(
    r'(?P<text>.*),"signature":"'
    rf"(?P<key_id>[0-9a-f]{{{_KEY_ID_LENGTH}}})\.(?P<expires_at>[0-9]{{{_EXPIRY_LENGTH}}})\."
    r'(?P<signature>[0-9a-f]{64})"\}',
    re.DOTALL,
)

_SIGNATURE_START: Final = ',"signature":"'

SIGNATURE_BYTES: Final = len(',"signature":".."') + _KEY_ID_LENGTH + _EXPIRY_LENGTH + 64

KEYS_SETTING: Final = "LAMBDA_TASKS_SIGNING_KEYS"


@dataclass(frozen=True, slots=True)
class Signer:
    """The signer of bodies for one queue."""

    key: str
    """The secret key, at least MIN_KEY_CHARS characters."""
    audience: str
    """The queue's identity, with account and region where they are known."""

    def sign(self, body: str, *, now: float) -> str:
        """Return the body with a signature; `now` is in seconds since 1970."""
        key_id, expires_at = _key_id(self.key), int(now) + SIGNATURE_LIFETIME_S
        signature = _signature(body, self.key, self.audience, expires_at)
        return f'{body[:-1]},"signature":"{key_id}.{expires_at}.{signature}"}}'


def verify(body: object, *, keys: Sequence[str], audience: str, now: float) -> object:
    """Check a body's signature; return the body without it.

    With no keys, a body without a signature is returned unchanged. `now` is in seconds since 1970.
    Raises MessageRefused where the signature is missing, is of another key or for another
    audience, or has expired.
    """
    if not isinstance(body, str):
        return body
    # Without keys, most bodies have no signature and skip the match.
    may_be_signed = keys or _SIGNATURE_START in body[-SIGNATURE_BYTES - 1 :]
    signed = _SIGNED_PATTERN.fullmatch(body) if may_be_signed else None
    if signed is None:
        if not keys:
            return body
        raise MessageRefused(f"The body has no signature, but {KEYS_SETTING} requires one.")
    key = next((key for key in keys if _key_id(key) == signed["key_id"]), None)
    if key is None:
        raise MessageRefused(
            f"The body is signed with the key {signed['key_id']}, which is not in {KEYS_SETTING}. "
            "Give this process the keys of those who send to its queue."
        )
    unsigned, expires_at = signed["text"] + "}", int(signed["expires_at"])
    expected = _signature(unsigned, key, audience, expires_at)
    if not hmac.compare_digest(expected, signed["signature"]):
        raise MessageRefused(
            f"The body's signature is not for the queue {audience!r}. The body was "
            "altered, or is meant for another queue, account or region."
        )
    if expires_at < now:
        raise MessageRefused(
            f"The body's signature expired {round(now - expires_at)} s ago. Replay its record "
            "instead."
        )
    return unsigned


@lru_cache(maxsize=64)
def _key_id(key: str) -> str:
    """Return an id that tells keys apart and reveals nothing about them."""
    return hashlib.sha256(b"lambda_tasks key id\n" + key.encode()).hexdigest()[:_KEY_ID_LENGTH]


def _signature(body: str, key: str, audience: str, expires_at: int) -> str:
    text = f"{audience}\n{expires_at}\n{body}".encode(errors="surrogatepass")
    return hmac.new(key.encode(), text, hashlib.sha256).hexdigest()
