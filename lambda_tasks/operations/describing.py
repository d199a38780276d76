"""Records, workflows and steps as JSON, for commands and endpoints: keys are only ever added."""

from dataclasses import asdict
from datetime import datetime
from typing import Any, Final

from .. import registry
from ..core.redaction import REDACTED
from ..durable import StepState
from ..models import TaskRecord, Workflow
from ..workflows import WorkflowRun

FIELDS: Final = (
    "id", "task_name", "status", "queue", "group_key", "priority", "backend", "headers",
    "enqueued_at", "sent_at", "run_after", "start_time", "end_time", "n_attempts", "n_retries",
    "n_continues", "root_id", "retry_of", "workflow_id", "step", "exception_class",
)  # fmt: skip
"""The columns of a record that are shown as they are.

The claim token is none of them: the id of a retry derives from it.
"""

DETAILS: Final = (
    "worker_ids",
    "lease_until",
    "refused_at",
    "waits_for",
    "progress",
    "state",
    "traceback",
)
"""The further ones of a single record. The first two are read from tables of their own."""


def record_as_json(record: TaskRecord, *, details: bool = False) -> dict[str, Any]:
    """Return a record as JSON values, with secret arguments redacted.

    With `details`, also what one wants to know of a single one, such as its traceback.
    """
    shown = {name: _json(getattr(record, name)) for name in FIELDS}
    shown["duration_s"] = None if record.duration is None else record.duration.total_seconds()
    shown["args"] = record.args or []
    shown["kwargs"] = redacted_kwargs(record)
    shown["error"] = last_line(record.traceback)
    shown["result"] = _result(record)
    if details:
        shown |= {name: _json(getattr(record, name)) for name in DETAILS}
        shown["worker_ids"] = (record.worker_ids or "").splitlines()
    return shown


def step_as_json(step: StepState) -> dict[str, Any]:
    """Return a step of a durable function as JSON values."""
    return {name: _json(value) for name, value in asdict(step).items()}


def workflow_as_json(workflow: Workflow) -> dict[str, Any]:
    """Return a workflow as JSON values, with how many of its steps have ended."""
    progress = WorkflowRun(workflow.pk).progress()
    return {
        "id": str(workflow.pk),
        "name": workflow.name,
        "status": workflow.status,
        "created_at": _json(workflow.created_at),
        "ended_at": _json(workflow.ended_at),
        "done": progress.done,
        "failed": progress.failed,
        "total": progress.total,
    }


def redacted_kwargs(record: TaskRecord) -> dict[str, Any]:
    """Return the arguments by name, redacted as the release of this process has it, too."""
    secret = registry.secret_names(record.task_name) & record.kwargs.keys()
    return record.kwargs | dict.fromkeys(secret, REDACTED)


def last_line(traceback: str | None) -> str | None:
    """Return the last line of a traceback with a word in it; None for none."""
    lines = [line.strip(" |") for line in (traceback or "").splitlines()]
    return next((line for line in reversed(lines) if any(map(str.isalnum, line))), None)


def _result(record: TaskRecord) -> Any:
    try:
        return record.result
    except ValueError as error:
        return f"The result can't be read: {error}."


def _json(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    return value if isinstance(value, bool | int | float | dict | list) else value and str(value)
