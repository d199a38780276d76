"""Workflows: list them, show how one stands, cancel some, or let failed ones go on.

Exit codes: 0, 2 for arguments that make no sense, 3 (--empty-exit-code) if nothing is found or
there is nothing to do.
"""

from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Final
from uuid import UUID

from django.core.management.base import CommandError, OutputWrapper

from lambda_tasks.management import changing
from lambda_tasks.management.output import (
    DONE,
    EMPTY,
    USAGE,
    describe,
    shown_time,
    write_json,
)
from lambda_tasks.management.parsing import add_exit_code, add_json, moment
from lambda_tasks.models import Workflow
from lambda_tasks.operations import workflows
from lambda_tasks.operations.describing import record_as_json, workflow_as_json
from lambda_tasks.records import queries

HELP: Final = "Lists, shows, cancels and retries workflows."

FILTERS: Final = ("ids", "status", "name", "since", "until")


def add_arguments(parser: ArgumentParser) -> None:
    """Add the actions of `workflows`."""
    actions = parser.add_subparsers(dest="action", required=True)
    listed = actions.add_parser("list", help="show workflows, the newest first")
    _add_filters(listed)
    listed.add_argument("--limit", type=int, default=50, metavar="N", help="how many (default: 50)")
    add_json(listed)
    add_exit_code(listed, "empty", EMPTY, "nothing is found")
    shown = actions.add_parser("show", help="show the progress and the failed steps of one")
    shown.add_argument("ids", metavar="ID", nargs=1)
    add_json(shown)
    add_exit_code(shown, "empty", EMPTY, "there is no such workflow")
    for action, text in (
        ("cancel", "cancel some that have not ended"),
        ("retry", "run the failed steps of some again, and then the rest"),
    ):
        changed = actions.add_parser(action, help=text)
        changed.add_argument("ids", metavar="ID", nargs="*", help="the ids of workflows")
        _add_filters(changed)
        changing.add_options(changed)


def run(stdout: OutputWrapper, options: dict[str, Any]) -> int:
    """Do the chosen action, and return the exit code. Raises InvalidFilter and NotMigrated."""
    queries.check_migrated()
    return ACTIONS[options["action"]](stdout, options)


def _add_filters(parser: ArgumentParser) -> None:
    parser.add_argument("--status", action="append", metavar="STATUS", help="such as FAILED")
    parser.add_argument("--name", action="append", metavar="NAME", help="the name of a workflow")
    parser.add_argument(
        "--since", type=moment, metavar="TIME", help="called since: 15m, 2h, 1d, or a date"
    )
    parser.add_argument("--until", type=moment, metavar="TIME", help="called before that time")


def _filters(options: dict[str, Any]) -> workflows.WorkflowFilters:
    given = {name: options.get(name) or None for name in FILTERS}
    return {name: value for name, value in given.items() if value is not None}  # type: ignore[return-value]


def _list(stdout: OutputWrapper, options: dict[str, Any]) -> int:
    if options["limit"] < 1:
        raise CommandError("--limit takes a number from 1 on.", returncode=USAGE)
    found = list(workflows.find_workflows(**_filters(options))[: options["limit"]])
    for each in found:
        if options["json"]:
            write_json(stdout, "workflow", workflow_as_json(each))
        else:
            stdout.write(_line(each))
    return DONE if found else int(options["empty_exit_code"])


def _show(stdout: OutputWrapper, options: dict[str, Any]) -> int:
    found = workflows.find_workflows(**_filters(options)).first()
    if found is None:
        if not options["json"]:
            stdout.write(f"There is no workflow {options['ids'][0]}.")
        return int(options["empty_exit_code"])
    steps, failed = workflows.count_steps(found.pk), workflows.failed_steps(found.pk)
    if options["json"]:
        write_json(stdout, "workflow", workflow_as_json(found))
        for each in steps:
            write_json(stdout, "steps", each)
        for record in failed:
            write_json(stdout, "record", record_as_json(record))
        return DONE
    for line in _story(found, steps):
        stdout.write(line)
    for record in failed:
        stdout.write(f"  {describe(record)}")
    return DONE


def _line(workflow: Workflow) -> str:
    at = shown_time(workflow.created_at)
    shown = workflow_as_json(workflow)
    failed = f", {shown['failed']:,} failed" if shown["failed"] else ""
    steps = f"{shown['done']:,} of {shown['total']:,} steps{failed}"
    return f"{at}  {workflow.status:9}  {workflow.pk}  {workflow.name}: {steps}"


def _story(workflow: Workflow, steps: list[dict[str, Any]]) -> Iterator[str]:
    yield _line(workflow)
    if workflow.ended_at is not None:
        yield f"  ended {shown_time(workflow.ended_at)}"
    for each in steps:
        yield f"  {each['status']:9}  {each['count']:>7,}  {each['task_name']}"


def _cancel(stdout: OutputWrapper, options: dict[str, Any]) -> int:
    change = partial(workflows.cancel_workflows, **_filters(options))
    return _change(stdout, options, "Cancel", "cancelled", change)


def _retry(stdout: OutputWrapper, options: dict[str, Any]) -> int:
    change = partial(workflows.retry_workflows, **_filters(options))
    return _change(stdout, options, "Retry", "retried", change)


def _change(
    stdout: OutputWrapper, options: dict[str, Any], verb: str, participle: str, change: Any
) -> int:
    return changing.make(stdout, options, verb, participle, change, subject=WORKFLOWS)


def _first_of(ids: Sequence[UUID]) -> list[str]:
    found = workflows.find_workflows(ids=list(ids[: changing.SHOWN]))
    return changing.listed([*map(_line, found)], len(ids))


WORKFLOWS: Final = changing.Subject("workflow", _first_of)

ACTIONS: Final = {"list": _list, "show": _show, "cancel": _cancel, "retry": _retry}
