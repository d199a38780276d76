"""The picture of a workflow, in which steps that stand in the same place are one node."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from django.db import router
from django.urls import reverse
from django.utils.safestring import SafeString
from django.utils.translation import gettext, ngettext

from ..core.graphs import Feed, Terms, read_feeds
from ..core.lifecycle import Status
from ..records.tables import TaskRecord, Workflow, WorkflowJoin
from . import charts
from .charts import Node

MAX_DRAWN: Final = 500
"""The most steps of a workflow that is drawn; of more, the page has the counts by task."""

STATUS_CLASSES: Final = {
    Status.SUCCESS: "lt-ok", Status.FAILED: "lt-failed", Status.RETRYING: "lt-retried",
    Status.CANCELLED: "lt-cancelled", Status.RUNNING: "lt-1",
}  # fmt: skip
"""The class of a node by the status of its steps; what waits has another."""

WORST_FIRST: Final = (Status.FAILED, Status.RUNNING, Status.QUEUED, Status.WAITING)
"""The statuses of which one member's is that of the whole group."""

Key = tuple[str, tuple[int, ...], int | None]
"""What the steps of one node share: task, the joins they feed, and the one that released them."""


def draw(workflow: Workflow, site: str) -> SafeString | str:
    """Draw the steps of a workflow, with arrows; nothing for one with too many."""
    if workflow.n_steps > MAX_DRAWN:
        return gettext("It has too many steps to be drawn.")
    terms = _terms(workflow)
    groups: defaultdict[Key, list[TaskRecord]] = defaultdict(list)
    for step in _steps(workflow):
        feeds = _numbers(read_feeds((step.links or {}).get("feeds", ())))
        groups[step.task_name, feeds, _gate(terms, step.step or 0)].append(step)
    ids = {key: f"s{number}" for number, key in enumerate(groups)}
    nodes = [
        _node(ids[key], members, _after(key[2], groups, ids, terms), site)
        for key, members in groups.items()
    ]
    n_failed = sum(each.status == Status.FAILED for members in groups.values() for each in members)
    said = ngettext("%d step has failed.", "%d steps have failed.", n_failed) % n_failed
    return charts.graph(gettext("Graph"), said, nodes)


def _terms(workflow: Workflow) -> dict[int, Terms]:
    """Return what follows each join of a workflow, by its number."""
    joins = WorkflowJoin.objects.using(router.db_for_write(WorkflowJoin))
    found = joins.filter(workflow_id=workflow.pk, terms__isnull=False)
    rows: Any = found.values_list("number", "terms")
    return {number: Terms.of(terms) for number, terms in rows}


def _steps(workflow: Workflow) -> Iterable[TaskRecord]:
    """Return the steps; of a step that was retried, its last record."""
    records = TaskRecord.objects.using(router.db_for_write(TaskRecord))
    steps = records.filter(workflow_id=workflow.pk, step__isnull=False).exclude(
        status=Status.RETRYING
    )
    return steps.order_by("step").only("task_name", "status", "step", "links")[: 2 * MAX_DRAWN]


def _gate(terms: Mapping[int, Terms], step: int) -> int | None:
    """Return the number of the join that releases a step; None for one that waits for nothing."""
    return next((number for number, each in terms.items() if each.first <= step < each.stop), None)


def _after(
    gate: int | None, groups: Iterable[Key], ids: Mapping[Key, str], terms: Mapping[int, Terms]
) -> Sequence[str]:
    """Return the ids of the nodes that a gate waits for."""
    if gate is None:
        return ()
    return [ids[key] for key in groups if _leads_to(key[1], gate, terms)]


def _numbers(feeds: Iterable[Feed]) -> tuple[int, ...]:
    """Return the numbers of the joins that are fed."""
    return tuple(sorted({each.number for each in feeds}))


def _leads_to(joins: Iterable[int], gate: int, terms: Mapping[int, Terms]) -> bool:
    """Return whether these joins are a gate, or feed it as groups, which release nothing."""
    for number in joins:
        if number == gate:
            return True
        found = terms.get(number)
        is_group = found is not None and not found.is_gate
        if found and is_group and _leads_to(_numbers(found.feeds), gate, terms):
            return True
    return False


def _node(id: str, members: Sequence[TaskRecord], after: Sequence[str], site: str) -> Node:
    name = members[0].task_name.rpartition(".")[2]
    statuses = [Status(each.status) for each in members]
    status = next((each for each in WORST_FIRST if each in statuses), statuses[0])
    css = STATUS_CLASSES.get(status, "lt-waits")
    if len(members) == 1:
        url = reverse(f"{site}:lambda_tasks_taskrecord_change", args=[members[0].pk])
        return Node(id, name, css, f"{members[0].task_name}: {status}", after, url)
    done = sum(each.is_finished for each in statuses)
    said: Any = gettext("%(name)s: %(done)d of %(total)d have ended")
    title = said % {"name": members[0].task_name, "done": done, "total": len(members)}
    return Node(
        id,
        f"{name} \N{MULTIPLICATION SIGN} {len(members)}",
        css,
        title,
        after,
        None,
        done,
        len(members),
    )
