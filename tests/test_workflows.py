"""Workflows: chains, groups, and any graph of them."""

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection, transaction
from django.utils import timezone
from pydantic import SecretStr

from lambda_tasks import hooks, operations, runtime
from lambda_tasks.core import graphs as core_graphs
from lambda_tasks.hooks import beside
from lambda_tasks.models import TaskRecord, Workflow, WorkflowJoin
from lambda_tasks.records import workflows as workflow_records
from lambda_tasks.tasks import cleanup_task_records
from lambda_tasks.testing import capture_tasks
from lambda_tasks.workflows import (
    TaskGroup,
    WorkflowRun,
    WorkflowStatus,
    add_steps,
    group,
    step,
    workflow,
)
from tests.app import graphs
from tests.app.models import Effect
from tests.conftest import AMPLE_S


def _effects() -> list[str]:
    return list(Effect.objects.order_by("pk").values_list("name", flat=True))


def _run(flow: Any, *, raise_failures: bool = True) -> WorkflowRun:
    with capture_tasks() as captured:
        run: WorkflowRun = flow.execute_on_commit()
        captured.run(raise_failures=raise_failures)
    return run


def test_a_chain_runs_step_by_step_and_passes_results_by_reference(db: None) -> None:
    paid = graphs.charge.step(order_id=1, cents=500)
    mailed = graphs.send_receipt.step(order_id=1, receipt=paid.result)

    with capture_tasks() as captured:
        run = workflow("order", mailed).execute_on_commit()
        waiting = TaskRecord.objects.get(task_name=mailed.label)
        assert (waiting.status, waiting.look_at) == ("WAITING", None)
        assert run.status() == "RUNNING"
        assert run.progress() == (0, 2, 0)
        captured.run()

    assert _effects() == ["charge 1", "mail 1 receipt 1 of 500"]
    assert run.status() is WorkflowStatus.SUCCESS
    assert run.progress() == (2, 2, 0)
    assert run.result(timeout=5) == len("receipt 1 of 500")
    assert "receipt 1 of" not in str(TaskRecord.objects.values_list("kwargs", flat=True))


@pytest.mark.parametrize("n", [0, 1, 3, 100])
def test_a_group_of_any_size_is_followed_once(db: None, n: int) -> None:
    sizes = group(graphs.resize.step(image_id=number) for number in range(n))
    total = graphs.summarize.step(sizes=sizes.results)

    run = _run(workflow("gallery", total))

    assert run.result(timeout=5) == {
        "sizes": [number * 10 for number in range(n)],
        "total": n,
        "failed": 0,
    }
    assert run.progress() == (n + 1, n + 1, 0)
    assert _effects().count("summary all") == 1


def test_a_step_that_is_retried_and_one_that_continues_keep_their_places(db: None) -> None:
    first = graphs.second_time.step(text="a")
    second = graphs.two_runs.step(text=first.result)

    run = _run(workflow("again", graphs.note.step(text=second.result)))

    assert _effects() == ["second a", "whole a", "a"]
    assert run.progress() == (3, 3, 0)
    assert run.status() == "SUCCESS"


def test_a_failure_stops_what_waits_for_it_and_retry_failed_goes_on(db: None) -> None:
    sizes = group([graphs.resize.step(image_id=1), graphs.resize.step(image_id=2, fails=True)])
    total = graphs.summarize.step(sizes=sizes.results)
    total.on_failure(graphs.note.step(text="told")).finally_(graphs.note.step(text="unlocked"))

    run = _run(workflow("gallery", total), raise_failures=False)

    assert run.status() == "FAILED"
    assert sorted(_effects()) == ["resize 1", "told", "unlocked"]
    Effect.objects.create(name="repaired")
    with capture_tasks() as captured:
        assert run.retry_failed() == 1
        assert run.status() == "RUNNING"
        captured.run()
    assert run.status() == "SUCCESS"
    assert run.result(timeout=5)["sizes"] == [10, 20]
    assert _effects().count("told") == 1
    assert run.retry_failed() == 0


