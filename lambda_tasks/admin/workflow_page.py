"""How the admin shows a workflow: its progress, its steps by task, and those that have failed."""

from typing import Any
from uuid import UUID

from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext, ngettext

from ..core.graphs import WorkflowStatus
from ..operations.workflows import N_FAILED, count_steps
from ..operations.workflows import failed_steps as find_failed
from ..records.tables import TaskRecord, Workflow
from ..workflows import WorkflowRun
from . import function_steps, shown, workflow_graph
from .function_steps import Viewer
from .pages import read_once


def as_id(text: str) -> UUID | None:
    """Return an id that was searched for; None for other words."""
    try:
        return UUID(text.strip())
    except ValueError:
        return None


def picture(workflow: Workflow, site: str, viewer: Viewer | None) -> dict[str, Any]:
    """Return what the picture's template shows.

    With `viewer`, also the steps of the durable function that has called the workflow.
    """
    function = None
    if viewer is not None and workflow.call_id is not None:
        function = function_steps.context(workflow.call_id, viewer)
    return {
        "part": "workflow",
        "refreshes": workflow.status == WorkflowStatus.RUNNING,
        "status": shown.badge(workflow.status, workflow.status),
        "progress": progress(workflow),
        "graph": workflow_graph.draw(workflow, site),
        "function": function,
    }


def progress(workflow: Workflow) -> SafeString | None:
    """Return how many steps have ended, with a bar, and how many of them without success."""
    counted = WorkflowRun(workflow.pk).progress()
    failed = ngettext("%d failed", "%d failed", counted.failed) % counted.failed
    text = failed if counted.failed else None
    return shown.progress_bar({"done": counted.done, "total": counted.total, "text": text})


def steps(workflow: Workflow) -> SafeString:
    """Return the numbers of steps by task and status."""
    rows = (
        (
            shown.badge(each["status"], each["status"]),
            each["count"],
            shown.dotted(each["task_name"]),
        )
        for each in count_steps(workflow.pk)
    )
    return shown.lines(format_html("{} {} {}", *row) for row in rows)


def link_to_steps(workflow: Workflow, site: str) -> SafeString:
    """Return a link to the list of a workflow's steps, and their number."""
    url = reverse(f"{site}:lambda_tasks_taskrecord_changelist")
    told = ngettext("%d step", "%d steps", workflow.n_steps) % workflow.n_steps
    return format_html('<a class="lt-link" href="{}?workflow={}">{}</a>', url, workflow.pk, told)


def read_failed(workflow: Workflow) -> list[TaskRecord]:
    """Return the first failed steps of a workflow."""
    return find_failed(workflow.pk)


def failed_steps(workflow: Workflow, site: str) -> SafeString:
    """Return the first failed steps, as links to their records, with their errors."""
    found = read_once(workflow, read_failed)
    lines = [
        format_html(
            "{} {}", shown.record_line(record, site), shown.error(record.exception_class or "")
        )
        for record in found
    ]
    if len(found) == N_FAILED:
        lines.append(shown.quiet(gettext("There may be more: filter the task records.")))
    return shown.lines(lines) or format_html_join("", "", ())
