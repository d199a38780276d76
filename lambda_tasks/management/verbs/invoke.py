"""One invocation of the real Lambda handler, in this process, with an event from a file.

The handler's answer is printed as JSON. Exit codes: 0, 1 if a task failed, or a message goes back
to its queue (--failed-exit-code), or the handler raised, 2 for what is no event.
"""

import json
import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any, Final

from django.core.management.base import CommandError, OutputWrapper

from lambda_tasks import conf, handler
from lambda_tasks.core.lifecycle import Status
from lambda_tasks.core.message import decode, invocation_id_of
from lambda_tasks.local import LambdaContext
from lambda_tasks.management.output import DONE, FAILED, USAGE
from lambda_tasks.management.parsing import add_exit_code
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
    add_exit_code(parser, "failed", FAILED, "a task failed or a message goes back")


def run(stdout: OutputWrapper, options: dict[str, Any]) -> int:
    """Invoke the handler once, print its answer, and return the exit code.

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
        raise CommandError(str(error), returncode=USAGE) from None
    finally:
        handler.close()
    stdout.write(json.dumps(answer, indent=2))
    if answer.get("batchItemFailures") or _has_failed(event):
        return int(options["failed_exit_code"])
    return DONE


def _has_failed(event: Any) -> bool:
    """Return whether a task of the event's messages has failed: the handler keeps that to itself.

    None of them went back, so each can be decoded.
    """
    ids = [
        decode(each["body"], fallback_id=invocation_id_of(each["messageId"])).invocation_id
        for each in event.get("Records", ())
    ]
    return any(record.status == Status.FAILED for record in queries.find_many(ids))


def _read(name: str) -> Any:
    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
    except OSError as error:
        problem = f"{name} can't be read: {error.strerror}."
        raise CommandError(problem, returncode=USAGE) from None
    try:
        return json.loads(text)
    except ValueError as error:
        raise CommandError(f"{name} is not JSON: {error}.", returncode=USAGE) from None


def _let_come_from_the_table(event: Any) -> None:
    """Name the default queue as the source of an event's messages, whatever queue they name.

    A project without a queue in AWS would refuse an event that was copied from there.
    """
    source = getattr(conf.current().queue("default"), "source", "")
    for record in event.get("Records", ()) if isinstance(event, dict) else ():
        if isinstance(record, dict):
            record["eventSourceARN"] = source
