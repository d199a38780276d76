"""The refusals of requests. Each is a status, a code for programs and a message for people."""

from collections.abc import Mapping
from typing import ClassVar

from django.http import JsonResponse


class RequestRefused(Exception):
    """A request is refused, and nothing was changed."""

    status: ClassVar[int]
    code: ClassVar[str]
    headers: Mapping[str, str] = {}

    def response(self) -> JsonResponse:
        """Return the refusal as JSON, in the one shape of all errors."""
        body = {"error": {"code": self.code, "message": str(self)}}
        return JsonResponse(body, status=self.status, headers=dict(self.headers))


class BadRequest(RequestRefused):
    """A parameter or the body makes no sense."""

    status, code = 400, "bad_request"


class Unauthorized(RequestRefused):
    """No authenticator of the endpoint has accepted the caller."""

    status, code = 401, "unauthorized"
    headers: Mapping[str, str] = {"WWW-Authenticate": 'Bearer realm="lambda_tasks"'}


class Forbidden(RequestRefused):
    """The caller was admitted, for other tasks or queues than those of the request."""

    status, code = 403, "forbidden"


class NotFound(RequestRefused):
    """No task has this id, or none that the caller may see."""

    status, code = 404, "not_found"


class MethodNotAllowed(RequestRefused):
    """The endpoint has another method."""

    status, code = 405, "method_not_allowed"

    def __init__(self, method: str | None, allowed: tuple[str, ...]) -> None:
        self.headers = {"Allow": ", ".join(allowed)}
        super().__init__(f"{method} is not allowed here. Use {' or '.join(allowed)}.")


class LengthRequired(RequestRefused):
    """The body is sent in chunks, so its size is not known."""

    status, code = 411, "length_required"


class BodyTooLarge(RequestRefused):
    """The body is larger than any that an endpoint needs."""

    status, code = 413, "too_large"


class NotJson(RequestRefused):
    """The body has another content type."""

    status, code = 415, "unsupported_media_type"


class Busy(RequestRefused):
    """This process still does what an earlier request has asked for."""

    status, code = 429, "busy"
    headers: Mapping[str, str] = {"Retry-After": "5"}


class Failed(RequestRefused):
    """The request failed by a fault of the site. The log has the reason."""

    status, code = 500, "failed"


class NotHere(RequestRefused):
    """The site's server can't do it."""

    status, code = 501, "not_here"


class Unavailable(RequestRefused):
    """The database gives no answer."""

    status, code = 503, "unavailable"
    headers: Mapping[str, str] = {"Retry-After": "5"}
