"""The dashboard in the admin: its pages, what they hide from whom, and its forms and actions."""

import html
import json
import re
import shlex
import time
import uuid
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.contrib.staticfiles.finders import find
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils.timezone import now

from lambda_tasks import operations
from lambda_tasks.admin import lineage, record_page, tracebacks
from lambda_tasks.context import SCHEDULE_HEADER
from lambda_tasks.core.message import UNDO_HEADER
from lambda_tasks.models import (
    DoctorReport,
    LastTick,
    QueueState,
    ScheduleState,
    TaskError,
    TaskRecord,
    Workflow,
)
from lambda_tasks.operations import dead_letter_counts
from lambda_tasks.records import reports
from lambda_tasks.records.figures import read_tick
from tests.admin_pages import (
    LIST,
    OVERVIEW,
    Page,
    answer,
    chosen,
    note_a_tick,
    page_of,
    record,
    superuser,
    text_of,
    unfinished,
    user_with,
)
from tests.test_verbs import verb

pytestmark = pytest.mark.django_db

TASKS = f"{LIST}tasks/"
QUEUES = "/admin/lambda_tasks/queuestate/"
LETTERS = f"{QUEUES}default/dead-letters/"
ADD = "tests.app.tasks.add"


@pytest.fixture
def admin() -> Client:
    return superuser()


def _error(**fields: Any) -> TaskError:
    at = now()
    return TaskError.objects.create(
        **{
            "id": uuid.uuid4(), "exception_class": "app.errors.Wrong",
            "message": "no room for a-text",
            "raised_in": "app/tasks.py in add", "task_name": ADD, "first_seen": at, "last_seen": at,
            **fields,
        }
    )  # fmt: skip


def _broken(error: TaskError, **fields: Any) -> TaskRecord:
    ended = now()
    return record(
        **{
            "status": "FAILED", "result": None, "error_id": error.pk, "broken_since": ended,
            "end_time": ended, "exception_class": error.exception_class, "queue": "table", **fields,
        }
    )  # fmt: skip


def _error_url(error: TaskError) -> str:
    return f"{LIST}errors/{error.pk}/"


def _all_pages(error: TaskError, shown: TaskRecord) -> list[str]:
    return [
        OVERVIEW, f"{OVERVIEW}?range=7d", TASKS, f"{TASKS}{ADD}/", _error_url(error), QUEUES,
        f"{QUEUES}table/change/", LIST, page_of(shown), f"{LIST}{shown.pk}/replay/",
        f"{LIST}trial/?id={shown.pk}", "/admin/lambda_tasks/",
    ]  # fmt: skip


# What is shown, and how


def test_every_page_obeys_a_strict_policy_and_has_its_landmarks(admin: Client) -> None:
    error = _error()
    failed = _broken(error)

    for url in _all_pages(error, failed):
        text = text_of(admin, url)
        page = Page(text)
        assert list(page.violations()) == [], url
        assert "lambda_tasks/admin.css" in text, url
        ids = [each["id"] for _, each in page.elements if each.get("id")]
        assert len(ids) == len(set(ids)), url
    for name in ("admin.css", "charts.css", "refresh.js"):
        assert find(f"lambda_tasks/{name}")


def test_the_overview_says_what_is_wrong_and_where_to_go(admin: Client) -> None:
    note_a_tick()
    error = _error()
    _broken(error)
    unfinished(queue="table", enqueued_at=now() - timedelta(hours=1), look_at=now())

    page = text_of(admin, OVERVIEW)

    said = (
        "Last tick", "Longest wait", "1 call is still broken", f"{LIST}?broken=yes",
        ">Wrong</a>", "no room for a-text", f"{QUEUES}table/change/", 'aria-current="page"',
    )  # fmt: skip
    assert [words for words in said if words not in page] == []
    assert page.count('role="img"') >= 3


def test_the_overview_says_that_its_figures_are_old(admin: Client) -> None:
    note_a_tick()
    assert "Counted " in text_of(admin, OVERVIEW)
    assert "lack what has ended since" not in text_of(admin, OVERVIEW)

    LastTick.objects.update(at=now() - timedelta(hours=2))

    assert "The figures were counted 2 h ago" in text_of(admin, OVERVIEW)


