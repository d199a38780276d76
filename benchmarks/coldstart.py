"""Seconds from nothing to a handler that can take its first event, in new processes, against bare
`django.setup()` of the same project and django-lambda-tasks.

Run `uv run --group bench python -m benchmarks.coldstart --quick` for a first look.
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks import contest, environments, options, report
from benchmarks.contest import Contestant, ratio, take_turns
from benchmarks.plot import Bar, Panel, draw

TITLE: Final = "Cold start"

OURS: Final = "lambda_tasks"
PEER: Final = "django-lambda-tasks"

FUNCTION: Final = {
    "AWS_LAMBDA_RUNTIME_API": "127.0.0.1:9",
    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "1024",
}
"""In which a module that is the function's sets itself up."""

READY: Final = "from django.apps import apps; assert apps.ready"

END: Final = "; import os; os._exit(0)"
"""Ends the process at once. A normal exit would count in the result, and it goes through all
objects but those that a handler has frozen."""

# The root comes last, so that `lambda_tasks` is the one that the environment has installed.
BEGIN: Final = f"import sys; sys.path.append({str(Path(__file__).parents[1])!r}); "

LIMIT_S: Final = 60.0
"""Seconds after which a process, or what it has started, hangs."""


@dataclass(frozen=True)
class Entry:
    """What a process of one library does before it ends."""

    library: str
    what: str
    code: str
    in_lambda: bool = False

    @property
    def label(self) -> str:
        return f"{self.what} ({self.library})"


BARE: Final = "import django; django.setup()"

ENTRIES: Final = [
    Entry(OURS, "python alone", "pass"),
    Entry(OURS, "bare django.setup()", BARE),
    Entry(OURS, "import of the handler", "import lambda_tasks.handler"),
    Entry(OURS, "handler", f"import lambda_tasks.handler; {READY}", in_lambda=True),
    Entry(PEER, "bare django.setup()", BARE),
    Entry(
        PEER,
        "handler",
        f"from lambda_tasks.handler import _perform_cold_start as set_up; set_up(); {READY}",
        # Not as in Lambda, where it sets a limit of memory that its own start may not fit into.
    ),
]


def measure(entry: Entry) -> float:
    """Seconds of a process from its start until it is ready.

    Returns when the processes that it has started have ended, too: a handler's server of processes
    would still load beside the next one.
    """
    python = environments.here() if entry.library == OURS else environments.django_lambda_tasks()
    before = time.perf_counter()
    with subprocess.Popen(
        [python, "-c", BEGIN + entry.code + END],
        env={**os.environ, **_environment(), **(FUNCTION if entry.in_lambda else {})},
        cwd=tempfile.gettempdir(),
        stdout=subprocess.PIPE,
    ) as process:
        try:
            status = process.wait(LIMIT_S)
            seconds = time.perf_counter() - before
            process.communicate(timeout=LIMIT_S)  # ends when the processes that it has started do
        except subprocess.TimeoutExpired:
            process.kill()  # else the end of the block would wait for it
            raise
    if status:
        raise subprocess.CalledProcessError(status, entry.label)
    return seconds


def _environment() -> dict[str, str]:
    database: dict[str, Any] = {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": "never connected to",
    }
    return {
        "BENCHMARK_QUEUE_URL": "http://127.0.0.1:9/000000000000/jobs",
        "BENCHMARK_DATABASE": json.dumps(database),
        "DJANGO_SETTINGS_MODULE": "benchmarks.contestants.settings",
    }


def table(results: Mapping[Entry, Sequence[float]]) -> str:
    bare = {entry.library: each for entry, each in results.items() if entry.code == BARE}
    rows = [
        [
            entry.label,
            f"{median(seconds) * 1000:,.0f}",
            f"{ratio(seconds, bare[entry.library]):,.2f}",
        ]
        for entry, seconds in results.items()
    ]
    return report.table(["Process until it is ready", "ms", "Times bare django.setup()"], rows)


def main() -> None:
    chosen = _options()
    environment = contest.django({}) | _environment()
    with (
        Contestant("handle_events", environments.here(), environment) as ours,
        Contestant("handle_events", environments.django_lambda_tasks(), environment) as peer,
    ):
        versions = ours.versions("lambda-tasks", "django") | peer.versions("django-lambda-tasks")
    conditions = report.conditions(versions)
    print(conditions, flush=True)
    for entry in ENTRIES:
        measure(entry)  # compiles, and fills the caches
    results = take_turns(ENTRIES, chosen.runs, measure)
    text = (
        f"{conditions} Medians of {chosen.runs} interleaved runs.\n\n{table(results)}\n\n"
        "![Milliseconds of a cold start](coldstart.png)"
    )
    print(f"\n{text}")
    report.write_section(chosen.output, TITLE, text)
    bars = [
        Bar(
            entry.label,
            [1000 * value for value in seconds],
            f"{median(seconds) * 1000:,.0f} ms",
            is_ours=entry.library == OURS,
        )
        for entry, seconds in results.items()
    ]
    panel = Panel("One process", "milliseconds, less is better", bars)
    draw(chosen.output / "coldstart.png", "From nothing to a handler that is ready", [panel])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=15, help="interleaved runs per entry")
    parser.add_argument("--quick", action="store_true", help="a look, not a measurement")
    parser.add_argument("--output", type=Path, default=options.RESULTS, metavar="DIR")
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.runs = 5
    return chosen


if __name__ == "__main__":
    main()