@pytest.mark.parametrize("is_repaired", [True, False])
def test_a_failed_handler_that_is_retried_waits_for_what_it_handles(
    db: None, is_repaired: bool
) -> None:
    """Else a refund that had failed would run beside the charge, which may succeed now."""
    charge = graphs.resize.step(image_id=1, fails=True)
    charge.on_failure(graphs.resize.step(image_id=2, fails=True))
    charge.finally_(graphs.resize.step(image_id=3, fails=True))
    run = _run(workflow("order", charge), raise_failures=False)
    assert _statuses(run) == ["FAILED"] * 3
    if is_repaired:
        Effect.objects.create(name="repaired")

    with capture_tasks() as captured:
        assert run.retry_failed() == 3
        assert _statuses(run) == ["QUEUED", "WAITING", "WAITING"]
        captured.run(raise_failures=False)

    assert run.status() == ("SUCCESS" if is_repaired else "FAILED")
    assert _statuses(run) == (
        ["SUCCESS", "CANCELLED", "SUCCESS"] if is_repaired else ["FAILED"] * 3
    )
    assert _effects() == (["repaired", "resize 1", "resize 3"] if is_repaired else [])


def _statuses(run: WorkflowRun) -> list[str]:
    """Return the statuses of its steps, in the order in which they were defined."""
    steps = TaskRecord.objects.filter(workflow_id=run.id)
    return [each.status for each in sorted(steps, key=lambda each: each.kwargs["image_id"])]


def test_in_eager_mode_a_workflow_runs_to_its_end_at_once(
    transactional_db: None, settings: Any
) -> None:
    settings.LAMBDA_TASKS_EAGER = True
    sizes = group(graphs.resize.step(image_id=number) for number in range(3))
    total = graphs.summarize.step(sizes=sizes.results)

    run = workflow("gallery", graphs.note.step(text="end").after(total)).execute_on_commit()

    assert run.status() == "SUCCESS"
    assert _effects()[3:] == ["summary all", "end"]


def test_with_fail_fast_a_failure_ends_the_other_members(transactional_db: None) -> None:
    members = [graphs.resize.step(image_id=n, fails=n == 0) for n in range(40)]
    total = graphs.summarize.step(sizes=group(members, fail_fast=True).results)

    with capture_tasks() as captured:
        run = workflow("gallery", total).execute_on_commit()
        captured.run(raise_failures=False)

    assert run.status() == "FAILED"
    assert run.progress().failed > 30


def test_with_fail_fast_a_member_that_can_not_begin_ends_the_others(
    transactional_db: None,
) -> None:
    members: list[Any] = []
    for n in range(40):
        begun = graphs.resize.step(image_id=n, fails=n == 0)
        members.append(workflow("member", graphs.note.step(text=f"{n}").after(begun)))
    last = graphs.note.step(text="last").after(group(members, fail_fast=True))

    with capture_tasks() as captured:
        run = workflow("gallery", last).execute_on_commit()
        captured.run(raise_failures=False)

    assert run.status() == "FAILED"
    assert run.progress().failed > 30


def test_a_step_that_has_lost_its_arguments_is_not_retried(db: None, settings: Any) -> None:
    from tests.app import django_tasks

    settings.LAMBDA_TASKS_ENCRYPT_ARGUMENTS = True
    first = step(django_tasks.add, 1, 2)
    with capture_tasks():
        run = workflow("sums", first).execute_on_commit()
    TaskRecord.objects.get(id=first.id).cancel()

    assert run.retry_failed() == 0
    assert run.status() == "FAILED"


