"""Trivial tasks per second of one worker, from SQS (MiniStack, here) and from a database queue.

Run `uv run --group bench python -m benchmarks.worker --quick` for a first look.
"""

import argparse
from contextlib import ExitStack
from statistics import median
from typing import Final

from benchmarks import contest, environments, options, report
from benchmarks.contest import Contestant, take_turns
from lambda_tasks.local import LocalSqs
from tests.servers.postgres import PostgresServer

TITLE: Final = "The worker"

ENTRIES: Final = [(queue, kind) for queue in ("default", "table") for kind in ("sync", "async")]
NAMES: Final = {"default": "SQS", "table": "a database queue"}


def main() -> None:
    chosen = _options()
    with ExitStack() as stack:
        sqs = stack.enter_context(LocalSqs())
        postgres = stack.enter_context(PostgresServer())
        database = contest.django(postgres.django_database("worker"), durable=True)
        environment = (
            contest.aws(sqs.client_options)
            | database
            | {
                "BENCHMARK_QUEUE_URL": sqs.create_queue("worker"),
                "BENCHMARK_TABLE": "yes",
            }
        )
        contestant = stack.enter_context(Contestant("work_off", environments.here(), environment))
        contestant.ask("migrate")

        def rate(entry: tuple[str, str]) -> float:
            queue, kind = entry
            seconds = contestant.ask("work_off", kind=kind, queue=queue, messages=chosen.messages)
            return float(chosen.messages / seconds)

        rates = take_turns(ENTRIES, chosen.runs, rate)
        versions = contestant.versions("lambda-tasks", "django", "psycopg", "ministack")
        versions["PostgreSQL"] = contestant.ask("postgres_version")
    rows = [
        [f"{kind} tasks from {NAMES[queue]}", f"{median(each):,.0f}"]
        for (queue, kind), each in rates.items()
    ]
    text = (
        f"{report.conditions(versions)} Medians of {chosen.runs} interleaved runs of "
        f"{chosen.messages:,} tasks.\n\n{report.table(['Worker', 'Tasks/s'], rows)}"
    )
    print(text)
    report.write_section(chosen.output, TITLE, text)


def _options() -> argparse.Namespace:
    parser = options.parser(__doc__, messages=1000)
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.runs, chosen.messages = 3, min(chosen.messages, 200)
    return chosen


if __name__ == "__main__":
    main()