def test_a_refresh_is_only_the_part_that_changes(admin: Client) -> None:
    response = admin.get(OVERVIEW, headers={"X-Lambda-Tasks-Refresh": "part"})

    text = response.content.decode()
    assert "<html" not in text
    assert "lt-facts" in text
    assert "data-lt-refresh" in text_of(admin, OVERVIEW)


def test_runs_are_found_by_error_by_what_is_broken_and_by_workflow(admin: Client) -> None:
    error, other = _error(), _error(exception_class="app.errors.Other")
    broken, done, step = _broken(error), record(), record(workflow_id=uuid.uuid4())
    elsewhere = _broken(other)

    def shown(**query: str) -> set[uuid.UUID]:
        page = text_of(admin, LIST, **query)
        records = (broken, done, step, elsewhere)
        return {each.pk for each in records if f"{each.pk}/change/" in page}

    assert shown(broken="yes") == {broken.pk, elsewhere.pk}
    assert shown(error=str(error.pk)) == {broken.pk}
    assert shown(broken="yes", error=str(other.pk)) == {elsewhere.pk}
    assert shown(workflow=str(step.workflow_id)) == {step.pk}
    for bad in ("x", "\0"):
        assert admin.get(LIST, {"error": bad}, follow=True).status_code == 200


def test_the_list_shows_arguments_without_those_that_are_secret(
    admin: Client, settings: Any
) -> None:
    settings.LAMBDA_TASKS_REDACT = ["password"]
    record(kwargs={"order_id": 4711, "password": "swordfish", "long_note": "x" * 1000})

    page = text_of(admin, LIST)

    assert "order_id=4711" in page
    assert "swordfish" not in page
    assert "xxxx" not in page


@pytest.mark.parametrize(
    ("text", "items", "is_whole"),
    [
        ("{}", [], True),
        ('{"a": 1, "b": [2, {"c": "}"}]}', [("a", 1), ("b", [2, {"c": "}"}])], True),
        ('{"a": 1, "b": 12', [("a", 1)], False),
        ('{"a": 1, "b": "x', [("a", 1)], False),
        ('{"a": 1, "b', [("a", 1)], False),
        ('{"a": 1,', [("a", 1)], False),
        ('{"a": 1', [], False),
        ('{"a"', [], False),
    ],
)
def test_arguments_that_are_cut_off_are_read_as_far_as_they_go(
    text: str, items: list[Any], is_whole: bool
) -> None:
    assert record_page.leading_items(text) == (items, is_whole)


def test_frames_of_libraries_are_folded() -> None:
    text = (
        "Traceback (most recent call last):\n"
        '  File "/x/site-packages/lib/a.py", line 1, in a\n    library_one()\n'
        '  File "/x/site-packages/lib/b.py", line 2, in b\n    library_two()\n    ~~~^^\n'
        '  File "/srv/shop/tasks.py", line 3, in mine\n    my_own()\n'
        "shop.Wrong: <b>\n"
    )

    html = tracebacks.folded(text)

    folded = html[html.index("<details>") : html.index("</details>")]
    assert "2 frames of libraries" in folded
    assert "library_two()\n    ~~~^^" in folded
    assert "my_own" not in folded
    assert "my_own" in html
    assert "&lt;b&gt;" in html


def test_a_run_has_a_picture_of_its_life_and_texts_to_copy(admin: Client) -> None:
    first = record(status="RETRYING", result=None, enqueued_at=now() - timedelta(minutes=5))
    TaskRecord.objects.filter(pk=first.pk).update(root_id=first.pk)
    put_right = record(root_id=first.pk, retry_of=first.pk, n_retries=1)

    page = text_of(admin, page_of(first))

    assert "Put right by" in page
    assert page.count(f"{put_right.pk}/change/") >= 2
    assert f"{str(first.pk)[:8]} runs" in page
    assert f"{str(put_right.pk)[:8]} runs" in page
    assert f"lambda_tasks enqueue {ADD} --arguments" in page
    assert "filter invocation_id" in page