def test_records_of_a_workflow_that_runs_are_kept_and_go_together(db: None) -> None:
    paid = graphs.charge.step(order_id=1, cents=500)
    mailed = graphs.send_receipt.step(order_id=1, receipt=paid.result)
    with capture_tasks() as captured:
        run = workflow("order", mailed).execute_on_commit()
        TaskRecord.objects.filter(id=paid.id).update(
            status="SUCCESS", end_time=timezone.now() - timedelta(days=30), result="kept"
        )
        cleanup_task_records(retention_days=7)
        assert TaskRecord.objects.count() == 2
        TaskRecord.objects.filter(id=paid.id).update(status="QUEUED", result=None)
        captured.run()
    assert run.status() == "SUCCESS"
    Workflow.objects.update(ended_at=timezone.now() - timedelta(days=30))

    cleanup_task_records(retention_days=7)

    assert not TaskRecord.objects.exists()
    assert not Workflow.objects.exists()
    assert not WorkflowJoin.objects.exists()


def test_then_is_a_short_form_of_a_chain(db: None) -> None:
    chain = graphs.charge.then(graphs.send_receipt, order_id=1, result_as="receipt").then(
        graphs.note, text="done"
    )

    with capture_tasks() as captured:
        run = chain.execute_on_commit(order_id=1, cents=500)
        captured.run()

    assert _effects() == ["charge 1", "mail 1 receipt 1 of 500", "done"]
    assert run.result(timeout=5) == "done"


@pytest.mark.parametrize("n", [0, 2])
def test_a_task_group_is_followed_by_one_task(db: None, n: int) -> None:
    with capture_tasks() as captured:
        made = TaskGroup.create(
            [graphs.resize.step(image_id=number) for number in range(n)],
            then=graphs.note.step(text="all"),
        )
        assert made.status() == "PENDING"
        captured.run()

    assert made.status() == "SUCCESS"
    assert made.progress() == (n + 1, n + 1, 0)
    assert _effects()[-1] == "all"


def test_a_workflow_is_a_step_of_another(db: None) -> None:
    inner = workflow("inner", graphs.note.step(text="b").after(graphs.note.step(text="a")))
    first = graphs.note.step(text="first")
    inner.after(first)
    last = graphs.note.step(text=inner.result)

    run = _run(workflow("outer", last))

    assert _effects() == ["first", "a", "b", "b"]
    assert run.status() == "SUCCESS"
    assert run.progress() == (4, 4, 0)


@pytest.mark.parametrize("n", [0, 2])
def test_a_group_waits_for_what_it_is_told(db: None, n: int) -> None:
    first = graphs.note.step(text="first")
    members = group(graphs.note.step(text=f"member {number}") for number in range(n)).after(first)
    unneeded = group([graphs.note.step(text="handler")])
    last = graphs.note.step(text="last").after(members).on_failure(unneeded)

    run = _run(workflow("x", last))

    assert run.status() == "SUCCESS"
    effects = _effects()
    assert effects[0] == "first"
    assert sorted(effects[1:-1]) == [f"member {number}" for number in range(n)]
    assert effects[-1] == "last"


def test_a_group_of_no_members_fails_with_what_it_waits_for(db: None) -> None:
    broken = graphs.resize.step(image_id=1, fails=True)
    last = graphs.note.step(text="last").after(group([]).after(broken))
    last.finally_(graphs.note.step(text="cleaned"))

    run = _run(workflow("x", last), raise_failures=False)

    assert run.status() == "FAILED"
    assert _effects() == ["cleaned"]


@pytest.mark.parametrize("n", [0, 1])
def test_members_that_are_empty_workflows_have_succeeded(db: None, n: int) -> None:
    members: list[Any] = [workflow("empty", group([])) for _ in range(2)]
    members += [graphs.note.step(text="member") for _ in range(n)]

    run = _run(workflow("x", graphs.note.step(text="last").after(group(members))))

    assert run.status() == "SUCCESS"
    assert _effects() == ["member"] * n + ["last"]


def test_a_group_of_workflows_that_end_with_groups_has_no_results(db: None) -> None:
    inner: Any = workflow("inner", group([graphs.resize.step(image_id=1)]))

    with pytest.raises(ValueError, match="members that are workflows and end with a group"):
        _ = group([inner, graphs.resize.step(image_id=2)]).results


