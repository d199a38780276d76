"""Endpoints: who is admitted to each, whatever the server, and who is not."""

import json
import time
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import Permission, User
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, Client
from django.utils.timezone import now

from lambda_tasks import access, urls
from lambda_tasks.core.request_signature import SCHEME, Signature, SignedRequest
from lambda_tasks.endpoints import sign_request
from lambda_tasks.models import UsedSignature

SECRET = "a-secret-of-more-than-thirty-two-characters"
OTHER_SECRET = "another-secret-of-more-than-thirty-two-characters"

URLS = {
    "health": ("GET", "/tasks/health/"),
    "status": ("GET", "/tasks/status/"),
    "record": ("GET", f"/tasks/status/{uuid.UUID(int=1)}/"),
    "tick": ("POST", "/tasks/tick/"),
    "run": ("POST", "/tasks/run/"),
    "purge": ("POST", "/tasks/purge/"),
}
"""Every endpoint. Whoever adds a URL adds it here, and so to the tests of who is admitted."""

pytestmark = pytest.mark.django_db

each_endpoint = pytest.mark.parametrize("endpoint", URLS)
each_server = pytest.mark.parametrize("server", ["wsgi", "asgi"])

Send = Callable[..., HttpResponse]


@pytest.fixture(autouse=True)
def _closed(settings: Any) -> None:
    settings.LAMBDA_TASKS_ENDPOINTS = {}


@pytest.fixture
def wsgi() -> Send:
    return _send_by_wsgi


def _send_by_wsgi(method: str, url: str, body: str = "", **headers: str) -> Any:
    return _sent(Client(), method, url, body, headers)


def _send_by_asgi(method: str, url: str, body: str = "", **headers: str) -> Any:
    return async_to_sync(_sent_async)(method, url, body, headers)


async def _sent_async(method: str, url: str, body: str, headers: dict[str, str]) -> Any:
    return await _sent(AsyncClient(), method, url, body, headers)


def _sent(client: Any, method: str, url: str, body: str, headers: dict[str, str]) -> Any:
    content_type = headers.pop("content_type", "application/json" if body else "")
    return client.generic(method, url, body, content_type=content_type, headers=headers)


SENDERS = {"wsgi": _send_by_wsgi, "asgi": _send_by_asgi}


def _question(endpoint: str) -> tuple[str, str, str]:
    """A request that only an admitted caller is told to be wrong, and so does nothing."""
    method, url = URLS[endpoint]
    return (method, url, '{"no": 1}') if method == "POST" else (method, url + "?no=1", "")


def _is_admitted(response: HttpResponse) -> bool:
    assert response.status_code in (400, 401), response.content
    assert response.headers["Cache-Control"].count("no-store") == 1
    code, message = _error(response)
    assert code == ("unauthorized" if response.status_code == 401 else "bad_request")
    assert ("There is no parameter" in message) is (response.status_code == 400)
    return response.status_code == 400


def _error(response: HttpResponse) -> tuple[str, str]:
    assert response.headers["Content-Type"] == "application/json"
    (error,) = json.loads(response.content).values()
    assert error.keys() == {"code", "message"}
    return error["code"], error["message"]


def _signed(
    question: tuple[str, str, str], *, key: str = SECRET, host: str = "testserver"
) -> dict[str, str]:
    method, url, body = question
    return sign_request(method, f"http://{host}{url}", body, key=key)


def _signed_at(question: tuple[str, str, str], moment: float) -> dict[str, str]:
    method, url, body = question
    request = SignedRequest.to(method, f"http://testserver{url}", body.encode())
    signed_at, nonce = int(moment), uuid.uuid4().hex
    value = request.signature(SECRET, signed_at=signed_at, nonce=nonce)
    return {"Authorization": str(Signature(signed_at, nonce, value))}


def test_these_tests_have_every_url() -> None:
    assert [each.name for each in urls.urlpatterns] == list(URLS) == list(access.ENDPOINTS)


@each_server
@each_endpoint
def test_nobody_is_admitted_where_nothing_is_configured(endpoint: str, server: str) -> None:
    response = SENDERS[server](*_question(endpoint), Authorization=f"Bearer {SECRET}")

    assert not _is_admitted(response)
    assert response.headers["WWW-Authenticate"] == 'Bearer realm="lambda_tasks"'