def test_the_lineage_is_a_tree_of_retries_with_replays_as_branches(admin: Client) -> None:
    first = record(status="RETRYING", enqueued_at=now() - timedelta(minutes=9))
    TaskRecord.objects.filter(pk=first.pk).update(root_id=first.pk)
    replay = record(root_id=first.pk, enqueued_at=now() - timedelta(minutes=8))
    retry = record(root_id=first.pk, retry_of=first.pk, n_retries=1)
    further = record(root_id=first.pk, retry_of=retry.pk, n_retries=1, n_continues=1)
    undo = record(root_id=first.pk, headers={UNDO_HEADER: True})

    tree = str(lineage.tree(first, "admin"))

    order = [tree.index(f"{each.pk}/change/") for each in (first, replay, undo, retry, further)]
    assert order == sorted(order)
    assert re.findall(r'<ul|</ul|(?<=lt-quiet">)[^<]+', tree) == [
        "<ul", "first call (this record)", "<ul", "replay", "compensations", "</ul", "retry",
        "goes on", "</ul",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "options"),
    [
        ({"queue": "table", "priority": -5}, ["--queue", "table", "--priority=-5"]),
        ({"queue": "fifo", "group_key": "it's"}, ["--queue", "fifo", "--group-key", "it's"]),
        ({"queue": "default"}, []),
    ],
)
def test_the_command_of_a_run_makes_the_same_call(
    admin: Client, fields: dict[str, Any], options: list[str]
) -> None:
    task = "tests.app.django_tasks.add"
    made = record(task_name=task, backend="default", args=[20], kwargs={"b": 22}, **fields)

    page = html.unescape(text_of(admin, page_of(made)))

    (command,) = re.findall(r">(python manage.py lambda_tasks enqueue [^<]*)</pre>", page)
    words = shlex.split(command)
    assert words[4:] == [task, "--arguments", '{"a": 20, "b": 22}', *options]
    assert verb(*words[3:], "--dry-run").code == 0


def test_a_run_links_to_its_log_lines(admin: Client, settings: Any) -> None:
    shown = record()
    assert "console.aws" not in text_of(admin, page_of(shown))
    settings.LAMBDA_TASKS_LOG_GROUP = "/aws/lambda/shop"
    settings.LAMBDA_TASKS_AWS = {"region_name": "eu-central-1"}

    page = html.unescape(text_of(admin, page_of(shown)))

    (link,) = re.findall(r'href="(https://[^"]*logs-insights[^"]*)"', page)
    assert link.startswith("https://eu-central-1.console.aws.amazon.com/cloudwatch/home?region=eu-")
    assert "~source~(~'*2faws*2flambda*2fshop))" in link
    assert f"filter*20invocation_id*20*3d*20*22{shown.pk}*22" in link
    assert shown.end_time is not None
    end = shown.end_time + timedelta(minutes=5)
    assert f"~(end~'{end:%Y-%m-%dT%H*3a%M*3a%S}.000Z~start~'" in link


def test_a_run_that_waits_says_for_what(admin: Client) -> None:
    operations.pause_queue("table", by="berta", reason="")
    paused, limited = unfinished(queue="table"), unfinished(limit_key="a-digest")
    step, free = unfinished("WAITING", workflow_id=uuid.uuid4(), step=1), unfinished()

    assert "its queue, which berta has paused" in text_of(admin, page_of(paused))
    assert "a place of its limit" in text_of(admin, page_of(limited))
    assert "steps of its workflow that come before" in text_of(admin, page_of(step))
    assert "Waits for" not in text_of(admin, page_of(free))


def test_the_run_of_a_schedule_links_to_it_and_back(admin: Client) -> None:
    made = record(headers={SCHEDULE_HEADER: "nightly"})

    assert "/admin/lambda_tasks/schedulestate/nightly/change/" in text_of(admin, page_of(made))
    ScheduleState.objects.create(
        name="nightly", task_name=ADD, rule="x", rule_at=now(), last_due=now()
    )
    schedule = text_of(admin, "/admin/lambda_tasks/schedulestate/nightly/change/")
    assert f"{LIST}?schedule=nightly" in schedule


def test_a_workflow_is_refreshed_until_it_ends(admin: Client) -> None:
    address = "/admin/lambda_tasks/workflow/"
    flow = Workflow.objects.create(name="order", n_steps=1, created_at=now(), results=[])
    record(workflow_id=flow.pk, step=0, status="RUNNING")
    headers = {"X-Lambda-Tasks-Refresh": "part"}
    assert 'data-lt-refresh="picture/"' in text_of(admin, f"{address}{flow.pk}/change/")

    part = admin.get(f"{address}{flow.pk}/change/picture/", headers=headers)
    assert "RUNNING" in part.content.decode()
    assert 'role="group"' in part.content.decode()
    assert "<html" not in part.content.decode()
    stranger = user_with("view_taskrecord")
    assert stranger.get(f"{address}{flow.pk}/change/picture/", headers=headers).status_code == 403

    Workflow.objects.update(status="SUCCESS", ended_at=now())
    assert admin.get(f"{address}{flow.pk}/change/picture/", headers=headers).status_code == 302
    assert "data-lt-refresh" not in text_of(admin, f"{address}{flow.pk}/change/")


