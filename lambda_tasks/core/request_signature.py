"""Signed requests to the endpoints: HMAC-SHA256 over a request, its time and its nonce.

A signature covers the method, the host, the path, the query and the body, so it is worth nothing
at another endpoint, on another site or with other arguments. Who verifies it refuses a nonce that
was there before, so it is worth nothing twice either.
"""

import hashlib
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote, urlsplit

SCHEME: Final = "LambdaTasks-HMAC-SHA256"
"""The scheme of the Authorization header."""

DEFAULT_WINDOW_S: Final = 300
"""Seconds by which the clocks of a client and the site may differ, the way there included."""

MIN_SECRET_CHARS: Final = 32
"""The fewest characters of a key, or of a shared secret."""

VERSION: Final = "v1"

_PARAMETERS: Final = re.compile(
    r"t=(?P<signed_at>[0-9]{1,12}),n=(?P<nonce>[A-Za-z0-9_-]{16,64}),s=(?P<signature>[0-9a-f]{64})"
)

_DEFAULT_PORT: Final = re.compile(r":(80|443)$")


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """The parts of a request that its signature covers."""

    method: str
    host: str
    """The host as the client names it, with the port unless it is 80 or 443."""
    path: str
    """The path, decoded."""
    query: str
    """The query string, encoded as it was sent."""
    body: bytes

    @classmethod
    def to(cls, method: str, url: str, body: bytes) -> "SignedRequest":
        """Return the request to an absolute URL. Raises ValueError for a URL without a host."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"The URL is {url!r}. Use an absolute one: https://HOST/PATH.")
        host = parts.netloc.rpartition("@")[2]
        return cls(method, host, unquote(parts.path) or "/", parts.query, body)

    def signature(self, key: str, *, signed_at: int, nonce: str) -> str:
        """Return the signature by a key, for a time in seconds since 1970 and a nonce."""
        lines = (
            VERSION,
            str(signed_at),
            nonce,
            self.method.upper(),
            _DEFAULT_PORT.sub("", self.host.lower()),
            self.query,
            hashlib.sha256(self.body).hexdigest(),
            self.path,  # the last, as it may contain line breaks
        )
        text = "\n".join(lines).encode(errors="surrogatepass")
        return hmac.new(key.encode(), text, hashlib.sha256).hexdigest()


@dataclass(frozen=True, slots=True)
class Signature:
    """The signature in the header of a request."""

    signed_at: int
    nonce: str
    value: str

    @classmethod
    def of(cls, parameters: str) -> "Signature | None":
        """Return the signature that follows the scheme in a header; None for any other text."""
        found = _PARAMETERS.fullmatch(parameters)
        if found is None:
            return None
        return cls(int(found["signed_at"]), found["nonce"], found["signature"])

    def __str__(self) -> str:
        return f"{SCHEME} t={self.signed_at},n={self.nonce},s={self.value}"

    def is_of(self, request: SignedRequest, keys: Sequence[str]) -> bool:
        """Return whether one of these keys has signed the request. Takes the same time if not."""
        matches = [
            hmac.compare_digest(
                request.signature(key, signed_at=self.signed_at, nonce=self.nonce), self.value
            )
            for key in keys
        ]
        return any(matches)
