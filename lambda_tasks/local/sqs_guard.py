"""The guard of the local SQS, which admits the processes of one run and no pages of a browser.

A page of any origin can make a browser send requests to loopback, and with DNS rebinding it can
read the answers. This module imports only the standard library, as the server loads it by its path.
"""

import hmac
import json
import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Final

HEALTH_PATH: Final = "/_ministack/health"

_ALLOWED_PATHS: Final = re.compile(rf"/|/[0-9]{{12}}/[A-Za-z0-9_.-]+|{HEALTH_PATH}")
"""The paths of SQS, and MiniStack's health check.

MiniStack's other paths reset it, configure it and show all messages.
"""

_CREDENTIAL: Final = re.compile(rb"AWS4-HMAC-SHA256 Credential=([^/,\s]+)/")

_PAGE_HEADERS: Final = (b"origin", b"referer", b"sec-fetch-site")
"""The headers that a browser adds to a page's request.

The last one is `none` in requests that no page has made.
"""

_POLICY_VIOLATION: Final = 1008
"""The status code that closes a refused WebSocket (RFC 6455)."""

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]
Headers = Iterable[tuple[bytes, bytes]]


class Guard:
    """The ASGI app that passes only requests signed with `access_key` to another app.

    `authority` is the server's HOST:PORT, as its clients write it in the Host header. Only the
    access key of a request is compared, not its signature.
    """

    def __init__(self, app: App, *, authority: str, access_key: str) -> None:
        self._app = app
        self._authority = authority.encode()
        self._access_key = access_key.encode()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass an admitted request on; answer 403 with the reason to any other."""
        if scope["type"] == "http" and (reason := self.refusal(scope["path"], scope["headers"])):
            await _refuse(send, reason)
        elif scope["type"] == "websocket":  # SQS has no WebSockets.
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION})
        else:
            await self._app(scope, receive, send)

    def refusal(self, path: str, headers: Headers) -> str | None:
        """Return the reason to refuse a request; None to admit it."""
        values: dict[bytes, list[bytes]] = {}
        for name, value in headers:
            values.setdefault(name.lower(), []).append(value)
        if values.get(b"host") != [self._authority]:
            return f"This local SQS answers requests for the host {self._authority.decode()} only."
        if values.get(b"sec-fetch-site") == [b"none"]:
            del values[b"sec-fetch-site"]
        for name in _PAGE_HEADERS:
            if name in values:
                return (
                    "This local SQS answers no pages of a browser: this one has a header "
                    f"{name.decode()}."
                )
        if not self._is_signed(values.get(b"authorization", [])):
            return (
                "This local SQS answers only the processes of its own run, which sign their "
                "requests with its access key: LocalSqs.client_options has it."
            )
        if not _ALLOWED_PATHS.fullmatch(path):
            return "This local SQS answers on SQS's own paths only."
        return None

    def _is_signed(self, authorizations: list[bytes]) -> bool:
        # With two headers, this check and MiniStack could each read another one.
        found = _CREDENTIAL.match(authorizations[0]) if len(authorizations) == 1 else None
        return found is not None and hmac.compare_digest(found[1], self._access_key)


async def _refuse(send: Send, reason: str) -> None:
    """Send a 403 in the format of SQS, so that its clients show the reason."""
    body = json.dumps({"__type": "AccessDenied", "message": reason}).encode()
    headers = [
        (b"content-type", b"application/x-amz-json-1.0"),
        (b"content-length", str(len(body)).encode()),
        # The rest of the request is not read.
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": body})