def test_only_a_run_that_goes_on_is_refreshed(admin: Client) -> None:
    running, done = unfinished("RUNNING", start_time=now()), record()
    headers = {"X-Lambda-Tasks-Refresh": "part"}

    part = admin.get(f"{page_of(running)}picture/", headers=headers)
    over = admin.get(f"{page_of(done)}picture/", headers=headers)

    assert "RUNNING" in part.content.decode()
    assert "<html" not in part.content.decode()
    assert over.status_code == 302
    assert "data-lt-refresh" in text_of(admin, page_of(running))
    assert "data-lt-refresh" not in text_of(admin, page_of(done))


# Who sees what


def test_anonymous_and_unpermitted_requests_reach_nothing() -> None:
    error = _error()
    failed = _broken(error)
    urls = [
        *_all_pages(error, failed)[:-1],
        LETTERS, f"{page_of(failed)}picture/",
        "/admin/lambda_tasks/schedulestate/x/backfill/",
    ]  # fmt: skip

    stranger, nobody = Client(), user_with()

    for url in urls:
        for method in ("get", "post"):
            answered = getattr(stranger, method)(url)
            assert (answered.status_code, "/login/" in answered.url) == (302, True), url
            refused = getattr(nobody, method)(url)
            assert refused.status_code in (302, 403, 404), (url, refused.status_code)
            assert "Wrong" not in refused.content.decode(), url
    assert not LogEntry.objects.exists()


SECRET_WORDS = ("a-text", "an-argument", "a-result", "a-traceback")


@pytest.mark.parametrize("may_see", [False, True])
def test_payloads_are_in_no_page_of_who_may_not_see_them(may_see: bool) -> None:
    more = ["view_payload_taskrecord"] if may_see else []
    client = user_with("view_taskrecord", "view_queuestate", "replay_taskrecord", *more)
    error = _error()
    failed = _broken(error, kwargs={"a": "an-argument"}, traceback="x\na-traceback")
    done = record(kwargs={"a": "an-argument"}, result="a-result")

    urls = [OVERVIEW, _error_url(error), f"{TASKS}{ADD}/", LIST, page_of(failed), page_of(done)]
    text = "".join(text_of(client, url) for url in urls)

    assert {word for word in SECRET_WORDS if word in text} == (
        set(SECRET_WORDS) if may_see else set()
    )


def test_the_links_are_those_of_the_pages_that_one_may_see() -> None:
    page = text_of(user_with("view_workflow"), "/admin/lambda_tasks/workflow/")

    assert 'aria-current="page">Workflows' in page
    assert OVERVIEW not in page
    assert QUEUES not in page


@pytest.mark.parametrize(
    ("url", "form", "missing"),
    [
        (f"{TASKS}{ADD}/", {"argument-a": "1", "argument-b": "2"}, "run_taskrecord"),
        (QUEUES, {"action": "pause", "_selected_action": "table"}, "pause_queuestate"),
        (LETTERS, {"action": "redrive", "_selected_action": "x"}, "redrive_queuestate"),
        (LETTERS, {"action": "redrive_all", "confirmed": "yes"}, "redrive_queuestate"),
        (LETTERS, {"action": "purge", "_selected_action": "x"}, "purge_queuestate"),
        ("ERROR", {"action": "acknowledge"}, "replay_taskrecord"),
        ("ERROR", {"action": "retry"}, "replay_taskrecord"),
        ("REPLAY", {"argument-a": "1"}, "run_taskrecord"),
        ("REPLAY", {"argument-a": "1"}, "view_payload_taskrecord"),
    ],
)  # fmt: skip
def test_each_action_needs_its_own_permission(url: str, form: dict[str, str], missing: str) -> None:
    permissions = {
        "view_taskrecord", "view_payload_taskrecord", "replay_taskrecord", "run_taskrecord",
        "cancel_taskrecord", "delete_taskrecord", "view_queuestate", "pause_queuestate",
        "redrive_queuestate", "purge_queuestate",
    }  # fmt: skip
    client = user_with(*permissions - {missing})
    error = _error()
    failed = _broken(error, kwargs={"a": 1, "b": 2})
    url = url.replace("ERROR", _error_url(error)).replace("REPLAY", f"{LIST}{failed.pk}/replay/")

    assert client.post(url, form).status_code == 403
    assert TaskRecord.objects.count() == 1
    assert not QueueState.objects.exists()
    assert not LogEntry.objects.exists()


