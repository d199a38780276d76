"""Workflows in the command and in the admin: what they show, and what they do."""

from typing import Any
from uuid import uuid4

import pytest
from django.test import Client

from lambda_tasks import operations
from lambda_tasks.models import TaskRecord, Workflow
from lambda_tasks.operations import workflows
from lambda_tasks.records.mapping import DROPPED
from lambda_tasks.testing import CapturedTasks, run_enqueued
from lambda_tasks.workflows import workflow
from tests.admin_pages import answer, chosen, superuser, text_of, user_with
from tests.app import flows
from tests.test_verbs import refused, verb

pytestmark = pytest.mark.django_db

WORKFLOWS = "/admin/lambda_tasks/workflow/"


@pytest.fixture(autouse=True)
def _nothing_has_run() -> None:
    flows.ran.clear()


@pytest.fixture
def failed(captured_tasks: CapturedTasks) -> Any:
    """A workflow whose first step has failed, and would succeed now."""
    flaky = flows.fail_until.step(name="flaky", times=1)
    run = workflow("order", flows.note.step(name="last").after(flaky)).execute_on_commit()
    run_enqueued(raise_failures=False)
    return run


@pytest.fixture
def running(captured_tasks: CapturedTasks) -> Any:
    first = flows.note.step(name="first")
    return started(workflow("import", flows.note.step(name="second").after(first)))


def started(definition: Any) -> Any:
    run = definition.execute_on_commit()
    assert run.status() == "RUNNING"
    return run


def page_of(run: Any) -> str:
    return f"{WORKFLOWS}{run.id}/change/"


# The command


def test_list_shows_the_newest_workflows_with_their_progress(failed: Any, running: Any) -> None:
    lines = verb("workflows", "list").output.splitlines()

    assert [str(running.id) in lines[0], str(failed.id) in lines[1]] == [True, True]
    assert "RUNNING" in lines[0]
    assert "import: 0 of 2 steps" in lines[0]
    assert "order: 1 of 2 steps, 1 failed" in lines[1]


def test_list_filters_by_status_name_and_time(failed: Any, running: Any) -> None:
    for words in (["--status", "failed"], ["--name", "order"]):
        (found,) = verb("workflows", "list", *words, "--json").of_kind("workflow")
        assert found["id"] == str(failed.id)
    assert verb("workflows", "list", "--until", "1h").code == 3
    assert len(verb("workflows", "list", "--since", "1h").output.splitlines()) == 2
    assert len(verb("workflows", "list", "--limit", "1").output.splitlines()) == 1
    assert "There is no status 'LOST'" in refused("workflows", "list", "--status", "LOST")
    assert "--limit takes a number" in refused("workflows", "list", "--limit", "0")


def test_show_tells_the_steps_by_task_and_names_the_failed_ones(failed: Any) -> None:
    shown = verb("workflows", "show", str(failed.id))

    assert "FAILED" in shown.output
    assert "WAITING          1  tests.app.flows.note" in shown.output
    assert "Flop: flaky" in shown.output
    objects = verb("workflows", "show", str(failed.id), "--json")
    (found,) = objects.of_kind("workflow")
    assert (found["done"], found["failed"], found["total"]) == (1, 1, 2)
    assert {each["status"]: each["count"] for each in objects.of_kind("steps")} == {
        "FAILED": 1, "WAITING": 1,
    }  # fmt: skip
    assert [each["kwargs"]["name"] for each in objects.of_kind("record")] == ["flaky"]
    assert verb("workflows", "show", str(uuid4())).code == 3
    assert "is not the id" in refused("workflows", "show", "none")


def test_cancel_cancels_those_that_have_not_ended(failed: Any, running: Any) -> None:
    planned = verb("workflows", "cancel", str(running.id), "--dry-run")
    assert "1 workflow would be cancelled" in planned.output
    assert running.status() == "RUNNING"

    done = verb(
        "workflows", "cancel", str(running.id), str(failed.id), str(uuid4()), "--yes", "--json"
    )

    assert [each["id"] for each in done.of_kind("changed")] == [str(running.id)]
    reasons = {each["reason"] for each in done.of_kind("skipped")}
    assert reasons == {"it is FAILED; RUNNING ones are cancelled", "there is no such workflow"}
    assert running.status() == "CANCELLED"
    assert verb("workflows", "cancel", str(running.id), "--yes").code == 3
    assert "Name workflows by ids or by a filter" in refused("workflows", "cancel", "--yes")


