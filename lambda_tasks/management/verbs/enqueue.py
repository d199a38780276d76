"""A call of a task by its name, with arguments as NAME=VALUE or as one JSON object.

A value that fits its parameter as JSON is JSON; any other is text. The arguments are checked
against the task before anything is stored. Exit codes: 0, 2 for arguments that make no sense.
"""

import json
import sys
from argparse import ArgumentParser
from typing import Any, Final

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import CommandError, OutputWrapper

from lambda_tasks import operations
from lambda_tasks.management.output import DONE, USAGE, write_json
from lambda_tasks.management.parsing import add_json, moment, pair
from lambda_tasks.operations.checking import find_task

HELP: Final = "Enqueues a call of a task by its name."


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of `enqueue`."""
    parser.add_argument("task", metavar="TASK", help="the task's dotted name")
    parser.add_argument(
        "texts", nargs="*", type=pair, metavar="NAME=VALUE", help="an argument of the call"
    )
    parser.add_argument(
        "--arguments",
        metavar="JSON",
        help="all arguments as one JSON object; - reads it from stdin",
    )
    parser.add_argument("--queue", metavar="NAME", help="another queue than the task's own")
    parser.add_argument(
        "--run-after", type=moment, metavar="TIME", help="when it is due: in 15m, 2h, 1d, or a date"
    )
    parser.add_argument("--priority", type=int, default=0, metavar="N", help="from -100 to 100")
    parser.add_argument("--group-key", metavar="KEY", help="the MessageGroupId")
    parser.add_argument("--dry-run", action="store_true", help="only check the call")
    add_json(parser)


def run(stdout: OutputWrapper, options: dict[str, Any]) -> int:
    """Enqueue the call, print its id, and return 0.

    Raises UnknownTask, ArgumentsMismatch, and CommandError for other options that make no sense.
    """
    dry_run, arguments = options["dry_run"], _arguments(options)
    try:
        invocation = operations.enqueue(
            options["task"],
            arguments,
            queue=options["queue"],
            run_after=options["run_after"],
            priority=options["priority"],
            group_key=options["group_key"],
            dry_run=dry_run,
        )
    except (ImproperlyConfigured, ValueError) as error:
        raise CommandError(str(error), returncode=USAGE) from None
    if options["json"]:
        id = None if dry_run else str(invocation.id)
        called = {"id": id, "task_name": invocation.task_name, "dry_run": dry_run}
        write_json(stdout, "enqueued", called)
    elif dry_run:
        stdout.write(f"{invocation.task_name} takes these arguments. Nothing was enqueued.")
    else:
        stdout.write(str(invocation.id))
    return DONE


def _arguments(options: dict[str, Any]) -> dict[str, Any]:
    text, texts = options["arguments"], dict(options["texts"])
    if text is None:
        return find_task(options["task"]).read_texts(texts)
    if texts:
        raise CommandError("Use either NAME=VALUE or --arguments.", returncode=USAGE)
    try:
        arguments = json.loads(sys.stdin.read() if text == "-" else text)
    except ValueError as error:
        raise CommandError(f"--arguments is not JSON: {error}.", returncode=USAGE) from None
    if not isinstance(arguments, dict):
        raise CommandError('--arguments is no JSON object such as {"a": 1}.', returncode=USAGE)
    return arguments
