"""An aiobotocore client that opens at first use."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any, Final

from ...ports import SendFailure
from ...threads import importing, in_reserved_thread
from .errors import RequestFailed, code_of, failure_of
from .lean import LeanOperation

CALL_TIMEOUT_S: Final = 9.0
"""Seconds for one call, including its second attempt and the look-up of the host's name.

A long poll may take as much longer as the service waits.
"""

CLIENT_OPTIONS: Final = frozenset(
    {
        "api_version",
        "aws_access_key_id",
        "aws_account_id",
        "aws_secret_access_key",
        "aws_session_token",
        "config",
        "endpoint_url",
        "region_name",
        "use_ssl",
        "verify",
    }
)
"""The options of a client: the keyword arguments of create_client() of aiobotocore."""

LEAN_OPERATIONS: Final = frozenset({"send_message_batch"})
"""The operations with lean requests: those that web processes send."""


class AwsClient:
    """A client of one service, which opens at first use, on the event loop of that use.

    `default_endpoint_url` is the address of the service where neither the options nor the
    environment nor AWS's configuration files name one.
    `waits_s` is the time in seconds that the service itself may wait before it answers a long poll.
    Without `has_lineage`, requests lack the trace header that names their function, so Lambda's
    recursive loop detection ignores them.
    """

    def __init__(
        self,
        service: str,
        options: Mapping[str, Any],
        *,
        default_endpoint_url: str | None = None,
        waits_s: float = 0,
        has_lineage: bool = True,
    ) -> None:
        self._service = service
        self._default_endpoint_url = default_endpoint_url
        self._has_lineage = has_lineage
        self._waits_s = waits_s
        self._options = dict(options)
        self._stack = AsyncExitStack()
        self._open_lock = asyncio.Lock()
        self._client: Any = None
        self._credentials: Any = None
        self._operations: dict[str, Callable[..., Awaitable[Any]]] = {}
        self._limit_s = CALL_TIMEOUT_S + waits_s
        self._limits = _Limits(self._limit_s)

    async def call(self, operation: str, **parameters: Any) -> Any:
        """Send one request, and return its response.

        Raises RequestFailed where AWS refuses the request, can't be reached, or takes too long.
        """
        try:
            perform = self._operations.get(operation) or await self._operation(operation)
            async with asyncio.timeout(None) as limit:
                self._limits.add(limit)
                try:
                    return await perform(**parameters)
                finally:
                    self._limits.remove(limit)
        except TimeoutError as error:
            reason = f"{self._service} did not answer within {self._limit_s:g} s."
            raise RequestFailed(SendFailure(reason, retryable=True)) from error
        except Exception as error:
            # The client has imported this by now, and where forks wait for it.
            from botocore.exceptions import BotoCoreError, ClientError

            if isinstance(error, BotoCoreError | ClientError | RuntimeError):
                raise RequestFailed(failure_of(error), code=code_of(error)) from error
            raise

    async def aclose(self) -> None:
        """Close the connections. The client opens again at its next use, maybe on another loop."""
        # A new lock, because an asyncio.Lock belongs to the loop on which somebody waited for it.
        self._client, self._operations, self._open_lock = None, {}, asyncio.Lock()
        self._limits.cancel_timer()
        await self._stack.aclose()

    async def _operation(self, name: str) -> Callable[..., Awaitable[Any]]:
        async with self._open_lock:
            if self._client is None:
                self._client = await self._open()
        if name in LEAN_OPERATIONS:
            operation = LeanOperation(
                self._client, name, self._credentials, has_lineage=self._has_lineage
            )
            return self._operations.setdefault(name, operation)
        method: Callable[..., Awaitable[Any]] = getattr(self._client, name)
        return self._operations.setdefault(name, method)

    async def _open(self) -> Any:
        # In a thread, because the import and the service's description would block the loop.
        session = await in_reserved_thread(_new_session, self._service, self._options)
        from botocore import UNSIGNED
        from botocore.exceptions import NoCredentialsError
        from botocore.handlers import add_recursion_detection_header

        from .session import client_options, has_configured_endpoint

        options = client_options(self._options, waits_s=self._waits_s)
        if self._default_endpoint_url and not await in_reserved_thread(
            has_configured_endpoint, session, self._service
        ):
            options.setdefault("endpoint_url", self._default_endpoint_url)
        self._credentials = await session.get_credentials()
        is_signed = getattr(options["config"], "signature_version", None) is not UNSIGNED
        if self._credentials is None and is_signed:
            # A client without credentials never looks for them again. The next use does.
            raise NoCredentialsError
        client = await self._stack.enter_async_context(
            session.create_client(self._service, **options)
        )
        if not self._has_lineage:
            client.meta.events.unregister("before-call", add_recursion_detection_header)
        return client


class _Limits:
    """The time limits of all calls, with one timer: one for each call costs 15% of a request."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._open: dict[asyncio.Timeout, float] = {}  # the oldest is first, as all are the same
        self._timer: asyncio.TimerHandle | None = None

    def add(self, limit: asyncio.Timeout) -> None:
        """Start watching a timeout, which cancels its body when the limit is over."""
        loop = asyncio.get_running_loop()
        self._open[limit] = loop.time() + self._limit_s
        if self._timer is None:
            self._timer = loop.call_later(self._limit_s, self._cancel_overdue)

    def remove(self, limit: asyncio.Timeout) -> None:
        """Stop watching a timeout, because its body has ended."""
        del self._open[limit]

    def cancel_timer(self) -> None:
        """Cancel the timer, unless a call is still running, which keeps its limit."""
        if self._timer is not None and not self._open:
            self._timer.cancel()
            self._timer = None

    def _cancel_overdue(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = None
        for limit, over_at in self._open.items():
            if over_at > loop.time():
                self._timer = loop.call_at(over_at, self._cancel_overdue)
                return
            if not limit.expired():  # its body may take a while to end
                limit.reschedule(loop.time())


def _new_session(service: str, options: Mapping[str, Any]) -> Any:
    with importing():
        from .session import new_session

        return new_session(service, options)
