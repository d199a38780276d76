"""The views: sync where the server is WSGI, async where it is ASGI.

Under WSGI, Django would run an async view in an event loop of its own, which fails under gevent as
soon as two requests meet. So a URL has two views, and resolving it chooses one.
"""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, cast

from asgiref.sync import async_to_sync, iscoroutinefunction, sync_to_async
from django.conf import settings
from django.contrib.auth.decorators import login_not_required
from django.core.exceptions import DisallowedHost, ImproperlyConfigured
from django.db import DatabaseError, InterfaceError, transaction
from django.http import HttpRequest, HttpResponse
from django.urls import ResolverMatch, URLPattern
from django.urls.resolvers import RoutePattern
from django.utils.cache import add_never_cache_headers, patch_vary_headers
from django.views.decorators.csrf import csrf_exempt

from .. import threads
from ..errors import InvalidFilter, NotMigrated
from ..interrupts import LIBRARY_STATEMENT_LIMIT_S, interrupt_after
from ..pools import borrowed_connections
from . import actions
from .authentication import admit
from .parameters import (
    HealthParameters,
    NoParameters,
    Parameters,
    PurgeParameters,
    RunParameters,
    StatusParameters,
    from_body,
    from_query,
    read_body,
)
from .refusals import (
    BadRequest,
    Busy,
    Failed,
    MethodNotAllowed,
    NotHere,
    RequestRefused,
    Unavailable,
)

logger = logging.getLogger("lambda_tasks")

Act = Callable[[actions.Call[Any]], HttpResponse]

AsyncAct = Callable[[actions.Call[Any]], Awaitable[HttpResponse]]

LOOKS: Final = ("GET", "HEAD")

CHANGES: Final = ("POST",)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An endpoint: its methods, its parameters, and what it does."""

    name: str
    methods: tuple[str, ...]
    parameters: type[Parameters]
    act: Act | AsyncAct
    needs_loop: bool = False
    """Whether it runs an event loop, which gevent does not allow."""

    @property
    def is_async(self) -> bool:
        """Whether it runs on the server's event loop, if that has one."""
        return iscoroutinefunction(self.act)

    def read(self, request: HttpRequest, captured: Mapping[str, str]) -> actions.Call[Any]:
        """Return what an admitted caller asks for. Raises RequestRefused."""
        if request.method not in self.methods:
            raise MethodNotAllowed(request.method, self.methods)
        body = read_body(request)
        with borrowed_connections(), interrupt_after(LIBRARY_STATEMENT_LIMIT_S):
            admitted_by = admit(request, self.name, body)
        if self.methods == CHANGES:
            parameters = from_body(self.parameters, request, body)
        else:
            parameters = from_query(self.parameters, request)
        return actions.Call(request, parameters, admitted_by, captured.get("id", ""))


ENDPOINTS: Final[Mapping[str, Endpoint]] = {
    each.name: each
    for each in (
        Endpoint("health", LOOKS, HealthParameters, actions.health),
        Endpoint("status", LOOKS, StatusParameters, actions.status),
        Endpoint("record", LOOKS, NoParameters, actions.record),
        Endpoint("tick", CHANGES, NoParameters, actions.tick, needs_loop=True),
        Endpoint("run", CHANGES, RunParameters, actions.run, needs_loop=True),
        Endpoint("purge", CHANGES, PurgeParameters, actions.purge),
    )
}


def endpoint(route: str, name: str) -> URLPattern:
    """Return the URL pattern of an endpoint."""
    return _EndpointPattern(route, ENDPOINTS[name])


class _EndpointPattern(URLPattern):
    """A URL with two views, of which the one is resolved that fits the server."""

    def __init__(self, route: str, endpoint: Endpoint) -> None:
        view, self._async_view = _views(endpoint)
        pattern = RoutePattern(route, name=endpoint.name, is_endpoint=True)
        super().__init__(pattern, view, name=endpoint.name)

    def resolve(self, path: str) -> ResolverMatch | None:
        """See URLPattern."""
        match = super().resolve(path)
        if match is not None and _is_in_event_loop():
            match.func = self._async_view
        return match


