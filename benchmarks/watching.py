"""What watching costs a trivial task: CPU time of the handler and its worker process, in ratios.

Run `uv run --group bench python -m benchmarks.watching --quick` for a first look. Each way of
watching has processes of its own, which take turns. `--only off` measures one of them, to compare
two versions of the library with each other.
"""

import argparse
import json
import os
import subprocess
import sys
import uuid
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import median
from typing import Any, Final

from benchmarks import report
from tests.servers.postgres import PostgresServer

WATCHING: Final = {
    "off": "nothing",
    "text": "log lines as text",
    "json": "log lines as JSON",
    "metrics": "metrics for CloudWatch",
    "hooks": "hooks.started and hooks.ended that do nothing",
    "traces": "OpenTelemetry's SDK, all calls sampled",
    "sentry": "Sentry, all calls sampled",
}
TASKS: Final = {"async": "anothing", "sync": "nothing"}
BATCH: Final = 10
PROJECT: Final = "benchmarks.watched"


def main() -> None:
    chosen = _options()
    if chosen.child:
        measure(chosen.messages)
        return
    with PostgresServer() as server:
        os.environ["BENCHMARK_DATABASE"] = json.dumps(server.django_database("watching"))
        os.environ["DJANGO_SETTINGS_MODULE"] = f"{PROJECT}.settings"
        _migrate()
        found: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
        for number in range(chosen.runs):
            for watching in chosen.only:
                for task, cpu_us in _measure_in_child(watching, chosen.messages).items():
                    found[watching, task].append(cpu_us)
            report.say(f"run {number + 1} of {chosen.runs}, load {os.getloadavg()[0]:.1f}")
    print(_table(found, chosen.only))


def measure(messages: int) -> None:
    """Print the microseconds of CPU time for a task of each kind, in this process's way."""
    import django
    import psutil

    django.setup()
    from lambda_tasks import handler

    me, found = psutil.Process(), {}
    with _quietly():
        for kind, name in TASKS.items():
            _handle(handler, name, 20 * BATCH)  # loads, starts and connects
            processes = [me, *map(psutil.Process, handler.pids())]
            before = _cpu_s(processes)
            _handle(handler, name, messages)
            found[kind] = (_cpu_s(processes) - before) / messages * 1e6
        handler.close()
    print(json.dumps(found))


def _handle(handler: Any, name: str, messages: int) -> None:
    from lambda_tasks.local import LambdaContext

    for _ in range(messages // BATCH):
        records = [_record(f"{PROJECT}.tasks.{name}") for _ in range(BATCH)]
        answer = handler.handler({"Records": records}, LambdaContext())
        assert answer == {"batchItemFailures": []}, answer


def _record(task_name: str) -> dict[str, Any]:
    body = {"task_name": task_name, "kwargs": {}, "invocation_id": str(uuid.uuid4())}
    return {
        "messageId": str(uuid.uuid4()),
        "receiptHandle": "",
        "body": json.dumps(body),
        "attributes": {"SentTimestamp": "1700000000000", "ApproximateReceiveCount": "1"},
        "eventSource": "aws:sqs",
        "eventSourceARN": "arn:aws:sqs:us-east-1:000000000000:default",
    }


def _cpu_s(processes: Sequence[Any]) -> float:
    times = [each.cpu_times() for each in processes]
    used_s: float = sum(each.user + each.system for each in times)
    return used_s


@contextmanager
def _quietly() -> Iterator[None]:
    """Let the lines of metrics go nowhere."""
    with open(os.devnull, "w") as nowhere:
        out, sys.stdout = sys.stdout, nowhere
        try:
            yield
        finally:
            sys.stdout = out


def _measure_in_child(watching: str, messages: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.watching", "--child", "--messages", str(messages)]
    environment = os.environ | {"BENCHMARK_WATCHING": watching}
    output = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(output.stdout.splitlines()[-1])
    return found


def _migrate() -> None:
    command = [sys.executable, "-m", "django", "migrate", "--verbosity=0"]
    subprocess.run(command, check=True)


def _table(found: Mapping[tuple[str, str], Sequence[float]], watched: Sequence[str]) -> str:
    rows = []
    for watching in watched:
        row = [WATCHING[watching]]
        for task in TASKS:
            cpu_us, off = median(found[watching, task]), median(found[watched[0], task])
            row += [f"{cpu_us:,.0f} µs", f"{cpu_us / off:.2f}"]
        rows.append(row)
    head = ["watched by", *(each for kind in TASKS for each in (kind, "ratio"))]
    return report.table(head, rows)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--messages", type=int, default=3000)
    parser.add_argument("--only", nargs="+", choices=WATCHING, default=list(WATCHING))
    parser.add_argument("--quick", action="store_true", help="a look, not a measurement")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.runs, chosen.messages = 2, 500
    return chosen


if __name__ == "__main__":
    main()