@each_server
@each_endpoint
def test_a_shared_secret_opens_its_endpoint_and_no_other(
    endpoint: str, server: str, settings: Any
) -> None:
    settings.LAMBDA_TASKS_ENDPOINTS = {endpoint: [{"bearer": [OTHER_SECRET, SECRET]}]}
    send = SENDERS[server]

    assert _is_admitted(send(*_question(endpoint), Authorization=f"Bearer {SECRET}"))
    assert _is_admitted(send(*_question(endpoint), Authorization=f"bearer  {OTHER_SECRET}"))
    for wrong in (
        f"Bearer {SECRET}x", f"Bearer {SECRET[:-1]}", "Bearer", "Bearer ", f"Basic {SECRET}",
        SECRET, f"Bearer {SECRET},Bearer {SECRET}", "Bearer \xe2\x98\x83", "Bearer \xff\xfe",
        "x" * 100_000,
    ):  # fmt: skip
        assert not _is_admitted(send(*_question(endpoint), Authorization=wrong)), wrong
    assert not _is_admitted(send(*_question(endpoint)))
    for other in URLS.keys() - {endpoint}:
        assert not _is_admitted(send(*_question(other), Authorization=f"Bearer {SECRET}"))


@each_server
@each_endpoint
def test_a_signature_opens_its_endpoint_once_and_within_its_window(
    endpoint: str, server: str, settings: Any
) -> None:
    settings.LAMBDA_TASKS_ENDPOINTS = {endpoint: [{"hmac": [OTHER_SECRET, SECRET], "window": 60}]}
    question, send = _question(endpoint), SENDERS[server]
    headers = _signed(question)

    assert _is_admitted(send(*question, **headers))
    again = send(*question, **headers)
    assert not _is_admitted(again)
    assert "was used before" in _error(again)[1]
    assert _is_admitted(send(*question, **_signed(question)))

    expired = send(*question, **_signed_at(question, time.time() - 90))
    assert not _is_admitted(expired)
    assert " s old and the window is 60 s" in _error(expired)[1]
    ahead = send(*question, **_signed_at(question, time.time() + 120))
    assert not _is_admitted(ahead)
    assert " s ahead and the window is 60 s" in _error(ahead)[1]

    assert not _is_admitted(send(*question, **_signed(question, key=OTHER_SECRET + "x")))
    assert not _is_admitted(send(*question))


@each_endpoint
def test_a_signature_is_for_one_request(endpoint: str, settings: Any, wsgi: Send) -> None:
    settings.LAMBDA_TASKS_ENDPOINTS = {name: [{"hmac": SECRET}] for name in URLS}
    method, url, body = question = _question(endpoint)
    header = _signed(question)["Authorization"]

    def is_admitted(*request: str, **headers: str) -> bool:
        return _is_admitted(wsgi(*request, Authorization=header, **headers))

    for other in URLS.keys() - {endpoint}:
        other_method, other_url, other_body = _question(other)
        assert not is_admitted(other_method, other_url, other_body)
    assert not is_admitted(method, url, body + " ")
    assert not is_admitted(method, f"{url}{'&' if '?' in url else '?'}x=1", body)
    assert not is_admitted(method, url, body, host="127.0.0.1")
    other_parts = header.replace("n=", "n=x"), header.replace("t=1", "t=2"), header + "0"
    for each in (*other_parts, f"{SCHEME} t=1,n=,s=", SCHEME, header.replace(SCHEME, "Bearer")):
        assert not _is_admitted(wsgi(*question, Authorization=each))
    assert _is_admitted(wsgi(*question, Authorization=header))


def test_a_signature_for_get_is_none_for_head(settings: Any, wsgi: Send) -> None:
    settings.LAMBDA_TASKS_ENDPOINTS = {"health": [{"hmac": SECRET}]}
    headers = _signed(("GET", "/tasks/health/", ""))

    assert wsgi("HEAD", "/tasks/health/", **headers).status_code == 401


def test_signatures_are_forgotten_when_they_are_no_longer_valid(settings: Any, wsgi: Send) -> None:
    settings.LAMBDA_TASKS_ENDPOINTS = {"health": [{"hmac": SECRET}]}
    question = _question("health")
    UsedSignature.objects.bulk_create(
        UsedSignature(key=f"{n}", token=uuid.uuid4(), kept_until=now() + timedelta(hours=hours))
        for n, hours in enumerate((-1, -1, 1))
    )

    assert _is_admitted(wsgi(*question, **_signed(question)))

    assert set(UsedSignature.objects.values_list("key", flat=True)) > {"2"}
    assert UsedSignature.objects.count() == 2


def _staff(*permissions: str, **fields: Any) -> User:
    user = User.objects.create_user(uuid.uuid4().hex, **{"is_staff": True, **fields})
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    return user


