"""What a durable call adds to a request of a web process, whatever SQS does.

Run `uv run --group bench python -m benchmarks.request --quick` for a first look.
"""

import argparse
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import Any, Final

from benchmarks import contest, environments, options, report
from benchmarks.contest import Contestant, ratio
from benchmarks.fast_sqs import FastSqs
from benchmarks.plot import Bar, Panel, draw
from tests.servers.postgres import PostgresServer

TITLE: Final = "A durable call in a request"

SENDERS: Final = {"background": "in the background", "waits": "LAMBDA_TASKS_WAIT_FOR_SEND"}

KINDS: Final = {
    "none": "without a call",
    "inserted": "the INSERT by itself",
    "stored": "stored, not sent",
    "sent": "stored and sent",
}

THREADS: Final = 8

THREADED_LATENCY_MS: Final = 8.0


@dataclass
class Results:
    """What was measured, by sender.

    `added_ms` is also by SQS's behaviour, and by the kind of request that a request with a call
    that is sent is compared with.
    """

    added_ms: dict[tuple[str, str, str], list[float]] = field(default_factory=dict)
    rates: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    per_request: dict[str, float] = field(default_factory=dict)
    together: dict[str, list[float]] = field(default_factory=dict)


class Bench:
    """The endpoint, and a web process for each way to send."""

    def __init__(self, sqs: FastSqs, contestants: dict[str, Contestant]) -> None:
        self._sqs = sqs
        self._contestants = contestants

    def measure(self, chosen: argparse.Namespace) -> Results:
        results = Results()
        for _ in range(chosen.runs):
            for sender in SENDERS:
                self._measure_threads(sender, results, chosen)
                self._measure_together(sender, results, chosen)
                for latency_ms in chosen.latency_ms:
                    self._measure_turns(sender, f"{latency_ms:g} ms", "accept", results, chosen)
        for mode, label in (("refuse", "refuses"), ("hang", "hangs")):
            self._measure_turns("background", label, mode, results, chosen)
        return results

    def _measure_turns(
        self, sender: str, label: str, mode: str, results: Results, chosen: argparse.Namespace
    ) -> None:
        latency_ms = float(label.removesuffix(" ms")) if mode == "accept" else 0.0
        self._set(latency_ms, mode)
        seconds = self._ask(sender, "in_turns", requests=chosen.messages)
        for kind in ("none", "inserted", "stored"):
            added = [
                1000 * (sent - other)
                for sent, other in zip(seconds["sent"], seconds[kind], strict=True)
            ]
            results.added_ms.setdefault((sender, label, kind), []).extend(added)
        self._set(0, "accept")

    def _measure_threads(self, sender: str, results: Results, chosen: argparse.Namespace) -> None:
        self._set(THREADED_LATENCY_MS, "accept")
        for kind in KINDS:
            self._sqs.take_counts()
            rate = self._ask(
                sender, "in_threads", requests=4 * chosen.messages, threads=THREADS, kind=kind
            )
            results.rates.setdefault((sender, kind), []).append(rate)
        counts = self._sqs.take_counts()
        results.per_request[sender] = counts.messages / counts.requests
        assert self._ask(sender, "empty") == 0

    def _measure_together(self, sender: str, results: Results, chosen: argparse.Namespace) -> None:
        self._set(THREADED_LATENCY_MS, "accept")
        calls = 5 * chosen.messages
        rate = calls / self._ask(sender, "together", calls=calls)
        results.together.setdefault(sender, []).append(rate)
        assert self._ask(sender, "empty") == 0

    def _set(self, latency_ms: float, mode: str) -> None:
        self._sqs.set_latency_ms(latency_ms)
        self._sqs.set_mode(mode)

    def _ask(self, sender: str, do: str, **parameters: Any) -> Any:
        return self._contestants[sender].ask(do, **parameters)

    def versions(self) -> dict[str, str | None]:
        return self._contestants["waits"].versions("lambda-tasks", "django", "psycopg")


