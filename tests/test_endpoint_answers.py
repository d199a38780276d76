"""Endpoints: what each answers an admitted caller, and what bad requests change: nothing."""

import inspect
import json
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import Permission, User
from django.db import OperationalError, connection
from django.http import HttpResponse
from django.test import AsyncClient, Client
from django.utils.timezone import now

from lambda_tasks import hooks, operations
from lambda_tasks.core.retries import retry_id
from lambda_tasks.endpoints import actions
from lambda_tasks.endpoints.prometheus import exposition
from lambda_tasks.models import TaskRecord
from tests.app import tasks
from tests.app.models import Effect
from tests.conftest import PATIENCE_S
from tests.test_operations import HOUR, record, ticked

SECRET = "a-secret-of-more-than-thirty-two-characters"

pytestmark = pytest.mark.django_db

committed = pytest.mark.django_db(transaction=True)
"""For what other threads and processes have to see."""


@pytest.fixture(autouse=True)
def _admitted(settings: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(actions, "LIMIT_S", PATIENCE_S)
    names = ("health", "status", "record", "tick", "run", "purge")
    settings.LAMBDA_TASKS_ENDPOINTS = {name: [{"bearer": SECRET}] for name in names}


def get(path: str, **headers: str) -> Any:
    return Client().get(f"/tasks/{path}", headers={"Authorization": f"Bearer {SECRET}", **headers})


def post(path: str, body: Any = "", **headers: str) -> Any:
    text = body if isinstance(body, str | bytes) else json.dumps(body)
    return Client().post(
        f"/tasks/{path}",
        text,
        content_type=headers.pop("content_type", "application/json"),
        headers={"Authorization": f"Bearer {SECRET}", **headers},
    )


def error(response: HttpResponse) -> tuple[int, str, str]:
    assert response.headers["Content-Type"] == "application/json"
    found = json.loads(response.content)["error"]
    return response.status_code, found["code"], found["message"]


# health/


def test_health_is_503_with_the_reason_when_a_call_waits_too_long() -> None:
    ticked()
    assert get("health/").json() == {"status": "ok", "problems": []}
    record("QUEUED", queue="table")

    response = get("health/")

    assert response.status_code == 503
    assert response.json()["status"] == "critical"
    (problem,) = response.json()["problems"]
    assert problem["what"] == "age"
    assert "waits for 36" in problem["message"]


def test_health_is_of_the_queue_and_the_age_that_are_asked_for() -> None:
    ticked()
    record("QUEUED", queue="table")

    assert get("health/?queue=other").status_code == 200
    assert get("health/?queue=table").status_code == 503
    assert get("health/?queue=other&queue=table").status_code == 503
    assert get("health/?max_age=100000").status_code == 200
    assert get("health/?max_age=5000").json()["status"] == "warning"


def test_health_answers_head() -> None:
    ticked()
    headers = {"Authorization": f"Bearer {SECRET}"}

    assert Client().head("/tasks/health/", headers=headers).status_code == 200
    record("QUEUED", queue="table")
    assert Client().head("/tasks/health/", headers=headers).status_code == 503


@contextmanager
def silent_database() -> Iterator[None]:
    def refuse(*args: Any) -> None:
        raise OperationalError("the server closed the connection with password=hunter2")

    with connection.execute_wrapper(refuse):
        yield


def test_health_is_503_without_a_database_and_tells_nobody_how_to_reach_it() -> None:
    with silent_database():
        response = get("health/")

    assert response.status_code == 503
    assert [each["what"] for each in response.json()["problems"]] == ["database"]
    assert b"hunter2" not in response.content


def test_without_a_database_the_others_are_unavailable(caplog: Any) -> None:
    with silent_database():
        assert error(get("status/"))[:2] == (503, "unavailable")
        assert error(post("purge/", {"all_time": True}))[:2] == (503, "unavailable")
    assert "hunter2" in caplog.text


@committed
@pytest.mark.skipif(connection.vendor != "postgresql", reason="it has a statement that sleeps")
def test_a_database_that_takes_too_long_is_given_up(monkeypatch: Any) -> None:
    monkeypatch.setattr(actions, "LIBRARY_STATEMENT_LIMIT_S", 0.1)

    def sleep(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        return execute("SELECT pg_sleep(600)", (), many, context)

    with connection.execute_wrapper(sleep):
        response = get("health/")

    assert response.status_code == 503
    assert [each["what"] for each in response.json()["problems"]] == ["database"]


# status/


def test_status_has_the_counts_of_queues_and_tasks() -> None:
    record("QUEUED", queue="table")
    record("FAILED")

    found = get("status/").json()

    assert found["queues"]["table"]["waiting"] == 1
    assert found["queues"]["default"]["failed"] == 1
    assert found["queues"]["other"]["waiting"] == 0
    assert found["tasks"][tasks.add.name]["failed"] == 1
    assert found["is_complete"] is True
    assert get("status/?queue=table").json()["queues"].keys() == {"table"}


def parsed(text: str) -> dict[str, Any]:
    """The metrics by name, as Prometheus' own library reads them."""
    from prometheus_client.parser import text_string_to_metric_families

    return {each.name: each for each in text_string_to_metric_families(text)}


PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
"""What Prometheus 3 sends."""


def test_status_is_text_for_prometheus() -> None:
    ticked()
    record("QUEUED", queue="table")
    record("FAILED")

    response = get("status/", Accept=PROMETHEUS)

    assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    families = parsed(response.content.decode()).values()
    samples = {
        (each.name, *sorted(each.labels.values())): each.value
        for family in families
        for each in family.samples
    }
    assert samples["lambda_tasks_tasks", "table", "waiting"] == 1
    assert samples["lambda_tasks_tasks", "other", "waiting"] == 0
    assert samples["lambda_tasks_ended", "default", "failed"] == 1
    assert samples["lambda_tasks_oldest_waiting_seconds", "table"] >= 3600
    assert samples["lambda_tasks_oldest_waiting_seconds", "default"] == 0
    assert samples["lambda_tasks_task_ended", "failed", tasks.add.name] == 1
    assert samples["lambda_tasks_counts_complete",] == 1
    assert samples["lambda_tasks_last_tick_age_seconds",] >= 0
    assert {each.type for each in families} == {"gauge"}
    assert all(each.documentation for each in families)


@pytest.mark.parametrize(
    ("accept", "is_text"),
    [
        ("text/plain", True),
        ("text/plain;version=0.0.4", True),
        ("*/*", False),
        ("application/json", False),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", False),
        ("application/xml", False),
        ("nonsense", False),
    ],
)
def test_others_get_json(accept: str, is_text: bool) -> None:
    kind = "text/plain" if is_text else "application/json"

    assert get("status/", Accept=accept).headers["Content-Type"].startswith(kind)


def test_the_status_says_which_queues_are_paused() -> None:
    operations.pause_queue("table", by="anna")

    queues = get("status/").json()["queues"]
    gauges = parsed(get("status/", Accept=PROMETHEUS).content.decode())["lambda_tasks_paused"]

    assert {name for name, each in queues.items() if each["is_paused"]} == {"table"}
    values = {each.labels["queue"]: each.value for each in gauges.samples}
    assert (values["table"], values["default"]) == (1, 0)


def test_any_name_is_escaped_in_the_text() -> None:
    moment = now()
    name = 'a"b\\c\nd{}=,#é'
    stats = operations.Stats(
        now=moment, ended_since=moment - HOUR, is_complete=True, last_tick_s=None
    )

    text = exposition(stats, {name: operations.Counts(waiting=3)}, {})

    families = parsed(text)
    waiting = families["lambda_tasks_tasks"].samples[0]
    assert waiting.labels == {"queue": name, "state": "waiting"}
    assert waiting.value == 3
    assert "lambda_tasks_task_tasks" not in families


# status/ID/


def test_the_status_of_a_task_shows_no_argument_no_result_and_no_traceback() -> None:
    found = record("FAILED", kwargs={"a": "hunter2"}, result="hunter2", traceback="hunter2")

    response = get(f"status/{found.id}/")

    assert response.status_code == 200
    assert b"hunter2" not in response.content
    described = response.json()
    assert described["id"] == described["last_id"] == str(found.id)
    assert (described["task"], described["queue"]) == (tasks.add.name, "default")
    assert (described["status"], described["error"]) == ("FAILED", "builtins.ValueError")
    assert described["duration_s"] == pytest.approx(3540, abs=5)
    assert get(f"status/{found.id.hex.upper()}/").json() == described


def test_the_result_is_shown_where_the_setting_says_so(settings: Any) -> None:
    settings.LAMBDA_TASKS_ENDPOINTS = {"record": [{"bearer": SECRET, "results": True}]}
    found = record("SUCCESS", kwargs={"a": "hunter2"}, result={"total": 3})

    response = get(f"status/{found.id}/")

    assert response.json()["result"] == {"total": 3}
    assert b"hunter2" not in response.content


def test_staff_need_the_permission_to_see_results(settings: Any) -> None:
    settings.LAMBDA_TASKS_ENDPOINTS = {"record": [{"staff": True, "results": True}]}
    found = record("SUCCESS", result={"total": 3})
    clerk = User.objects.create_user("clerk", is_staff=True)
    clerk.user_permissions.set(Permission.objects.filter(codename="view_taskrecord"))
    chief = User.objects.create_superuser("chief")

    def described_to(user: User) -> Any:
        client = Client()
        client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
        return client.get(f"/tasks/status/{found.id}/").json()

    assert "result" not in described_to(clerk)
    assert described_to(chief)["result"] == {"total": 3}


def test_the_status_of_a_task_is_that_of_its_last_run() -> None:
    invocation = tasks.aadd.execute_on_commit(a=1)
    first = TaskRecord.objects.get()
    TaskRecord.objects.update(status="RETRYING", claim_token=uuid.uuid4(), end_time=now())
    first.refresh_from_db()
    assert first.claim_token is not None
    second = record("SUCCESS", id=retry_id(first.id, first.claim_token))
    TaskRecord.objects.filter(id=second.id).update(root_id=first.root_id or first.id)

    described = get(f"status/{invocation.id}/").json()

    assert (described["id"], described["last_id"]) == (str(invocation.id), str(second.id))
    assert described["status"] == "SUCCESS"


@pytest.mark.parametrize("id", [uuid.uuid4(), "none", "1", "%00", "x" * 5000])
def test_an_unknown_id_is_not_found(id: object) -> None:
    assert error(get(f"status/{id}/"))[:2] == (404, "not_found")


# tick/


@committed
def test_a_tick_does_what_the_event_does(monkeypatch: Any) -> None:
    heard: list[hooks.Ticked] = []
    told = threading.Event()

    @hooks.ticked.connect
    def hear(event: hooks.Ticked) -> None:
        heard.append(event)
        told.set()

    try:
        invocation = tasks.add.execute_on_commit(a=1)
        TaskRecord.objects.update(look_at=now() - HOUR, sent_at=None)
        response = post("tick/")
        told.wait(PATIENCE_S)
    finally:
        hooks.ticked.disconnect(hear)

    assert response.status_code == 200, response.content
    assert response.json().keys() == {"scheduled", "relayed"}
    assert heard == [hooks.Ticked(response.json()["relayed"], response.json()["scheduled"])]
    assert invocation.record() is not None


@committed
def test_a_tick_that_takes_too_long_is_given_up(monkeypatch: Any) -> None:
    monkeypatch.setattr(actions, "LIMIT_S", 0.0)

    assert error(post("tick/"))[:2] == (503, "unavailable")


# run/


@committed
def test_run_runs_what_is_due_by_the_executor_and_no_more_than_asked_for() -> None:
    table = tasks.aleave_effect.using(queue="table")
    table.execute_many_on_commit({"name": f"{n}"} for n in range(3))

    first = post("run/", {"max_tasks": 2, "seconds": 300, "queue": ["table"]})

    assert first.json() == {"done": 2, "failed": 0, "returned": 0}
    assert Effect.objects.count() == 2
    assert post("run/", {"seconds": 300, "queue": ["table"]}).json()["done"] == 1
    assert sorted(TaskRecord.objects.values_list("status", flat=True)) == ["SUCCESS"] * 3


@committed
def test_run_is_over_when_its_time_is_over() -> None:
    tasks.wait.using(queue="table").execute_on_commit(seconds=600)

    response = post("run/", {"seconds": 5, "queue": ["table"]})

    assert response.status_code == 200, response.content
    assert (response.json()["done"], response.json()["failed"]) == (0, 0)
    (left,) = TaskRecord.objects.all()
    assert left.status in ("QUEUED", "RUNNING")
    left.cancel()


# purge/


def test_purge_deletes_what_has_ended_within_its_window_and_logs_it(caplog: Any) -> None:
    old = record(end_time=now() - 2 * HOUR)
    kept = {record().id, record("QUEUED").id, record("RUNNING").id}

    dry = post("purge/", {"older_than": 3600, "dry_run": True}).json()
    assert (dry["deleted"], dry["dry_run"]) == (1, True)
    assert TaskRecord.objects.filter(id=old.id).exists()

    assert post("purge/", {"older_than": 3600}).json()["deleted"] == 1
    assert set(TaskRecord.objects.values_list("id", flat=True)) == kept
    assert "Records deleted by a caller of purge/ with Bearer: 1," in caplog.text
    assert "by a caller of purge/ with Bearer" in caplog.text


def test_purge_deletes_only_what_the_filters_name_and_no_more_than_a_batch() -> None:
    mine = [record(task_name="shop.tasks.mine", queue="other") for _ in range(3)]
    record(task_name="shop.tasks.other", queue="other")
    record(task_name="shop.tasks.mine")
    window = {"all_time": True, "task": ["shop.tasks.mine"], "queue": ["other"], "batch": 2}

    assert post("purge/", {**window, "status": ["SUCCESS"]}).json()["deleted"] == 0
    assert post("purge/", {**window, "dry_run": True}).json()["deleted"] == 2
    assert post("purge/", {**window, "status": ["FAILED"]}).json()["deleted"] == 2
    assert post("purge/", window).json()["deleted"] == 1
    assert not TaskRecord.objects.filter(id__in=[each.id for each in mine]).exists()
    assert TaskRecord.objects.count() == 2


# scopes


@committed
def test_an_authenticator_sees_and_changes_only_what_its_setting_names(settings: Any) -> None:
    ticked()
    own = {"bearer": SECRET, "queues": ["table"]}
    of_task = {"bearer": SECRET, "tasks": ["shop.tasks.mine"], "queues": ["table", "other"]}
    settings.LAMBDA_TASKS_ENDPOINTS = {
        "health": [own], "status": [own], "run": [own], "record": [of_task], "purge": [of_task],
    }  # fmt: skip
    mine = record(task_name="shop.tasks.mine", queue="table")
    others = [record(task_name="shop.tasks.mine"), record(queue="table")]
    record("QUEUED", queue="other")

    assert get("health/").status_code == 200
    assert error(get("health/?queue=other"))[:2] == (403, "forbidden")
    found = get("status/").json()
    assert (found["queues"].keys(), found["tasks"]) == ({"table"}, {})
    assert "shop.tasks" not in get("status/", Accept="text/plain").content.decode()
    assert error(get("status/?queue=other"))[:2] == (403, "forbidden")
    assert error(post("run/", {"queue": ["other"]}))[:2] == (403, "forbidden")
    assert post("run/").json()["done"] == 0
    assert get(f"status/{mine.id}/").status_code == 200
    for other in others:
        assert error(get(f"status/{other.id}/"))[:2] == (404, "not_found")
    for asked_for in ({"task": [tasks.add.name]}, {"queue": ["default"]}):
        response = post("purge/", {"all_time": True, **asked_for})
        assert error(response)[:2] == (403, "forbidden")
    assert post("purge/", {"all_time": True}).json()["deleted"] == 1
    assert not TaskRecord.objects.filter(id=mine.id).exists()
    assert TaskRecord.objects.filter(id__in=[each.id for each in others]).count() == 2


# bad requests


@pytest.mark.parametrize(
    ("body", "code", "told"),
    [
        ("{", "bad_request", "not valid JSON"),
        ("[]", "bad_request", "valid dictionary|an object"),
        ("null", "bad_request", ""),
        ('{"a": NaN}', "bad_request", "NaN is not JSON"),
        ('{"dry_run": true, "dry_run": false}', "bad_request", "has a name twice"),
        ("[" * 16_000, "bad_request", "not valid JSON"),
        (b"\xff", "bad_request", "not valid JSON"),
        ('{"no": 1}', "bad_request", "no parameter 'no' here"),
        ('{"' + "x" * 9000 + '": 1}', "bad_request", "There is no parameter"),
        (" " * 16_385, "too_large", "16,384 bytes"),
    ],
)
def test_a_body_that_makes_no_sense_is_refused(body: Any, code: str, told: str) -> None:
    record()

    for path in ("tick/", "run/", "purge/"):
        status, found, message = error(post(path, body))

        assert (status, found) == ({"bad_request": 400, "too_large": 413}[code], code)
        assert any(each in message for each in told.split("|")), message
        assert len(message) < 500
    assert TaskRecord.objects.count() == 1


@pytest.mark.parametrize(
    ("path", "body", "told"),
    [
        ("run/", {"max_tasks": 0}, "max_tasks: Input should be greater than or equal to 1"),
        ("run/", {"max_tasks": 101}, "max_tasks: Input should be less than or equal to 100"),
        ("run/", {"max_tasks": "5"}, "max_tasks: Input should be a valid integer"),
        ("run/", {"max_tasks": True}, "max_tasks: Input should be a valid integer"),
        ("run/", {"seconds": 301}, "seconds: Input should be less than or equal to 300"),
        ("run/", {"queue": []}, "queue: List should have at least 1 item"),
        ("run/", {"queue": ["defualt"]}, "There is no queue 'defualt'."),
        ("run/", {"queue": ["heavy"]}, "No worker can run the tasks of the queue 'heavy'."),
        ("purge/", {}, 'Send either "older_than", in seconds, or "all_time": true.'),
        ("purge/", {"older_than": 1, "all_time": True}, 'Send either "older_than"'),
        ("purge/", {"older_than": -1}, "older_than: Input should be greater than or equal to 0"),
        ("purge/", {"older_than": 1e99}, "older_than: Input should be a valid integer"),
        ("purge/", {"all_time": True, "batch": 10_001}, "batch: Input should be less than or equ"),
        ("purge/", {"all_time": True, "status": ["DONE"]}, "There is no status 'DONE'."),
        ("purge/", {"all_time": True, "arguments": {"a": 1}}, "There is no parameter 'arguments'"),
        ("purge/", {"all_time": 1}, "all_time: Input should be a valid boolean"),
    ],
)
def test_a_value_that_makes_no_sense_is_told_and_changes_nothing(
    path: str, body: Any, told: str
) -> None:
    record()

    status, code, message = error(post(path, body))

    assert (status, code) == (400, "bad_request")
    assert told in message
    assert TaskRecord.objects.count() == 1


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("max_age=0", "max_age: Input should be greater than or equal to 1"),
        ("max_age=1e3", "max_age: Input should be a valid integer"),
        ("max_age=1&max_age=2", "max_age is there 2 times"),
        ("max_agee=1", "There is no parameter 'max_agee' here. There are: max_age, queue"),
        ("queue=defualt", "There is no queue 'defualt'."),
        ("queue=", "queue.0: String should have at least 1 character"),
        ("token=x", "There is no parameter 'token'"),
    ],
)
def test_a_query_that_makes_no_sense_is_refused(query: str, told: str) -> None:
    status, code, message = error(get(f"health/?{query}"))

    assert (status, code) == (400, "bad_request")
    assert told in message