def test_a_workflow_undoes_what_failed_by_another(db: None) -> None:
    undo = workflow("undo", graphs.note.step(text="undone").after(graphs.note.step(text="undoing")))
    broken = graphs.resize.step(image_id=1, fails=True).on_failure(undo)

    run = _run(workflow("outer", broken), raise_failures=False)

    assert _effects() == ["undoing", "undone"]
    assert run.status() == "FAILED"


def test_django_tasks_are_steps(db: None) -> None:
    from tests.app import django_tasks

    first = step(django_tasks.add, 1, b=2)
    second = step(django_tasks.aadd, first.result, b=10)

    assert _run(workflow("sums", second)).result(timeout=5) == 13


def test_a_cancelled_workflow_is_over(db: None) -> None:
    first = graphs.note.step(text="first")
    with capture_tasks() as captured:
        run = workflow("order", graphs.note.step(text=first.result)).execute_on_commit()
        assert run.cancel()
        assert not run.cancel()
        captured.run()

    assert run.status() == "CANCELLED"
    assert _effects() == []
    assert set(TaskRecord.objects.values_list("status", flat=True)) == {"CANCELLED"}
    assert run.retry_failed() == 0


def test_the_steps_of_a_cancelled_workflow_are_announced(transactional_db: None) -> None:
    cancelled: list[hooks.Cancelled] = []
    hooks.cancelled.connect(cancelled.append)
    try:
        first = graphs.note.step(text="first")
        last = graphs.note.step(text="last").after(first)
        with capture_tasks():
            workflow("order", last).execute_on_commit().cancel()

        assert beside.flush(AMPLE_S)
    finally:
        hooks.cancelled.disconnect(cancelled.append)
    assert {each.invocation_id for each in cancelled} == {first.id, last.id}