NEEDED = {
    "health": "view_taskrecord",
    "status": "view_taskrecord",
    "record": "view_taskrecord",
    "tick": "replay_taskrecord",
    "run": "replay_taskrecord",
    "purge": "delete_taskrecord",
}


@each_server
@each_endpoint
def test_staff_with_the_permission_are_admitted_by_their_session(
    endpoint: str, server: str, settings: Any
) -> None:
    settings.LAMBDA_TASKS_ENDPOINTS = {endpoint: [{"staff": True}]}
    others = [each for each in set(NEEDED.values()) if each != NEEDED[endpoint]]

    assert _is_admitted(_send_as(_staff(NEEDED[endpoint]), endpoint, server))

    assert not _is_admitted(_send_as(_staff(*others), endpoint, server))
    assert not _is_admitted(_send_as(_staff(NEEDED[endpoint], is_staff=False), endpoint, server))
    assert not _is_admitted(_send_as(_staff(NEEDED[endpoint], is_active=False), endpoint, server))
    assert not _is_admitted(SENDERS[server](*_question(endpoint)))


def _send_as(user: User, endpoint: str, server: str, *, csrf: bool = True) -> HttpResponse:
    method, url, body = _question(endpoint)
    client: Any = {"wsgi": Client, "asgi": AsyncClient}[server](enforce_csrf_checks=True)
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    headers = {}
    if csrf and method == "POST":
        client.cookies["csrftoken"] = headers["X-CSRFToken"] = "t" * 32
    content_type = "application/json" if body else ""

    def send() -> Any:
        return client.generic(method, url, body, content_type=content_type, headers=headers)

    async def send_async() -> Any:
        return await send()

    response: HttpResponse = async_to_sync(send_async)() if server == "asgi" else send()
    return response


@each_server
@pytest.mark.parametrize("endpoint", ["tick", "run", "purge"])
def test_a_session_without_a_csrf_token_changes_nothing(
    endpoint: str, server: str, settings: Any
) -> None:
    settings.LAMBDA_TASKS_ENDPOINTS = {endpoint: [{"staff": True}]}

    response = _send_as(_staff(NEEDED[endpoint]), endpoint, server, csrf=False)

    assert not _is_admitted(response)
    assert "X-CSRFToken" in _error(response)[1]


def accepts_monday(request: HttpRequest, endpoint: str) -> bool:
    return request.headers.get("Day") == f"monday of {endpoint}"


async def accepts_tuesday(request: HttpRequest, endpoint: str) -> bool:
    return request.headers.get("Day") == f"tuesday of {endpoint}"


def fails(request: HttpRequest, endpoint: str) -> bool:
    raise RuntimeError("I can't decide")


def answers_truthy(request: HttpRequest, endpoint: str) -> bool:
    return "yes"  # type: ignore[return-value]


@each_server
@each_endpoint
def test_functions_of_the_project_admit_whom_they_say(
    endpoint: str, server: str, settings: Any, caplog: Any
) -> None:
    settings.LAMBDA_TASKS_ENDPOINTS = {
        endpoint: [
            {"callable": "tests.test_endpoints.fails"},
            {"callable": "tests.test_endpoints.answers_truthy"},
            {"callable": "tests.test_endpoints.accepts_monday"},
            {"callable": "tests.test_endpoints.accepts_tuesday"},
        ]
    }
    send = SENDERS[server]

    assert _is_admitted(send(*_question(endpoint), Day=f"monday of {endpoint}"))
    assert _is_admitted(send(*_question(endpoint), Day=f"tuesday of {endpoint}"))
    assert not _is_admitted(send(*_question(endpoint), Day="friday"))
    assert "I can't decide" in caplog.text
    assert "It returned a str. Return True or False." in caplog.text


@each_endpoint
def test_the_first_authenticator_that_accepts_is_enough(
    endpoint: str, settings: Any, wsgi: Send
) -> None:
    settings.LAMBDA_TASKS_ENDPOINTS = {
        endpoint: [{"staff": True}, {"hmac": OTHER_SECRET}, {"bearer": SECRET}]
    }

    assert _is_admitted(wsgi(*_question(endpoint), Authorization=f"Bearer {SECRET}"))


def test_health_can_be_opened_to_everybody(settings: Any, wsgi: Send) -> None:
    settings.LAMBDA_TASKS_ENDPOINTS = {"health": "open"}

    assert _is_admitted(wsgi(*_question("health")))
    for other in URLS.keys() - {"health"}:
        assert not _is_admitted(wsgi(*_question(other)))
