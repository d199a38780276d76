"""One aiobotocore client: opened at first use, and what its failures mean to a sender."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Final

from ...core.batching import MAX_IN_FLIGHT
from ...ports import SendFailure
from ...threads import in_reserved_thread
from .lean import LeanOperation

if TYPE_CHECKING:
    from botocore.exceptions import BotoCoreError, ClientError

CONNECT_TIMEOUT_S: Final = 2
READ_TIMEOUT_S: Final = 5

WHOLE_TIMEOUT_S: Final = 9.0
"""For one call with its second attempt, the look-up of the host's name included."""

USER_AGENT: Final = "lambda_tasks"
"""A fixed one: botocore would put its own together for every request, a seventh of its cost."""

LEAN: Final = frozenset({"send_message_batch"})
"""What web processes pay for."""

THROTTLING: Final = frozenset(
    {
        "KmsThrottled",
        "OverLimit",
        "RequestThrottled",
        "ServiceUnavailable",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
    }
)


class RequestFailed(Exception):
    """AWS refused a request, or can't be reached."""

    def __init__(self, failure: SendFailure) -> None:
        self.failure = failure
        super().__init__(failure.reason)


class AwsClient:
    """A client of one service, opened at first use, on the loop that uses it then.

    `waits_s` is how long the service itself may wait before it answers, in a long poll. Without
    `has_lineage` its requests don't say which function they come from: Lambda's recursive loop
    detection does not see them.
    """

    def __init__(
        self,
        service: str,
        options: Mapping[str, Any],
        *,
        waits_s: float = 0,
        has_lineage: bool = True,
    ) -> None:
        self._service = service
        self._has_lineage = has_lineage
        self._waits_s = waits_s
        self._options = dict(options)
        self._stack = AsyncExitStack()
        self._opening = asyncio.Lock()
        self._client: Any = None
        self._credentials: Any = None
        self._operations: dict[str, Callable[..., Awaitable[Any]]] = {}
        self._limits = _Limits(WHOLE_TIMEOUT_S + waits_s)

    async def call(self, operation: str, **parameters: Any) -> Any:
        """One request. Raises RequestFailed."""
        perform = self._operations.get(operation) or await self._operation(operation)
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            async with asyncio.timeout(None) as limit:
                self._limits.keep(limit)
                try:
                    return await perform(**parameters)
                finally:
                    self._limits.forget(limit)
        except TimeoutError as error:
            reason = f"{self._service} has not answered within {WHOLE_TIMEOUT_S:g} s."
            raise RequestFailed(SendFailure(reason, retryable=True)) from error
        except (BotoCoreError, ClientError) as error:
            raise RequestFailed(_failure(error)) from error

    async def aclose(self) -> None:
        """Close the connections. The client is opened again if it is used again, perhaps on another
        loop: a lock that somebody has waited for belongs to the loop of before."""
        self._client, self._operations, self._opening = None, {}, asyncio.Lock()
        self._limits.close()
        await self._stack.aclose()

    async def _operation(self, name: str) -> Callable[..., Awaitable[Any]]:
        async with self._opening:
            if self._client is None:
                self._client = await self._open()
        if name in LEAN:
            operation = LeanOperation(
                self._client, name, self._credentials, has_lineage=self._has_lineage
            )
            return self._operations.setdefault(name, operation)
        method: Callable[..., Awaitable[Any]] = getattr(self._client, name)
        return self._operations.setdefault(name, method)

    async def _open(self) -> Any:
        # Importing and reading the service's description take a while: not on the loop.
        session = await in_reserved_thread(_new_session, self._service)
        from aiobotocore.config import AioConfig
        from aiobotocore.httpsession import AIOHTTPSession
        from botocore.handlers import add_recursion_detection_header

        from .resolver import OwnResolver

        # None, as of an environment variable that is not there, leaves it to the environment.
        options = {name: value for name, value in self._options.items() if value is not None}
        if "aws_access_key_id" in options and "aws_secret_access_key" in options:
            keys = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
            session.set_credentials(*(options.pop(key, None) for key in keys))
        config = AioConfig(
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=READ_TIMEOUT_S + self._waits_s,
            max_pool_connections=MAX_IN_FLIGHT,
            # The dispatcher tries again, entry by entry; here a second attempt is for a
            # connection that went stale while the process slept.
            retries={"total_max_attempts": 2, "mode": "standard"},
            parameter_validation=False,
            user_agent=USER_AGENT,
        )
        given = options.pop("config", None)
        if getattr(given, "http_session_cls", AIOHTTPSession) is AIOHTTPSession:
            config = config.merge(AioConfig(connector_args={"resolver": OwnResolver()}))
        if given is not None:
            config = config.merge(given)
        client = await self._stack.enter_async_context(
            session.create_client(self._service, config=config, **options)
        )
        if not self._has_lineage:
            client.meta.events.unregister("before-call", add_recursion_detection_header)
        self._credentials = await session.get_credentials()
        return client


class _Limits:
    """The time limit of each call, with one timer for all: one for each is 15% of a request."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._open: dict[asyncio.Timeout, float] = {}  # the oldest is first, as all are the same
        self._timer: asyncio.TimerHandle | None = None

    def keep(self, limit: asyncio.Timeout) -> None:
        """Let it end its body when the time is over."""
        loop = asyncio.get_running_loop()
        self._open[limit] = loop.time() + self._limit_s
        if self._timer is None:
            self._timer = loop.call_later(self._limit_s, self._look)

    def forget(self, limit: asyncio.Timeout) -> None:
        """Its body has come to its end."""
        del self._open[limit]

    def close(self) -> None:
        """Let go of the event loop, unless a call is still under way, which keeps its limit."""
        if self._timer is not None and not self._open:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = None
        for limit, over_at in self._open.items():
            if over_at > loop.time():
                self._timer = loop.call_at(over_at, self._look)
                return
            limit.reschedule(loop.time())


def _new_session(service: str) -> Any:
    from aiobotocore.session import get_session

    session = get_session()
    session.get_component("data_loader").load_service_model(service, "service-2")
    return session


def _failure(error: "ClientError | BotoCoreError") -> SendFailure:
    from botocore.exceptions import ClientError, HTTPClientError

    if not isinstance(error, ClientError):
        return SendFailure(str(error), retryable=isinstance(error, HTTPClientError))
    details = error.response.get("Error", {})
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500)
    code = details.get("Code", "unknown")
    return SendFailure(
        f"{code}: {details.get('Message', '')}".rstrip(": "),
        retryable=status >= 500 or status == 429 or code in THROTTLING,
    )
