"""One operation of an aiobotocore client, without botocore's work for each request.

botocore sends the first request, and the operation inspects it. If it is plain signed JSON, as SQS
accepts it, the operation builds the next requests like it, and sends them over the same HTTP
session with the same credentials. If such a request does not succeed, botocore sends it again, so
retries and errors are botocore's. Where somebody observes botocore's requests, botocore sends all.
"""

import json
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from .errors import is_transient
from .observers import Observers
from .sigv4 import ALGORITHM, Signer, host_of

if TYPE_CHECKING:
    from aiohttp import ClientSession

SHARED_HEADERS: Final = frozenset(
    {"content-type", "x-amz-target", "x-amzn-query-mode", "user-agent", "accept-encoding"}
)
"""The headers that are the same in every request of an operation."""

REQUEST_HEADERS: Final = frozenset(
    {
        "authorization",
        "content-length",
        "host",
        "x-amz-date",
        "x-amz-security-token",
        "x-amzn-trace-id",
        "amz-sdk-invocation-id",
        "amz-sdk-request",
    }
)
"""The headers that differ between requests. The last two only number a client's attempts."""

DISTRUST_S: Final = 60.0
"""Seconds for which a queue's requests go botocore's way after a lean one was refused."""

AUTHORIZATION_PATTERN: Final = re.compile(
    rf"{ALGORITHM} Credential=[^/,]+/\d{{8}}/(?P<region>[^/,]+)/(?P<service>[^/,]+)/aws4_request, "
    r"SignedHeaders=(?P<signed>[^,]+), Signature=[0-9a-f]{64}"
)


@dataclass(frozen=True, slots=True)
class Template:
    """The parts that all requests of an operation share."""

    url: str
    headers: Mapping[str, str]
    """The shared headers, with names in lower case."""
    signer: Signer

    @classmethod
    def from_request(cls, request: Any) -> "Template | None":
        """Make a template from a request of botocore; return None if the request is unusual."""
        headers = {name.lower(): _text(value) for name, value in request.headers.items()}
        url = urlsplit(request.url)
        authorization = AUTHORIZATION_PATTERN.fullmatch(headers.get("authorization", ""))
        if authorization is None or (request.method, url.path, url.query) != ("POST", "/", ""):
            return None
        signed = set(authorization["signed"].split(";"))
        if (
            not headers.keys() <= SHARED_HEADERS | REQUEST_HEADERS
            or not signed <= SHARED_HEADERS | REQUEST_HEADERS
        ):
            return None
        shared = {name: headers[name] for name in headers.keys() & SHARED_HEADERS}
        signer = Signer(
            host=host_of(request.url),
            region=authorization["region"],
            service=authorization["service"],
            headers={name: shared[name] for name in signed & SHARED_HEADERS},
        )
        return cls(request.url, shared | {"accept-encoding": "identity"}, signer)


class LeanOperation:
    """A replacement for the client's method of the same name. `credentials` are the client's.

    It leaves a request to botocore while others observe botocore's requests, and for a while where
    AWS refused a lean request to the same queue and accepted botocore's.
    """

    def __init__(
        self, client: Any, operation: str, credentials: Any, *, has_lineage: bool = True
    ) -> None:
        self._client = client
        self._has_lineage = has_lineage
        self._credentials = credentials
        self._call_botocore: Callable[..., Awaitable[Any]] = getattr(client, operation)
        self._template: Template | None = None
        self._http: ClientSession | None = None
        self._distrusted_until: dict[object, float] = {}
        self._observers = Observers(client, operation)
        self._event = self._observers.event("before-send")
        self._inspect_next()

    async def __call__(self, **parameters: Any) -> Any:
        """Send one request, and return its response; raise what the client's method raises."""
        if self._observers.have_changed():
            self._template = None
            self._inspect_next()
        queue_url = parameters.get("QueueUrl")
        if self._template is None or self._is_distrusted(queue_url):
            return await self._call_botocore(**parameters)
        try:
            return await self._send(self._template, parameters)
        except _NotSent as reason:
            response = await self._call_botocore(**parameters)
            if reason.is_refused:
                self._distrusted_until[queue_url] = time.monotonic() + DISTRUST_S
            return response

    def _is_distrusted(self, queue_url: object) -> bool:
        until = self._distrusted_until.get(queue_url)
        return until is not None and time.monotonic() < until

    def _inspect_next(self) -> None:
        """Let botocore's next request become the template."""
        if self._credentials is not None:
            # Last, because other handlers may still change the request before it is sent.
            self._client.meta.events.register_last(
                self._event, self._inspect, unique_id=self._event
            )
            self._observers.note()

    async def _inspect(self, request: Any, **kwargs: Any) -> None:
        self._client.meta.events.unregister(self._event, unique_id=self._event)
        self._observers.note()
        self._http = await _http_session(self._client, request.url)
        if self._http is not None and not self._observers.exist():
            self._template = Template.from_request(request)

    async def _send(self, template: Template, parameters: Mapping[str, Any]) -> Any:
        """Return the response to a lean request. Raises _NotSent where botocore must send it."""
        import aiohttp

        assert self._http is not None
        body = json.dumps(parameters).encode()
        credentials = await self._credentials.get_frozen_credentials()
        headers = {**template.headers, **template.signer.sign(body, credentials, at=time.time())}
        if self._has_lineage:
            _add_trace(headers)
        try:
            async with self._http.post(
                template.url, data=body, headers=headers, allow_redirects=False
            ) as response:
                content = await response.read()
                if response.status != 200:
                    raise _NotSent(is_refused=_is_refused(response.status, content))
                return json.loads(content)
        except TimeoutError as error:
            # Raised, and not sent again by botocore: each of its attempts would wait as long again.
            raise _timeout_error(template.url, error) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise _NotSent from error
        except RuntimeError as error:  # the session was closed meanwhile
            raise _NotSent from error


class _NotSent(Exception):
    """A lean request did not succeed. `is_refused` says that its signature may be the reason."""

    def __init__(self, *, is_refused: bool = False) -> None:
        self.is_refused = is_refused


def _is_refused(status: int, content: bytes) -> bool:
    if status != 403:
        return False
    try:
        code = str(json.loads(content)["__type"])
    except (ValueError, TypeError, KeyError):
        return True
    return not is_transient(code.rpartition("#")[2])


def _timeout_error(url: str, error: TimeoutError) -> Exception:
    """Return the error that the client itself would raise."""
    from botocore.exceptions import ConnectTimeoutError, ReadTimeoutError

    kind = ConnectTimeoutError if str(error).startswith("Connection timeout") else ReadTimeoutError
    return kind(endpoint_url=url, error=error)  # type: ignore[no-any-return]


async def _http_session(client: Any, url: str) -> "ClientSession | None":
    """Return the client's own HTTP session; None for a proxy or another kind of session."""
    try:
        http = client._endpoint.http_session
        if http._proxy_config.proxy_url_for(url) is None:
            session: ClientSession = await http._get_session(None)
            return session
    except (AttributeError, TypeError):
        pass
    return None


def _add_trace(headers: dict[str, str]) -> None:
    """Add the trace header, by which Lambda detects a function that invokes itself in a loop."""
    from botocore.handlers import add_recursion_detection_header

    add_recursion_detection_header({"headers": headers})


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
