"""FAILED and CANCELLED calls once more, as the same invocations: the same id and idempotency key.

Attempts and retries count from 0, and the old tracebacks are gone (`replay` keeps them). Each chunk
is committed on its own, so what Ctrl-C cuts off is done by the same command. Exit codes: 0, 2 for
arguments that make no sense, 3 if there is nothing to do (--empty-exit-code).
"""

from argparse import ArgumentParser
from functools import partial
from typing import Any, Final

from django.core.management.base import OutputWrapper

from lambda_tasks import operations
from lambda_tasks.management import changing
from lambda_tasks.management.parsing import add_filters, filters_of

HELP: Final = "Runs failed and cancelled calls again, as the same invocations."

FORGETS: Final = "Their records then forget how they ended: the old tracebacks are gone."
"""What a question says. A replay has a record of its own, and keeps them."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of `retry`."""
    add_filters(parser)
    changing.add_options(parser)


def run(stdout: OutputWrapper, options: dict[str, Any]) -> int:
    """Retry, and return the exit code. Raises InvalidFilter."""
    change = partial(operations.retry, **filters_of(options))
    return changing.make(stdout, options, "Retry", "retried", change, warning=FORGETS)
