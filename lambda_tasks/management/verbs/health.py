"""Whether the system is well: how long calls wait, ticks, runs without a worker, and failures.

A limit that is exceeded is critical; more than half of it is a warning. Exit codes: 0 if it is ok
or there are only warnings, 2 for arguments that make no sense, 4 if it is critical, or with
--strict if there is a warning.
"""

from argparse import ArgumentParser
from dataclasses import asdict
from datetime import timedelta
from typing import Any, Final

from django.core.management.base import OutputWrapper

from lambda_tasks import operations
from lambda_tasks.management.output import DONE, UNHEALTHY, write_json
from lambda_tasks.management.parsing import add_json, duration

HELP: Final = "Tells whether the system is well, for probes and people."

LIMITS: Final = ("max_age", "max_tick_age", "max_stuck", "max_failed", "max_failure_rate", "window")


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of `health`."""
    parser.add_argument("--queue", metavar="NAME", help="look at one queue")
    parser.add_argument(
        "--max-age", type=duration, default=timedelta(minutes=10), metavar="TIME",
        help="how long a call may wait (default: 10m)",
    )  # fmt: skip
    parser.add_argument(
        "--max-tick-age", type=duration, default=timedelta(minutes=5), metavar="TIME",
        help="how long ago the last tick may be (default: 5m)",
    )  # fmt: skip
    parser.add_argument(
        "--max-stuck", type=int, default=1, metavar="N",
        help="how many runs may be without a worker (default: 1)",
    )  # fmt: skip
    parser.add_argument(
        "--max-failed", type=int, metavar="N", help="how many runs may fail in the window"
    )
    parser.add_argument(
        "--max-failure-rate", type=float, default=0.5, metavar="SHARE",
        help="the share of runs that may fail, from 0 to 1 (default: 0.5)",
    )  # fmt: skip
    parser.add_argument(
        "--window", type=duration, default=timedelta(hours=1), metavar="TIME",
        help="how far back failures count (default: 1h)",
    )  # fmt: skip
    parser.add_argument("--strict", action="store_true", help="exit with 4 for warnings, too")
    add_json(parser)


def run(stdout: OutputWrapper, options: dict[str, Any]) -> int:
    """Print the verdict with its reasons, and return the exit code. Raises InvalidFilter."""
    limits = {name: options[name] for name in LIMITS}
    found = operations.health(queue=options["queue"], **limits)
    if options["json"]:
        stats = found.stats
        numbers = {"last_tick_s": stats.last_tick_s, **asdict(stats.total)}
        write_json(stdout, "health", {"status": found.status, **numbers})
        for problem in found.problems:
            write_json(stdout, "problem", asdict(problem))
    elif options["verbosity"]:
        stdout.write(found.status)
        for problem in found.problems:
            stdout.write(f"{problem.level}: {problem.message}")
    is_bad = found.status == "critical" or (options["strict"] and found.problems)
    return UNHEALTHY if is_bad else DONE
