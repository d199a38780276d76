"""Gives one event to the real Lambda handler, in this process, and prints its answer. Exit codes:
0 when it answered, 1 when it raised."""

import json
import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any, Final

from django.core.management.base import CommandError, OutputWrapper

from lambda_tasks import handler
from lambda_tasks.local import LambdaContext

HELP: Final = "Runs the real Lambda handler on one event."


def add_arguments(parser: ArgumentParser) -> None:
    """See HELP."""
    parser.add_argument("event", metavar="EVENT.json", help="a file; - for standard input")
    parser.add_argument(
        "--timeout", type=float, default=900, metavar="SECONDS", help="the function's (900)"
    )


def run(stdout: OutputWrapper, options: dict[str, Any]) -> int:
    """Raises CommandError for what is no event."""
    event = _read(options["event"])
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
        raise CommandError(f"{name} is no JSON: {error}.") from None