# Errors: all of them, or five first


@pytest.mark.django_db(transaction=True)
def test_all_that_is_broken_by_an_error_is_retried_with_its_number_first(admin: Client) -> None:
    error, other = _error(), _error(exception_class="app.errors.Other")
    broken = [_broken(error) for _ in range(12)]
    kept = _broken(other)

    asked = admin.post(_error_url(error), {"action": "retry"}).content.decode()
    fields = Page(asked).fields
    admin.post(LIST, fields)

    assert "12 tasks will start over." in asked
    assert "and 2 more" in asked
    assert asked.count("(FAILED)") == 10
    assert TaskRecord.objects.filter(status="QUEUED").count() == 12
    kept.refresh_from_db()
    assert kept.status == "FAILED"
    assert LogEntry.objects.filter(object_id__in=[str(each.pk) for each in broken]).count() == 12


@pytest.mark.django_db(transaction=True)
def test_five_are_tried_first_and_then_the_rest(admin: Client) -> None:
    error = _error()
    for _ in range(8):
        _broken(error)
    fields = Page(admin.post(_error_url(error), {"action": "retry"}).content.decode()).fields

    tried = admin.post(LIST, {**fields, "first": "5"})

    assert tried.status_code == 200
    assert TaskRecord.objects.filter(status="QUEUED").count() == 5
    page = tried.content.decode()
    assert page.count("lt-badge lt-queued") == 5
    assert "Now the other 3" in page
    assert list(Page(page).violations()) == []

    rest = {**Page(page).fields, "action": "retry"}
    asked = admin.post(LIST, rest).content.decode()
    assert "3 tasks will start over." in asked
    admin.post(LIST, Page(asked).fields)
    assert TaskRecord.objects.filter(status="QUEUED").count() == 8


def test_what_is_acknowledged_is_no_longer_broken(admin: Client) -> None:
    error = _error()
    failed, done = _broken(error), record()
    form = chosen(failed, done, action="acknowledge")

    page = answer(admin, LIST, form)

    assert "1 failure was acknowledged." in page
    failed.refresh_from_db()
    assert (failed.status, failed.broken_since) == ("FAILED", None)
    assert LogEntry.objects.get().change_message == "Acknowledged."


# Forms made from signatures


@pytest.mark.django_db(transaction=True)
def test_a_task_is_run_by_a_form_made_from_its_signature(admin: Client) -> None:
    url = f"{TASKS}{ADD}/"

    page = text_of(admin, url)
    refused = admin.post(url, {"argument-a": "many", "argument-b": "2"}).content.decode()
    empty = admin.post(url, {"sent": "yes"}).content.decode()

    assert 'type="number" name="argument-a"' in page
    assert 'id="id_argument-a_error"' in refused
    assert "Field required" in empty or "required" in empty
    assert not TaskRecord.objects.exists()

    gone_to = admin.post(url, {"argument-a": "1", "argument-b": "2"})

    called = TaskRecord.objects.get()
    assert (called.kwargs, called.status) == ({"a": 1, "b": 2}, "QUEUED")
    assert gone_to.headers["Location"] == page_of(called)
    assert LogEntry.objects.get().change_message == "Enqueued."


@pytest.mark.django_db(transaction=True)
def test_a_replay_changes_only_the_arguments_that_were_changed(admin: Client) -> None:
    failed = record(status="FAILED", kwargs={"a": 1, "b": 2}, queue="table")
    url = f"{LIST}{failed.pk}/replay/"

    page = text_of(admin, url)
    wrong = admin.post(url, {"argument-a": "", "argument-b": "2"}).content.decode()
    admin.post(url, {"argument-a": "1", "argument-b": "40"})

    assert 'value="2"' in page
    assert f"{failed} (FAILED)" in page
    assert "This argument is required." in wrong
    replay = TaskRecord.objects.exclude(pk=failed.pk).get()
    assert (replay.kwargs, replay.root_id) == ({"a": 1, "b": 40}, failed.pk)
    entry = LogEntry.objects.get()
    assert entry.object_id == str(failed.pk)
    assert "Changed arguments: b." in entry.change_message


