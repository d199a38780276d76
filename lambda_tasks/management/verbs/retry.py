"""FAILED and CANCELLED calls once more, as the same invocations: the same id and idempotency key.

Attempts and retries count from 0, and the old tracebacks are gone (`replay` keeps them). Each chunk
is committed on its own, so what Ctrl-C cuts off is done by the same command. With --from-step, a
durable function goes on from one of its steps. Exit codes: 0, 2 for arguments that make no sense, 3
if there is nothing to do (--empty-exit-code).
"""

from argparse import ArgumentParser
from functools import partial
from typing import Any, Final
from uuid import UUID

from django.core.management.base import CommandError, OutputWrapper

from lambda_tasks import operations
from lambda_tasks.durable import DurableRun
from lambda_tasks.management import changing
from lambda_tasks.management.output import USAGE
from lambda_tasks.management.parsing import add_filters, filters_of
from lambda_tasks.operations import Changes
from lambda_tasks.operations.steering import OnProgress
from lambda_tasks.records import queries
from lambda_tasks.records.filters import Filters, as_uuid

HELP: Final = "Runs failed and cancelled calls again, as the same invocations."

FORGETS: Final = "Their records then forget how they ended: the old tracebacks are gone."
"""What a question says. A replay has a record of its own, and keeps them."""


FORGETS_STEPS: Final = "The step, and all after it, are forgotten and done anew."


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of `retry`."""
    add_filters(parser)
    parser.add_argument(
        "--from-step",
        metavar="NAME",
        help="forget this step of a durable function, and all after it, and go on from there",
    )
    changing.add_options(parser)


def run(stdout: OutputWrapper, options: dict[str, Any]) -> int:
    """Retry, and return the exit code. Raises InvalidFilter."""
    filters = filters_of(options)
    if options["from_step"] is not None:
        change = partial(_go_on, _only_id(filters), options["from_step"])
        return changing.make(stdout, options, "Retry", "retried", change, warning=FORGETS_STEPS)
    change = partial(operations.retry, **filters)
    return changing.make(stdout, options, "Retry", "retried", change, warning=FORGETS)


def _only_id(filters: Filters) -> UUID:
    """Return the id that was given. Raises CommandError for several, and for other filters."""
    ids = list(filters.get("ids") or ())
    if len(ids) != 1 or filters.keys() != {"ids"}:
        raise CommandError("--from-step takes the id of one durable function.", returncode=USAGE)
    return as_uuid(ids[0])


def _go_on(id: UUID, step: str, *, dry_run: bool, on_progress: OnProgress) -> Changes:
    """Let a durable function go on from a step; `id` is that of one of its runs.

    Raises CommandError for an unknown function or step.
    """
    record = queries.find(id)
    if record is None or record.call_id is None:
        raise CommandError(f"There is no durable function {id}.", returncode=USAGE)
    try:
        DurableRun(record.call_id).retry_from(step, dry_run=dry_run)
    except LookupError as error:
        raise CommandError(str(error), returncode=USAGE) from None
    except ValueError as error:
        return Changes(skipped={id: str(error)})
    return Changes(done=[id])
