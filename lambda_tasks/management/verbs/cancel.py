"""The end of calls that wait or run: what is QUEUED never runs, what is RUNNING can't commit.

Exit codes: 0, 2 for arguments that make no sense, 3 if there is nothing to do (--empty-exit-code).
"""

from argparse import ArgumentParser
from functools import partial
from typing import Any, Final

from django.core.management.base import OutputWrapper

from lambda_tasks import operations
from lambda_tasks.management import changing
from lambda_tasks.management.parsing import add_filters, filters_of

HELP: Final = "Cancels calls that wait or run."


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of `cancel`."""
    add_filters(parser)
    changing.add_options(parser)


def run(stdout: OutputWrapper, options: dict[str, Any]) -> int:
    """Cancel, and return the exit code. Raises InvalidFilter."""
    change = partial(operations.cancel, **filters_of(options))
    return changing.make(stdout, options, "Cancel", "cancelled", change)