# Queues


def test_a_queue_is_paused_and_resumed_with_a_reason(admin: Client) -> None:
    form = {"action": "pause", "_selected_action": ["table", "default", "unknown"]}

    asked = admin.post(QUEUES, form).content.decode()
    page = answer(admin, QUEUES, form, reason="the shop moves")

    assert "2 queues will be paused." in asked
    assert "2 queues were paused." in page
    states = operations.queue_states()
    assert {name for name, each in states.items() if each.is_paused} == {"table", "default"}
    assert (states["table"].changed_by, states["table"].reason) == ("anna", "the shop moves")
    entries = LogEntry.objects.values_list("object_id", "change_message")
    assert set(entries) == {(name, "Paused. the shop moves") for name in ("table", "default")}
    shown = text_of(admin, f"{QUEUES}table/change/")
    assert "Paused by anna" in shown
    assert "Resume" in shown

    again = admin.post(QUEUES, form).content.decode()
    assert "it is so already" in again
    answer(admin, QUEUES, {**form, "action": "resume"})
    assert not any(each.is_paused for each in operations.queue_states().values())


def test_several_queues_are_chosen_on_their_list_and_each_has_its_entry(
    admin: Client, settings: Any
) -> None:
    operations.pause_queue("fifo", by="ben", reason="before")
    page = Page(text_of(admin, QUEUES))
    boxes = [each for _, each in page.elements if each.get("form") == "lt-choice"]
    assert {each["value"] for each in boxes} == settings.LAMBDA_TASKS_QUEUES.keys()
    assert {each["name"] for each in boxes} == {"_selected_action"}
    actions = [each["value"] for _, each in page.elements if each.get("name") == "action"]
    assert actions == ["pause", "resume"]
    assert list(page.violations()) == []
    form = {"action": "pause", "_selected_action": ["table", "default", "fifo"]}

    asked = admin.post(QUEUES, form).content.decode()
    assert "2 queues will be paused." in asked
    assert "fifo: it is so already" in asked
    assert not LogEntry.objects.exists()
    answer(admin, QUEUES, form, reason="the shop moves")

    states = operations.queue_states()
    assert {name: (each.is_paused, each.changed_by) for name, each in states.items()} == {
        "table": (True, "anna"), "default": (True, "anna"), "fifo": (True, "ben")
    }  # fmt: skip
    entries = LogEntry.objects.order_by("object_id").values_list("object_id", "change_message")
    assert list(entries) == [(name, "Paused. the shop moves") for name in ("default", "table")]


def test_boxes_are_for_those_who_may_pause_and_something_must_be_chosen(admin: Client) -> None:
    viewer = user_with("view_queuestate")
    page = text_of(viewer, QUEUES)
    assert "lt-choice" not in page
    assert 'name="action"' not in page
    form = {"action": "pause", "_selected_action": ["table", "default"]}
    assert viewer.post(QUEUES, form | {"confirmed": "yes"}).status_code == 403

    told = admin.post(QUEUES, {"action": "pause"}, follow=True).content.decode()

    assert "Choose at least one queue first." in told
    assert "lt-choice" not in text_of(admin, OVERVIEW)
    assert "lt-choice" not in text_of(admin, f"{QUEUES}table/change/")
    assert operations.queue_states() == {}


def test_a_queue_shows_what_the_settings_say_of_it(admin: Client, settings: Any) -> None:
    url = "http://127.0.0.1:9/000000000000/jobs"
    queues = {"default": {"queue_url": url, "rate": "10/m"}, "table": {"database": True}}
    settings.LAMBDA_TASKS_QUEUES = settings.LAMBDA_TASKS_QUEUES | queues

    page = text_of(admin, f"{QUEUES}default/change/")

    said = (url, "SQSQueue", "one each 6.0 s", "900")
    assert [words for words in said if words not in page] == []
    assert "DatabaseQueue" in text_of(admin, f"{QUEUES}table/change/")
    assert "job-queue/heavy" in text_of(admin, f"{QUEUES}heavy/change/")


def test_a_queue_that_is_not_in_the_settings_has_no_page(admin: Client) -> None:
    assert admin.get(f"{QUEUES}unknown/change/").status_code == 404
    assert admin.get(f"{QUEUES}unknown/dead-letters/").status_code == 404