def test_on_success_enqueues_the_fixed_follow_up_of_each_success(db: None) -> None:
    with capture_tasks() as captured:
        graphs.sell.execute_on_commit()
        graphs.sell.execute_on_commit(fails=True)
        graphs.count.execute_on_commit(number=1)
        sold = workflow("sale", graphs.sell.step()).execute_on_commit()
        captured.run(raise_failures=False)

    assert sorted(_effects()) == ["sell", "sell", "thank", "thank", "thank"]
    assert sold.status() == "SUCCESS"


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: workflow("none"), ValueError, "has no steps"),
        (lambda: workflow("x", group([graphs.resize])), TypeError, "task.step"),  # type: ignore[arg-type]
        (lambda: workflow("x", graphs.note), TypeError, "Call `.step"),  # type: ignore[arg-type]
        (lambda: graphs.note.step(), Exception, "text"),  # type: ignore[call-arg]
        (lambda: graphs.note.step(text=1), Exception, "text"),  # type: ignore[arg-type]
        (
            lambda: graphs.note.step(text=graphs.resize.step(image_id=1).result),  # type: ignore[arg-type]
            TypeError,
            "'text' is a str",
        ),
        (
            lambda: graphs.note.step(text=group([graphs.resize.step(image_id=1)]).results),  # type: ignore[arg-type]
            TypeError,
            "Annotate it with Results",
        ),
        (
            lambda: graphs.summarize.step(sizes=graphs.resize.step(image_id=1).result),  # type: ignore[arg-type]
            TypeError,
            "group.results",
        ),
        (lambda: graphs.note.using(queue="nowhere").step(text="x"), Exception, "nowhere"),
        (lambda: group([graphs.note.step(text="x")], need=2), ValueError, "1 members only"),
        (lambda: group([graphs.note.step(text="x")], need="most"), ValueError, "need is 'most'"),
        (lambda: group(graphs.note.step(text="x") for _ in range(3)).after(1), TypeError, "got 1"),  # type: ignore[arg-type]
    ],
)
def test_what_can_not_be_a_workflow_is_refused_at_the_call(
    make: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        make()


def test_the_steps_of_inner_workflows_count_for_the_most(
    db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core_graphs, "MAX_STEPS", 3)
    inner = [workflow(name, *(graphs.note.step(text=name) for _ in range(2))) for name in "ab"]

    with pytest.raises(ValueError, match="4 steps with those of the workflows in it"):
        workflow("outer", *inner).execute_on_commit()


def test_steps_that_wait_for_each_other_are_refused(db: None) -> None:
    first, second = graphs.note.step(text="a"), graphs.charge.step(order_id=1, cents=1)
    first.after(second)
    second.after(first)

    with pytest.raises(ValueError, match=r"note -> .*charge -> .*note"):
        workflow("circle", first)


def test_a_step_is_part_of_one_workflow_and_a_workflow_is_executed_once(db: None) -> None:
    first = graphs.note.step(text="a")
    made = workflow("one", first)

    with pytest.raises(ValueError, match=r"note is part of the workflow 'one' already"):
        workflow("two", graphs.note.step(text=first.result))
    _run(made)
    with pytest.raises(ValueError, match="executed once"):
        made.execute_on_commit()


@pytest.mark.parametrize("change", ["after", "on_failure", "finally_"])
def test_a_step_of_a_workflow_can_not_be_changed(change: str) -> None:
    first = graphs.note.step(text="a")
    workflow("one", first)

    with pytest.raises(ValueError, match=r"note is part of the workflow 'one' already"):
        getattr(first, change)(graphs.note.step(text="late"))


def test_a_step_that_takes_results_is_replayed_with_values_only(db: None) -> None:
    from tests.app import django_tasks

    added = step(django_tasks.add, step(django_tasks.add, 1, 2).result, 5)
    resized = graphs.resize.step(image_id=graphs.resize.step(image_id=1).result)
    _run(workflow("sums", added, resized))

    with capture_tasks():
        replayed = operations.replay(ids=[added.id, resized.id])
        assert set(replayed.skipped) == {added.id, resized.id}
        assert "results of other steps (0)" in replayed.skipped[added.id]
        assert operations.replay(ids=[resized.id], change={"image_id": 3}).done == [resized.id]


def test_a_workflow_that_is_rolled_back_was_never_there(transactional_db: None) -> None:
    with capture_tasks() as captured:
        with pytest.raises(RuntimeError), transaction.atomic():
            workflow("order", graphs.note.step(text="a")).execute_on_commit()
            raise RuntimeError
        captured.run()

    assert not TaskRecord.objects.exists()
    assert not Workflow.objects.exists()


def test_a_step_adds_steps_for_which_what_follows_it_waits(db: None) -> None:
    first = graphs.split.step(n=3)
    second = graphs.asplit.step(n=2).after(first)

    run = _run(workflow("dynamic", graphs.note.step(text="last").after(second)))

    assert run.status() == "SUCCESS"
    assert run.progress() == (8, 8, 0)
    effects = _effects()
    assert effects[0] == "split"
    assert sorted(effects[1:4]) == ["resize 0", "resize 1", "resize 2"]
    assert sorted(effects[4:6]) == ["added 0", "added 1"]
    assert effects[6:] == ["last"]


def test_added_steps_that_fail_are_retried_like_others(db: None) -> None:
    first = graphs.split.step(n=2, fails=True)
    run = _run(
        workflow("dynamic", graphs.note.step(text="last").after(first)), raise_failures=False
    )
    assert run.status() == "FAILED"
    Effect.objects.create(name="repaired")

    with capture_tasks() as captured:
        assert run.retry_failed() == 2
        captured.run()

    assert run.status() == "SUCCESS"
    assert _effects()[-1] == "last"


def test_steps_are_added_by_steps_only() -> None:
    with pytest.raises(RuntimeError, match="outside of a step"):
        add_steps(graphs.note.step(text="x"))


def test_steps_that_are_added_in_a_savepoint_go_with_it(db: None) -> None:
    last = graphs.note.step(text="last").after(graphs.split_twice.step())

    run = _run(workflow("dynamic", last))

    assert run.status() == "SUCCESS"
    assert run.progress() == (3, 3, 0)
    assert _effects() == ["kept", "last"]


def test_steps_are_added_in_the_transaction_of_their_step_only(transactional_db: None) -> None:
    run = _run(workflow("dynamic", graphs.split_alone.step()), raise_failures=False)

    assert run.status() == "FAILED"
    assert "Remove `atomic=False` from the task" in str(TaskRecord.objects.get().traceback)


def test_a_step_that_adds_steps_locks_its_workflow_at_its_end_only(transactional_db: None) -> None:
    if connection.vendor == "sqlite":
        pytest.skip("SQLite has one writer at a time")
    first = graphs.split_and_measure.step()

    run = _run(workflow("dynamic", graphs.note.step(text="last").after(first)))

    assert TaskRecord.objects.get(id=first.id).result == "RUNNING"
    assert run.progress() == (3, 3, 0)
    assert _effects() == ["added", "last"]


@pytest.mark.parametrize("is_late", [False, True])
def test_nothing_is_added_to_a_cancelled_workflow(transactional_db: None, is_late: bool) -> None:
    last = graphs.note.step(text="last").after(graphs.split_cancelled.step(is_late=is_late))

    run = _run(workflow("dynamic", last), raise_failures=False)

    assert run.status() == "CANCELLED"
    assert list(TaskRecord.objects.values_list("status", flat=True)) == ["CANCELLED"] * 2
    assert _effects() == []


def test_steps_that_are_added_on_another_connection_are_refused(transactional_db: None) -> None:
    run = _run(workflow("dynamic", graphs.split_elsewhere.step()), raise_failures=False)

    assert run.status() == "FAILED"
    assert "on another thread than the step's" in str(TaskRecord.objects.get().traceback)


def test_what_follows_waits_for_the_next_run_and_for_what_was_added_before(db: None) -> None:
    last = graphs.note.step(text="last").after(graphs.split_and_go_on.step())

    run = _run(workflow("dynamic", last))

    assert run.status() == "SUCCESS"
    assert sorted(_effects()[:2]) == ["added", "gone on"]
    assert _effects()[2:] == ["last"]


def test_a_workflow_has_no_room_for_more_steps_than_the_most(
    db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workflow_records, "MAX_STEPS", 4)

    run = _run(workflow("dynamic", graphs.split.step(n=4)), raise_failures=False)

    assert run.status() == "FAILED"
    assert "has 1 steps, and with 4 more" in str(TaskRecord.objects.get().traceback)


def test_a_step_without_a_transaction_knows_its_workflow(transactional_db: None) -> None:
    run = _run(workflow("one", graphs.own_workflow.step()))

    assert run.result(timeout=5) == f"{run.id} 0"


def test_a_failed_step_that_is_replayed_puts_its_workflow_right(db: None) -> None:
    broken = graphs.resize.step(image_id=1, fails=True)
    run = _run(workflow("one", graphs.note.step(text="last").after(broken)), raise_failures=False)
    assert run.status() == "FAILED"

    with capture_tasks() as captured:
        replayed = operations.replay(ids=[broken.id], change={"fails": False})
        assert replayed.skipped == {}
        assert run.status() == "RUNNING"
        assert run.retry_failed() == 0
        captured.run()

    assert run.status() == "SUCCESS"
    assert run.progress() == (2, 2, 0)
    assert _effects() == ["resize 1", "last"]
    assert operations.retry(ids=[broken.id]).done == []


def test_a_replay_that_fails_can_be_retried_with_its_workflow(db: None) -> None:
    broken = graphs.resize.step(image_id=1, fails=True)
    run = _run(workflow("one", broken), raise_failures=False)

    with capture_tasks() as captured:
        (replay,) = operations.replay(ids=[broken.id]).new.values()
        captured.run(raise_failures=False)
    assert run.status() == "FAILED"
    Effect.objects.create(name="repaired")
    with capture_tasks() as captured:
        assert run.retry_failed() == 1
        captured.run()

    assert run.status() == "SUCCESS"
    assert TaskRecord.objects.get(id=replay).result == 10


def test_what_is_replayed_outside_of_a_workflow_counts_in_none(db: None) -> None:
    first = graphs.resize.step(image_id=1, fails=True)
    unbegun = graphs.note.step(text="last").after(first)
    run = _run(workflow("one", unbegun), raise_failures=False)
    TaskRecord.objects.get(id=unbegun.id).cancel()
    done = _run(workflow("two", succeeded := graphs.resize.step(image_id=2)))

    with capture_tasks() as captured:
        skipped = operations.replay(ids=[unbegun.id]).skipped
        assert operations.replay(ids=[succeeded.id]).done == [succeeded.id]
        captured.run()

    assert "has never begun" in skipped[unbegun.id]
    assert (run.status(), done.status()) == ("FAILED", "SUCCESS")
    assert done.progress() == (1, 1, 0)


@pytest.mark.parametrize("days", [None, 0])
def test_the_secrets_of_steps_that_wait_in_a_failed_workflow_go_in_time(
    db: None, settings: Any, days: int | None
) -> None:
    if days is not None:
        settings.LAMBDA_TASKS_KEEP_SECRETS = days
    broken = graphs.resize.step(image_id=1, fails=True)
    paid = graphs.pay.step(token=SecretStr("hidden")).after(broken)
    other = graphs.note.step(text="other").after(broken)

    run = _run(workflow("one", paid, other), raise_failures=False)

    record = TaskRecord.objects.get(id=paid.id)
    if days is None:
        assert record.status == "WAITING"
        assert record.secrets
        assert record.look_at is not None
        TaskRecord.objects.filter(id=paid.id).update(look_at=timezone.now() - timedelta(days=1))
        runtime.current().outbox.find_unsent(
            early=timedelta(0), lost_for=timedelta(0), waiting_for=timedelta(0), limit=1
        )
        record.refresh_from_db()
    assert (record.status, record.secrets, record.look_at) == ("CANCELLED", None, None)
    assert TaskRecord.objects.get(id=other.id).status == "WAITING"
    Effect.objects.create(name="repaired")
    with capture_tasks() as captured:
        assert run.retry_failed() == 1
        captured.run()
    assert _effects() == ["repaired", "resize 1", "other"]
    assert run.status() == "FAILED"


def test_a_retry_lets_secrets_wait_for_their_step_again(db: None) -> None:
    broken = graphs.resize.step(image_id=1, fails=True)
    paid = graphs.pay.step(token=SecretStr("hidden")).after(broken)
    run = _run(workflow("one", paid), raise_failures=False)
    Effect.objects.create(name="repaired")

    with capture_tasks() as captured:
        run.retry_failed()
        assert TaskRecord.objects.get(id=paid.id).look_at is None
        captured.run()

    assert run.result(timeout=5) == len("hidden")


def test_a_first_step_of_an_inner_workflow_that_waits_has_no_delay(db: None) -> None:
    delayed = graphs.note.using(delay=5).step(text="late")
    inner = workflow("inner", delayed).after(graphs.note.step(text="first"))

    with pytest.raises(ValueError, match="waits for other steps and has a delay of 5 s"):
        workflow("outer", inner).execute_on_commit()


def test_steps_that_are_retried_are_sent_after_the_commit(transactional_db: None) -> None:
    broken = graphs.resize.step(image_id=1, fails=True)
    run = _run(workflow("one", broken), raise_failures=False)

    with pytest.MonkeyPatch.context() as patch, capture_tasks():
        sent: list[Any] = []
        patch.setattr(runtime.current().enqueuer, "send_now", sent.extend)
        with transaction.atomic():
            assert run.retry_failed() == 1
            assert sent == []
        assert [each.message.invocation_id for each in sent] == [broken.id]
