"""One invocation of the real Lambda handler, in this process, with an event from a file.

The handler's answer is printed as JSON, and what became of each call on standard error, except with
-v 0. Ctrl-C gives back what runs; once more, it ends at once. Exit codes: 0, 1 if a task failed, or
a message goes back to its queue (--failed-exit-code), or the handler raised, 2 for what is no
event.
"""

import json
import os
import signal
import sys
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from django.core.management.base import CommandError, OutputWrapper

from lambda_tasks import conf, console, handler
from lambda_tasks.core.lifecycle import Status
from lambda_tasks.core.message import decode, invocation_id_of
from lambda_tasks.entrypoints.lambda_events import WHOLE_BATCH
from lambda_tasks.local import LambdaContext
from lambda_tasks.management.output import DONE, FAILED, USAGE
from lambda_tasks.management.parsing import add_exit_code
from lambda_tasks.models import TaskRecord
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
    NotMigrated where a table is missing, KeyboardInterrupt after Ctrl-C, and whatever else the
    handler raises.
    """
    event = _read(options["event"])
    if event != PING:
        queries.check_migrated()
    if not conf.current().is_fed_by_aws:
        _let_come_from_the_table(event)
    with_traceback = not console.logs_failures()
    if options["verbosity"]:
        os.environ[console.LINES_VARIABLE] = str(options["verbosity"])  # of worker processes, too
        console.show_lines_if_told()
    with _given_back_by_ctrl_c():
        answer = _answer(event, options["timeout"])
        records = _settled(event, answer)
        for record in records if options["verbosity"] else ():
            _tell(_describe(record, with_traceback=with_traceback))
        stdout.write(json.dumps(answer, indent=2))
    if answer.get("batchItemFailures") or any(each.status == Status.FAILED for each in records):
        return int(options["failed_exit_code"])
    return DONE


@contextmanager
def _given_back_by_ctrl_c() -> Iterator[None]:
    """Let Ctrl-C give back what runs in the body, which then ends by itself.

    Raises KeyboardInterrupt afterwards, and at once where nothing runs.
    """
    is_given_back = False

    def give_back(*_: object) -> None:
        nonlocal is_given_back
        signal.signal(signal.SIGINT, earlier)
        is_given_back = handler.interrupt()
        if not is_given_back:
            raise KeyboardInterrupt
        _tell("What runs goes back to its queue; Ctrl-C once more ends it at once.")

    earlier = signal.signal(signal.SIGINT, give_back)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, earlier)
    if is_given_back:
        raise KeyboardInterrupt


def _answer(event: Any, timeout_s: float) -> dict[str, Any]:
    try:
        return handler.handler(event, LambdaContext(timeout_s=timeout_s))
    except ValueError as error:
        raise CommandError(str(error), returncode=USAGE) from None
    finally:
        handler.close()


def _settled(event: Any, answer: dict[str, Any]) -> list[TaskRecord]:
    """Return the records of the messages that don't go back: so each can be decoded."""
    back = {each["itemIdentifier"] for each in answer.get("batchItemFailures", ())}
    if WHOLE_BATCH in back:
        return []
    ids = [
        decode(each["body"], fallback_id=invocation_id_of(each["messageId"])).invocation_id
        for each in event.get("Records", ())
        if each["messageId"] not in back
    ]
    return queries.find_many(ids)


def _describe(record: TaskRecord, *, with_traceback: bool) -> str:
    if Status(record.status).is_finished:
        return console.describe_end(record, with_traceback=with_traceback)
    reason = f" and waits for {record.waits_for}" if record.waits_for else ""
    return f"[{record.id}] {console.describe_call(record)} is {record.status}{reason}."


def _tell(text: str) -> None:
    print(text, file=sys.stderr)


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
