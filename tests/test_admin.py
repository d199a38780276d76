"""The admin's list of records, and a record's page: what they show, find and hide."""

import uuid
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.staticfiles.finders import find
from django.db import connection
from django.db.models import Model
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils.timezone import now

from lambda_tasks.admin import change_list
from lambda_tasks.admin.search import beginning
from lambda_tasks.context import SCHEDULE_HEADER
from lambda_tasks.models import TaskError, TaskRecord
from lambda_tasks.records.tables import RunProgress, RunState
from tests.admin_pages import (
    LIST,
    Page,
    chosen,
    page_of,
    record,
    superuser,
    text_of,
    unfinished,
    user_with,
)

pytestmark = pytest.mark.django_db


@pytest.fixture
def admin() -> Client:
    return superuser()


def _shown(page: str, *records: TaskRecord) -> list[TaskRecord]:
    return [each for each in records if f"{each.pk}/change/" in page]


def test_the_list_shows_what_ran_and_how(admin: Client) -> None:
    record()
    record(status="FAILED", result=None, traceback="Traceback\napp.errors.Wrong: what was wrong")
    unfinished(run_after=now() + timedelta(minutes=40), priority=7)
    running = unfinished("RUNNING")
    RunProgress.objects.create(
        record=running, shown_at=now(), progress={"done": 40, "total": 99, "text": "pages"}
    )

    page = text_of(admin, LIST)

    for words in (
        "tests.<wbr>app.<wbr>tasks.", "SUCCESS", "FAILED", "1.500 s", "Wrong: what was wrong",
        "due in 39", "priority 7", 'value="40" max="99"', "40 / 99 pages",
    ):  # fmt: skip
        assert words in page


class ReadsRecordsElsewhere:
    """A router that sends reads of records to a replica, which has nothing yet."""

    def db_for_read(self, model: type[Model], **hints: object) -> str | None:
        return "replica" if model.__module__.startswith("lambda_tasks") else None


def test_the_pages_read_no_replica(admin: Client, settings: Any) -> None:
    shown = record()
    settings.DATABASE_ROUTERS = [ReadsRecordsElsewhere()]

    assert _shown(text_of(admin, LIST, q=str(shown.pk), status__exact="SUCCESS"), shown)
    assert admin.get(page_of(shown)).status_code == 200


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"status__exact": "FAILED"}, "failed"),
        ({"status__exact": "QUEUED"}, "queued"),
        ({"queue__exact": "other"}, "other"),
        ({"task_name__exact": "tests.app.tasks.leave_effect"}, "name"),
        ({"backend__exact": "at_once"}, "backend"),
        ({"priority": "high"}, "urgent"),
        ({"enqueued_at__lt": "2026-01-01 00:00:00+00:00"}, "old"),
        ({"q": "tenant-7"}, "argument"),
        ({"q": "a=of tenant-7"}, "argument"),
        ({"q": "number=47"}, "numbered"),
        ({"q": "app.wrong"}, "failed"),
        ({"schedule": "nightly/1"}, "scheduled"),
        ({"q": "leave_eff"}, "name"),
        ({"q": "00000000-0000-0000-0000-000000000007"}, "by_id"),
        ({"q": "no such thing"}, None),
        ({"status__exact": "NONE"}, None),
    ],
    ids=str,
)
def test_filters_and_search_find_what_they_name(
    admin: Client, query: dict[str, str], found: str | None
) -> None:
    records = {
        "failed": record(status="FAILED", exception_class="app.Wrong"),
        "numbered": record(kwargs={"number": 47}),
        "number": record(kwargs={"number": 471}),
        "scheduled": record(headers={SCHEDULE_HEADER: "nightly/1"}),
        "queued": unfinished(),
        "other": record(queue="other"),
        "backend": record(backend="at_once"),
        "urgent": record(priority=5),
        "old": record(enqueued_at=now().replace(year=2025)),
        "argument": record(kwargs={"a": "of tenant-7"}),
        "name": record(task_name="tests.app.tasks.leave_effect"),
        "by_id": record(id=uuid.UUID(int=7)),
    }

    page = text_of(admin, LIST, **query)

    shown = {name for name, each in records.items() if _shown(page, each)}
    assert shown == ({found} if found else set())


def test_the_filters_offer_what_the_project_has(admin: Client) -> None:
    page = text_of(admin, LIST, task_name__exact="tests.app.gone")

    for choice in (
        "status__exact=RETRYING", "queue__exact=heavy", "backend__exact=at_once", "priority=low",
        "task_name__exact=tests.app.tasks.add", "task_name__exact=tests.app.gone",
        "task_name__exact=tests.app.django_tasks.add", "since=24h",
    ):  # fmt: skip
        assert choice in page


