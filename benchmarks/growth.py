"""Time per message and memory of the process, from ten messages to a hundred thousand.

Run `uv run --group bench python -m benchmarks.growth --quick` for a first look.
"""

import argparse
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median
from typing import Final

from benchmarks import contest, environments, options, report
from benchmarks.contest import Contestant, ratio, take_turns
from benchmarks.enqueue import IN_MEMORY
from benchmarks.fast_sqs import FastSqs
from benchmarks.plot import Bar, Panel, draw
from tests.servers.postgres import PostgresServer

TITLE: Final = "Growth"

SIZES: Final = (10, 100, 1_000, 10_000, 100_000)
BASE: Final = 100

AT_LEAST: Final = 20_000
"""Messages of one measure: small calls are repeated."""


@dataclass(frozen=True)
class Entry:
    """So many messages in one call of the bulk form."""

    durable: bool
    size: int

    @property
    def label(self) -> str:
        return f"{self.size:,}, {'durable' if self.durable else 'direct'}"


class Bench:
    """Both kinds, against one endpoint."""

    def __init__(self, stack: ExitStack) -> None:
        sqs = stack.enter_context(FastSqs())
        postgres = stack.enter_context(PostgresServer())
        endpoint = {"AWS_ENDPOINT_URL": sqs.url, "BENCHMARK_QUEUE_URL": sqs.queue_url}
        stored = contest.django(postgres.django_database("growth"), durable=True, waits=True)
        self._environments = {True: endpoint | stored, False: endpoint | contest.django(IN_MEMORY)}
        self._contestants = {
            durable: stack.enter_context(self._contestant(durable)) for durable in (True, False)
        }
        self._contestants[True].ask("migrate")
        self.versions = self._contestants[False].versions("lambda-tasks", "django", "aiobotocore")

    def _contestant(self, durable: bool) -> Contestant:
        return Contestant("enqueue_tasks", environments.here(), self._environments[durable])

    def measure(self, entry: Entry, *, messages: int) -> float:
        """Seconds per message."""
        calls = max(1, messages // entry.size)
        contestant = self._contestants[entry.durable]
        seconds = contestant.ask("send_calls", messages=entry.size, calls=calls)
        return float(seconds) / (calls * entry.size)

    def peak_mib(self, entry: Entry) -> float:
        """The peak of a process that makes one such call and nothing else."""
        with self._contestant(entry.durable) as contestant:
            contestant.ask("send", messages=entry.size, form="bulk")
            return float(contestant.ask("peak_mib"))


def table(seconds: Mapping[Entry, Sequence[float]], peaks: Mapping[Entry, float]) -> str:
    rows = [
        [
            entry.label,
            f"{median(each) * 1e6:,.1f}",
            f"{ratio(each, seconds[Entry(entry.durable, BASE)]):.2f}",
            f"{peaks[entry]:,.0f}",
        ]
        for entry, each in seconds.items()
    ]
    head = ["Messages in one call", "µs per message", f"Times that of {BASE}", "Peak MiB"]
    return report.table(head, rows)


def main() -> None:
    chosen = _options()
    entries = [Entry(durable, size) for durable in (False, True) for size in chosen.sizes]
    with ExitStack() as stack:
        bench = Bench(stack)
        for entry in entries:
            bench.measure(entry, messages=1_000)  # warm
        seconds = take_turns(
            entries, chosen.runs, lambda entry: bench.measure(entry, messages=chosen.messages)
        )
        peaks = {entry: bench.peak_mib(entry) for entry in entries}
    conditions = report.conditions(bench.versions)
    text = (
        f"{conditions} Medians of {chosen.runs} interleaved runs.\n\n{table(seconds, peaks)}\n\n"
        "![Microseconds per message](growth.png)"
    )
    print(text)
    report.write_section(chosen.output, TITLE, text)
    panels = [
        Panel(
            "durable" if durable else "direct",
            "microseconds per message, less is better",
            [
                Bar(
                    entry.label,
                    [1e6 * value for value in each],
                    f"{median(each) * 1e6:,.1f} µs",
                    is_ours=True,
                )
                for entry, each in seconds.items()
                if entry.durable == durable
            ],
        )
        for durable in (False, True)
    ]
    draw(chosen.output / "growth.png", "Time per message by the size of a call", panels)


def _options() -> argparse.Namespace:
    parser = options.parser(__doc__, messages=AT_LEAST)
    chosen = parser.parse_args()
    chosen.sizes = SIZES
    if chosen.quick:
        chosen.runs, chosen.messages, chosen.sizes = 3, 2_000, SIZES[:-1]
    return chosen


if __name__ == "__main__":
    main()
