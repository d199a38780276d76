"""The parameters of requests: from the query of a GET, from the JSON body of a POST."""

import json
from typing import Annotated, Any, Final, TypeVar

from django.core.exceptions import BadRequest as DjangosBadRequest
from django.core.exceptions import RequestDataTooBig
from django.http import HttpRequest
from django.http.request import UnreadablePostError
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .refusals import BadRequest, BodyTooLarge, LengthRequired, NotJson

MAX_BODY_BYTES: Final = 16 * 1024
"""The largest body of a request: a purge of a hundred tasks by name needs less."""

MAX_NAMES: Final = 100
"""The most tasks or queues that a request names."""

QUERY_LISTS: Final = frozenset({"queue"})
"""The parameters that a query string may have several times."""

Name = Annotated[str, Field(min_length=1, max_length=255)]
Names = Annotated[list[Name], Field(min_length=1, max_length=MAX_NAMES)]


class Parameters(BaseModel):
    """The parameters of an endpoint. Others are refused."""

    model_config = ConfigDict(extra="forbid")


class NoParameters(Parameters):
    """The parameters of an endpoint without any."""


class HealthParameters(Parameters):
    """The parameters of health/."""

    max_age: Annotated[int, Field(ge=1, le=31_536_000)] | None = None
    """Seconds that a task may wait beyond its due time; by default as health() has it."""
    queue: Names | None = None


class StatusParameters(Parameters):
    """The parameters of status/."""

    queue: Names | None = None


class RunParameters(Parameters):
    """The parameters of run/."""

    max_tasks: Annotated[int, Field(ge=1, le=100)] = 10
    seconds: Annotated[int, Field(ge=5, le=300)] = 25
    """Seconds for all of it, less than the 29 that API Gateway waits and the 30 of gunicorn."""
    queue: Names | None = None


class PurgeParameters(Parameters):
    """The parameters of purge/."""

    older_than: Annotated[int, Field(ge=0, le=3_153_600_000)] | None = None
    """Seconds since the end of a run."""
    all_time: bool = False
    status: Annotated[list[Name], Field(min_length=1, max_length=10)] | None = None
    task: Names | None = None
    queue: Names | None = None
    batch: Annotated[int, Field(ge=1, le=10_000)] = 1000
    """The most records to delete."""
    dry_run: bool = False


P = TypeVar("P", bound=Parameters)


def read_body(request: HttpRequest) -> bytes:
    """Return the body of a request. Raises RequestRefused where it is too large or can't be read.

    What says that it is too large is not read.
    """
    if "chunked" in request.META.get("HTTP_TRANSFER_ENCODING", "").lower():
        raise LengthRequired("Send the body with a Content-Length, not in chunks.")
    try:
        if int(request.META.get("CONTENT_LENGTH") or 0) > MAX_BODY_BYTES:
            raise BodyTooLarge(f"The body may have {MAX_BODY_BYTES:,} bytes.")
        body: bytes = request.body
    except ValueError:
        raise BadRequest("The Content-Length is not a number.") from None
    except RequestDataTooBig:
        raise BodyTooLarge("The body is larger than DATA_UPLOAD_MAX_MEMORY_SIZE.") from None
    except (UnreadablePostError, DjangosBadRequest):
        raise BadRequest("The body could not be read.") from None
    if len(body) > MAX_BODY_BYTES:
        raise BodyTooLarge(f"The body may have {MAX_BODY_BYTES:,} bytes.")
    return body


def from_query(model: type[P], request: HttpRequest) -> P:
    """Return the parameters in the query string. Raises BadRequest, with the fix."""
    values: dict[str, Any] = {}
    for name, given in request.GET.lists():
        is_list = name in QUERY_LISTS
        if not is_list and len(given) > 1:
            raise BadRequest(f"{name} is there {len(given)} times. Send it once.")
        values[name] = given if is_list else given[0]
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise _bad_request(model, error) from None


def from_body(model: type[P], request: HttpRequest, body: bytes) -> P:
    """Return the parameters in a JSON body; the defaults for an empty one.

    Raises BadRequest or NotJson, with the fix.
    """
    if request.META.get("QUERY_STRING"):
        raise BadRequest("Send the parameters in a JSON body, not in the query string.")
    if body and request.content_type != "application/json":
        raise NotJson("Send the body with the header 'Content-Type: application/json'.")
    text = body or b"{}"
    try:
        json.loads(text, object_pairs_hook=_without_duplicates, parse_constant=_no_constant)
        return model.model_validate_json(text, strict=True)
    except ValidationError as error:
        raise _bad_request(model, error) from None
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"The body is not valid JSON: {error}.") from None


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse an object that says two things of one name: programs differ in which of them holds."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an object has a name twice")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _bad_request(model: type[Parameters], error: ValidationError) -> BadRequest:
    """Return what is wrong, in the first three parameters. The values are not repeated."""
    problems = []
    for each in error.errors(include_url=False, include_context=False, include_input=False)[:3]:
        name = ".".join(map(str, each["loc"]))
        if each["type"] == "extra_forbidden":
            known = ", ".join(model.model_fields) or "none"
            problems.append(f"There is no parameter {name[:100]!r} here. There are: {known}")
        else:
            problems.append(f"{name[:100]}: {each['msg']}" if name else each["msg"])
    return BadRequest("; ".join(problems) + ".")