@pytest.mark.parametrize("path", ["tick/", "run/", "purge/"])
def test_parameters_of_a_post_are_in_its_body_as_json(path: str) -> None:
    assert error(post(f"{path}?dry_run=true"))[:2] == (400, "bad_request")
    form = "application/x-www-form-urlencoded"
    assert error(post(path, "all_time=true", content_type=form))[:2] == (
        415, "unsupported_media_type",
    )  # fmt: skip
    assert error(post(path, '{"all_time": true}', content_type="text/plain"))[0] == 415
    chunked = post(path, "{}", **{"Transfer-Encoding": "chunked"})
    assert error(chunked)[:2] == (411, "length_required")


@pytest.mark.parametrize("path", ["health/", "status/", f"status/{uuid.UUID(int=1)}/"])
def test_what_looks_is_no_post(path: str) -> None:
    for method in ("post", "put", "patch", "delete", "options"):
        response = getattr(Client(), method)(
            f"/tasks/{path}", headers={"Authorization": f"Bearer {SECRET}"}
        )
        assert error(response)[:2] == (405, "method_not_allowed")
        assert response.headers["Allow"] == "GET, HEAD"


@pytest.mark.parametrize("path", ["tick/", "run/", "purge/"])
def test_what_changes_something_is_a_post(path: str) -> None:
    for method in ("get", "head", "put", "patch", "delete", "options"):
        response = getattr(Client(), method)(
            f"/tasks/{path}",
            headers={"Authorization": f"Bearer {SECRET}", "X-HTTP-Method-Override": "POST"},
        )
        assert response.status_code == 405
        assert response.headers["Allow"] == "POST"


