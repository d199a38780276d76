"""The ends of runs, as they come, until Ctrl-C. With filters, only those that they name.

The records are asked once a second, for up to 1,000 new ends. Exit codes: 0, 2 for arguments that
make no sense.
"""

import time
from argparse import ArgumentParser
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from django.core.management.base import CommandError, OutputWrapper
from django.utils import timezone

from lambda_tasks.management.output import DONE, USAGE, describe, write_json
from lambda_tasks.management.parsing import add_filters, add_json, duration, filters_of
from lambda_tasks.models import TaskRecord
from lambda_tasks.operations import Filters
from lambda_tasks.operations.checking import check_names
from lambda_tasks.operations.describing import record_as_json
from lambda_tasks.records import listing

HELP: Final = "Follows the ends of runs, like a log."

POLL_EVERY_S: Final = 1.0

MAX_NEW: Final = 1000
"""The most ends that one look reads."""

LOOK_BACK: Final = timedelta(seconds=5)
"""How far each look goes back behind the latest end.

A run is found after its commit, which may come after that of one that ended later.
"""

FIRST_BACK: Final = timedelta(hours=1)
"""How far back the ends are from which the first lines come."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of `tail`."""
    add_filters(parser, ids=False)
    parser.add_argument(
        "-n", "--lines", type=int, default=10, metavar="N",
        help="the ends of the last hour to begin with (default: 10)",
    )  # fmt: skip
    parser.add_argument(
        "--for", type=duration, dest="lasts", metavar="TIME", help="stop after 90s, 15m, 2h or 1d"
    )
    add_json(parser)


def run(stdout: OutputWrapper, options: dict[str, Any]) -> int:
    """Print ends until Ctrl-C or `--for` stops it, and return 0. Raises InvalidFilter."""
    if not 0 <= options["lines"] <= MAX_NEW:
        raise CommandError(f"--lines takes a number from 0 to {MAX_NEW}.", returncode=USAGE)

    def write(record: TaskRecord) -> None:
        if options["json"]:
            write_json(stdout, "record", record_as_json(record))
        else:
            stdout.write(describe(record))
        stdout.flush()

    filters = filters_of(options)
    check_names(filters)
    ends = _Ends(filters, write)
    lasts = options["lasts"]
    until = None if lasts is None else time.monotonic() + lasts.total_seconds()
    try:
        ends.begin(options["lines"])
        while until is None or time.monotonic() < until:
            left_s = POLL_EVERY_S if until is None else until - time.monotonic()
            time.sleep(max(min(POLL_EVERY_S, left_s), 0.0))
            if ends.follow() and not options["json"]:
                stdout.write(f"More than {MAX_NEW:,} have ended; some are left out.")
    except KeyboardInterrupt:
        if not options["json"]:
            stdout.write("\nNo longer followed. The tasks go on.")
    return DONE


class _Ends:
    """The ends of runs from now on, each once."""

    def __init__(self, filters: Filters, write: Callable[[TaskRecord], None]) -> None:
        self._filters = filters
        self._write = write
        self._since: datetime = timezone.now()
        self._seen: set[UUID] = set()

    def begin(self, lines: int) -> None:
        """Write the last ends, and go on from there."""
        records = listing.ended_since(self._since - FIRST_BACK, self._filters, limit=MAX_NEW)
        for record in records[len(records) - min(lines, len(records)) :]:
            self._write(record)
        self._seen = {record.id for record in records}
        self._since -= LOOK_BACK

    def follow(self) -> bool:
        """Write the new ends; return whether there may have been more than one look reads."""
        records = listing.ended_since(self._since, self._filters, limit=MAX_NEW)
        new = [record for record in records if record.id not in self._seen]
        for record in new:
            self._write(record)
        self._seen = {record.id for record in records}
        if records and (last := records[-1].end_time) is not None:
            self._since = max(self._since, last - LOOK_BACK)
        return len(new) == MAX_NEW
