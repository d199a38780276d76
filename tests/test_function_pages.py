"""Durable functions in admin and command: their steps, and how one goes on from one of them."""

import json
import time
import uuid
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client
from django.utils.timezone import now
from pydantic import SecretStr

from lambda_tasks.admin import function_steps
from lambda_tasks.core.durable import Checkpoint, Kind
from lambda_tasks.core.message import CALL_HEADER
from lambda_tasks.durable import DurableRun, steps
from lambda_tasks.models import StepCheckpoint, TaskRecord, Workflow
from lambda_tasks.records import checkpoints
from lambda_tasks.testing import CapturedTasks
from tests.admin_pages import LIST, Page, answer, record, superuser, text_of, user_with
from tests.app import durable
from tests.app.models import Effect
from tests.test_verbs import refused, verb

pytestmark = pytest.mark.django_db

GO_ON = "Go on from here"


@pytest.fixture
def admin() -> Client:
    return superuser()


def _function(*steps: tuple[Any, ...], **fields: Any) -> TaskRecord:
    """A function that has failed, whose steps are each a name, a kind, a value, and more."""
    id = uuid.uuid4()
    for number, (name, kind, value, *more) in enumerate(steps, 1):
        ended, error = (*more, None, None)[:2] if more else (now(), None)
        StepCheckpoint.objects.create(
            call_id=id, name=name, kind=kind, number=number, value=value, error=error,
            began_at=now() - timedelta(hours=1), ended_at=ended,
        )  # fmt: skip
    failed = {"status": "FAILED", "result": None, "headers": {CALL_HEADER: str(id)}, "root_id": id}
    return record(id=id, **failed | fields)


def _page(id: uuid.UUID) -> str:
    return f"{LIST}{id}/change/"


def _go_on(id: uuid.UUID) -> str:
    return f"{LIST}{id}/go-on/"


def _names(run: TaskRecord) -> list[str]:
    return [each.name for each in DurableRun(run.pk).steps()]


@pytest.fixture
def failed(captured_tasks: CapturedTasks) -> Any:
    """A function that has failed behind its first step, and would succeed now."""
    call = durable.repair.execute_on_commit()
    captured_tasks.run(raise_failures=False)
    Effect.objects.create(name="repaired")
    return call


# What is shown


def test_steps_are_shown_with_their_values_waits_and_times(
    captured_tasks: CapturedTasks, admin: Client
) -> None:
    call = durable.undo_both.execute_on_commit(waits=True)
    captured_tasks.run()

    page = text_of(admin, _page(call.id))

    for words in (
        "1. charge", "receipt 1", ">done<", "2. refund", "kept", "receipt&quot;: &quot;receipt 1",
        "approval", "for its signal", ">waits<", "When each ran or waited",
    ):  # fmt: skip
        assert words in page
    assert GO_ON not in page


def test_a_sleep_says_until_when_and_an_ended_function_waits_for_nothing(admin: Client) -> None:
    due = (now() + timedelta(days=14, minutes=1)).isoformat()
    parked = _function(("delivery", "sleep", due, None), status="QUEUED", end_time=None)
    cut_off = _function(("delivery", "sleep", due, None), status="CANCELLED")

    page = text_of(admin, _page(parked.pk))

    assert "in 2\N{NO-BREAK SPACE}weeks" in page
    assert ">waits<" in page
    assert "in 2\N{NO-BREAK SPACE}weeks" not in text_of(admin, _page(cut_off.pk))
    assert ">cut off<" in text_of(admin, _page(cut_off.pk))


def test_an_error_that_the_function_has_caught_is_shown(
    captured_tasks: CapturedTasks, admin: Client
) -> None:
    call = durable.catch.execute_on_commit()
    captured_tasks.run()

    page = text_of(admin, _page(call.id))

    assert "tests.app.graphs.Broken: not yet" in page
    assert DurableRun(call.id).steps()[0].error == "tests.app.graphs.Broken: not yet"


def test_a_workflow_shows_the_function_that_waits_for_it_and_both_link_each_other(
    captured_tasks: CapturedTasks, admin: Client
) -> None:
    call = durable.fulfil.execute_on_commit(order_id=7)
    captured_tasks.run()
    packing = Workflow.objects.get(call_id=call.id)
    last = function_steps.last_run(call.id)
    assert last is not None

    page = text_of(admin, f"/admin/lambda_tasks/workflow/{packing.pk}/change/")

    assert _page(last.pk) in page
    assert "receipt 7" in page
    assert f"/workflow/{packing.pk}/change/" in text_of(admin, _page(call.id))
    reader = user_with("view_workflow")
    unseen = text_of(reader, f"/admin/lambda_tasks/workflow/{packing.pk}/change/")
    assert "receipt 7" not in unseen
    assert _page(last.pk) not in unseen


