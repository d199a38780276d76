"""The tasks that a durable function waits for: a workflow, whose end wakes its next run."""

import uuid
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from .. import registry, runtime
from ..core.durable import FOREVER, Checkpoint, Kind, error_from_json, value_to_json
from ..core.graphs import ROOT, WorkflowStatus
from ..core.lifecycle import LookTerms
from ..errors import TaskFailed
from ..execution.journal import Suspension
from ..workflows import Results, Step, WorkflowGraph, group, stored_as
from .steps import Steps

LOOK_AGAIN: Final = timedelta(minutes=10)
"""The time until a run looks again that somebody has woken before its tasks had ended."""


def run(steps: Steps, name: str, step: Any) -> Any:
    """See WorkflowContext.run()."""
    if not isinstance(step, Step):
        raise TypeError(f"run({name!r}) got {step!r:.80}. Pass a call of a task: `task.step(...)`.")
    kept = _ended(steps, name, Kind.RUN, [step])
    if kept.error is not None:
        raise error_from_json(kept.error)
    task = registry.find_task(step.label)
    return kept.value if task is None else task.result_from_json(kept.value)


def gather(steps: Steps, name: str, members: Sequence[Any]) -> Results[Any]:
    """See WorkflowContext.gather()."""
    for each in members:
        if not isinstance(each, Step):
            raise TypeError(
                f"gather({name!r}) got {each!r:.80}. Pass calls of tasks: `task.step(...)`."
            )
    kept = _ended(steps, name, Kind.GATHER, members)
    if kept.error is not None:
        raise error_from_json(kept.error)
    return Results.from_json(kept.value)


def _ended(steps: Steps, name: str, kind: Kind, members: Sequence[Any]) -> Checkpoint:
    """Return what is kept of tasks that have ended. Before that, end the run, which they wake."""
    found = steps.enter(name, kind)
    if found is not None and found.is_over:
        return found
    steps.journal.refuse_direct(str(kind))
    journal = steps.journal
    if found is None and members:
        _begin(steps, name, kind, members)
    try:
        journal.begin()
        value, error = _outcome(steps, name, kind, found)
        kept = steps.done(name, kind, found, value, error)
        journal.commit(kept)
    except BaseException as failure:
        journal.roll_back(failure)
        raise
    steps.leave()
    return kept


def _begin(steps: Steps, name: str, kind: Kind, members: Sequence[Any]) -> None:
    last = members[0] if kind is Kind.RUN else group(members, need="any_outcome")
    id = uuid.uuid4()
    graph = WorkflowGraph(f"{steps.context.task_name.rpartition('.')[2]}: {name}"[:255], [last])
    stored = stored_as(graph, id)
    call_id, look = steps.journal.call_id, steps.journal.look

    def write(run_id: UUID) -> bool:
        here = runtime.current()
        waking = replace(stored, call_id=call_id, joins=_waking(stored.joins, run_id, look))
        here.enqueuer.enqueue_workflow(waking, using=here.outbox.alias)
        return True

    ((_, number),) = stored.results
    kept = steps.waiting(name, kind, None, {"workflow": str(id), "number": number})
    steps.suspend(Suspension(name, FOREVER, is_parked=True, steps=kept, write=write))


def _waking(joins: Sequence[Any], run_id: UUID, look: LookTerms) -> list[Any]:
    wakes = (str(run_id), look.grace.total_seconds())
    return [
        replace(each, terms=replace(each.terms, wakes=wakes)) if each.number == ROOT else each
        for each in joins
    ]


def _outcome(steps: Steps, name: str, kind: Kind, found: Checkpoint | None) -> tuple[Any, Any]:
    """Return the result of tasks that have ended, and their error, as JSON values."""
    from ..records import workflows

    if found is None:  # of none
        empty = {"workflow_id": str(uuid.uuid4()), "values": [], "total": 0, "failed": 0}
        return empty, None
    id, number = UUID(found.value["workflow"]), found.value["number"]
    stored = workflows.find(id)
    if stored is not None and stored.status == WorkflowStatus.RUNNING:
        steps.suspend(Suspension(name, datetime.now(UTC) + LOOK_AGAIN))
    if kind is Kind.GATHER and stored is not None:
        return _group(stored, number), None
    if stored is not None and stored.status == WorkflowStatus.SUCCESS:
        _, result = workflows.read_step(id, number)
        what = f"the result of the task {name!r} of {steps.context.task_name}"
        return value_to_json(result, what=what), None
    return None, _failure(name, stored, workflows.errors(id, limit=1))


def _group(stored: Any, number: int) -> Any:
    """Return what Results are made of, as JSON values."""
    from ..records import workflows

    found = workflows.read_group(stored.id, number)
    if found is None or stored.status != WorkflowStatus.CANCELLED:
        return found
    # Nobody counts the ends of its steps any more.
    n_succeeded = workflows.count_succeeded(stored.id, found["values"])
    return {**found, "failed": found["total"] - n_succeeded}


def _failure(name: str, stored: Any, errors: Sequence[tuple[str, str]]) -> dict[str, Any]:
    status = "deleted" if stored is None else stored.status
    reasons = "\n\n".join(f"{task_name}:\n{text}" for task_name, text in errors)
    text = f"The task {name!r} is {status}.\n\n{reasons}".rstrip()
    kind = f"{TaskFailed.__module__}:{TaskFailed.__qualname__}"
    return {"class": kind, "args": [text[:10_000]], "attributes": {}}
