"""Finished records are deleted for good: a window is required, --older-than or --all-time.

With --argument it deletes what is known of one customer. The log has a line with what was asked for
and by whom. Exit codes: 0, 2 for arguments that make no sense, 3 if there is nothing to do
(--empty-exit-code).
"""

from argparse import ArgumentParser
from functools import partial
from typing import Any, Final

from django.core.management.base import OutputWrapper

from lambda_tasks import operations
from lambda_tasks.management import changing
from lambda_tasks.management.output import DONE, counted, shown_time, write_json
from lambda_tasks.management.parsing import add_filters, current_user, duration, filters_of
from lambda_tasks.operations.describing import record_as_json
from lambda_tasks.records import queries

HELP: Final = "Deletes finished records, within a window."


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of `purge`."""
    add_filters(parser)
    window = parser.add_mutually_exclusive_group(required=True)
    window.add_argument(
        "--older-than", type=duration, metavar="TIME", help="what ended so long ago, such as 30d"
    )
    window.add_argument("--all-time", action="store_true", help="whatever has ended")
    parser.add_argument(
        "--chunk-size", type=int, default=1000, metavar="N",
        help="how many one transaction deletes (default: 1000)",
    )  # fmt: skip
    parser.add_argument("--by", metavar="NAME", help="who does it, for the log (default: you)")
    changing.add_options(parser)


def run(stdout: OutputWrapper, options: dict[str, Any]) -> int:
    """Delete records, and return the exit code. Raises InvalidFilter."""
    purge = partial(
        operations.purge,
        older_than=options["older_than"],
        all_time=options["all_time"],
        chunk_size=options["chunk_size"],
        by=options["by"] or current_user(),
        **filters_of(options),
    )
    dry_run = options["dry_run"]
    if not (options["yes"] or dry_run):
        planned = purge(dry_run=True)
        question = f"Delete {counted(planned.deleted, 'record')} for good?"
        lines = changing.first_of(planned.first, planned.deleted)
        if planned.deleted and not changing.confirm(stdout, question, lines):
            return int(options["empty_exit_code"])
    progress = changing.Progress(stdout, options, "deleted")
    with progress:
        purged = purge(dry_run=dry_run, on_progress=progress.show)
    if options["json"]:
        for record in queries.find_many(purged.first):
            write_json(stdout, "record", record_as_json(record))
        numbers = {"done": purged.deleted, "kept": purged.kept}
        about = {"what": "deleted", "dry_run": dry_run, "before": purged.before.isoformat()}
        write_json(stdout, "summary", about | numbers)
    elif options["verbosity"]:
        for line in changing.first_of(purged.first, purged.deleted) if dry_run else ():
            stdout.write(line)
        deleted = counted(purged.deleted, "record", would=dry_run)
        stdout.write(f"{deleted} deleted, of what ended before {shown_time(purged.before)}.")
        if purged.kept:
            kept = counted(purged.kept, "record")
            stdout.write(f"{kept} with these filters stay: unfinished, or ended later.")
    return DONE if purged.deleted else int(options["empty_exit_code"])