def test_of_many_steps_the_last_ones_are_shown(admin: Client, monkeypatch: Any) -> None:
    monkeypatch.setattr(function_steps, "MAX_SHOWN", 3)
    function = _function(*((f"month {number}", "step", number) for number in range(5)))

    page = text_of(admin, _page(function.pk))

    assert "2 steps before these are not shown." in page
    assert "3. month 2" in page
    assert "2. month 1" not in page


# Who sees what


def test_names_values_and_errors_are_in_no_page_of_who_may_not_see_payloads() -> None:
    error = {"class": "app:Wrong", "args": ["an-error"], "attributes": {}}
    function = _function(
        ("a-name", "step", "a-value"), ("b-name", "step", None, now(), error),
        ("c-name", "on_failure", {"a": "an-argument"}, None),
    )  # fmt: skip
    client = user_with("view_taskrecord", "replay_taskrecord", "view_workflow")

    page = text_of(client, _page(function.pk))

    for word in ("a-name", "a-value", "an-error", "an-argument", GO_ON):
        assert word not in page
    assert ">done<" in page
    assert ">on_failure</code>" in page


def test_secrets_are_redacted_in_steps(
    captured_tasks: CapturedTasks, admin: Client, settings: Any
) -> None:
    call = durable.guarded.execute_on_commit(token=SecretStr("hush hush"))
    captured_tasks.run()
    assert "hush" not in text_of(admin, _page(call.id))

    error = {"class": "app:Wrong", "args": ["no swordfish"], "attributes": {}}
    function = _function(
        ("for swordfish", "step", {"of": "swordfish"}), ("b", "step", None, now(), error),
        kwargs={"password": "swordfish"},
    )  # fmt: skip
    assert text_of(admin, _page(function.pk)).count("swordfish") >= 4
    settings.LAMBDA_TASKS_REDACT = ["password"]

    asked = admin.post(_go_on(function.pk), {"step": "1"}).content.decode()

    assert "swordfish" not in text_of(admin, _page(function.pk)) + asked
    answer(admin, _go_on(function.pk), {"step": "1"})
    assert _names(function) == []


# Go on


def test_a_function_goes_on_from_a_step_once_it_is_confirmed(
    captured_tasks: CapturedTasks, admin: Client, failed: Any, caplog: Any
) -> None:
    caplog.set_level("INFO", logger="lambda_tasks")
    page = text_of(admin, _page(failed.id))
    buttons = [each for tag, each in Page(page).elements if each.get("name") == "step"]
    assert [(each["value"], each["formaction"]) for each in buttons] == [("1", _go_on(failed.id))]

    asked = admin.post(_go_on(failed.id), {"step": "1"}).content.decode()
    assert "1 step will be forgotten" in asked
    assert "<li>mail</li>" in asked
    assert DurableRun(failed.id).steps()

    done = answer(admin, _go_on(failed.id), {"step": "1"})
    assert "1 step was forgotten." in done
    captured_tasks.run()

    assert failed.result(timeout=5) == "repaired by last"
    assert LogEntry.objects.get().change_message == "Goes on from step 1: 1 forgotten."
    assert "Goes on from step 1: 1 forgotten. By anna, in the admin." in caplog.text


def test_only_what_is_confirmed_is_forgotten(admin: Client) -> None:
    function = _function(("a", "step", 1), ("b", "step", 2), ("c", "step", 3))
    fields = Page(admin.post(_go_on(function.pk), {"step": "2"}).content.decode()).fields
    assert json.loads(fields["chosen"]) == ["2", "3"]
    StepCheckpoint.objects.create(
        call_id=function.pk, name="d", kind="step", number=4, began_at=now(), ended_at=now()
    )

    asked = admin.post(_go_on(function.pk), fields).content.decode()

    assert "3 steps will be forgotten" in asked
    assert _names(function) == ["a", "b", "c", "d"]
    admin.post(_go_on(function.pk), Page(asked).fields)
    assert _names(function) == ["a"]


