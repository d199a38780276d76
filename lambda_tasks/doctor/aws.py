"""Reads from AWS: each has a bound, and a refusal is a reason, never a verdict."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any, Final, TypeVar

from ..queues.aws.errors import RequestFailed
from ..queues.sqs_provision import MISSING_CODES
from ..runtime import Runtime
from .findings import Fact, NotChecked

T = TypeVar("T")

MAX_PAGES: Final = 20
"""The most pages of a list. Longer ones are not checked, as an account may have any number."""

REFUSED: Final = ("AccessDenied", "UnauthorizedOperation", "NotAuthorized")
"""How the codes of a missing permission begin."""

MISSING: Final = (*MISSING_CODES, "ResourceNotFoundException")
"""The codes of a resource that does not exist."""


class Missing(NotChecked):
    """The resource does not exist."""


class Unreachable(NotChecked):
    """The service has not answered."""


class Aws:
    """AWS's services in one region, until `deadline`, a time of `time.monotonic()`.

    Where `region` is empty, it is that of the settings or of the environment.
    """

    def __init__(self, runtime: Runtime, region: str, *, deadline: float) -> None:
        self._runtime = runtime
        self.region = region
        self._deadline = deadline
        self.clock_ahead_s: float | None = None
        """How far AWS's clock is ahead of this machine's, in seconds; None before an answer."""
        self.has_answered = False
        """Whether any service has said anything of what was asked."""
        self.first_refusal: NotChecked | None = None

    async def call(
        self, service: str, operation: str, *, waits_s: float = 0, **parameters: Any
    ) -> Mapping[str, Any]:
        """Send a request, which the service may take `waits_s` seconds for.

        Raises NotChecked with AWS's reason.
        """
        here = {"region_name": self.region} if self.region else {}
        options = here | dict(self._runtime.aws_options)
        client = self._runtime.client(service, options, waits_s=waits_s)
        request = partial(client.call, operation, **parameters)
        answer: Mapping[str, Any] = await self.ask(f"{service}:{operation}", request)
        return answer

    async def ask(self, what: str, request: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """Await a request on the portal's loop. Raises NotChecked with the reason."""
        try:
            answer = await self._ask(what, request)
        except Missing:
            self.has_answered = True
            raise
        except NotChecked as reason:
            self.first_refusal = self.first_refusal or reason
            raise
        self.has_answered = True
        return answer

    async def _ask(self, what: str, request: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        left_s = max(self._deadline - time.monotonic(), 0.0)
        asked_at = time.time()
        try:
            async with asyncio.timeout(left_s):
                answer = await self._runtime.portal.acall(request)
        except TimeoutError:
            # Not the service's fault: a client gives up by itself, if there is time for that.
            raise NotChecked(f"{what}: there was no time left to wait for the answer.") from None
        except RequestFailed as error:
            raise _reason(what, error) from None
        except AttributeError:
            raise NotChecked(f"{what}: the installed botocore is too old for it.") from None
        if isinstance(answer, Mapping):
            self._compare_clocks(answer, asked_at)
        return answer

    async def pages(self, service: str, operation: str, items: str, **parameters: Any) -> list[Any]:
        """Return the items of all pages of a list.

        Raises NotChecked where there are more than MAX_PAGES.
        """
        found: list[Any] = []
        for _ in range(MAX_PAGES):
            answer = await self.call(service, operation, **parameters)
            found += answer.get(items, [])
            # Lambda calls it in another way than the others, and has another name for the answer.
            if marker := answer.get("NextMarker"):
                parameters["Marker"] = marker
            elif following := answer.get("NextToken"):
                parameters["NextToken"] = following
            else:
                return found
        raise NotChecked(f"{service}:{operation}: there are more than {len(found):,} to look at.")

    def _compare_clocks(self, answer: Mapping[str, Any], asked_at: float) -> None:
        headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        try:
            there = parsedate_to_datetime(headers["date"]).astimezone(UTC)
        except (KeyError, TypeError, ValueError):
            return
        middle = datetime.fromtimestamp((asked_at + time.time()) / 2, UTC)
        # The header has whole seconds, so the clock is half a second further on average.
        self.clock_ahead_s = (there - middle).total_seconds() + 0.5


async def learn(reading: Awaitable[T]) -> Fact[T]:
    """Return what a reading finds, or the reason why it finds nothing, whatever it raises."""
    try:
        return Fact(await reading)
    except NotChecked as reason:
        return Fact(error=reason)
    except Exception as error:  # the project's, the database's, or an answer in an unknown form
        return Fact(error=NotChecked(f"{type(error).__name__}: {error}".strip()))


def _reason(what: str, error: RequestFailed) -> NotChecked:
    reason = error.failure.reason
    if reason.startswith(MISSING):
        return Missing(reason)
    if reason.startswith(REFUSED):
        return NotChecked(f"No permission for {what}. {reason}")
    if error.failure.retryable:
        return Unreachable(f"{what}: {reason}")
    return NotChecked(f"{what}: {reason}")
