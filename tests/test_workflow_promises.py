"""What workflows of other systems are complained about does not happen here."""

import json
from datetime import timedelta
from typing import Any

import pytest
from django.core.management import call_command
from django.utils.timezone import now

from lambda_tasks.models import TaskRecord, Workflow
from lambda_tasks.tasks import cleanup_task_records
from lambda_tasks.testing import CapturedTasks, run_enqueued, simulate
from lambda_tasks.workflows import group, workflow
from tests.app import flows
from tests.conftest import Handle, wake_up

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _nothing_has_run() -> None:
    flows.ran.clear()


def doubles(n: int) -> Any:
    return group(flows.double.step(number=number) for number in range(n))


def ran_once(*names: str) -> bool:
    return all(flows.ran[name] == 1 for name in names)


def records(run: Any, **having: Any) -> Any:
    return TaskRecord.objects.filter(workflow_id=run.id, **having)


def test_a_callback_is_called_when_all_members_end_in_one_event(handle: Handle, queue: str) -> None:
    members = group(flows.play.step(name=f"member {number}") for number in range(40))
    done = flows.note.step(name="callback").after(members)
    run = workflow("at once", done).execute_on_commit()

    ids = records(run, status="QUEUED").values_list("id", flat=True)
    assert handle(*(wake_up(id, flows.play.name) for id in ids)) == []

    assert records(run, task_name=flows.note.name).get().status == "QUEUED"


def test_a_join_waits_for_months(captured_tasks: CapturedTasks) -> None:
    slow = flows.note.step(name="slow")
    run = workflow("slow", flows.note.step(name="callback").after(slow)).execute_on_commit()
    captured_tasks[:]
    TaskRecord.objects.update(enqueued_at=now() - timedelta(days=200))
    Workflow.objects.update(created_at=now() - timedelta(days=200))

    cleanup_task_records(retention_days=1)
    run_enqueued()

    assert run.status() == "SUCCESS"


@pytest.mark.parametrize("n", [0, 1, 2])
def test_a_group_of_any_size_is_a_list_and_does_not_hang(
    captured_tasks: CapturedTasks, n: int
) -> None:
    run = workflow("list", flows.as_list.step(numbers=doubles(n).results)).execute_on_commit()

    run_enqueued()

    assert run.result(timeout=0) == [2 * number for number in range(n)]


def test_an_error_handler_is_called_for_a_group_within_a_group(
    captured_tasks: CapturedTasks,
) -> None:
    inner: Any = group([flows.double.step(number=1), flows.fail.step()])
    members: Any = [workflow("inner", inner), flows.double.step(number=2)]
    outer = group(members)
    body = flows.note.step(name="body").after(outer)
    run = workflow("nested", body.on_failure(flows.note.step(name="handler"))).execute_on_commit()

    run_enqueued(raise_failures=False)

    assert run.status() == "FAILED"
    assert (flows.ran["body"], flows.ran["handler"]) == (0, 1)


def test_messages_and_rows_do_not_grow_with_the_group(captured_tasks: CapturedTasks) -> None:
    def bytes_of(n: int) -> tuple[float, int]:
        joined: Any = doubles(n)
        for _ in range(5):
            joined = group([flows.add_up.step(numbers=joined.results)])
        last = flows.add_up.step(numbers=joined.results)
        run = workflow("five", last).execute_on_commit()
        bodies = [len(call.body) for call in captured_tasks]
        rows = [
            len(json.dumps([row["kwargs"], row["links"]]))
            for row in records(run).values("kwargs", "links")
        ]
        return sum(rows) / len(rows), max([*bodies, *rows])

    small, large = bytes_of(10), bytes_of(300)

    assert large[0] < 1.2 * small[0]
    assert large[1] < 1.2 * small[1]


def test_a_member_that_was_killed_too_often_does_not_hang_the_join(
    handle: Handle, queue: str
) -> None:
    members = group([flows.note.step(name="killed"), flows.note.step(name="member")])
    handler = flows.note.step(name="handler")
    body = flows.note.step(name="body").after(members).on_failure(handler)
    run = workflow("killed", body).execute_on_commit()
    killed = records(run, kwargs__name="killed")
    killed.update(n_attempts=1000)

    work_through(run, handle)

    assert killed.get().status == "FAILED"
    assert run.status() == "FAILED"
    assert records(run, kwargs__name="handler").get().status == "SUCCESS"


def test_a_retried_member_counts_once(captured_tasks: CapturedTasks) -> None:
    members = group(flows.play.step(name=f"member {n}", failures=n % 2) for n in range(4))
    body = flows.note.step(name="body").after(members)
    run = workflow("retried", body).execute_on_commit()

    run_enqueued()

    assert run.status() == "SUCCESS"
    assert ran_once("body", "member 0", "member 2")
    assert flows.ran["member 1"] == flows.ran["member 3"] == 2


@pytest.mark.parametrize("fault", ["crash", "duplicate"])
def test_a_redelivery_loses_and_doubles_nothing(captured_tasks: CapturedTasks, fault: Any) -> None:
    first = flows.note.step(name="first")
    members = group(flows.note.step(name=f"member {n}").after(first) for n in range(3))
    run = workflow("again", flows.note.step(name="last").after(members)).execute_on_commit()

    with simulate(fault):
        run_enqueued()

    assert run.status() == "SUCCESS"
    assert set(records(run).values_list("status", flat=True)) == {"SUCCESS"}
    assert records(run).count() == 5


def test_the_records_of_an_unfinished_workflow_are_not_cleaned_up(
    captured_tasks: CapturedTasks,
) -> None:
    members = group([flows.note.step(name="member"), flows.fail_until.step(name="late", times=1)])
    body = flows.note.step(name="body").after(members)
    run = workflow("kept", body).execute_on_commit()
    run_enqueued(raise_failures=False)
    long_ago = now() - timedelta(days=200)
    TaskRecord.objects.exclude(end_time=None).update(end_time=long_ago, enqueued_at=long_ago)

    cleanup_task_records(retention_days=30)
    assert records(run).count() == 3

    run.retry_failed()
    run_enqueued()
    assert run.status() == "SUCCESS"
    TaskRecord.objects.update(end_time=long_ago, enqueued_at=long_ago)
    Workflow.objects.update(created_at=long_ago, ended_at=long_ago)

    cleanup_task_records(retention_days=30)
    assert not records(run).exists()
    assert not Workflow.objects.filter(pk=run.id).exists()


def test_a_workflow_can_be_cancelled(captured_tasks: CapturedTasks) -> None:
    first = flows.note.step(name="first")
    run = workflow("cancelled", flows.note.step(name="last").after(first)).execute_on_commit()

    assert run.cancel()
    run_enqueued()

    assert run.status() == "CANCELLED"
    assert not flows.ran
    assert not run.cancel()


def work_through(run: Any, handle: Handle) -> None:
    """Deliver what is released, until nothing is."""
    for _ in range(50):
        queued = list(records(run, status="QUEUED").values_list("id", "task_name"))
        if not queued:
            return
        handle(*(wake_up(id, name) for id, name in queued))
    pytest.fail("it never ends")


def test_a_worker_runs_steps_that_take_results_from_a_database_queue() -> None:
    double = flows.double.using(queue="table")
    numbers = group(double.step(number=number) for number in range(40))
    total = flows.add_up.using(queue="table").step(
        numbers=numbers.results, plus=double.step(number=5).result
    )
    run = workflow("table", total).execute_on_commit()

    call_command("lambda_tasks", "worker", "--once", "--queue", "table", verbosity=0)

    assert run.result(timeout=0) == 2 * sum(range(40)) + 10