# The doctor


def _finding(id: str, severity: str = "error", **fields: Any) -> dict[str, Any]:
    return {
        "id": id, "severity": severity, "is_checked": True, "where": "queue table",
        "found": f"{id} is wrong", "expected": "as it should be", "why": "it matters",
        "fix": f"mend {id}", "template": "", "is_fixable": False, **fields,
    }  # fmt: skip


def _keep(*findings: dict[str, Any], **fields: Any) -> None:
    reports.keep(
        **{
            "findings": findings, "n_findings": len(findings), "ignored": [], "queues": {}, **fields
        }
    )  # fmt: skip


@pytest.mark.parametrize("has_ticked", [False, True])
def test_what_the_doctor_has_found_is_on_the_overview_with_its_fix(
    admin: Client, has_ticked: bool
) -> None:
    if has_ticked:
        note_a_tick()
    _keep(
        _finding("tick.age", where="here"), _finding("queue.delay", "warning"),
        _finding("queue.tls", "info"), _finding("logs.missing", is_checked=False, where="here"),
        ignored=["alarm"],
    )  # fmt: skip

    page = text_of(admin, OVERVIEW)

    said = (
        "The doctor has found errors.", "Looked at ", "1 error, 1 warning, 1 hint",
        "tick.age is wrong", "as it should be", "mend tick.age", "mend queue.delay",
        "What could not be checked", "here: logs.missing is wrong", "Left out: alarm.",
    )  # fmt: skip
    assert [words for words in said if words not in page] == []
    assert "may have changed" not in page
    assert list(Page(page).violations()) == []

    DoctorReport.objects.update(at=now() - timedelta(days=2))
    assert "2 days ago" in text_of(admin, OVERVIEW)
    assert "may have changed" in text_of(admin, OVERVIEW)


@pytest.mark.parametrize("has_ticked", [False, True])
def test_a_report_stays_when_aws_answers_nothing_and_the_page_says_why(
    admin: Client, has_ticked: bool
) -> None:
    if has_ticked:
        note_a_tick()
    unread = _finding("aws.silent", where="here")
    _keep(unread, failure="no credentials")
    _keep(unread, _finding("queue.tls"), failure="no <credentials>")
    page = text_of(admin, OVERVIEW)
    assert "queue.tls is wrong" in page, "no report before it had answers"
    assert "tried again" not in page

    _keep(_finding("queue.delay"))
    _keep(unread, failure="no <network>")
    _keep(unread, failure="no <credentials>")

    for url in (OVERVIEW, f"{QUEUES}table/change/"):
        page = text_of(admin, url)
        assert "queue.delay is wrong" in page
        assert "aws.silent" not in page
        assert "The doctor tried again " in page
        assert "no &lt;credentials&gt;" in page

    _keep(_finding("queue.tls"))

    page = text_of(admin, OVERVIEW)
    assert "queue.tls is wrong" in page
    assert "tried again" not in page


def test_a_page_says_that_nobody_has_asked_the_doctor(admin: Client) -> None:
    for url in (OVERVIEW, f"{QUEUES}table/change/"):
        page = text_of(admin, url)
        assert "Nobody has asked the doctor yet" in page
        assert "manage.py lambda_tasks doctor" in page


def test_a_queue_shows_how_sqs_has_it_and_what_puts_it_right(admin: Client) -> None:
    different = {"attribute": "VisibilityTimeout", "live": 30, "wanted": 1818}
    unset: dict[str, Any] = {"attribute": "Policy", "live": None, "wanted": {"Statement": []}}
    pair = [
        {"name": "jobs", "n_attributes": 7, "differences": [different, unset]},
        {"name": "jobs-dlq", "n_attributes": 5, "differences": []},
    ]
    _keep(
        _finding("queue.delay"), _finding("queue.tls", where="queue tables"),
        _finding("mapping.state", where="mapping of queue table to function f"),
        queues={"table": pair},
    )  # fmt: skip

    page = text_of(admin, f"{QUEUES}table/change/")

    said = (
        "2 of 7 attributes of jobs in SQS are not as recommended", "VisibilityTimeout",
        "<code>30</code>", "<code>1818</code>", "not set", "All 5 attributes of jobs-dlq",
        "manage.py lambda_tasks queues ensure table", "queue.delay is wrong", "mapping.state",
    )  # fmt: skip
    assert [words for words in said if words not in page] == []
    assert "queue.tls" not in page
    assert "2 warnings of the doctor" in text_of(admin, QUEUES)
    assert "All 5 attributes" not in text_of(admin, f"{QUEUES}other/change/")


