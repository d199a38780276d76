"""The door of the local SQS: it lets in the processes of its own run, and no page of a browser.

A page of any origin can make a browser send requests to loopback; with DNS rebinding it can read
the answers too. This module imports the standard library only, as the server loads it by its path.
"""

import hmac
import json
import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Final

HEALTH_PATH: Final = "/_ministack/health"

_PATHS: Final = re.compile(rf"/|/[0-9]{{12}}/[A-Za-z0-9_.-]+|{HEALTH_PATH}")
"""SQS's own, and one of MiniStack's, whose others reset it, configure it and show all messages."""

_CREDENTIAL: Final = re.compile(rb"AWS4-HMAC-SHA256 Credential=([^/,\s]+)/")

_OF_PAGES: Final = (b"origin", b"referer", b"sec-fetch-site")
"""Headers that a browser adds to what a page sends. The last is `none` where no page does."""

_POLICY_VIOLATION: Final = 1008
"""The code with which a WebSocket is closed (RFC 6455)."""

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]
Headers = Iterable[tuple[bytes, bytes]]


class Guard:
    """An ASGI app before another, which gets only requests that are signed with `access_key`.

    `authority` is the server's address and port, as its clients write them.
    """

    def __init__(self, app: App, *, authority: str, access_key: str) -> None:
        self._app = app
        self._authority = authority.encode()
        self._access_key = access_key.encode()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass on what may come in, and answer 403, with the reason, to everything else."""
        if scope["type"] == "http" and (reason := self.refusal(scope["path"], scope["headers"])):
            await _refuse(send, reason)
        elif scope["type"] == "websocket":  # SQS has none
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION})
        else:
            await self._app(scope, receive, send)

    def refusal(self, path: str, headers: Headers) -> str | None:
        """Why a request is refused; None where it is not."""
        values: dict[bytes, list[bytes]] = {}
        for name, value in headers:
            values.setdefault(name.lower(), []).append(value)
        if values.get(b"host") != [self._authority]:
            return f"This local SQS answers requests for the host {self._authority.decode()} only."
        if values.get(b"sec-fetch-site") == [b"none"]:
            del values[b"sec-fetch-site"]
        for name in _OF_PAGES:
            if name in values:
                return f"This local SQS answers no page: this has a header {name.decode()}."
        if not self._is_signed(values.get(b"authorization", [])):
            return (
                "This local SQS answers only the processes of its own run, which sign their "
                "requests with its access key: LocalSqs.client_options has it."
            )
        if not _PATHS.fullmatch(path):
            return "This local SQS answers on SQS's own paths only."
        return None

    def _is_signed(self, authorizations: list[bytes]) -> bool:
        # Two headers could be read as one by this, and as the other by who comes after.
        found = _CREDENTIAL.match(authorizations[0]) if len(authorizations) == 1 else None
        return found is not None and hmac.compare_digest(found[1], self._access_key)


async def _refuse(send: Send, reason: str) -> None:
    """In SQS's own form, so that its clients tell the reason."""
    body = json.dumps({"__type": "AccessDenied", "message": reason}).encode()
    headers = [
        (b"content-type", b"application/x-amz-json-1.0"),
        (b"content-length", str(len(body)).encode()),
        # What is left of the request is not read.
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": body})