def test_the_filter_by_time_goes_back_from_now(admin: Client) -> None:
    new, old = record(), record(enqueued_at=now() - timedelta(hours=2))

    assert _shown(text_of(admin, LIST, since="1h"), new, old) == [new]
    assert _shown(text_of(admin, LIST, since="24h"), new, old) == [new, old]
    page = text_of(admin, LIST, since="1h", status__exact="SUCCESS")
    assert _shown(page, new, old) == [new]


def test_the_last_errors_can_be_chosen_without_their_texts() -> None:
    at = now()
    error = TaskError.objects.create(
        id=uuid.uuid4(), exception_class="app.errors.Wrong", message="a-text",
        raised_in="app/tasks.py in add", task_name="x", first_seen=at, last_seen=at,
    )  # fmt: skip

    page = text_of(user_with("view_taskrecord"), LIST)

    assert f"error={error.pk}" in page
    assert "Wrong (app/tasks.py in add)" in page
    assert "a-text" not in page


def test_an_argument_is_found_only_by_who_may_see_it() -> None:
    shown = record(kwargs={"number": 47})

    assert not _shown(text_of(user_with("view_taskrecord"), LIST, q="number=47"), shown)


@pytest.mark.parametrize(
    "query",
    [
        {"before": "yesterday"}, {"before": "2026-01-01T00:00:00"}, {"before": "~"},
        {"before": "2026-01-01T00:00:00+00:00~7"}, {"priority": "huge"}, {"queue__exact": "\0"},
        {"since": "x"}, {"schedule": "\0"}, {"q": "a=\0"}, {"q": "="}, {"q": "a="},
        {"p": "999"}, {"p": "x"}, {"o": "99"}, {"o": "x"}, {"q": "\0"}, {"q": "%"}, {"q": "-" * 40},
    ],
    ids=str,
)  # fmt: skip
def test_a_bad_address_shows_a_list_all_the_same(admin: Client, query: dict[str, str]) -> None:
    record()

    response = admin.get(LIST, query, follow=True)

    assert response.status_code == 200
    assert b"task record" in response.content


# In an effort that does not grow