# servers


def test_the_view_is_async_where_the_server_is() -> None:
    headers = {"Authorization": f"Bearer {SECRET}"}
    ticked()

    async def ask() -> Any:
        return await AsyncClient().get("/tasks/health/", headers=headers)

    by_asgi: Any = async_to_sync(ask)()
    by_wsgi: Any = Client().get("/tasks/health/", headers=headers)

    assert by_asgi.status_code == by_wsgi.status_code == 200
    assert inspect.iscoroutinefunction(by_asgi.asgi_request.resolver_match.func)
    assert not inspect.iscoroutinefunction(by_wsgi.wsgi_request.resolver_match.func)
    assert by_asgi.asgi_request.resolver_match.func.__name__ == "health"
    assert by_wsgi.wsgi_request.resolver_match.func.__name__ == "health"


@committed
@pytest.mark.parametrize("path", ["tick/", "purge/"])
def test_an_async_server_ticks_and_purges(path: str) -> None:
    headers = {"Authorization": f"Bearer {SECRET}"}
    body = '{"all_time": true}' if path == "purge/" else ""

    async def ask() -> Any:
        client = AsyncClient()
        return await client.post(
            f"/tasks/{path}", body, content_type="application/json", headers=headers
        )

    response: Any = async_to_sync(ask)()

    assert response.status_code == 200, response.content


