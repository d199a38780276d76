"""One operation of an aiobotocore client, with that settled once which botocore settles per call.

The first request goes botocore's way and is looked at on the wire: where it is the plain signed
JSON that SQS takes, those that follow are built like it and sent over the same HTTP session, with
the same credentials. Whatever is not answered with success goes botocore's way again, so retries
and errors stay botocore's.
"""

import json
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from .sigv4 import ALGORITHM, Signer

if TYPE_CHECKING:
    from aiohttp import ClientSession

CONSTANT: Final = frozenset(
    {"content-type", "x-amz-target", "x-amzn-query-mode", "user-agent", "accept-encoding"}
)
"""Headers that are the same in every request of an operation."""

OWN: Final = frozenset(
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
"""Headers of one request. The last two only number a client's attempts."""

AUTHORIZATION: Final = re.compile(
    rf"{ALGORITHM} Credential=[^/,]+/\d{{8}}/(?P<region>[^/,]+)/(?P<service>[^/,]+)/aws4_request, "
    r"SignedHeaders=(?P<signed>[^,]+), Signature=[0-9a-f]{64}"
)


@dataclass(frozen=True, slots=True)
class Template:
    """What the requests of an operation have in common."""

    url: str
    headers: Mapping[str, str]
    signer: Signer

    @classmethod
    def of(cls, request: Any) -> "Template | None":
        """Make one from a request as botocore sends it; None if anything about it is unusual."""
        headers = {name.lower(): _text(value) for name, value in request.headers.items()}
        url = urlsplit(request.url)
        authorization = AUTHORIZATION.fullmatch(headers.get("authorization", ""))
        if authorization is None or (request.method, url.path, url.query) != ("POST", "/", ""):
            return None
        signed = set(authorization["signed"].split(";"))
        if not headers.keys() <= CONSTANT | OWN or not signed <= CONSTANT | OWN:
            return None
        constant = {name: headers[name] for name in headers.keys() & CONSTANT}
        signer = Signer(
            host=url.netloc,
            region=authorization["region"],
            service=authorization["service"],
            headers={name: constant[name] for name in signed & CONSTANT},
        )
        return cls(request.url, constant | {"accept-encoding": "identity"}, signer)


class LeanOperation:
    """Use it like the client's own method of this name. `credentials` are the client's."""

    def __init__(
        self, client: Any, operation: str, credentials: Any, *, has_lineage: bool = True
    ) -> None:
        self._client = client
        self._has_lineage = has_lineage
        self._credentials = credentials
        self._plain: Callable[..., Awaitable[Any]] = getattr(client, operation)
        self._template: Template | None = None
        self._http: ClientSession | None = None
        if credentials is not None and not _is_instrumented(client):
            name = client.meta.method_to_api_mapping[operation]
            service = client.meta.service_model.service_id.hyphenize()
            self._event = f"before-send.{service}.{name}"
            client.meta.events.register_last(self._event, self._look_at, unique_id=self._event)

    async def __call__(self, **parameters: Any) -> Any:
        """One request. Raises what the client's own method raises."""
        if self._template is not None:
            answer = await self._send(self._template, parameters)
            if answer is not None:
                return answer
        return await self._plain(**parameters)

    async def _look_at(self, request: Any, **kwargs: Any) -> None:
        self._client.meta.events.unregister(self._event, unique_id=self._event)
        self._http = await _http_session(self._client, request.url)
        if self._http is not None:
            self._template = Template.of(request)

    async def _send(self, template: Template, parameters: Mapping[str, Any]) -> Any:
        """The answer; None where it is no success."""
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
                if response.status == 403:
                    self._template = None  # it may be about how it was signed: never again
                return json.loads(await response.read()) if response.status == 200 else None
        except TimeoutError as error:
            # Who waited that long must not wait as long again for each of botocore's attempts.
            raise _timed_out(template.url, error) from error
        except (aiohttp.ClientError, OSError, ValueError):
            return None
        except RuntimeError:  # the session was closed meanwhile
            return None


def _timed_out(url: str, error: TimeoutError) -> Exception:
    """As the client itself would say it."""
    from botocore.exceptions import ConnectTimeoutError, ReadTimeoutError

    kind = ConnectTimeoutError if str(error).startswith("Connection timeout") else ReadTimeoutError
    return kind(endpoint_url=url, error=error)  # type: ignore[no-any-return]


async def _http_session(client: Any, url: str) -> "ClientSession | None":
    """The one that the client uses itself; None where it uses another kind, or a proxy."""
    try:
        http = client._endpoint.http_session
        if http._proxy_config.proxy_url_for(url) is None:
            session: ClientSession = await http._get_session(None)
            return session
    except (AttributeError, TypeError):
        pass
    return None


def _is_instrumented(client: Any) -> bool:
    """Somebody has wrapped its calls (to trace them, say), who must see each of them."""
    return not isinstance(getattr(type(client), "_make_api_call", None), FunctionType)


def _add_trace(headers: dict[str, str]) -> None:
    """What Lambda needs to see that a function enqueues for itself, over and over."""
    from botocore.handlers import add_recursion_detection_header

    add_recursion_detection_header({"headers": headers})


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