def _bulk(n: int, **fields: Any) -> list[TaskRecord]:
    """Records of which three are enqueued at each moment."""
    start = now() - timedelta(hours=1)
    return TaskRecord.objects.bulk_create(
        TaskRecord(
            **{
                "task_name": "tests.app.tasks.add", "kwargs": {}, "status": "SUCCESS",
                "enqueued_at": start + timedelta(seconds=number // 3), **fields,
            }
        )
        for number in range(n)
    )  # fmt: skip


def _pages(client: Client, **query: str) -> Iterator[str]:
    """The list, and what its links lead to: first its other pages, then the older ones."""
    url: str | None = LIST
    page_number = 1
    while url is not None:
        response = client.get(url, query | {"p": str(page_number)} if "?" not in url else None)
        yield response.content.decode()
        changes = response.context["cl"]
        if page_number < changes.paginator.num_pages:
            page_number += 1
            url = LIST + changes.get_query_string({"p": page_number})
        else:
            page_number = 1
            older = changes.older_url()
            url = None if older is None else LIST + older


@pytest.mark.parametrize(
    "query",
    [{}, {"status__exact": "SUCCESS"}, {"q": "tasks.add"}, {"queue__exact": "default"}],
    ids=str,
)
def test_the_links_to_older_records_lead_to_each_once(
    admin: Client, monkeypatch: Any, query: dict[str, str]
) -> None:
    monkeypatch.setattr(change_list, "MAX_LISTED", 4)
    monkeypatch.setattr(change_list, "LOOKED_AT", 7)
    records = _bulk(20)

    pages = list(_pages(admin, **query))

    assert sorted(each.pk for page in pages for each in _shown(page, *records)) == sorted(
        each.pk for each in records
    )
    assert len(pages) >= 4
    assert "more than 4 task records" in pages[0]


def test_what_no_index_finds_is_looked_for_among_the_newest(
    admin: Client, monkeypatch: Any
) -> None:
    monkeypatch.setattr(change_list, "LOOKED_AT", 7)
    old = record(status="FAILED", enqueued_at=now() - timedelta(days=1))
    _bulk(20)

    first, *others = _pages(admin, status__exact="FAILED")

    assert not _shown(first, old)
    assert "among 7 that were looked at" in first
    assert [page for page in others if _shown(page, old)]
    assert _shown(text_of(admin, LIST, q=str(old.pk)[:8]), old)


@pytest.mark.parametrize(
    "query",
    [
        {}, {"status__exact": "FAILED"}, {"status__exact": "QUEUED"}, {"q": "needle"}, {"o": "4"},
        {"queue__exact": "other"}, {"task_name__exact": "tests.app.tasks.add"}, {"q": "deadbeef"},
        {"enqueued_at__gte": "2026-01-01 00:00:00+00:00"}, {"priority": "low"}, {"all": ""},
    ],
    ids=str,
)  # fmt: skip
def test_no_statement_of_the_list_reads_the_whole_table(
    admin: Client, query: dict[str, str]
) -> None:
    _bulk(60)
    running = unfinished("RUNNING", id=uuid.UUID("deadbeef-cafe-4000-8000-000000000000"))

    with CaptureQueriesContext(connection) as captured:
        assert admin.get(LIST, query).status_code == 200

    table = TaskRecord._meta.db_table
    statements = [each["sql"] for each in captured if f'"{table}"' in each["sql"].replace("`", '"')]
    assert statements
    assert len(statements) <= 5
    assert not [sql for sql in statements if " LIMIT " not in sql and str(running.pk) not in sql]
    if "status__exact" in query:
        by_index = [sql for sql in statements if "IS NOT NULL" in sql and "look_at" in sql]
        assert bool(by_index) is (query["status__exact"] == "QUEUED")


@pytest.mark.skipif(connection.vendor != "postgresql", reason="its plans are read here")
def test_the_list_and_the_beginning_of_an_id_are_read_from_an_index(admin: Client) -> None:
    _bulk(60)
    newest = TaskRecord.objects.order_by("-enqueued_at", "id")[:50]
    begun = beginning(TaskRecord.objects.all(), "deadbeef")

    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off")
    plans = [newest.explain(), begun.explain()]

    assert "taskrecord_enqueued" in plans[0]
    assert f"{TaskRecord._meta.db_table}_pkey" in plans[1]
    assert "Filter" not in plans[1]


def test_the_id_that_the_list_shows_is_found(admin: Client) -> None:
    sought = record(id=uuid.UUID("deadbeef-cafe-4000-8000-000000000000"))
    others = [record(id=uuid.UUID(f"deadbee{end}-cafe-4000-8000-000000000000")) for end in "e0"]
    named = record(kwargs={"a": "deadbeef0"})

    for term in ("deadbeef", " DEADBEEF-CAFE ", "deadbeefcafe4"):
        assert _shown(text_of(admin, LIST, q=term), sought, named, *others) == [sought]
    assert _shown(text_of(admin, LIST, q="deadbeef0"), sought, named, *others) == [named]


def test_a_whole_id_finds_what_followed_from_its_call(admin: Client) -> None:
    first = record(status="RETRYING")
    retry = record(root_id=first.pk, retry_of=first.pk)

    assert _shown(text_of(admin, LIST, q=str(first.pk)), first, retry) == [first, retry]


# A record's page


def test_a_record_can_be_read_and_not_changed(admin: Client) -> None:
    shown = record(kwargs={"html": "<script>alert(1)</script>"}, headers={"tenant": "books"})
    RunState.objects.create(record=shown, attempt=1, state={"page": 7})

    text = text_of(admin, page_of(shown))

    assert "&lt;script&gt;alert(1)" in text
    assert "<script>alert(1)" not in text
    assert "<textarea" not in text
    for words in ("books", "&quot;page&quot;: 7", "1.500 s"):
        assert words in text
    assert admin.get(f"{LIST}add/").status_code == 403


def test_a_record_shows_who_runs_it_until_when_and_how_far_it_is(admin: Client) -> None:
    running = unfinished(
        "RUNNING", worker_ids="first-worker\nsecond-worker\n", n_attempts=2, priority=-3,
        lease_until=now() + timedelta(minutes=9, seconds=50), run_after=now() - timedelta(hours=2),
        queue="other", group_key="customer-7", backend="default",
    )  # fmt: skip
    RunProgress.objects.create(
        record=running, shown_at=now(), progress={"done": 3, "text": "files"}
    )

    text = text_of(admin, page_of(running))

    for words in (
        "second-worker", "first-worker", "in 9", "2\N{NO-BREAK SPACE}hours ago", "3 files", "-3",
        "other", "customer-7",
    ):  # fmt: skip
        assert words in text
    assert text.index("second-worker") < text.index("first-worker")


def test_the_lineage_is_linked_and_a_retry_shows_the_error_before_it(admin: Client) -> None:
    first = record(
        status="RETRYING", exception_class="app.Wrong", traceback="Traceback\napp.Wrong: the cause"
    )
    TaskRecord.objects.filter(pk=first.pk).update(root_id=first.pk)
    retry = unfinished(root_id=first.pk, retry_of=first.pk, n_retries=1)
    replay = record(root_id=first.pk)
    stranger = record()

    text = text_of(admin, page_of(retry))

    assert _shown(text, first, retry, replay, stranger) == [first, retry, replay]
    assert "app.Wrong: the cause" in text
    assert "after 1 retry" in text
    assert "retry (this record)" in text
    assert "replay" in text
    assert "Lineage" not in text_of(admin, page_of(stranger)) or "first call" not in text_of(
        admin, page_of(stranger)
    )


def test_the_page_does_not_show_from_what_the_id_of_a_retry_follows(admin: Client) -> None:
    running = unfinished("RUNNING", claim_token=uuid.uuid4(), lease_until=now())

    assert str(running.claim_token) not in text_of(admin, page_of(running))


def test_what_is_secret_by_now_is_redacted_though_its_row_is_older(
    admin: Client, settings: Any
) -> None:
    shown = record(
        kwargs={"password": "swordfish"}, result="for swordfish", status="SUCCESS",
        exception_class="app.Wrong", traceback="Traceback\napp.Wrong: no swordfish",
    )  # fmt: skip
    assert "swordfish" in text_of(admin, page_of(shown))

    settings.LAMBDA_TASKS_REDACT = ["password"]

    assert "swordfish" not in text_of(admin, page_of(shown))


def test_a_record_whose_module_can_not_be_imported_is_shown(
    admin: Client, monkeypatch: Any
) -> None:
    def fail(name: str, **options: Any) -> None:
        raise SyntaxError(name)

    monkeypatch.setattr("lambda_tasks.registry.resolve", fail)

    assert "SUCCESS" in text_of(admin, page_of(record()))


# Who may see what


PAYLOADS = ("an-argument", "a-result", "a-traceback", "a-state", "a-header")


@pytest.mark.parametrize("may_see", [False, True])
def test_payloads_are_shown_to_who_may_see_them(may_see: bool) -> None:
    client = user_with("view_taskrecord", *(["view_payload_taskrecord"] if may_see else []))
    done = record(
        kwargs={"a": "an-argument"}, result="a-result", headers={"a": "a-header"},
        args=["an-argument"],
    )  # fmt: skip
    RunState.objects.create(record=done, attempt=1, state="a-state")
    failed = record(
        status="FAILED", result=None, traceback="x\napp.Wrong: a-traceback",
        exception_class="app.Wrong",
    )  # fmt: skip

    pages = [text_of(client, LIST), *(text_of(client, page_of(each)) for each in (done, failed))]

    with CaptureQueriesContext(connection) as captured:
        text_of(client, LIST)
    assert not [each for each in captured if f"{failed.pk}" in each["sql"]]
    found = {word for word in PAYLOADS if word in "".join(pages)}
    assert found == (set(PAYLOADS) if may_see else set())
    assert all("Wrong" in pages[number] for number in (0, 2))
    assert bool(_shown(text_of(client, LIST, q="an-argum"), done)) is may_see


@pytest.mark.parametrize("permission", ["view_taskrecord", "change_taskrecord"])
def test_nobody_can_ask_for_what_the_page_does_not_show(permission: str) -> None:
    record(secrets="gAAAA")
    client = user_with(permission)

    for lookup in (
        "secrets__startswith", "traceback__regex", "kwargs__token__startswith", "result__contains",
        "task_name__regex", "status__in", "claim_token", "worker_ids__contains",
    ):  # fmt: skip
        assert client.get(LIST, {lookup: "x"}).status_code == 400, lookup


@pytest.mark.parametrize("permission", ["view_taskrecord", "change_taskrecord"])
def test_a_record_can_not_be_saved(permission: str) -> None:
    client, shown = user_with(permission), record()

    page = text_of(client, page_of(shown))
    saved = client.post(page_of(shown), {"_save": "Save"})

    assert 'name="_save"' not in page
    assert saved.status_code == 403


def test_who_has_no_permission_sees_no_list_and_no_record() -> None:
    client, shown = user_with(), record()

    for url in (LIST, page_of(shown), f"{LIST}{shown.pk}/history/"):
        assert client.get(url).status_code == 403, url
    assert Client().get(LIST).status_code == 302


# How it looks


def test_no_page_breaks_a_strict_policy(admin: Client) -> None:
    shown = record(traceback="Traceback", status="FAILED")
    pages = [
        text_of(admin, LIST),
        text_of(admin, page_of(shown)),
        admin.post(LIST, chosen(shown, action="replay")).content.decode(),
        admin.post(LIST, chosen(shown, action="delete_selected")).content.decode(),
    ]

    for page in pages:
        assert list(Page(page).violations()) == []
        assert "lambda_tasks/admin.css" in page
    assert find("lambda_tasks/admin.css")
