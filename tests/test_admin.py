"""The admin's list of records, through its pages."""

import uuid
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.contrib.staticfiles.finders import find
from django.db.models import Model
from django.test import Client
from django.urls import reverse
from django.utils.timezone import now

from lambda_tasks.local import LocalSqs
from lambda_tasks.models import TaskRecord
from tests.conftest import bodies_in, kwargs_of

pytestmark = pytest.mark.django_db(transaction=True)

LIST = "/admin/lambda_tasks/taskrecord/"


def _record(**fields: Any) -> TaskRecord:
    return TaskRecord.objects.create(
        **{
            "task_name": "tests.app.tasks.add",
            "kwargs": {"a": 1},
            "status": "SUCCESS",
            "result": 3,
            "enqueued_at": now(),
            "start_time": now(),
            "end_time": now() + timedelta(seconds=1.5),
            **fields,
        }
    )


@pytest.fixture
def admin(admin_user: User) -> Client:
    client = Client()
    client.force_login(admin_user)
    return client


def _page(client: Client, **query: str) -> str:
    response = client.get(LIST, query)
    assert response.status_code == 200, response.status_code
    return response.content.decode()


def test_the_list_shows_what_ran_and_how(admin: Client) -> None:
    _record()
    _record(status="FAILED", result=None, traceback="Traceback\nValueError: what was wrong")

    page = _page(admin)

    for words in ("tests.app.tasks.add", "SUCCESS", "FAILED", "1.5", "ValueError: what was wrong"):
        assert words in page


class ReadsRecordsElsewhere:
    """A router that sends reads of records to a replica, which has nothing yet."""

    def db_for_read(self, model: type[Model], **hints: object) -> str | None:
        return "replica" if model is TaskRecord else None


def test_the_pages_read_no_replica(admin: Client, settings: Any) -> None:
    record = _record()
    settings.DATABASE_ROUTERS = [ReadsRecordsElsewhere()]

    assert "tests.app.tasks.add" in _page(admin)
    assert admin.get(f"{LIST}{record.pk}/change/").status_code == 200


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"status__exact": "FAILED"}, "failed"),
        ({"queue__exact": "other"}, "other"),
        ({"q": "tenant-7"}, "argument"),
        ({"q": "leave_eff"}, "name"),
        ({"q": "00000000-0000-0000-0000-000000000007"}, "by_id"),
        ({"q": "no such thing"}, None),
    ],
)
def test_filters_and_search_find_what_they_name(
    admin: Client, query: dict[str, str], found: str | None
) -> None:
    records = {
        "failed": _record(status="FAILED"),
        "other": _record(queue="other"),
        "argument": _record(kwargs={"a": "of tenant-7"}),
        "name": _record(task_name="tests.app.tasks.leave_effect"),
        "by_id": _record(id=uuid.UUID(int=7)),
    }

    page = _page(admin, **query)

    shown = {name for name, record in records.items() if f"{record.id}/change/" in page}
    assert shown == ({found} if found else set())


def test_a_record_can_be_read_and_not_changed(admin: Client) -> None:
    record = _record(kwargs={"html": "<script>alert(1)</script>"})

    page = admin.get(reverse("admin:lambda_tasks_taskrecord_change", args=[record.id]))

    text = page.content.decode()
    assert "&lt;script&gt;alert(1)" in text
    assert "<script>alert(1)" not in text
    assert "<textarea" not in text
    assert admin.get(f"{LIST}add/").status_code == 403


def test_the_page_does_not_show_from_what_the_id_of_a_retry_follows(admin: Client) -> None:
    record = _record(status="RUNNING", claim_token=uuid.uuid4(), lease_until=now())

    page = admin.get(reverse("admin:lambda_tasks_taskrecord_change", args=[record.id]))

    assert str(record.claim_token) not in page.content.decode()


def test_replay_enqueues_a_new_invocation_with_the_same_arguments(
    admin: Client, sqs: LocalSqs, queue: str
) -> None:
    record, unknown = _record(), _record(task_name="tests.app.tasks.gone")

    chosen = {"action": "replay", "_selected_action": [str(record.id), str(unknown.id)]}
    asked = admin.post(LIST, chosen).content.decode()
    assert TaskRecord.objects.count() == 2
    assert "2 tasks will run once more, with the same arguments." in asked
    assert "2 of them have succeeded: what they did, they do again." in asked
    assert f"tests.app.tasks.add {record.id} (SUCCESS)" in asked
    response = admin.post(LIST, chosen | {"confirmed": "yes"}, follow=True)

    (message,) = bodies_in(sqs, queue)
    assert kwargs_of(message) == {"a": 1}
    assert message["invocation_id"] != str(record.id)
    replayed = TaskRecord.objects.get(id=message["invocation_id"])
    assert (replayed.status, replayed.root_id) == ("QUEUED", record.id)
    text = response.content.decode()
    assert "1 task was replayed." in text
    assert "tests.app.tasks.gone" in text
    record.refresh_from_db()
    assert record.status == "SUCCESS"


