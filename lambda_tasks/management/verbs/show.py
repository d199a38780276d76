"""The whole story of a call: arguments, times, attempts, retries and replays, result or traceback.

Secret arguments are redacted. Exit codes: 0, 2 for arguments that make no sense, 3 without a record
(--empty-exit-code).
"""

from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from datetime import datetime
from textwrap import indent
from typing import Any, Final

from django.core.management.base import OutputWrapper
from django.utils.timezone import localtime

from lambda_tasks.core.lifecycle import Status
from lambda_tasks.core.message import UNDO_HEADER
from lambda_tasks.durable import DurableRun, StepState
from lambda_tasks.management.output import DONE, EMPTY, describe, describe_call, write_json
from lambda_tasks.management.parsing import add_exit_code, add_json
from lambda_tasks.models import TaskRecord
from lambda_tasks.operations.describing import record_as_json, step_as_json
from lambda_tasks.records import listing, pauses, queries
from lambda_tasks.records.filters import as_uuid

HELP: Final = "Shows all that is known of a call."


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of `show`."""
    parser.add_argument("id", metavar="ID", help="the id of an invocation")
    add_json(parser)
    add_exit_code(parser, "empty", EMPTY, "there is no record of it")


def run(stdout: OutputWrapper, options: dict[str, Any]) -> int:
    """Print the record and its lineage, and return the exit code. Raises InvalidFilter."""
    record = queries.find(as_uuid(options["id"]))
    if record is None:
        if not options["json"]:
            stdout.write(f"There is no record of {options['id']}.")
        return int(options["empty_exit_code"])
    related = listing.lineage(record)
    steps = () if record.call_id is None else DurableRun(record.call_id).steps()
    if options["json"]:
        write_json(stdout, "record", record_as_json(record, details=True))
        for step in steps:
            write_json(stdout, "step", step_as_json(step))
        for each in related:
            write_json(stdout, "lineage", record_as_json(each))
        return DONE
    for line in _story(record, related, steps):
        stdout.write(line)
    return DONE


def _story(
    record: TaskRecord, related: list[TaskRecord], steps: Sequence[StepState]
) -> Iterator[str]:
    shown = record_as_json(record, details=True)
    yield f"{describe_call(record)}: {record.status}"
    for name, value in _facts(record, shown):
        if value not in (None, "", [], {}):
            yield f"  {name:12}{value}"
    yield from _steps(steps)
    if len(related) > 1:
        yield "Lineage"
        for each in related:
            yield f"{'>' if each.id == record.id else ' ':>3} {describe(each)}"
        if (cure := _put_right_by(record, related)) is not None:
            yield f"  It was put right by {cure.id}."
    if record.traceback:
        yield indent(record.traceback.strip(), "  ")


def _steps(steps: Sequence[StepState]) -> Iterator[str]:
    """Yield the steps of a durable function, if it is one."""
    if steps:
        yield "Steps"
    for step in steps:
        yield f"  {_time(step.began_at)}  {step.describe()}"


def _facts(record: TaskRecord, shown: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    yield "id", record.id
    yield "queue", record.queue
    yield "group", record.group_key
    yield "workflow", record.workflow_id
    yield "step", record.step
    yield "priority", record.priority or None
    yield "headers", record.headers
    yield "called", _time(record.enqueued_at)
    yield "sent", _time(record.sent_at)
    yield "due", _time(record.run_after)
    yield "waits for", _pause_of(record) or record.waits_for
    yield "refused", _time(record.refused_at)
    yield "started", _time(record.start_time)
    if record.status == Status.RUNNING:
        yield "lease until", _time(record.lease_until)
    yield "ended", _time(record.end_time)
    yield "duration", None if shown["duration_s"] is None else f"{shown['duration_s']:.3f} s"
    yield "attempts", record.n_attempts
    yield "retries", record.n_retries or None
    yield "workers", ", ".join(shown["worker_ids"])
    yield "progress", shown["progress"]
    yield "state", shown["state"]
    if record.status == Status.SUCCESS:
        yield "result", repr(shown["result"])
    yield "error", shown["error"]


def _pause_of(record: TaskRecord) -> str | None:
    """Return who has paused the queue of a call that waits; None if it is not paused."""
    state = pauses.queue_states().get(record.queue) if record.status == Status.QUEUED else None
    if state is None or not state.is_paused:
        return None
    return f"its queue, which {state.changed_by or 'somebody'} has paused"


def _put_right_by(record: TaskRecord, related: list[TaskRecord]) -> TaskRecord | None:
    """Return the first success after a failure; None for none."""
    if record.status != Status.FAILED or record.enqueued_at is None:
        return None
    later = [
        each
        for each in related
        if each.enqueued_at
        and each.enqueued_at > record.enqueued_at
        and UNDO_HEADER not in (each.headers or {})  # it undoes the call, and repeats nothing
    ]
    return next((each for each in later if each.status == Status.SUCCESS), None)


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else localtime(moment).isoformat(sep=" ", timespec="milliseconds")
