"""The admin's actions on records: what each asks, does, refuses and notes."""

import json
import logging
import uuid
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from django.contrib.admin.models import CHANGE, DELETION, LogEntry
from django.db.models import F
from django.test import Client
from django.utils.timezone import now

from lambda_tasks.admin import records as admin_records
from lambda_tasks.models import TaskRecord
from tests.admin_pages import (
    LIST,
    Page,
    answer,
    chosen,
    page_of,
    superuser,
    text_of,
    user_with,
)
from tests.admin_pages import record as make_record
from tests.admin_pages import unfinished as make_unfinished

pytestmark = pytest.mark.django_db(transaction=True)

ACTIONS = {
    "retry": "replay_taskrecord",
    "replay": "replay_taskrecord",
    "requeue": "replay_taskrecord",
    "cancel": "cancel_taskrecord",
    "delete_selected": "delete_taskrecord",
}


record = partial(make_record, queue="table")
unfinished = partial(make_unfinished, queue="table")
"""Records of a queue that is the table: nothing is sent."""


@pytest.fixture
def admin() -> Client:
    return superuser()


def _log(of: TaskRecord) -> list[tuple[str, int, str]]:
    entries = LogEntry.objects.filter(object_id=str(of.pk))
    return [(each.user.get_username(), each.action_flag, each.change_message) for each in entries]


def _statuses() -> list[str]:
    return sorted(TaskRecord.objects.values_list("status", flat=True))


def test_a_replay_is_a_new_invocation_with_the_same_arguments(admin: Client) -> None:
    done, failed = record(), record(status="FAILED", kwargs={"a": 2})
    waiting, unknown = unfinished(), record(task_name="tests.app.tasks.gone")
    form = chosen(done, failed, waiting, unknown, action="replay")

    asked = admin.post(LIST, form).content.decode()
    assert TaskRecord.objects.count() == 4
    page = answer(admin, LIST, form)

    for words in (
        "2 tasks will run once more, with the same arguments.",
        "1 of them has succeeded: what it did, it does again.",
        f"tests.app.tasks.add {done.pk} (SUCCESS)", "2 of those selected stay as they are:",
        f"{waiting}: it is QUEUED", f"{unknown}: ",
    ):  # fmt: skip
        assert words in asked
    assert "2 tasks were replayed." in page
    replays = TaskRecord.objects.filter(root_id__in=[done.pk, failed.pk])
    assert sorted((each.status, each.kwargs["a"]) for each in replays) == [
        ("QUEUED", 1),
        ("QUEUED", 2),
    ]
    replay = replays.get(root_id=done.pk)
    assert _log(done) == [("anna", CHANGE, f"Replayed as {replay.pk}.")]
    assert (_log(waiting), _log(unknown)) == ([], [])
    done.refresh_from_db()
    assert done.status == "SUCCESS"


def test_a_retry_is_the_same_invocation_again(admin: Client) -> None:
    failed = record(status="FAILED", n_retries=3, n_attempts=2, traceback="Traceback")
    cancelled, done = record(status="CANCELLED"), record()
    form = chosen(failed, cancelled, done, action="retry")

    asked = admin.post(LIST, form).content.decode()
    page = answer(admin, LIST, form)

    assert "2 tasks will start over." in asked
    assert f"{done}: it is SUCCESS" in asked
    assert "2 tasks start over." in page
    assert _statuses() == ["QUEUED", "QUEUED", "SUCCESS"]
    failed.refresh_from_db()
    assert (failed.status, failed.n_retries, failed.n_attempts) == ("QUEUED", 0, 0)
    assert _log(failed) == [("anna", CHANGE, "Retried.")]
    assert TaskRecord.objects.count() == 3


