"""Signed bodies: HMAC-SHA256 over the body's very text and the queue that it is meant for.

The signature is the last key of the body, so that it can be taken off without reading the rest.
"""

import hashlib
import hmac
import re
from collections.abc import Sequence
from typing import Final

from ..errors import MessageRefused

_SIGNED: Final = re.compile(r'(?P<text>.*),"signature":"(?P<signature>[0-9a-f]{64})"\}', re.DOTALL)

SIGNATURE_BYTES: Final = len(',"signature":""') + 64


def sign(body: str, *, key: str, queue: str) -> str:
    """The body with its signature for this queue, by its name in SQS."""
    return f'{body[:-1]},"signature":"{_signature(body, key, queue)}"}}'


def verify(body: object, *, keys: Sequence[str], queue: str) -> object:
    """The body without its signature, which is of one of the keys.

    Without keys every body passes as it is. Raises MessageRefused.
    """
    if not keys or not isinstance(body, str):
        return body
    signed = _SIGNED.fullmatch(body)
    if signed is None:
        raise MessageRefused("The body has no signature; LAMBDA_TASKS_SIGNING_KEYS asks for one.")
    unsigned = signed["text"] + "}"
    for key in keys:
        if hmac.compare_digest(_signature(unsigned, key, queue), signed["signature"]):
            return unsigned
    raise MessageRefused(
        f"The body's signature is of no key of LAMBDA_TASKS_SIGNING_KEYS for the queue {queue!r}: "
        "it was altered, is meant for another queue, or its key is gone."
    )


def _signature(body: str, key: str, queue: str) -> str:
    text = f"{queue}\n{body}".encode(errors="surrogatepass")
    return hmac.new(key.encode(), text, hashlib.sha256).hexdigest()
