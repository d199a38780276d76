"""An event of one record in a warm handler, beside another checkout of this library.

Tells what a change costs or saves: wall time, CPU time, and how often a process or a thread waits
for another. On a machine with other work, trust the last ones.

Run `uv run --group bench python -m benchmarks.lone --beside ../earlier`.
"""

import argparse
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import astuple, dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Final

import psutil

from benchmarks import contest, environments, options, report
from benchmarks.contest import HERE, Contestant, ratio
from benchmarks.fast_sqs import FastSqs
from tests.servers.postgres import PostgresServer

WARM_UP: Final = 30

TASKS: Final = {
    "sync": ("tasks.trivial", False),
    "async": ("async_tasks.trivial", False),
    "durable async": ("async_tasks.trivial", True),
}
"""The task of each kind of event, and whether its record is stored before."""

HEAD: Final = (
    "Event",
    "Checkout",
    "ms",
    "ms, best tenth",
    "CPU ms, host",
    "CPU ms, worker process",
    "CPU ms, database",
    "CPU ms, all",
    "Waits",
)


@dataclass(frozen=True)
class Costs:
    """The cost of one event, in milliseconds, and the number of waits."""

    wall: float
    best_tenth: float
    host: float
    workers: float
    database: float
    all: float
    waits: float


@dataclass(frozen=True)
class Usage:
    """What processes have used so far: milliseconds of CPU, and voluntary context switches."""

    cpu_ms: float
    waits: int

    @staticmethod
    def of(processes: Iterable[psutil.Process]) -> "Usage":
        """Return the sum of these processes and their threads."""
        found = list(processes)
        return Usage(
            sum(1000 * sum(each.cpu_times()[:2]) for each in found),
            sum(_waits(each.pid) for each in found),
        )


def _waits(pid: int) -> int:
    statuses = Path(f"/proc/{pid}/task").glob("*/status")
    lines = [line for each in statuses for line in each.read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("voluntary"))


def main() -> None:
    chosen = _options()
    trees = [HERE, *([chosen.beside.resolve()] if chosen.beside else [])]
    costs: dict[tuple[str, Path], list[Costs]] = {
        (kind, tree): [] for kind in TASKS for tree in trees
    }
    with ExitStack() as stack:
        sqs = stack.enter_context(FastSqs())
        postgres = stack.enter_context(PostgresServer())
        contestants: dict[tuple[Path, bool], tuple[Contestant, str]] = {}
        for number, tree in enumerate(trees):
            for durable in (False, True):
                database = postgres.django_database(f"tree_{number}_{durable}".lower())
                environment = contest.django(database, durable=durable)
                environment |= {"BENCHMARK_QUEUE_URL": sqs.queue_url, "PYTHONPATH": str(tree)}
                contestant = Contestant(
                    "handle_events", environments.here(), environment, checkout=tree
                )
                contestants[tree, durable] = stack.enter_context(contestant), database["NAME"]
                contestant.ask("migrate")
        for run in range(-1, chosen.runs):
            report.say(f"run {run + 1} of {chosen.runs}")
            for kind, tree in list(costs)[:: 1 if run % 2 == 0 else -1]:
                task, durable = TASKS[kind]
                contestant, name = contestants[tree, durable]
                found = _costs(contestant, name, task, WARM_UP if run < 0 else chosen.messages)
                if run >= 0:
                    costs[kind, tree].append(found)
    print(f"{report.conditions({})} Medians of {chosen.runs} interleaved runs.\n\n{_table(costs)}")


def _costs(contestant: Contestant, database: str, task: str, events: int) -> Costs:
    host, children = contestant.family()
    backends = [
        each
        for each in psutil.process_iter(["name", "cmdline"])
        if each.info["name"] == "postgres" and f" {database} " in " ".join(each.info["cmdline"])
    ]
    families = [[host], children, backends]
    before = [Usage.of(each) for each in families]
    seconds = contestant.ask("handle", task=task, kwargs={}, size=1, events=events)
    after = [Usage.of(each) for each in families]
    host_ms, workers_ms, database_ms = (
        (now.cpu_ms - then.cpu_ms) / events for now, then in zip(after, before, strict=True)
    )
    waits = sum(now.waits - then.waits for now, then in zip(after, before, strict=True))
    return Costs(
        wall=1000 * median(seconds),
        best_tenth=1000 * quantiles(seconds, n=10)[0],
        host=host_ms,
        workers=workers_ms,
        database=database_ms,
        all=host_ms + workers_ms + database_ms,
        waits=waits / events,
    )


def _table(costs: Mapping[tuple[str, Path], list[Costs]]) -> str:
    rows = []
    for (kind, tree), runs in costs.items():
        columns = list(zip(*map(astuple, runs), strict=True))
        here = list(zip(*map(astuple, costs[kind, HERE]), strict=True))
        cells = [
            f"{median(column):.2f}"
            + (f" ({ratio(ours, column):.2f})" if tree != HERE and all(column) else "")
            for column, ours in zip(columns, here, strict=True)
        ]
        rows.append([kind, tree.name, *cells])
    return (
        f"{report.table(list(HEAD), rows)}\n\nIn parentheses: how many times as much {HERE.name} "
        "takes."
    )


def _options() -> argparse.Namespace:
    parser = options.parser(__doc__, messages=200)
    parser.add_argument("--beside", type=Path, metavar="DIR", help="another checkout")
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.runs, chosen.messages = 3, min(chosen.messages, 50)
    return chosen


if __name__ == "__main__":
    main()