@contextmanager
def bench() -> Iterator[Bench]:
    with ExitStack() as stack:
        sqs = stack.enter_context(FastSqs())
        postgres = stack.enter_context(PostgresServer())
        of_endpoint = {"AWS_ENDPOINT_URL": sqs.url, "BENCHMARK_QUEUE_URL": sqs.queue_url}
        contestants = {
            sender: Contestant(
                "request_calls",
                environments.here(),
                of_endpoint
                | contest.django(
                    postgres.django_database(sender), durable=True, waits=sender == "waits"
                ),
            )
            for sender in SENDERS
        }
        for contestant in contestants.values():
            stack.enter_context(contestant)
            contestant.ask("migrate")
            contestant.ask("in_turns", requests=50)
        yield Bench(sqs, contestants)


def added_table(results: Results) -> str:
    rows = [
        [
            f"{label}, {SENDERS[sender]}",
            f"{median(added):+.2f}",
            f"{quantiles(added, n=20)[-1]:+.2f}",
            f"{median(results.added_ms[sender, label, 'inserted']):+.2f}",
            f"{median(results.added_ms[sender, label, 'stored']):+.2f}",
        ]
        for (sender, label, kind), added in results.added_ms.items()
        if kind == "none"
    ]
    head = [
        "SQS answers after",
        "ms added, median",
        "ms, 95 of 100",
        "to its INSERT by itself",
        "to a call that is not sent",
    ]
    return report.table(head, rows)


def threads_table(results: Results) -> str:
    rows = [
        [
            f"{KINDS[kind]}, {SENDERS[sender]}",
            f"{median(rates):,.0f}",
            f"{ratio(rates, results.rates[sender, 'stored']):.2f}",
        ]
        for (sender, kind), rates in results.rates.items()
    ]
    head = [f"{THREADS} threads, {THREADED_LATENCY_MS:g} ms", "Requests/s", "Times unsent"]
    return report.table(head, rows)


def together_table(results: Results) -> str:
    rows = [
        [SENDERS[sender], f"{median(rates):,.0f}", f"{results.per_request[sender]:.1f}"]
        for sender, rates in results.together.items()
    ]
    head = ["Sender", "Calls/s of one transaction, until marked", "Messages per request, threads"]
    return report.table(head, rows)


def panels(results: Results) -> list[Panel]:
    added = [
        Bar(
            f"{label}, {SENDERS[sender]}",
            quantiles(each, n=20)[::9],  # the median, and 90 of 100 about it
            f"{median(each):+.2f} ms",
            is_ours=sender == "background",
        )
        for (sender, label, kind), each in results.added_ms.items()
        if kind == "none"
    ]
    rates = [
        Bar(
            f"{KINDS[kind]}, {SENDERS[sender]}",
            each,
            f"{median(each):,.0f}/s",
            is_ours=(sender, kind) == ("background", "sent"),
        )
        for (sender, kind), each in results.rates.items()
    ]
    together = [
        Bar(SENDERS[sender], each, f"{median(each):,.0f}/s", is_ours=sender == "background")
        for sender, each in results.together.items()
    ]
    return [
        Panel("What a call adds to a request, by SQS", "milliseconds, less is better", added),
        Panel(f"{THREADS} threads", "requests per second, more is better", rates),
        Panel(
            "One transaction, until marked as sent", "calls per second, more is better", together
        ),
    ]


def main() -> None:
    chosen = _options()
    with bench() as running:
        conditions = report.conditions(running.versions())
        print(conditions, flush=True)
        results = running.measure(chosen)
    text = (
        f"{conditions} {chosen.runs} interleaved runs. A request writes one row in a transaction, "
        "on PostgreSQL; what the call adds is the difference to the request before it. Its INSERT "
        "by itself is the same statement, executed by a cursor.\n\n"
        f"{added_table(results)}\n\n{threads_table(results)}\n\n{together_table(results)}\n\n"
        "![Milliseconds and requests per second](request.png)"
    )
    print(f"\n{text}")
    report.write_section(chosen.output, TITLE, text)
    draw(chosen.output / "request.png", "A durable call in a web process", panels(results))


def _options() -> argparse.Namespace:
    parser = options.parser(
        __doc__, messages=400, latency_ms=[0, 8, 40], latency_of="the endpoint's, one or several"
    )
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.runs, chosen.messages = 2, min(chosen.messages, 100)
    return chosen


if __name__ == "__main__":
    main()
