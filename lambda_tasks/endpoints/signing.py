"""The client's part of signed requests: the header that a request to an endpoint needs.

Needs no settings, so that any script can import it.
"""

import secrets
import time

from ..core.request_signature import Signature, SignedRequest


def sign_request(method: str, url: str, body: bytes | str = b"", *, key: str) -> dict[str, str]:
    """Return the headers that sign a request, for one use within the site's window.

    `url` is absolute, with its query string. `body` is what you send, to the byte. Raises
    ValueError for a URL without a host.
    """
    sent = body.encode() if isinstance(body, str) else body
    request = SignedRequest.to(method, url, sent)
    signed_at, nonce = int(time.time()), secrets.token_urlsafe(24)
    value = request.signature(key, signed_at=signed_at, nonce=nonce)
    return {"Authorization": str(Signature(signed_at, nonce, value))}
