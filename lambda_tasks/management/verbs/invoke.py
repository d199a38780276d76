"""One invocation of the real Lambda handler, in this process, with an event from a file.

The handler's answer is printed as JSON. Exit codes: 0 if the handler answered, 1 if it raised.
"""

import json
import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any, Final

from django.core.management.base import CommandError, OutputWrapper

from lambda_tasks import conf, handler
from lambda_tasks.local import LambdaContext
from lambda_tasks.records import queries

PING: Final = {"lambda_tasks": "ping"}
"""The event that needs no database."""

HELP: Final = "Runs the real Lambda handler on one event."


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of `invoke`."""
    parser.add_argument(
        "event", metavar="EVENT.json", help="the file with the event, or - for standard input"
    )
    parser.add_argument(
        "--timeout", type=float, default=900, metavar="SECONDS",
        help="the timeout of the function (default: 900)",
    )  # fmt: skip


def run(stdout: OutputWrapper, options: dict[str, Any]) -> int:
    """Invoke the handler once, print its answer, and return 0.

    Raises CommandError where the file is not JSON or not an event that the handler accepts,
    NotMigrated where a table is missing, and whatever else the handler raises.
    """
    event = _read(options["event"])
    if event != PING:
        queries.check_migrated()
    if not conf.current().is_fed_by_aws:
        _let_come_from_the_table(event)
    try:
        answer = handler.handler(event, LambdaContext(timeout_s=options["timeout"]))
    except ValueError as error:
        raise CommandError(str(error)) from None
    finally:
        handler.close()
    stdout.write(json.dumps(answer, indent=2))
    return 0


def _read(name: str) -> Any:
    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
    except OSError as error:
        raise CommandError(f"{name} can't be read: {error.strerror}.") from None
    try:
        return json.loads(text)
    except ValueError as error:
        raise CommandError(f"{name} is not JSON: {error}.") from None


def _let_come_from_the_table(event: Any) -> None:
    """Name the default queue as the source of an event's messages, whatever queue they name.

    A project without a queue in AWS would refuse an event that was copied from there.
    """
    source = getattr(conf.current().queue("default"), "source", "")
    for record in event.get("Records", ()) if isinstance(event, dict) else ():
        if isinstance(record, dict):
            record["eventSourceARN"] = source