def test_requests_are_in_no_transaction_of_the_project(monkeypatch: Any) -> None:
    ticked()
    monkeypatch.setitem(connection.settings_dict, "ATOMIC_REQUESTS", True)
    headers = {"Authorization": f"Bearer {SECRET}"}

    async def ask() -> Any:
        return await AsyncClient().get("/tasks/health/", headers=headers)

    assert get("health/").status_code == 200
    by_asgi: Any = async_to_sync(ask)()
    assert by_asgi.status_code == 200


def test_a_project_that_asks_everybody_to_log_in_does_not_redirect_probes(settings: Any) -> None:
    ticked()
    settings.MIDDLEWARE = [
        *settings.MIDDLEWARE,
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.contrib.auth.middleware.LoginRequiredMiddleware",
    ]
    client = Client(enforce_csrf_checks=True)
    headers = {"Authorization": f"Bearer {SECRET}"}

    assert client.get("/tasks/health/", headers=headers).status_code == 200
    as_json: Any = {"data": "{}", "content_type": "application/json"}
    assert client.post("/tasks/purge/", **as_json, headers=headers).status_code == 400
    assert client.post("/tasks/purge/", **as_json).status_code == 401


@committed
def test_one_request_at_a_time_changes_something(monkeypatch: Any) -> None:
    begun, goes_on = threading.Event(), threading.Event()
    purge = operations.purge

    def slow_purge(**options: Any) -> Any:
        begun.set()
        assert goes_on.wait(PATIENCE_S)
        return purge(**options)

    monkeypatch.setattr(operations, "purge", slow_purge)
    statuses: list[int] = []

    def send() -> None:
        statuses.append(post("purge/", {"all_time": True}).status_code)
        connection.close()

    first = threading.Thread(target=send)
    first.start()
    try:
        assert begun.wait(PATIENCE_S)
        second = post("purge/", {"all_time": True})
    finally:
        goes_on.set()
        first.join()

    assert error(second)[:2] == (429, "busy")
    assert second.headers["Retry-After"] == "5"
    assert statuses == [200]
    monkeypatch.undo()
    assert post("purge/", {"all_time": True}).status_code == 200


def test_a_fault_of_ours_is_told_by_the_log_alone(monkeypatch: Any, caplog: Any) -> None:
    def fail(**options: Any) -> Any:
        raise RuntimeError("hunter2")

    monkeypatch.setattr(operations, "stats", fail)

    assert error(get("status/")) == (500, "failed", "The request failed. The log has the reason.")
    assert "hunter2" in caplog.text


def test_under_gevent_what_needs_an_event_loop_says_so(monkeypatch: Any) -> None:
    ticked()
    monkeypatch.setattr("lambda_tasks.threads.are_greenlets", lambda: True)

    for path in ("tick/", "run/"):
        assert error(post(path))[:2] == (501, "not_here")
    assert get("health/").status_code == 200
