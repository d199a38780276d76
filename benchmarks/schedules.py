"""How late the runs of a schedule of 20 seconds start, with one tick a minute on the local SQS and
the real handler; and what a tick costs with very many schedules and records.

Run `uv run --group bench python -m benchmarks.schedules --quick` for a first look, of two minutes.
Exits with 1 where a run is missing, or started later than a second after its time.
"""

import argparse
import random
import sys
import time
from collections.abc import Mapping
from statistics import median
from typing import Any, Final

from benchmarks import contest, environments, options, report
from benchmarks.contest import Contestant
from benchmarks.contestants.work.scheduled import EVERY_S
from lambda_tasks.local import LocalSqs
from tests.servers import Fleet, LambdaProcess
from tests.servers.postgres import PostgresServer

TITLE: Final = "Schedules"

TICK_EVERY_S: Final = 60.0

JITTER_S: Final = 5.0
"""EventBridge promises the minute of a tick, not its second."""

LATEST_S: Final = 1.0

N_TICKS: Final = 15

UNUSED_URL: Final = "https://sqs.eu-central-1.amazonaws.com/123456789012/unused"
"""The contestant's schedules use the table's queue."""

FUNCTION_TIMEOUT_S: Final = 45


def late_starts(minutes: int) -> Mapping[str, float | None]:
    """Seconds by which each run started late, while something ticked once a minute."""
    with LocalSqs() as sqs, PostgresServer() as postgres:
        queue_url = sqs.create_queue("default", visibility_timeout_s=FUNCTION_TIMEOUT_S)
        environment = (
            contest.aws(sqs.client_options)
            | contest.django(postgres.django_database("schedules"), durable=True)
            | {"BENCHMARK_QUEUE_URL": queue_url, "BENCHMARK_SCHEDULES": "yes"}
        )
        with Contestant("schedules", environments.here(), environment) as watcher:
            watcher.ask("migrate")
            ticker, consumer = (_function(environment) for _ in range(2))
            options = sqs.client_options
            with ticker, Fleet(queue_url, [consumer], client_options=options):
                ticker.start()
                ticker.invoke({"lambda_tasks": "tick"})
                # The consumer is warm, and what was due at the very start is over.
                time.sleep(EVERY_S)
                start = watcher.ask("clock")
                for _ in range(minutes):
                    time.sleep(TICK_EVERY_S + random.uniform(-JITTER_S, JITTER_S))
                    ticker.invoke({"lambda_tasks": "tick"})
                end = watcher.ask("clock")
                time.sleep(EVERY_S / 2)
            found: Mapping[str, float | None] = watcher.ask("lateness", start=start, end=end)
    return found


def _function(environment: Mapping[str, str]) -> LambdaProcess:
    return LambdaProcess(
        "benchmarks.contestants.function.handler", timeout_s=FUNCTION_TIMEOUT_S, **environment
    )


def tick_table(n_schedules: int, n_records: int) -> str:
    rows = []
    with PostgresServer() as postgres:
        environment = contest.django(postgres.django_database("ticks"), durable=True)
        environment |= {"BENCHMARK_QUEUE_URL": UNUSED_URL}
        with Contestant("schedules", environments.here(), environment) as contestant:
            contestant.ask("migrate")
            for records in (0, n_records):
                if records:
                    contestant.ask("fill", state="finished", rows=records)
                    contestant.ask("analyze")
                measured = contestant.ask("ticks", schedules=n_schedules, times=N_TICKS)
                rows.append(_tick_row(records, measured))
    head = ["Records", "ms", "ms of CPU", "runs enqueued", "statements"]
    return report.table([f"A tick of {n_schedules:,} schedules", *head[1:]], rows)


def _tick_row(records: int, measured: Mapping[str, Any]) -> list[str]:
    numbers = [f"{measured[name]:.0f}" for name in ("ms", "cpu_ms")]
    runs = f"{measured['runs']:.1f}"
    return [f"{records:,} records", *numbers, runs, str(measured["statements"])]


def main() -> None:
    chosen = _options()
    late = late_starts(chosen.minutes)
    started = sorted(each for each in late.values() if each is not None)
    expected = chosen.minutes * (TICK_EVERY_S - JITTER_S) / EVERY_S
    text = (
        f"{len(started)} runs in {chosen.minutes} minutes started after their due time by a median "
        f"of {median(started):.2f} s, at most {started[-1]:.2f} s, at least {started[0]:.2f} s."
    )
    report.say(text)
    text = f"{text}\n\n{tick_table(chosen.schedules, chosen.records)}"
    print(text)
    if not chosen.quick:
        report.write_section(chosen.output, TITLE, text)
    is_on_time = started[-1] <= LATEST_S and started[0] >= -LATEST_S
    if len(started) < len(late) or len(late) < expected or not is_on_time:
        sys.exit("A run is missing, or started at another time than its due one.")


def _options() -> argparse.Namespace:
    parser = options.parser(__doc__, messages=1)
    parser.add_argument("--minutes", type=int, default=5, help="of ticks, one a minute")
    parser.add_argument("--schedules", type=int, default=10_000, help="that are due once a day")
    parser.add_argument("--records", type=int, default=1_000_000, help="that have ended")
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.minutes = min(chosen.minutes, 2)
        chosen.records = min(chosen.records, 100_000)
    return chosen


if __name__ == "__main__":
    main()
