"""What a million tasks cost on AWS Lambda, Amazon SQS and the database, at list prices.

Run `uv run --group bench python -m benchmarks.cost`.
"""

import argparse
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median
from typing import Final

from benchmarks import contest, environments, options, report
from benchmarks.contest import Contestant
from benchmarks.handler import DURABLE, PEER, Entry, bench
from tests.servers.postgres import PostgresServer

TITLE: Final = "What a million tasks cost"

MILLION: Final = 1_000_000

PRICES: Final = "us-east-1, June 2026"
LAMBDA_PER_GB_S: Final = 0.0000166667
"""Dollars for a second with one GB, on x86 (AWS Lambda pricing)."""
LAMBDA_PER_MILLION_EVENTS: Final = 0.20
SQS_PER_MILLION_REQUESTS: Final = 0.40
"""Dollars, of a standard queue (Amazon SQS pricing)."""

MEMORY_MB: Final = 1_769
"""The memory with which a function has one whole CPU, as the measured process has here."""

LIVES: Final = 500


@dataclass(frozen=True)
class Way:
    """Trivial tasks of one library in events of one size."""

    library: str
    variant: str
    task: str
    size: int
    per_send: int
    """The messages that one request sends."""

    @property
    def entry(self) -> Entry:
        return Entry(self.library, f"events of {self.size}", self.variant, self.task, self.size)

    def row(self, seconds_per_event: float) -> list[str]:
        events = MILLION / self.size
        duration_s = events * seconds_per_event
        function = (
            duration_s * MEMORY_MB / 1024 * LAMBDA_PER_GB_S
            + events / MILLION * LAMBDA_PER_MILLION_EVENTS
        )
        # A request sends, one receives the event's messages, and one deletes them.
        requests = MILLION / self.per_send + 2 * events
        queue = requests / MILLION * SQS_PER_MILLION_REQUESTS
        label = f"{self.library}, {self.variant}, events of {self.size}"
        dollars = [f"{amount:.2f}" for amount in (function, queue, function + queue)]
        return [label, f"{1000 * seconds_per_event:.1f}", f"{duration_s:,.0f}", *dollars]


WAYS: Final = [
    Way(DURABLE, "async", "async_tasks.trivial", size=10, per_send=10),
    Way(DURABLE, "sync", "tasks.trivial", size=10, per_send=10),
    Way(PEER, "sync", "tasks.trivial", size=10, per_send=1),
    Way(DURABLE, "async", "async_tasks.trivial", size=1, per_send=1),
    Way(DURABLE, "sync", "tasks.trivial", size=1, per_send=1),
    Way(PEER, "sync", "tasks.trivial", size=1, per_send=1),
]


def main() -> None:
    chosen = _options()
    with bench() as here:
        seconds = here.measure(
            [way.entry for way in WAYS], messages=chosen.messages, runs=chosen.runs
        )
        versions = here.versions()
    rows = [way.row(median(seconds[way.entry])) for way in WAYS]
    head = ["Tasks", "ms per event", "Lambda, s", "Lambda, $", "SQS, $", "Both, $"]
    text = (
        f"{report.conditions(versions)} Medians of {chosen.runs} interleaved runs. Prices of "
        f"{PRICES}, without free tiers, for a function with {MEMORY_MB:,} MB, which has one CPU."
        "\n\n"
        f"{report.table(head, rows)}\n\n{_database()}"
    )
    print(text)
    report.write_section(chosen.output, TITLE, text)


def _database() -> str:
    """A sentence about what a million tasks cost the database."""
    with ExitStack() as stack:
        postgres = stack.enter_context(PostgresServer())
        environment = contest.django(postgres.django_database("cost"), durable=True) | {
            "BENCHMARK_QUEUE_URL": "http://127.0.0.1:9/queue"
        }
        contestant = stack.enter_context(Contestant("full_table", environments.here(), environment))
        contestant.ask("migrate")
        contestant.ask("life", tasks=50)  # warm
        life = contestant.ask("life", tasks=LIVES)
    return (
        f"PostgreSQL spends {MILLION * life['us'] / 1e6:,.0f} s on the statements of a million "
        f"durable tasks in batches of ten, {life['statements']:.1f} for each task, and writes "
        f"{MILLION * life['wal'] / 2**30:.1f} GiB into its write-ahead log."
    )


def _options() -> argparse.Namespace:
    parser = options.parser(__doc__, messages=1_000)
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.runs, chosen.messages = 3, 200
    return chosen


if __name__ == "__main__":
    main()
