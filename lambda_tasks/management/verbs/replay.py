"""Finished calls anew, as new invocations, with the same arguments or some of them changed.

The old records stay as they are. What was retried or replayed already is left out, except with
--again. Exit codes: 0, 2 for arguments that make no sense, 3 if there is nothing to do
(--empty-exit-code).
"""

from argparse import ArgumentParser
from functools import partial
from typing import Any, Final

from django.core.management.base import OutputWrapper

from lambda_tasks import operations
from lambda_tasks.core.arguments import json_or_text
from lambda_tasks.management import changing
from lambda_tasks.management.parsing import add_filters, filters_of, pair

HELP: Final = "Enqueues finished calls again, as new invocations."


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of `replay`."""
    add_filters(parser)
    parser.add_argument(
        "--change", action="append", type=pair, default=[], metavar="NAME=VALUE",
        help="an argument to replace; a value that is JSON is JSON, any other is text",
    )  # fmt: skip
    parser.add_argument("--again", action="store_true", help="replay what was replayed, too")
    changing.add_options(parser)


def run(stdout: OutputWrapper, options: dict[str, Any]) -> int:
    """Replay, and return the exit code. Raises InvalidFilter."""
    change = partial(
        operations.replay,
        change={name: json_or_text(text) for name, text in options["change"]},
        again=options["again"],
        **filters_of(options),
    )
    return changing.make(stdout, options, "Replay", "replayed", change)