def test_it_does_not_go_on_behind_what_was_undone(
    captured_tasks: CapturedTasks, admin: Client
) -> None:
    call = durable.undo_both.execute_on_commit()
    captured_tasks.run(raise_failures=False)

    page = text_of(admin, _page(call.id))
    refused = admin.post(_go_on(call.id), {"step": "3", "confirmed": "yes"}, follow=True)

    buttons = [each["value"] for _, each in Page(page).elements if each.get("name") == "step"]
    assert buttons == ["1"]
    assert "has run" in page
    assert "has undone what was before it" in refused.content.decode()


def test_what_runs_or_is_unknown_does_not_go_on(admin: Client, failed: Any) -> None:
    unknown = admin.post(_go_on(failed.id), {"step": "9", "confirmed": "yes"}, follow=True)
    assert "has no step 9." in unknown.content.decode()
    assert admin.post(_go_on(failed.id), {"step": "x"}).status_code == 400
    assert admin.post(_go_on(record().pk), {"step": "1"}).status_code == 404
    assert admin.post(_go_on(uuid.uuid4()), {"step": "1"}).status_code == 404

    DurableRun(failed.id).retry_from("mail")
    again = admin.post(_go_on(failed.id), {"step": "1", "confirmed": "yes"}, follow=True)

    assert "has no step 1." in again.content.decode()
    assert GO_ON not in text_of(admin, _page(failed.id))
    assert not LogEntry.objects.exists()


def test_nothing_goes_on_by_a_get_or_an_answer_to_nothing(admin: Client, failed: Any) -> None:
    assert admin.get(_go_on(failed.id)).status_code == 302
    admin.post(_go_on(failed.id), {"step": "1", "confirmed": "yes"})

    assert TaskRecord.objects.get(pk=failed.id).status == "FAILED"
    assert DurableRun(failed.id).steps()


@pytest.mark.parametrize(
    "missing", ["view_taskrecord", "replay_taskrecord", "view_payload_taskrecord"]
)
def test_to_go_on_takes_each_of_its_permissions(missing: str, failed: Any) -> None:
    needed = {"view_taskrecord", "replay_taskrecord", "view_payload_taskrecord"}
    client = user_with(*needed - {missing})
    form = {"step": "1", "confirmed": "yes", "chosen": '["1"]'}

    assert client.post(_go_on(failed.id), form).status_code == 403
    assert Client().post(_go_on(failed.id), form).status_code == 302

    assert DurableRun(failed.id).steps()
    assert not LogEntry.objects.exists()


def test_the_command_lets_a_function_go_on_from_a_step(
    captured_tasks: CapturedTasks, failed: Any
) -> None:
    id = str(failed.id)
    planned = verb("retry", id, "--from-step", "mail", "--dry-run")
    assert "1 call would be retried" in planned.output
    assert DurableRun(failed.id).steps()

    assert "no step 'none'" in refused("retry", id, "--from-step", "none", "--yes")
    assert "the id of one" in refused("retry", "--status", "FAILED", "--from-step", "x", "--yes")
    assert "no durable function" in refused("retry", str(uuid.uuid4()), "--from-step", "x", "--yes")
    assert verb("retry", id, "--from-step", "mail", "--yes").code == 0
    assert verb("retry", id, "--from-step", "mail", "--yes", "--json").code == 3
    captured_tasks.run()

    assert failed.result(timeout=5) == "repaired by last"


# Times


def test_a_step_keeps_when_its_function_ran(
    captured_tasks: CapturedTasks, monkeypatch: Any
) -> None:
    clock = SimpleNamespace(offset=-100.0)
    clock.monotonic = lambda: time.monotonic() + clock.offset
    monkeypatch.setattr(steps, "time", clock)
    monkeypatch.setattr(durable, "mail", lambda *, text: setattr(clock, "offset", 0.0))
    call = durable.repair.execute_on_commit()

    captured_tasks.run(raise_failures=False)

    (step,) = DurableRun(call.id).steps()
    assert step.ended_at is not None
    assert timedelta(seconds=90) < step.ended_at - step.began_at < timedelta(seconds=200)


def test_a_step_that_is_written_late_has_its_own_times() -> None:
    call, ago = uuid.uuid4(), time.monotonic() - 1000
    late = Checkpoint(name="a", kind=Kind.STEP, number=1, ran=(ago, ago + 60))

    checkpoints.write(call, [late], is_secret=False)

    (step,) = DurableRun(call).steps()
    assert step.ended_at is not None
    assert timedelta(seconds=59) < step.ended_at - step.began_at < timedelta(seconds=90)
    assert now() - step.ended_at > timedelta(seconds=800)
