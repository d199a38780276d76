"""Workflows whose functions are killed at each point: every step has its effect once, in order."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from django.db import transaction

from lambda_tasks.local import LocalSqs
from lambda_tasks.models import TaskRecord
from lambda_tasks.workflows import Step, WorkflowGraph, WorkflowRun, WorkflowStatus, group, workflow
from tests.app import ledger as tasks
from tests.app.models import Effect
from tests.conftest import relay, wait_for, wake_up
from tests.faults.farm import CLEAN
from tests.faults.test_windows import Plant, plant, pytestmark, queue_url

__all__ = ["plant", "pytestmark", "queue_url"]

POINTS = (
    "after the receive",
    "after the claim",
    "after the task's effect",
    "after an end is counted",
    "after the commit",
    "before released steps are sent",
    "before the response",
)

MEMBERS = 20


@dataclass(frozen=True)
class Flow:
    """A workflow, and what it must have done."""

    graph: WorkflowGraph
    layers: Sequence[Sequence[Step[Any]]]
    """The steps that enter themselves, each behind those of the layer before it."""
    result: int
    others: Sequence[Step[Any]] = ()

    def steps(self) -> Iterator[Step[Any]]:
        for layer in self.layers:
            yield from layer
        yield from self.others


def _chain() -> Flow:
    first = tasks.aenter_next.step(number=0)
    second = tasks.enter_next.step(number=first.result)
    third = tasks.aenter_next.step(number=second.result)
    return Flow(workflow("chain", third), [[first], [second], [third]], result=3)


def _fan() -> Flow:
    kinds: list[Any] = [tasks.aenter_next, tasks.enter_next, tasks.anext_number]
    members = [kinds[number % 3].step(number=number) for number in range(MEMBERS - 1)]
    members.append(tasks.aenter_once_repaired.step(number=MEMBERS - 1))
    others = members[2:-1:3]
    total = tasks.aenter_total.step(numbers=group(members).results)
    entering = [each for each in members if each not in others]
    result = sum(range(1, MEMBERS + 1))
    return Flow(workflow("fan", total), [entering, [total]], result=result, others=others)


def _nested() -> Flow:
    first, inner_first = (tasks.aenter_next.step(number=number) for number in (0, 1))
    inner_last = tasks.enter_next.step(number=inner_first.result)
    inner = workflow("inner", inner_last).after(first)
    last = tasks.aenter_next.step(number=inner.result)
    layers = [[first], [inner_first], [inner_last], [last]]
    return Flow(workflow("nested", last), layers, result=4)


def test_a_workflow_killed_at_every_point_runs_each_step_once_and_in_order(
    plant: Plant, sqs: LocalSqs, queue_url: str, tmp_path: Path
) -> None:
    flows = [_chain(), _fan(), _nested()]
    with plant("|".join(POINTS), functions=2) as farm:
        with transaction.atomic():
            runs = [flow.graph.execute_on_commit() for flow in flows]
        for step in (step for flow in flows for step in flow.steps()):
            sqs.client.send_message(QueueUrl=queue_url, MessageBody=wake_up(step.id, step.label))
        wait_for(_Operator(runs, tmp_path).has_seen_all_succeed)

        entering = [step.id for flow in flows for layer in flow.layers for step in layer]
        assert farm.wait_for_the_end(entering) == CLEAN
    assert sorted(path.name.partition(" ")[2] for path in tmp_path.iterdir()) == sorted(POINTS)
    assert [run.result() for run in runs] == [flow.result for flow in flows]
    for flow in flows:
        _assert_in_order(flow)


@dataclass
class _Operator:
    """Who repairs and retries what has failed, and sees no point in waiting for leases.

    What the other function runs meanwhile has lost its lease, too, and must not commit where it was
    taken over.
    """

    runs: Sequence[WorkflowRun]
    markers: Path
    n_killed: int = 0

    def has_seen_all_succeed(self) -> bool:
        n_killed = len(list(self.markers.iterdir()))
        if n_killed > self.n_killed:
            self.n_killed = n_killed
            past = datetime(2020, 1, 1, tzinfo=UTC)
            TaskRecord.objects.filter(status="RUNNING").update(lease_until=past)
        statuses = [run.status() for run in self.runs]
        for run, status in zip(self.runs, statuses, strict=True):
            if status is WorkflowStatus.FAILED:
                Effect.objects.get_or_create(name=tasks.REPAIRED)
                run.retry_failed()
        relay()
        return all(status is WorkflowStatus.SUCCESS for status in statuses)


def _assert_in_order(flow: Flow) -> None:
    entered = dict(Effect.objects.values_list("name", "pk"))
    last = 0
    for layer in flow.layers:
        places = [entered[str(step.id)] for step in layer]
        assert min(places) > last, flow.graph
        last = max(places)
