"""The newest calls, the newest first, with their status, arguments, time and error.

Filters by status, queue, argument and error search the newest 10,000 records, or all of them with
--all. Exit codes: 0, 2 for arguments that make no sense, 3 (--empty-exit-code) if nothing is found.
"""

from argparse import ArgumentParser
from typing import Any, Final

from django.core.management.base import CommandError, OutputWrapper

from lambda_tasks.management.output import DONE, EMPTY, USAGE, describe, shown_time, write_json
from lambda_tasks.management.parsing import add_exit_code, add_filters, add_json, filters_of
from lambda_tasks.operations.checking import check_names
from lambda_tasks.operations.describing import record_as_json
from lambda_tasks.records import listing

HELP: Final = "Lists calls, with filters."


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of `list`."""
    add_filters(parser)
    parser.add_argument("--limit", type=int, default=50, metavar="N", help="how many (default: 50)")
    parser.add_argument("--all", action="store_true", help="search all records")
    add_json(parser)
    add_exit_code(parser, "empty", EMPTY, "nothing is found")


def run(stdout: OutputWrapper, options: dict[str, Any]) -> int:
    """Print the records, and return the exit code. Raises InvalidFilter."""
    if options["limit"] < 1:
        raise CommandError("--limit takes a number from 1 on.", returncode=USAGE)
    filters = filters_of(options)
    check_names(filters)
    page = listing.newest(filters, limit=options["limit"], search_all=options["all"])
    for record in page.records:
        if options["json"]:
            write_json(stdout, "record", record_as_json(record))
        else:
            stdout.write(describe(record))
    is_short = len(page.records) < options["limit"]
    if page.searched_since is not None and is_short and not options["json"]:
        since = shown_time(page.searched_since)
        stdout.write(f"Calls since {since} were searched; --all searches the older ones, too.")
    return DONE if page.records else int(options["empty_exit_code"])
