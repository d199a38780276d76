"""The queues in SQS: made and set as recommended, described, and compared.

`ensure` creates what is missing, with dead letters, and sets what differs; it deletes nothing. Exit
codes: 0 if it was done, 2 for an unknown queue, 3 if there is nothing to do (--empty-exit-code), 4
if `diff` finds a difference, 1 if AWS refuses.
"""

import json
from argparse import ArgumentParser
from dataclasses import asdict
from typing import Any, Final

from django.core.management.base import OutputWrapper

from lambda_tasks import operations
from lambda_tasks.management import changing
from lambda_tasks.management.output import DONE, UNHEALTHY, counted, write_json
from lambda_tasks.management.parsing import add_json
from lambda_tasks.management.pausing import described
from lambda_tasks.operations import QueueChange, QueueDescription

HELP: Final = "Makes the queues in SQS, describes and compares them."


def add_arguments(parser: ArgumentParser) -> None:
    """Add the actions of `queues`."""
    actions = parser.add_subparsers(dest="action", required=True)
    ensure = actions.add_parser("ensure", help="create what is missing, and set what differs")
    describe = actions.add_parser("describe", help="show attributes, counts and age")
    diff = actions.add_parser("diff", help="show what differs from what is recommended")
    for action in (ensure, describe, diff):
        action.add_argument("queue", nargs="?", metavar="QUEUE", help="one queue (default: all)")
    changing.add_options(ensure)
    add_json(describe)
    add_json(diff)


def run(stdout: OutputWrapper, options: dict[str, Any]) -> int:
    """Do the chosen action, and return the exit code. Raises InvalidFilter, QueueUnavailable."""
    return _ACTIONS[options["action"]](stdout, options)


def _ensure(stdout: OutputWrapper, options: dict[str, Any]) -> int:
    dry_run = options["dry_run"]
    if not (options["yes"] or dry_run):
        planned = operations.diff_queues(options["queue"])
        lines = [f"  {_change_line(each)}" for each in planned]
        question = f"Make {counted(len(planned), 'change')}?"
        if planned and not changing.confirm(stdout, question, lines):
            return int(options["empty_exit_code"])
    changes = operations.ensure_queues(options["queue"], dry_run=dry_run)
    _show_changes(stdout, options, changes, dry_run=dry_run)
    if options["json"]:
        write_json(stdout, "summary", {"what": "changed", "dry_run": dry_run, "done": len(changes)})
    elif options["verbosity"]:
        stdout.write(f"{counted(len(changes), 'change', would=dry_run)} made.")
    return DONE if changes else int(options["empty_exit_code"])


def _diff(stdout: OutputWrapper, options: dict[str, Any]) -> int:
    changes = operations.diff_queues(options["queue"])
    _show_changes(stdout, options, changes, dry_run=True)
    if not options["json"] and options["verbosity"]:
        stdout.write(
            f"{counted(len(changes), 'difference')}; `lambda_tasks queues ensure` puts them right."
            if changes
            else "Nothing differs."
        )
    return UNHEALTHY if changes else DONE


def _describe(stdout: OutputWrapper, options: dict[str, Any]) -> int:
    for each in operations.describe_queues(options["queue"]):
        if options["json"]:
            write_json(stdout, "queue_description", asdict(each))
        else:
            _write_description(stdout, each)
    return DONE


def _show_changes(
    stdout: OutputWrapper, options: dict[str, Any], changes: list[QueueChange], *, dry_run: bool
) -> None:
    for each in changes:
        if options["json"]:
            write_json(stdout, "queue_change", asdict(each) | {"dry_run": dry_run})
        elif options["verbosity"]:
            stdout.write(_change_line(each))


def _change_line(change: QueueChange) -> str:
    if change.action == "create":
        return f"{change.name}: create the queue"
    before = "unset" if change.before is None else json.dumps(change.before)
    return f"{change.name}: {change.attribute} {before} -> {json.dumps(change.after)}"


def _write_description(stdout: OutputWrapper, each: QueueDescription) -> None:
    title = f"{each.queue} ({each.kind})"
    if each.url is not None:
        title = f"dead letters of {each.queue}" if each.is_dead_letters else each.queue
        title += f": {each.url}"
    stdout.write(title)
    if each.is_paused:
        stdout.write(f"  {described(each.changed_by, each.reason)}")
    if not each.exists:
        stdout.write("  It does not exist; `lambda_tasks queues ensure` creates it.")
        return
    if each.visible is not None:
        stdout.write(
            f"  {each.visible:,} waiting, {each.in_flight:,} in flight, {each.delayed:,} delayed"
        )
    if each.oldest_waiting_s is not None:
        stdout.write(f"  the oldest call has been due for {each.oldest_waiting_s:,.0f} s")
    for name, value in sorted(each.attributes.items()):
        stdout.write(f"  {name}: {value if isinstance(value, str) else json.dumps(value)}")
    if each.n_differences:
        differ = counted(each.n_differences, "attribute")
        stdout.write(f"  {differ} not as recommended: see `lambda_tasks queues diff`")


_ACTIONS: Final = {"ensure": _ensure, "describe": _describe, "diff": _diff}