def test_the_doctor_tells_only_those_who_may_hear_it() -> None:
    _keep(_finding("queue.delay"))
    urls = (OVERVIEW, QUEUES, f"{QUEUES}table/change/")
    client = user_with("view_taskrecord", "view_queuestate")

    without = "".join(text_of(client, url) for url in urls)
    User.objects.get().user_permissions.add(Permission.objects.get(codename="view_doctorreport"))
    others = "".join(text_of(client, url) for url in urls)

    assert "doctor" not in without.lower()
    assert others.count("queue.delay is wrong") == 2


def test_dead_letters_are_counted_by_queue_and_lead_to_them(
    admin: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letter_counts._Last, "at_s", time.monotonic())
    monkeypatch.setattr(dead_letter_counts._Last, "counts", {"default": 3, "other": 0})

    page = text_of(admin, OVERVIEW)

    assert page.count(f'href="{LETTERS}"') == 2, "in the strip, and in the row of the queue"
    monkeypatch.setattr(dead_letter_counts._Last, "counts", {"default": 3, "other": 1})
    assert text_of(admin, OVERVIEW).count(f'href="{LETTERS}"') == 1
    assert f'href="{LETTERS}"' in text_of(admin, QUEUES)


@pytest.mark.parametrize("has_ticked", [False, True])
def test_the_lists_of_queues_show_which_are_paused(admin: Client, has_ticked: bool) -> None:
    if has_ticked:
        note_a_tick()
    for name in ("table", "default", "other"):
        operations.pause_queue(name, by="ben")
    operations.resume_queue("other", by="ben")

    for url in (OVERVIEW, QUEUES):
        assert text_of(admin, url).count('<span class="lt-badge lt-cancelled">paused</span>') == 2


@pytest.mark.parametrize("has_ticked", [False, True])
def test_many_paused_queues_are_all_known_however_long_their_names_are(has_ticked: bool) -> None:
    if has_ticked:
        note_a_tick()
    names = {f"{number:02}-{'x' * 200}" for number in range(40)}
    QueueState.objects.bulk_create(QueueState(name=each, is_paused=True) for each in names)
    QueueState.objects.create(name="resumed")
    if connection.vendor == "mysql":
        with connection.cursor() as cursor:  # MySQL's own default, by which it cuts off texts
            cursor.execute("SET SESSION group_concat_max_len = 1024")

    with CaptureQueriesContext(connection) as statements:
        tick = read_tick(with_report=True)

    assert tick.paused == names
    assert len(statements) == (1 if has_ticked else 4)


def test_the_overview_asks_the_database_as_little_as_it_promises(admin: Client) -> None:
    note_a_tick()
    _keep(_finding("queue.delay"))
    text_of(admin, OVERVIEW)

    with CaptureQueriesContext(connection) as statements:
        text_of(admin, OVERVIEW)

    assert len(statements) < 10


def test_a_task_that_only_its_runs_know_is_marked_as_gone(admin: Client) -> None:
    record(task_name="shop.tasks.gone")
    note_a_tick()

    page = text_of(admin, TASKS)

    assert page.count("gone from the code") == 1
    assert "shop.tasks.gone" in page


def test_a_forged_form_changes_nothing(admin: Client) -> None:
    for url, form in (
        (QUEUES, {}),
        (QUEUES, {"action": "__init__"}),
        (QUEUES, {"action": "pause", "confirmed": "yes", "chosen": "{"}),
        (QUEUES, {"action": "pause", "confirmed": "yes", "chosen": json.dumps(["unknown"])}),
        (QUEUES, {"action": "pause", "confirmed": "yes", "chosen": json.dumps([["table"]])}),
        (f"{LIST}errors/{uuid.uuid4()}/", {"action": "delete_selected"}),
        (LETTERS, {"limit": "all"}),
        (LETTERS, {"action": "redrive", "confirmed": "yes", "chosen": "{"}),
        (f"{LIST}trial/?id=x", {}),
    ):
        assert admin.post(url, form).status_code in (200, 302, 400), (url, form)

    assert not QueueState.objects.exists()
    assert not LogEntry.objects.exists()
