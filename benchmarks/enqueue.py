"""Messages per second from a call until SQS has accepted it, against others, on one fast endpoint.

Run `uv run --group bench python -m benchmarks.enqueue --quick` for a first look.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Final

from benchmarks import contest, environments, options, report
from benchmarks.contest import Contestant, ratio, take_turns
from benchmarks.fast_sqs import FastSqs
from benchmarks.plot import Bar, Panel, draw
from tests.servers.postgres import PostgresServer

TITLE: Final = "Enqueueing"

IN_MEMORY: Final = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
"""For the transaction only: nothing is written."""


@dataclass(frozen=True)
class Entry:
    """One line of the table. `share` is its part of the messages, less where each takes long."""

    label: str
    contestant: str
    form: str
    share: float = 1.0

    @property
    def is_ours(self) -> bool:
        return self.label.startswith("lambda_tasks")


CEILING: Final = Entry("endpoint alone (raw client)", "enqueue_raw", "")
AIOBOTOCORE: Final = Entry("aiobotocore, 16 batches at a time", "enqueue_by_hand", "aiobotocore")
TUNED: Final = Entry("aiobotocore, the same, tuned", "enqueue_by_hand", "aiobotocore tuned")
BOTO3: Final = Entry("boto3, one batch at a time", "enqueue_by_hand", "boto3", share=0.25)
CELERY: Final = Entry("Celery, delay() one at a time", "celery", "", share=0.05)
TASKIQ: Final = Entry("taskiq-aio-sqs, 16 kiq() at a time", "taskiq", "", share=0.05)
DATABASE_TASK: Final = Entry(
    "django-database-task, one transaction", "database_task", "", share=0.05
)
PEER: Final = Entry("django-lambda-tasks, one transaction", "peer", "atomic", share=0.05)
OURS: Final = [
    Entry("lambda_tasks, durable, one transaction", "durable", "atomic", share=0.2),
    Entry("lambda_tasks, durable, bulk form", "durable", "bulk"),
    Entry("lambda_tasks, one transaction", "direct", "atomic"),
    Entry("lambda_tasks, bulk form", "direct", "bulk"),
    Entry("lambda_tasks, async bulk form", "direct", "abulk"),
    Entry("lambda_tasks, concurrent async calls", "direct", "concurrent"),
    Entry("lambda_tasks, eight threads", "direct", "threads"),
]

# In an order that puts what is compared side by side, in time as in the table.
ENTRIES: Final = [
    PEER, CELERY, TASKIQ, DATABASE_TASK, BOTO3, *OURS, AIOBOTOCORE, TUNED, CEILING,
]  # fmt: skip


@dataclass
class Results:
    """What one latency gave: messages per second, run by run, and messages per request."""

    latency_ms: float
    rates: dict[Entry, list[float]]
    per_request: dict[Entry, float] = field(default_factory=dict)


class Bench:
    """The endpoint and the contestants, all running."""

    def __init__(self, sqs: FastSqs, contestants: Mapping[str, Contestant]) -> None:
        self._sqs = sqs
        self._contestants = contestants

    def measure(self, latency_ms: float, *, messages: int, runs: int) -> Results:
        self._sqs.set_latency_ms(latency_ms)
        results = Results(latency_ms, {})
        for entry in ENTRIES:
            self._send(entry, round(1000 * entry.share), results)  # warm
        results.rates = take_turns(
            ENTRIES,
            runs,
            lambda entry: self._send(entry, max(10, round(messages * entry.share)), results),
        )
        return results

    def _send(self, entry: Entry, messages: int, results: Results) -> float:
        self._sqs.take_counts()
        seconds = self._contestants[entry.contestant].ask(
            "send", messages=messages, form=entry.form
        )
        counts = self._sqs.take_counts()
        assert counts.messages == messages, f"{entry.label}: {counts} instead of {messages}"
        results.per_request[entry] = counts.messages / counts.requests
        return messages / float(seconds)

    def versions(self) -> dict[str, str | None]:
        ours = self._contestants["direct"].versions(
            "lambda-tasks", "django", "aiobotocore", "botocore", "boto3"
        )
        peer = self._contestants["peer"].versions("django-lambda-tasks", "boto3")
        others = {
            name: self._contestants[contestant].versions(name)[name]
            for contestant, name in [
                ("celery", "celery"),
                ("taskiq", "taskiq-aio-sqs"),
                ("database_task", "django-database-task"),
            ]
        }
        return (
            ours
            | others
            | {"django-lambda-tasks": f"{peer['django-lambda-tasks']} (with boto3 {peer['boto3']})"}
        )


@contextmanager
def bench() -> Iterator[Bench]:
    with ExitStack() as stack:
        sqs = stack.enter_context(FastSqs())
        postgres = stack.enter_context(PostgresServer())
        of_endpoint = {"AWS_ENDPOINT_URL": sqs.url, "BENCHMARK_QUEUE_URL": sqs.queue_url}
        direct = of_endpoint | contest.django(IN_MEMORY)
        durable = of_endpoint | contest.django(
            postgres.django_database("durable"), durable=True, waits=True
        )
        here, peer = environments.here(), environments.django_lambda_tasks()
        contestants = {
            "enqueue_raw": Contestant("enqueue_raw", here, of_endpoint),
            "enqueue_by_hand": Contestant("enqueue_by_hand", here, of_endpoint),
            "direct": Contestant("enqueue_tasks", here, direct),
            "durable": Contestant("enqueue_tasks", here, durable),
            "peer": Contestant("enqueue_tasks", peer, direct),
            "celery": Contestant("enqueue_celery", environments.celery(), of_endpoint),
            "taskiq": Contestant("enqueue_taskiq", environments.taskiq(), of_endpoint),
            "database_task": Contestant(
                "enqueue_database_task",
                environments.django_database_task(),
                of_endpoint | contest.database(postgres.django_database("database_task")),
            ),
        }
        for contestant in contestants.values():
            stack.enter_context(contestant)
        contestants["durable"].ask("migrate")
        contestants["database_task"].ask("migrate")
        yield Bench(sqs, contestants)


def table(every: Sequence[Results]) -> str:
    head = [
        "Sender", "Latency", "Messages/s", "Per request",
        "Times aiobotocore", "Times django-lambda-tasks",
    ]  # fmt: skip
    rows = [
        [
            entry.label,
            f"{results.latency_ms:g} ms",
            f"{median(results.rates[entry]):,.0f}",
            f"{results.per_request[entry]:.1f}",
            f"{ratio(results.rates[entry], results.rates[AIOBOTOCORE]):.2f}",
            f"{ratio(results.rates[entry], results.rates[PEER]):,.1f}",
        ]
        for results in every
        for entry in ENTRIES
    ]
    return report.table(head, rows)


def panels(every: Sequence[Results]) -> list[Panel]:
    return [
        Panel(
            f"{results.latency_ms:g} ms latency",
            "messages per second, more is better",
            [
                Bar(
                    entry.label,
                    results.rates[entry],
                    f"{median(results.rates[entry]):,.0f}/s",
                    is_ours=entry.is_ours,
                )
                for entry in ENTRIES
                if entry is not CEILING
            ],
        )
        for results in every
    ]


def main() -> None:
    chosen = _options()
    with bench() as running:
        conditions = report.conditions(running.versions())
        print(conditions, flush=True)
        every = []
        for latency_ms in chosen.latency_ms:
            print(f"{latency_ms:g} ms latency", flush=True)
            every.append(running.measure(latency_ms, messages=chosen.messages, runs=chosen.runs))
    text = (
        f"{conditions} Medians of {chosen.runs} interleaved runs of {chosen.messages:,} messages.\n"
        f"\n{table(every)}\n\n![Messages per second](enqueue.png)"
    )
    print(f"\n{text}")
    report.write_section(chosen.output, TITLE, text)
    draw(chosen.output / "enqueue.png", "Enqueueing: from the call until SQS has it", panels(every))


def _options() -> argparse.Namespace:
    parser = options.parser(
        __doc__, messages=5000, latency_ms=[0, 8], latency_of="the endpoint's, one or several"
    )
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.runs, chosen.messages = 3, min(chosen.messages, 1000)
    return chosen


if __name__ == "__main__":
    main()