def test_cancel_says_how_many_run_and_stops_what_is_unfinished(admin: Client, caplog: Any) -> None:
    waiting, running, done = unfinished(), unfinished("RUNNING"), record()
    form = chosen(waiting, running, done, action="cancel")

    asked = admin.post(LIST, form).content.decode()
    assert _statuses() == ["QUEUED", "RUNNING", "SUCCESS"]
    with caplog.at_level(logging.INFO, "lambda_tasks"):
        page = answer(admin, LIST, form)

    assert "2 tasks will be cancelled." in asked
    assert "1 of them runs: what it does is rolled back." in asked
    assert "2 tasks were cancelled." in page
    assert _statuses() == ["CANCELLED", "CANCELLED", "SUCCESS"]
    assert _log(running) == [("anna", CHANGE, "Cancelled.")]
    assert f"{running}: Cancelled. By anna, in the admin." in caplog.text


def test_what_is_stuck_is_sent_again_and_nothing_else(admin: Client) -> None:
    stuck = unfinished(enqueued_at=now() - timedelta(hours=1), look_at=now() - timedelta(hours=1))
    recent = unfinished()
    form = chosen(stuck, recent, action="requeue")

    asked = admin.post(LIST, form).content.decode()
    page = answer(admin, LIST, form)

    assert f"{recent}: it is not stuck" in asked
    assert "1 task was sent again." in page
    assert (
        TaskRecord.objects.get(look_at__gt=F("enqueued_at") + timedelta(minutes=9)).pk == stuck.pk
    )
    assert (_log(stuck), _log(recent)) == ([("anna", CHANGE, "Sent again.")], [])


@pytest.mark.parametrize("status", ["QUEUED", "RUNNING"])
def test_what_may_still_run_is_not_deleted(admin: Client, status: str) -> None:
    may_run, done = unfinished(status), record()
    form = chosen(may_run, done, action="delete_selected")

    asked = admin.post(LIST, form).content.decode()
    page = answer(admin, LIST, form)

    assert "1 record will be deleted." in asked
    assert f"{may_run}: it is not finished: cancel it first" in asked
    assert "1 record was deleted." in page
    assert TaskRecord.objects.get().pk == may_run.pk
    assert _log(done) == [("anna", DELETION, "Deleted.")]
    for url in (f"{LIST}{may_run.pk}/delete/", f"{LIST}{may_run.pk}/change/"):
        assert admin.post(url, {"post": "yes"}).status_code == 403
    assert "Delete…" not in text_of(admin, page_of(may_run))


def test_a_record_that_begins_again_between_page_and_answer_is_not_deleted(
    admin: Client,
) -> None:
    failed = record(status="FAILED")
    asked = admin.post(LIST, chosen(failed, action="delete_selected")).content.decode()
    TaskRecord.objects.update(status="QUEUED", end_time=None)

    page = admin.post(LIST, Page(asked).fields, follow=True).content.decode()

    assert f"{failed}: it is not finished" in page
    assert TaskRecord.objects.get().pk == failed.pk


def test_what_is_confirmed_is_what_was_counted(admin: Client) -> None:
    old = record(status="FAILED")
    form = chosen(old, action="retry", select_across="1")
    asked = admin.post(f"{LIST}?status__exact=FAILED", form).content.decode()
    later = record(status="FAILED")

    admin.post(LIST, Page(asked).fields)

    later.refresh_from_db()
    assert TaskRecord.objects.get(status="QUEUED").pk == old.pk
    assert later.status == "FAILED"


def test_a_long_action_names_the_first_ten_and_takes_no_more_than_it_says(
    admin: Client, monkeypatch: Any
) -> None:
    records = [record(status="FAILED") for _ in range(14)]
    monkeypatch.setattr(admin_records.TaskRecordAdmin, "max_chosen", 12)
    form = chosen(*records, action="delete_selected", select_across="1")

    asked = admin.post(LIST, form).content.decode()
    answer(admin, LIST, form)

    assert "12 records will be deleted." in asked
    assert "and 2 more" in asked
    assert asked.count("(FAILED)") == 10
    assert "One action takes 12 at most." in asked
    assert TaskRecord.objects.count() == 2