def test_what_could_not_be_retried_is_no_success_and_others_are_told_if_they_are_named(
    failed: Any, running: Any
) -> None:
    TaskRecord.objects.filter(workflow_id=failed.id).delete()

    done = verb("workflows", "retry", "--since", "1h", "--yes", "--json")

    assert done.code == 3
    ((id, reason),) = [(each["id"], each["reason"]) for each in done.of_kind("skipped")]
    assert id == str(failed.id)
    assert "can run again" in reason
    assert verb("workflows", "retry", str(running.id), "--yes", "--json").of_kind("skipped")


def test_no_ids_are_no_workflows(running: Any) -> None:
    assert workflows.cancel_workflows(ids=[]).done == []
    assert running.status() == "RUNNING"


def test_retry_lets_a_failed_workflow_go_on(failed: Any, running: Any) -> None:
    assert verb("workflows", "retry", "--status", "FAILED", "--dry-run").code == 0
    assert failed.status() == "FAILED"

    done = verb("workflows", "retry", "--name", "order", "--yes")
    run_enqueued()

    assert "1 workflow was retried." in done.output
    assert failed.status() == "SUCCESS"


def test_a_workflow_of_which_no_step_can_be_retried_is_named(failed: Any) -> None:
    TaskRecord.objects.filter(workflow_id=failed.id).update(kwargs=DROPPED)

    changes = operations.retry_workflows(ids=[failed.id])

    assert changes.done == []
    (why_not,) = changes.skipped.values()
    assert why_not == "none of its failed steps can run again: their secrets or records are gone"


def test_the_record_of_a_step_names_its_workflow(failed: Any) -> None:
    step = TaskRecord.objects.get(workflow_id=failed.id, status="FAILED")

    shown = verb("show", str(step.pk)).output

    assert f"workflow    {failed.id}" in shown
    (record,) = verb("show", str(step.pk), "--json").of_kind("record")
    assert record["workflow_id"] == str(failed.id)


# The admin


def test_the_list_shows_status_and_progress(failed: Any, running: Any) -> None:
    admin = superuser()

    page = text_of(admin, WORKFLOWS)

    for words in ("order", "import", ">FAILED<", ">RUNNING<", "1 / 2", "1 failed"):
        assert words in page
    assert str(running.id) not in text_of(admin, WORKFLOWS, status="FAILED")
    assert str(running.id) not in text_of(admin, WORKFLOWS, q=str(failed.id))
    assert str(running.id) in text_of(admin, WORKFLOWS, q="impo")


def test_a_page_shows_the_steps_and_cannot_be_saved(failed: Any) -> None:
    page = text_of(superuser(), page_of(failed))

    record = TaskRecord.objects.get(workflow_id=failed.id, status="FAILED")
    assert f"/admin/lambda_tasks/taskrecord/{record.pk}/change/" in page
    assert "Flop" in page
    assert 'name="_save"' not in page
    assert "Retry failed steps…" in page
    assert "Cancel…" not in page


def test_a_record_links_to_its_workflow(failed: Any) -> None:
    record = TaskRecord.objects.get(workflow_id=failed.id, status="FAILED")

    page = text_of(superuser(), f"/admin/lambda_tasks/taskrecord/{record.pk}/change/")

    assert page_of(failed) in page


def test_actions_ask_first_and_say_what_was_left_out(failed: Any, running: Any) -> None:
    admin = superuser()
    both = list(Workflow.objects.all())

    done = answer(admin, WORKFLOWS, chosen(*both, action="cancel"))

    assert "1 workflow was cancelled." in done
    assert running.status() == "CANCELLED"
    assert failed.status() == "FAILED"
    told = admin.post(WORKFLOWS, chosen(*both, action="cancel"), follow=True).content.decode()
    assert "it is FAILED; RUNNING ones are cancelled" in told

    answer(admin, WORKFLOWS, chosen(*both, action="retry"))
    run_enqueued()
    assert failed.status() == "SUCCESS"


@pytest.mark.parametrize("action", ["cancel", "retry"])
def test_each_action_takes_a_permission_of_its_own(failed: Any, running: Any, action: str) -> None:
    reader = user_with("view_workflow")
    form = chosen(*Workflow.objects.all(), action=action, confirmed="yes")

    assert "order" in text_of(reader, WORKFLOWS)
    assert "…</button>" not in text_of(reader, page_of(failed)) + text_of(reader, page_of(running))
    reader.post(WORKFLOWS, form, follow=True)
    assert (failed.status(), running.status()) == ("FAILED", "RUNNING")

    _allow(reader, f"{action}_workflow")
    reader.post(WORKFLOWS, form, follow=True)
    assert (failed.status(), running.status()) != ("FAILED", "RUNNING")


def _allow(client: Client, codename: str) -> None:
    from django.contrib.auth.models import Permission, User

    user = User.objects.get(username="reader")
    user.user_permissions.add(Permission.objects.get(codename=codename))
