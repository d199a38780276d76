"""Seconds per SQS event in a warm handler on PostgreSQL: django-lambda-tasks, Powertools, and
the same statements by hand.

Run `uv run --group bench python -m benchmarks.handler --quick` for a first look.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final

from benchmarks import contest, environments, options, report
from benchmarks.contest import Contestant, ratio, take_turns
from benchmarks.fast_sqs import FastSqs
from benchmarks.plot import Bar, Panel, draw
from tests.servers.postgres import PostgresServer

TITLE: Final = "Handling"

OURS: Final = "lambda_tasks"
DURABLE: Final = "lambda_tasks, durable"
HOOKED: Final = "lambda_tasks, hooks"
PEER: Final = "django-lambda-tasks"
POWERTOOLS: Final = "Powertools, no records"
BY_HAND: Final = "by hand in Django"

BATCH: Final = 10
"""Records of an event, as SQS hands them to Lambda by default."""

MANY: Final = 1_000
"""As it may be told to."""

COMPUTING: Final = "CPU-bound sync tasks"

WARM_UP: Final = 30
"""Records, in one event or more, before the first that counts."""


@dataclass(frozen=True)
class Entry:
    """One kind of event for one library: `size` records of one task."""

    library: str
    kind: str
    variant: str
    task: str
    size: int = BATCH
    kwargs: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def label(self) -> str:
        return f"{self.library}, {self.variant}"


def entries(wait_s: float) -> list[Entry]:
    """In an order that puts what is compared side by side, in time as in the table."""
    lone = "One trivial task"
    waits, trivial = f"{BATCH} tasks that wait {wait_s * 1000:g} ms", f"{BATCH} trivial tasks"
    many, write = f"{MANY:,} trivial tasks", f"{MANY:,} tasks that write a row"
    wait, rounds = {"seconds": wait_s}, {"rounds": 1_500_000}
    return [
        Entry(PEER, waits, "sync", "tasks.wait", kwargs=wait),
        Entry(OURS, waits, "sync", "tasks.wait", kwargs=wait),
        Entry(OURS, waits, "async", "async_tasks.wait", kwargs=wait),
        Entry(DURABLE, waits, "async", "async_tasks.wait", kwargs=wait),
        Entry(POWERTOOLS, waits, "async", "async_tasks.wait", kwargs=wait),
        Entry(PEER, lone, "sync", "tasks.trivial", size=1),
        Entry(OURS, lone, "sync", "tasks.trivial", size=1),
        Entry(OURS, lone, "async", "async_tasks.trivial", size=1),
        Entry(DURABLE, lone, "async", "async_tasks.trivial", size=1),
        Entry(PEER, trivial, "sync", "tasks.trivial"),
        Entry(OURS, trivial, "sync", "tasks.trivial"),
        Entry(OURS, trivial, "async", "async_tasks.trivial"),
        Entry(DURABLE, trivial, "async", "async_tasks.trivial"),
        Entry(POWERTOOLS, trivial, "async", "async_tasks.trivial"),
        Entry(PEER, many, "sync", "tasks.trivial", size=MANY),
        Entry(OURS, many, "sync", "tasks.trivial", size=MANY),
        Entry(OURS, many, "async", "async_tasks.trivial", size=MANY),
        Entry(HOOKED, many, "sync", "tasks.trivial", size=MANY),
        Entry(HOOKED, many, "async", "async_tasks.trivial", size=MANY),
        Entry(BY_HAND, write, "async", "async_tasks.write", size=MANY),
        Entry(OURS, write, "async", "async_tasks.write", size=MANY),
        Entry(DURABLE, write, "async", "async_tasks.write", size=MANY),
        Entry(PEER, COMPUTING, "one", "tasks.compute", size=1, kwargs=rounds),
        Entry(PEER, COMPUTING, "two", "tasks.compute", size=2, kwargs=rounds),
        Entry(OURS, COMPUTING, "one", "tasks.compute", size=1, kwargs=rounds),
        Entry(OURS, COMPUTING, "two", "tasks.compute", size=2, kwargs=rounds),
    ]


class Bench:
    """The contestants, each on a database of its own on one server."""

    def __init__(self, contestants: Mapping[str, Contestant]) -> None:
        self._contestants = contestants
        self.left_out = [
            index for contestant in contestants.values() for index in contestant.ask("migrate")
        ]

    def measure(
        self, every: Sequence[Entry], *, messages: int, runs: int
    ) -> dict[Entry, list[float]]:
        """Seconds per event, the median of each run."""
        for entry in every:
            self._handle(entry, events=-(-WARM_UP // entry.size))
        return take_turns(
            every, runs, lambda entry: self._handle(entry, events=_events(entry, messages))
        )

    def _handle(self, entry: Entry, *, events: int) -> float:
        seconds = self._contestants[entry.library].ask(
            "handle", task=entry.task, kwargs=entry.kwargs, size=entry.size, events=events
        )
        return float(median(seconds))

    def versions(self) -> dict[str, str | None]:
        ours = self._contestants[OURS].versions("lambda-tasks", "django", "psycopg")
        peer = self._contestants[PEER].versions("django-lambda-tasks")
        other = self._contestants[POWERTOOLS].versions("aws-lambda-powertools")
        return {
            **ours,
            **peer,
            **other,
            "PostgreSQL": self._contestants[OURS].ask("postgres_version"),
        }


def _events(entry: Entry, messages: int) -> int:
    """Fewer of those that take long."""
    if entry.size == MANY:
        return 1
    if entry.size == 1 and "trivial" in entry.task:
        return max(BATCH, messages // BATCH)
    return max(3, messages // BATCH // (1 if "trivial" in entry.task else 5))


@contextmanager
def bench() -> Iterator[Bench]:
    with ExitStack() as stack:
        sqs = stack.enter_context(FastSqs())  # takes what is enqueued to have durable records
        postgres = stack.enter_context(PostgresServer())
        here = environments.here()
        contestants = {}
        for library, module, python in [
            (OURS, "handle_events", here),
            (DURABLE, "handle_events", here),
            (HOOKED, "handle_events", here),
            (PEER, "handle_events", environments.django_lambda_tasks()),
            (BY_HAND, "handle_by_hand", here),
        ]:
            database = postgres.django_database(library.replace(" ", "_"))
            environment = contest.django(database, durable=library == DURABLE)
            environment["BENCHMARK_QUEUE_URL"] = sqs.queue_url
            if library == HOOKED:
                environment["BENCHMARK_HOOKS"] = "1"
            contestants[library] = Contestant(module, python, environment)
        contestants[POWERTOOLS] = Contestant("handle_powertools", environments.powertools(), {})
        for contestant in contestants.values():
            stack.enter_context(contestant)
        yield Bench(contestants)


def table(results: Mapping[Entry, Sequence[float]]) -> str:
    head = ["Event", "Library", "ms per event", "Tasks/s", "Times the first"]
    rows = [
        [
            entry.kind,
            entry.label,
            f"{median(seconds) * 1000:,.1f}",
            f"{entry.size / median(seconds):,.0f}",
            f"{ratio(results[_rival(entry, results)], seconds):,.2f}",
        ]
        for entry, seconds in results.items()
    ]
    return report.table(head, rows)


def two_cores(results: Mapping[Entry, Sequence[float]]) -> str:
    """How much longer two CPU-bound tasks take than one of them."""
    shares = []
    for library in (OURS, PEER):
        one, two = (
            seconds
            for entry, seconds in results.items()
            if entry.library == library and entry.kind == COMPUTING
        )
        shares.append(f"{ratio(two, one):.2f} times with {library}")
    return f"Two CPU-bound tasks take as long as one of them {' and '.join(shares)}."


def panels(results: Mapping[Entry, Sequence[float]]) -> list[Panel]:
    kinds = dict.fromkeys(entry.kind for entry in results)
    return [
        Panel(
            kind,
            "milliseconds per event, less is better",
            [
                Bar(
                    entry.label,
                    [1000 * value for value in seconds],
                    f"{median(seconds) * 1000:,.1f} ms",
                    is_ours=entry.library in (OURS, DURABLE),
                )
                for entry, seconds in results.items()
                if entry.kind == kind
            ],
        )
        for kind in kinds
    ]


def _rival(entry: Entry, results: Mapping[Entry, Sequence[float]]) -> Entry:
    return next(
        each
        for each in results
        if each.library in (PEER, BY_HAND) and (each.kind, each.size) == (entry.kind, entry.size)
    )


def main() -> None:
    chosen = _options()
    with bench() as running:
        conditions = report.conditions(running.versions())
        print(conditions, flush=True)
        every = [entry for latency_ms in chosen.latency_ms for entry in entries(latency_ms / 1000)]
        every = list(dict.fromkeys(every))
        results = running.measure(every, messages=chosen.messages, runs=chosen.runs)
    text = (
        f"{conditions} Medians of {chosen.runs} interleaved runs.{_left_out(running)}\n\n"
        f"{table(results)}\n\n{two_cores(results)}\n\n![Milliseconds per event](handler.png)"
    )
    print(f"\n{text}")
    report.write_section(chosen.output, TITLE, text)
    draw(chosen.output / "handler.png", "One SQS event in a warm handler", panels(results))


def _left_out(running: Bench) -> str:
    if not running.left_out:
        return ""
    return (
        f" {PEER} runs without its indexes {' and '.join(running.left_out)}, since this server "
        "has no pg_trgm."
    )


def _options() -> argparse.Namespace:
    parser = options.parser(
        __doc__, messages=500, latency_ms=[50], latency_of="of what the waiting tasks wait for"
    )
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.runs, chosen.messages = 3, min(chosen.messages, 100)
    return chosen


if __name__ == "__main__":
    main()
