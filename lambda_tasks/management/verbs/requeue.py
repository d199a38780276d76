"""What is stuck is due at once: runs without a worker, and calls that no worker has begun.

Workers and relay do this by themselves; this is for a system in which they could not. It is safe: a
call runs once, however many messages it has. Exit codes: 0, 2 for arguments that make no sense, 3
if there is nothing to do (--empty-exit-code).
"""

from argparse import ArgumentParser
from functools import partial
from typing import Any, Final

from django.core.management.base import OutputWrapper

from lambda_tasks import operations
from lambda_tasks.management import changing
from lambda_tasks.management.parsing import add_filters, duration, filters_of
from lambda_tasks.operations.counting import STUCK_AFTER

HELP: Final = "Makes due at once what is stuck."


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of `requeue`."""
    add_filters(parser)
    parser.add_argument(
        "--older-than", type=duration, default=STUCK_AFTER, metavar="TIME",
        help="how long ago it should have gone on (default: 20m)",
    )  # fmt: skip
    changing.add_options(parser)


def run(stdout: OutputWrapper, options: dict[str, Any]) -> int:
    """Make due what is stuck, and return the exit code. Raises InvalidFilter."""
    older_than = options["older_than"]
    change = partial(operations.requeue, older_than=older_than, **filters_of(options))
    return changing.make(stdout, options, "Make due", "made due", change)
