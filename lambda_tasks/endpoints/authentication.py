"""The admission of a caller: by the first authenticator of the endpoint that accepts it.

Secrets are compared in constant time, and whether the first or the last of them is right. A caller
who holds the key hears why a signature is refused; everybody else hears the same.
"""

import hashlib
import hmac
import logging
import time
from datetime import timedelta
from typing import Final

from asgiref.sync import async_to_sync, iscoroutinefunction
from django.http import HttpRequest, HttpResponse
from django.middleware.csrf import CsrfViewMiddleware
from django.utils.module_loading import import_string

from .. import conf, threads
from ..access import Authenticator, Bearer, Custom, Hmac, Open, Staff
from ..core.request_signature import SCHEME, Signature, SignedRequest
from ..records.signatures import use_once
from .refusals import Unauthorized

logger = logging.getLogger("lambda_tasks")

NOBODY: Final = "Not authorized. LAMBDA_TASKS_ENDPOINTS says who may call this endpoint."

MAX_HEADER_CHARS: Final = 4096
"""The longest Authorization header that is looked at."""

CLOCK_MARGIN_S: Final = 60
"""Seconds that a signature is remembered beyond its window: the database has a clock of its own."""


def admit(request: HttpRequest, endpoint: str, body: bytes) -> Authenticator:
    """Return the first authenticator of an endpoint that accepts a request.

    Raises Unauthorized where none does.
    """
    refusal = Unauthorized(NOBODY)
    for each in conf.current().endpoints.get(endpoint, ()):
        try:
            if _accepts(each, request, endpoint, body):
                return each
        except Unauthorized as error:
            refusal = error
    raise refusal


def _accepts(each: Authenticator, request: HttpRequest, endpoint: str, body: bytes) -> bool:
    """Return whether an authenticator accepts a request.

    Raises Unauthorized, with the reason, where the caller may hear it.
    """
    match each:
        case Open():
            return True
        case Bearer():
            return _has_secret(request, each)
        case Hmac():
            return _is_signed(request, each, body)
        case Staff():
            return _is_staff(request, each)
        case Custom():
            return _is_accepted(request, each, endpoint)
    raise AssertionError("unreachable")


def _credentials(request: HttpRequest, scheme: str) -> str | None:
    """Return what follows the scheme in the Authorization header; None without that scheme."""
    header = request.META.get("HTTP_AUTHORIZATION", "")
    found, _, credentials = header[:MAX_HEADER_CHARS].partition(" ")
    return credentials.strip(" ") if found.lower() == scheme.lower() else None


def _has_secret(request: HttpRequest, bearer: Bearer) -> bool:
    token = _credentials(request, "Bearer")
    if token is None:
        return False
    given = _digest(token)
    matches = [hmac.compare_digest(given, _digest(secret)) for secret in bearer.secrets]
    return any(matches)


def _digest(text: str) -> bytes:
    """Return a digest, which is as long for any text and says nothing about it."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).digest()


def _is_signed(request: HttpRequest, by: Hmac, body: bytes) -> bool:
    parameters = _credentials(request, SCHEME)
    signature = None if parameters is None else Signature.of(parameters)
    if signature is None or not signature.is_of(_signed_request(request, body), by.keys):
        return False
    age_s = time.time() - signature.signed_at
    if abs(age_s) > by.window_s:
        when = f"{age_s:.0f} s old" if age_s > 0 else f"{-age_s:.0f} s ahead"
        raise Unauthorized(
            f"The signature is {when} and the window is {by.window_s} s. Sign each request anew, "
            "and compare the clocks."
        )
    # A clock that is ahead makes a signature valid for twice the window.
    remembered = timedelta(seconds=2 * by.window_s + CLOCK_MARGIN_S)
    if not use_once(signature.value, remembered):
        raise Unauthorized("The signature was used before. Sign each request anew.")
    return True


def _signed_request(request: HttpRequest, body: bytes) -> SignedRequest:
    return SignedRequest(
        method=request.method or "",
        host=request.get_host(),
        path=request.path,
        query=request.META.get("QUERY_STRING", ""),
        body=body,
    )


def _is_staff(request: HttpRequest, staff: Staff) -> bool:
    user = getattr(request, "user", None)
    if user is None or not (user.is_active and user.is_staff):
        return False
    if not user.has_perm(staff.permission):
        raise Unauthorized(f"You lack the permission {staff.permission!r}.")
    csrf = CsrfViewMiddleware(_no_response)
    csrf.process_request(request)
    # The views are exempt from the project's own middleware: other callers have no cookies.
    if csrf.process_view(request, None, (), {}) is not None:  # type: ignore[arg-type]
        raise Unauthorized(
            "The request has no valid CSRF token. Send the cookie csrftoken in X-CSRFToken."
        )
    return True


def _no_response(request: HttpRequest) -> HttpResponse:
    """Stand for the rest of a request, which the middleware is not asked to answer."""
    raise AssertionError("unreachable")


def _is_accepted(request: HttpRequest, custom: Custom, endpoint: str) -> bool:
    """Ask the project's function. One that fails accepts nobody."""
    try:
        function = import_string(custom.path)
        if iscoroutinefunction(function):
            threads.check_event_loops()
            function = async_to_sync(function)
        answer = function(request, endpoint)
        # Not only truthy: a coroutine that nobody awaits is.
        if not isinstance(answer, bool):
            raise TypeError(f"It returned a {type(answer).__name__}. Return True or False.")
        return answer
    except Exception:
        logger.exception(
            "%s can't say who may call %s/ and so lets nobody in", custom.path, endpoint
        )
        return False
