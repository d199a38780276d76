"""Random workflows do what their definitions imply, whatever the order of their messages."""

import os
import random
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from lambda_tasks.models import TaskRecord
from lambda_tasks.records.postponing import make_due
from lambda_tasks.workflows import group, workflow
from tests.app import flows
from tests.conftest import Handle, wake_up
from tests.workflow_model import Flow, Group, Model, Step, Unit, definitions, steps_of

pytestmark = pytest.mark.django_db(transaction=True)

EXAMPLES = int(os.environ.get("LAMBDA_TASKS_TEST_WORKFLOWS", "12"))
"""A longer run: LAMBDA_TASKS_TEST_WORKFLOWS=5000."""

examples = settings(
    max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

ROUNDS = 200
"""More events than any of these workflows needs."""

play: Any = flows.play.using(queue="table")
gather: Any = flows.gather.using(queue="table")


def build(flow: Flow, made: dict[str, Any] | None = None) -> Any:
    """Define a workflow by the public functions."""
    made = {} if made is None else made
    for unit in flow.units:
        made[unit.name] = _build(unit, made)
    return workflow(flow.name, *(made[unit.name] for unit in flow.last))


def _build(unit: Unit, made: dict[str, Any]) -> Any:
    match unit:
        case Step():
            return _build_step(unit, made)
        case Group():
            members = [_build(member, made) for member in unit.members]
            return group(members, need=unit.need)
        case Flow():
            return build(unit, made).after(*(made[name] for name in unit.after))


def _build_step(step: Step, made: dict[str, Any]) -> Any:
    given: dict[str, Any] = {"name": step.name, "failures": step.failures}
    if step.takes is not None:
        given["first"] = made[step.takes].result
    if step.many is not None:
        given["many"] = made[step.many].results
    built = (gather if "many" in given else play).step(**given)
    if step.after:
        built = built.after(*(made[name] for name in step.after))
    if step.on_failure is not None:
        built = built.on_failure(_build_step(step.on_failure, made))
    if step.finally_ is not None:
        built = built.finally_(_build_step(step.finally_, made))
    return built


class Playing:
    """A workflow that runs on the handler, and what became of its steps."""

    def __init__(self, flow: Flow, handle: Handle, order: random.Random) -> None:
        flows.ran.clear()
        self._handle = handle
        self._order = order
        self.run: Any = build(flow).execute_on_commit()

    def records(self, **having: Any) -> Any:
        return TaskRecord.objects.filter(workflow_id=self.run.id, **having)

    def deliver(self) -> bool:
        """Deliver some of the messages of released steps, some of them twice; False for none."""
        queued = self.records(status="QUEUED").order_by("step")
        calls = list(queued.values_list("id", "task_name"))
        self._order.shuffle(calls)
        chosen = calls[: self._order.randint((len(calls) + 1) // 2, len(calls))]
        chosen += [call for call in chosen if self._order.random() < 0.1]
        for id, _ in chosen:
            make_due(id)  # a retry waits for a moment
        if chosen:
            self._handle(*(wake_up(*call) for call in chosen))
        return bool(chosen)

    def play(self) -> None:
        for _ in range(ROUNDS):
            if not self.deliver():
                return
        left = self.records(status="QUEUED").values("kwargs", "run_after", "n_attempts", "status")
        pytest.fail(f"it never ends: {list(left)}")

    @property
    def ended(self) -> dict[str, Any]:
        """The records of the steps that have ended, by their names, without those of retries."""
        found = self.records(status__in=("SUCCESS", "FAILED"))
        by_name = {record.kwargs["name"]: record for record in found}
        assert len(by_name) == len(found), "a step has ended twice"
        return by_name

    def agrees_with(self, model: Model) -> None:
        ended = self.ended
        assert {name: record.status for name, record in ended.items()} == model.statuses
        assert dict(flows.ran) == model.ran
        for name, result in model.results.items():
            assert ended[name].result == result, name
        assert self.run.status() == model.status

    def keeps_order(self, model: Model) -> None:
        """Each step has started when all that it waits for had ended.

        After a retry it may be otherwise: a member that has failed in a group
        that had enough runs once more, beside what follows the group.
        """
        ended = self.ended
        for name, record in ended.items():
            unit = model.units.get(name)
            for before in unit.waits_for if isinstance(unit, Step) else ():
                for step in steps_of(model.units[before]):
                    if step.name in model.ran and "!" not in step.name:
                        assert ended[step.name].end_time <= record.start_time, (step.name, name)


@examples
@given(definitions(), st.integers(0, 2**32), st.booleans())
def test_steps_run_as_the_definition_implies(
    handle: Handle, flow: Flow, seed: int, is_retried: bool
) -> None:
    assume(any(steps_of(flow)))
    model = Model(flow)
    playing = Playing(flow, handle, random.Random(seed))

    playing.play()
    model.run()

    playing.agrees_with(model)
    playing.keeps_order(model)
    if is_retried and model.status == "FAILED":
        playing.run.retry_failed()
        playing.play()
        model.retry_failed()
        model.run()

        if needs_all(flow):
            playing.agrees_with(model)
        else:  # what follows a group that had enough runs beside members that run once more
            assert playing.run.status() == model.status


def needs_all(flow: Flow) -> bool:
    """Return whether each group of a workflow needs all of its members."""
    return all(
        needs_all(unit) if isinstance(unit, Flow) else getattr(unit, "need", "all") == "all"
        for unit in flow.units
    )


@examples
@given(definitions(), st.integers(0, 2**32), st.integers(0, 6))
def test_nothing_begins_after_a_cancel(
    handle: Handle, flow: Flow, seed: int, n_events: int
) -> None:
    assume(any(steps_of(flow)))
    playing = Playing(flow, handle, random.Random(seed))
    for _ in range(n_events):
        playing.deliver()
    status, ran = playing.run.status(), dict(flows.ran)

    playing.run.cancel()
    playing.play()

    assert dict(flows.ran) == ran
    assert playing.run.status() == (status if status in ("SUCCESS", "FAILED") else "CANCELLED")
    assert not playing.records(status__in=("QUEUED", "RUNNING")).exists()
