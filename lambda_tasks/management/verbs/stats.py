"""What waits and runs now, and what has ended lately, by queue and by task.

Exit code: 0, 2 for arguments that make no sense.
"""

from argparse import ArgumentParser
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

from django.core.management.base import OutputWrapper

from lambda_tasks import operations
from lambda_tasks.management.output import DONE, shown_time, write_json
from lambda_tasks.management.parsing import add_json, duration
from lambda_tasks.management.pausing import described, is_paused
from lambda_tasks.models import QueueState
from lambda_tasks.operations import Counts, Stats
from lambda_tasks.operations.counting import WINDOW

HELP: Final = "Counts what waits, runs and has ended."

COLUMNS: Final = ("waiting", "delayed", "running", "stuck", "succeeded", "failed", "retried")


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of `stats`."""
    parser.add_argument(
        "--window", type=duration, default=WINDOW, metavar="TIME",
        help="how far back to count what has ended (default: 1h)",
    )  # fmt: skip
    add_json(parser)


def run(stdout: OutputWrapper, options: dict[str, Any]) -> int:
    """Print the counts, and return 0. Raises InvalidFilter."""
    found = operations.stats(window=options["window"])
    states = operations.queue_states()
    if options["json"]:
        _write_json(stdout, found, states)
        return DONE
    names = ["all", *found.queues, *found.tasks]
    width = max(map(len, names))
    stdout.write("".join([" " * width, *(f"{column:>11}" for column in COLUMNS), "     oldest"]))
    stdout.write(_line("all", width, found.total))
    for counted in (found.queues, found.tasks):
        for name, counts in counted.items():
            stdout.write(_line(name, width, counts))
    for name, state in states.items():
        if state.is_paused:
            words = described(state.changed_by, state.reason, since=state.changed_at)
            stdout.write(f"{name} is {words}.")
    stdout.write(f"What has ended is counted since {shown_time(found.ended_since)}.")
    if not found.is_complete:
        stdout.write("More waits than was counted: these are the least numbers.")
    return DONE


def _write_json(stdout: OutputWrapper, found: Stats, states: Mapping[str, QueueState]) -> None:
    about = {
        "now": found.now.isoformat(),
        "ended_since": found.ended_since.isoformat(),
        "is_complete": found.is_complete,
        "last_tick_s": found.last_tick_s,
    }
    write_json(stdout, "total", about | asdict(found.total))
    for name, counts in found.queues.items():
        queue = {"name": name, "is_paused": is_paused(states.get(name))}
        write_json(stdout, "queue", queue | asdict(counts))
    for name, counts in found.tasks.items():
        write_json(stdout, "task", {"name": name, **asdict(counts)})


def _line(name: str, width: int, counts: Counts) -> str:
    numbers = "".join(f"{getattr(counts, column):>11,}" for column in COLUMNS)
    age_s = counts.oldest_waiting_s
    age = "" if age_s is None else f"{age_s:,.0f} s"
    return f"{name:{width}}{numbers}{age:>11}".rstrip()