def _is_in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _views(endpoint: Endpoint) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return the sync view of an endpoint, and the async one."""

    def view(request: HttpRequest, **captured: str) -> HttpResponse:
        try:
            return _finished(_answer(endpoint, request, captured))
        except Exception as error:
            return _finished(_refusal(endpoint, error))

    async def async_view(request: HttpRequest, **captured: str) -> HttpResponse:
        try:
            return _finished(await _aanswer(endpoint, request, captured))
        except Exception as error:
            return _finished(_refusal(endpoint, error))

    for each in (view, async_view):
        each.__name__ = each.__qualname__ = endpoint.name  # by which tracers name a request
    return _without_the_projects_ways(view), _without_the_projects_ways(async_view)


def _without_the_projects_ways(view: Callable[..., Any]) -> Callable[..., Any]:
    """Except a view from the project's cookies, log-in page and transactions.

    A transaction around a request would hold back what it does, and refuses async views.
    """
    view = login_not_required(csrf_exempt(view))
    for alias in settings.DATABASES:
        view = transaction.non_atomic_requests(alias)(view)
    return view


def _answer(endpoint: Endpoint, request: HttpRequest, captured: Mapping[str, str]) -> HttpResponse:
    call = endpoint.read(request, captured)
    with _alone(endpoint):
        if endpoint.needs_loop and threads.are_greenlets():
            raise NotHere(
                f"{endpoint.name}/ needs an event loop, and gevent has made greenlets of this "
                "server's threads. Use another worker class, or `manage.py lambda_tasks`."
            )
        if not endpoint.is_async:
            return cast("Act", endpoint.act)(call)
        answered: HttpResponse = async_to_sync(cast("AsyncAct", endpoint.act))(call)
        return answered


async def _aanswer(
    endpoint: Endpoint, request: HttpRequest, captured: Mapping[str, str]
) -> HttpResponse:
    if not endpoint.is_async:
        answered: HttpResponse = await sync_to_async(_answer)(endpoint, request, captured)
        return answered
    call = await sync_to_async(endpoint.read)(request, captured)
    with _alone(endpoint):
        return await cast("AsyncAct", endpoint.act)(call)


_busy: Final[dict[str, object]] = {}
"""The endpoints that this process is changing something for, with the mark of the request."""

os.register_at_fork(after_in_child=_busy.clear)


@contextmanager
def _alone(endpoint: Endpoint) -> Iterator[None]:
    """Let one request at a time change something. Raises Busy for another one.

    Many at once would start many worker processes, or take all threads of the server.
    """
    if endpoint.methods != CHANGES:
        yield
        return
    mark = object()
    if _busy.setdefault(endpoint.name, mark) is not mark:
        raise Busy(f"This process still answers another request to {endpoint.name}/.")
    try:
        yield
    finally:
        del _busy[endpoint.name]


def _finished(response: HttpResponse) -> HttpResponse:
    add_never_cache_headers(response)
    patch_vary_headers(response, ("Accept", "Authorization", "Cookie"))
    return response


def _refusal(endpoint: Endpoint, error: Exception) -> HttpResponse:
    """Return the answer to a request that failed, and log what is the site's fault."""
    match error:
        case RequestRefused():
            return error.response()
        case InvalidFilter() | DisallowedHost():
            return BadRequest(str(error)).response()
        case NotMigrated() | DatabaseError() | InterfaceError() | TimeoutError():
            logger.error("%s/ has no answer of the database: %s", endpoint.name, error)
            return Unavailable("The database gives no answer. The log has the reason.").response()
        case ImproperlyConfigured():
            logger.error("%s/ can't answer: %s", endpoint.name, error)
        case _:
            logger.exception("%s/ can't answer", endpoint.name, exc_info=error)
    return Failed("The request failed. The log has the reason.").response()