def test_a_record_has_a_button_for_each_action_that_it_allows(admin: Client) -> None:
    shown = {
        status: text_of(admin, page_of(unfinished(status)))
        for status in ("QUEUED", "RUNNING", "SUCCESS", "FAILED", "CANCELLED", "RETRYING")
    }

    buttons = {
        status: {
            attributes["value"]
            for tag, attributes in Page(page).elements
            if tag == "button" and attributes.get("name") == "action"
        }
        for status, page in shown.items()
    }

    again, ended = {"retry"}, {"replay", "delete_selected"}
    assert buttons == {
        "QUEUED": {"cancel", "requeue"},
        "RUNNING": {"cancel", "requeue"},
        "SUCCESS": ended,
        "FAILED": ended | again,
        "CANCELLED": ended | again,
        "RETRYING": ended,
    }
    assert 'formaction="/admin/lambda_tasks/taskrecord/"' in shown["FAILED"]


# Who may do what


@pytest.mark.parametrize("action", ACTIONS)
def test_each_action_is_a_permission_of_its_own(action: str) -> None:
    permissions = {*ACTIONS.values(), "change_taskrecord", "view_payload_taskrecord"}
    client = user_with("view_taskrecord", *permissions - {ACTIONS[action]})
    objects = (
        record(status="FAILED"),
        unfinished(enqueued_at=now() - timedelta(hours=1), look_at=now() - timedelta(hours=1)),
    )
    before = list(TaskRecord.objects.order_by("pk").values())

    asked = client.post(LIST, chosen(*objects, action=action)).status_code
    client.post(LIST, chosen(*objects, action=action, confirmed="yes"))

    assert asked == 302
    assert list(TaskRecord.objects.order_by("pk").values()) == before
    assert not LogEntry.objects.exists()
    for each in objects:
        assert f'value="{action}"' not in text_of(client, page_of(each))
    assert f'value="{action}"' not in text_of(client, LIST)


def test_one_permission_is_enough_for_its_action() -> None:
    client, waiting = user_with("view_taskrecord", "cancel_taskrecord"), unfinished()

    answer(client, LIST, chosen(waiting, action="cancel"))

    assert _statuses() == ["CANCELLED"]
    assert _log(waiting) == [("reader", CHANGE, "Cancelled.")]


# Bad input


@pytest.mark.parametrize("action", ACTIONS)
def test_nothing_is_changed_by_a_get_or_a_forged_form(admin: Client, action: str) -> None:
    failed, waiting = record(status="FAILED"), unfinished()
    before = list(TaskRecord.objects.order_by("pk").values())
    known, yes = str(waiting.pk), {"action": action, "confirmed": "yes"}
    strange = str(uuid.uuid4())

    for url in (LIST, page_of(failed), f"{LIST}{failed.pk}/delete/", f"{LIST}{strange}/change/"):
        admin.get(url, {**yes, "_selected_action": known})
    for forged in (
        {"_selected_action": ["no-id"]},
        {"_selected_action": ["'; DROP TABLE"]},
        {"_selected_action": [strange]},
        {"_selected_action": [""]},
        {},
        {"_selected_action": [known], "chosen": "{"},
        {"_selected_action": [known], "chosen": '{"a": 1}'},
        {"_selected_action": [known], "chosen": '["no-id"]'},
        {"_selected_action": [known], "chosen": "[" * 100_000},
        {"_selected_action": [known], "chosen": json.dumps([strange])},
        {"_selected_action": [known], "chosen": "[]"},
    ):
        answered = admin.post(LIST, {**yes, **forged})
        assert answered.status_code in (200, 302, 400), forged

    assert list(TaskRecord.objects.order_by("pk").values()) == before
    assert not LogEntry.objects.exists()


def test_an_unknown_action_does_nothing(admin: Client) -> None:
    waiting = unfinished()

    admin.post(LIST, chosen(waiting, action="__init__", confirmed="yes"))

    assert _statuses() == ["QUEUED"]
