"""Workflows: chains, groups, and any graph of them."""

from typing import Any

import pytest

from lambda_tasks.models import TaskRecord
from lambda_tasks.testing import capture_tasks
from lambda_tasks.workflows import WorkflowRun, WorkflowStatus, group, workflow
from tests.app import graphs
from tests.app.models import Effect


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