def _user_with(*permissions: str) -> Client:
    reader = User.objects.create_user("reader", is_staff=True)
    reader.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client = Client()
    client.force_login(reader)
    return client


@pytest.mark.parametrize("more", [[], ["change_taskrecord"], ["replay_taskrecord"]], ids=str)
def test_to_replay_is_a_permission_of_its_own_and_leaves_a_trace(
    sqs: LocalSqs, queue: str, more: list[str]
) -> None:
    client = _user_with("view_taskrecord", *more)
    record = _record()

    page = _page(client)
    chosen = {"action": "replay", "_selected_action": [str(record.id)], "confirmed": "yes"}
    client.post(LIST, chosen)

    may_replay = more == ["replay_taskrecord"]
    sent = bodies_in(sqs, queue)
    assert ("Replay selected tasks" in page) is may_replay
    assert len(sent) == may_replay
    log = LogEntry.objects.filter(object_id=str(record.id))
    assert [(each.user.get_username(), each.change_message) for each in log] == [
        ("reader", f"Replayed as {each['invocation_id']}.") for each in sent
    ]


@pytest.mark.parametrize("permission", ["view_taskrecord", "change_taskrecord"])
@pytest.mark.parametrize(
    "lookup",
    [
        "secrets__startswith", "traceback__regex", "kwargs__token__startswith", "result__contains",
        "task_name__regex", "status__in", "claim_token", "worker_ids__contains",
    ],
)  # fmt: skip
def test_nobody_can_ask_for_what_the_page_does_not_show(permission: str, lookup: str) -> None:
    _record(secrets="gAAAA")

    assert _user_with(permission).get(LIST, {lookup: "x"}).status_code == 400


@pytest.mark.parametrize("permission", ["view_taskrecord", "change_taskrecord"])
def test_a_record_can_not_be_saved(permission: str) -> None:
    client, record = _user_with(permission), _record()
    url = reverse("admin:lambda_tasks_taskrecord_change", args=[record.id])

    page = client.get(url)
    saved = client.post(url, {"_save": "Save"})

    assert page.status_code == 200
    assert 'name="_save"' not in page.content.decode()
    assert saved.status_code == 403


@pytest.mark.parametrize("status", ["QUEUED", "RUNNING"])
def test_what_may_still_run_can_not_be_deleted(admin: Client, status: str) -> None:
    unfinished, finished = _record(status=status, end_time=None), _record()
    chosen = {
        "action": "delete_selected",
        "_selected_action": [str(unfinished.id), str(finished.id)],
        "post": "yes",
    }

    page = admin.get(reverse("admin:lambda_tasks_taskrecord_change", args=[unfinished.id]))
    admin.post(
        reverse("admin:lambda_tasks_taskrecord_delete", args=[unfinished.id]), {"post": "yes"}
    )
    admin.post(LIST, chosen)

    assert "Delete" not in page.content.decode()
    assert TaskRecord.objects.count() == 2
    admin.post(LIST, chosen | {"_selected_action": [str(finished.id)]})
    assert TaskRecord.objects.get().id == unfinished.id


def test_the_id_that_the_list_shows_is_found(admin: Client) -> None:
    record = _record(id=uuid.UUID("deadbeef-cafe-4000-8000-000000000000"))
    others = [_record(id=uuid.UUID(f"deadbee{end}-cafe-4000-8000-000000000000")) for end in "e0"]
    named = _record(kwargs={"a": "deadbeef"})

    for term in ("deadbeef", "DEADBEEF-CAFE", "deadbeefcafe4"):
        page = _page(admin, q=term)
        assert str(record.id) in page
        assert not any(str(other.id) in page for other in others)
    assert str(named.id) in _page(admin, q="deadbeef")


def test_the_pages_have_no_inline_styles_for_a_strict_policy(admin: Client) -> None:
    record = _record(traceback="Traceback")
    chosen = {"action": "replay", "_selected_action": [str(record.id)]}
    detail = admin.get(reverse("admin:lambda_tasks_taskrecord_change", args=[record.id]))

    for page in (
        _page(admin),
        detail.content.decode(),
        admin.post(LIST, chosen).content.decode(),
    ):
        assert " style=" not in page
        assert "<style" not in page
    assert "lambda_tasks/admin.css" in _page(admin)
    assert find("lambda_tasks/admin.css")


def test_a_long_replay_names_the_first_ten(admin: Client) -> None:
    records = [_record(status="FAILED") for _ in range(12)]
    chosen = {"action": "replay", "_selected_action": [str(each.id) for each in records]}

    page = admin.post(LIST, chosen).content.decode()

    assert "12 tasks will run once more" in page
    assert "and 2 more" in page
    assert page.count("(FAILED)") == 10
    assert "have succeeded" not in page
