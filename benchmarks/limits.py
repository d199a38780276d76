"""What limits promise, under kills: never a fourth, nothing idle, the rate, and nobody delayed.

Run `uv run --group bench python -m benchmarks.limits --quick` for a first look. `--engine` chooses
the database. Exits with 1 where something is not as it is promised.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, Final, NamedTuple, Self

from benchmarks import report
from benchmarks.options import RESULTS
from tests.servers.mariadb import MariaDBServer
from tests.servers.postgres import PostgresServer

TITLE: Final = "Limits"
ENGINES: Final = ("postgresql", "mysql", "sqlite")
SUCCESS: Final = "SUCCESS"

LIMIT: Final = 3
N_TENANTS: Final = 10
N_WORKERS: Final = 4
LANES: Final = 12

TASK_S: Final = 1.0
KILL_EVERY_S: Final = 5.5
"""Long enough for a new worker to begin, so that some always have room: an idle place is a fault
of the limits only then."""

SAMPLE_EVERY_S: Final = 0.1
MAX_IDLE_S: Final = 1.0
RATE: Final = 10
MAX_RATE_ERROR: Final = 0.05
MAX_DELAY: Final = 1.10
N_LATENCIES: Final = 200


def main() -> None:
    chosen = _options()
    with _database(chosen.engine) as database:
        os.environ["BENCHMARK_DATABASE"] = json.dumps(database)
        os.environ["DJANGO_SETTINGS_MODULE"] = "benchmarks.limited.settings"
        import django

        django.setup()
        from django.core.management import call_command

        call_command("migrate", run_syncdb=True, verbosity=0)
        parts: dict[str, Callable[[argparse.Namespace], Found]] = {
            "kills": kills, "rate": rate, "latency": latency
        }  # fmt: skip
        found = [part(chosen) for name, part in parts.items() if name in chosen.parts]
    if len(found) == len(parts) and not chosen.quick:
        lines = "\n".join(f"- {each.text}" for each in found)
        text = f"{report.conditions({})} {chosen.engine}, {N_WORKERS} workers.\n\n{lines}"
        report.write_section(RESULTS, TITLE, text)
    sys.exit(0 if all(each.is_as_promised for each in found) else 1)


class Found(NamedTuple):
    """What a part has found."""

    text: str
    is_as_promised: bool

    @classmethod
    def tell(cls, text: str, *, is_as_promised: bool) -> Self:
        """Print a text, and return it."""
        print(text, flush=True)
        return cls(text, is_as_promised)


def kills(chosen: argparse.Namespace) -> Found:
    """Ten keys, three places each, and workers that are killed all the time."""
    from benchmarks.limited.tasks import three_at_once
    from lambda_tasks.models import TaskRecord

    n_tasks, n_kills = (1000, 5) if chosen.quick else (10_000, 100)
    calls = [{"tenant": f"t{n % N_TENANTS}", "seconds": TASK_S} for n in range(n_tasks)]
    three_at_once.execute_many_on_commit(calls)
    monitor = Monitor(three_at_once)
    with Crew() as crew:
        not_seen = TaskRecord.objects.filter(status="QUEUED", n_waits=0)
        while not_seen.exists():  # until then, new workers look at calls that do not wait yet
            time.sleep(0.2)
        began_at = time.monotonic()
        next_kill = began_at + KILL_EVERY_S
        left = n_kills
        while TaskRecord.objects.exclude(status=SUCCESS).exists():
            monitor.sample()
            if left and time.monotonic() >= next_kill:
                crew.kill_one()
                left -= 1
                next_kill = time.monotonic() + KILL_EVERY_S
            if time.monotonic() - began_at > chosen.limit_s:
                report.say("The time is over, and not all have run")
                break
            time.sleep(SAMPLE_EVERY_S)
        took_s = time.monotonic() - began_at
    most = _most_at_once(crew.killed_at)
    statuses = sorted(set(TaskRecord.objects.values_list("status", flat=True)))
    return Found.tell(
        f"{n_tasks:,} tasks of {N_TENANTS} keys, {n_kills - left} workers killed, {took_s:.0f} s: "
        f"all are {', '.join(statuses)}; most at once {most}; longest idle {monitor.longest_s:.2f} "
        f"s, {monitor.n_long} times over {MAX_IDLE_S} s; {monitor.n_samples} samples, the longest "
        f"gap between two {monitor.longest_gap_s:.2f} s",
        is_as_promised=most <= LIMIT and monitor.longest_s <= MAX_IDLE_S and statuses == [SUCCESS],
    )


def rate(chosen: argparse.Namespace) -> Found:
    """Ten a second, by four workers, for a minute."""
    from benchmarks.limited.tasks import ten_a_second
    from lambda_tasks.models import TaskRecord

    seconds = 10 if chosen.quick else 60
    TaskRecord.objects.all().delete()
    with Crew():
        ten_a_second.execute_many_on_commit([{}] * (RATE * (seconds + 5)))
        while not TaskRecord.objects.filter(start_time__isnull=False).exists():
            time.sleep(0.1)
        time.sleep(seconds + 4)
    starts = sorted(each.start_time for each in TaskRecord.objects.all() if each.start_time)
    first = starts[0] + timedelta(seconds=2)  # the workers have begun
    n = sum(first <= each < first + timedelta(seconds=seconds) for each in starts)
    seconds_apart = [(b - a).total_seconds() for a, b in pairwise(starts)]
    return Found.tell(
        f"a rate of {RATE} a second: {n} starts in {seconds} s, {n / seconds:.2f} a second; "
        f"between two at most {max(seconds_apart):.2f} s, median {median(seconds_apart):.3f} s",
        is_as_promised=abs(n / seconds / RATE - 1) <= MAX_RATE_ERROR,
    )


def latency(chosen: argparse.Namespace) -> Found:
    """A task of another key, with and without 10,000 that wait for a full one."""
    from benchmarks.limited.tasks import full
    from lambda_tasks.models import LimitPlace, TaskRecord

    n_waiting = 500 if chosen.quick else 10_000
    found: defaultdict[bool, list[float]] = defaultdict(list)
    for round in range(2 if chosen.quick else 6):
        is_full = bool(round % 2)
        TaskRecord.objects.all().delete()
        LimitPlace.objects.all().delete()
        if is_full:
            full.execute_many_on_commit([{"tenant": "full"}] * n_waiting)
        with Crew(1):
            parked = TaskRecord.objects.exclude(limit_key=None)
            while is_full and parked.count() < n_waiting - LIMIT:
                time.sleep(0.2)
            time.sleep(2.0)
            found[is_full] += _latencies(chosen.quick)
    with_full, without = median(found[True]), median(found[False])
    return Found.tell(
        f"a task of another key begins after {with_full * 1000:.1f} ms beside a full key, for "
        f"which {n_waiting:,} wait, and after {without * 1000:.1f} ms without it: "
        f"{with_full / without:.2f} times",
        is_as_promised=with_full / without <= MAX_DELAY,
    )


def _latencies(quick: bool) -> list[float]:
    from benchmarks.limited.tasks import other
    from lambda_tasks.models import TaskRecord

    for _ in range(20 if quick else N_LATENCIES):
        other.execute_on_commit(tenant=str(random.random()))
        time.sleep(0.03)
    mine = TaskRecord.objects.filter(task_name=other.name)
    until = time.monotonic() + 30
    while mine.exclude(status="SUCCESS").exists() and time.monotonic() < until:
        time.sleep(0.1)
    return [
        (each.start_time - each.enqueued_at).total_seconds()
        for each in mine
        if each.start_time and each.enqueued_at
    ]


class Crew:
    """Workers, each in a process group of its own, of which one is killed now and then."""

    def __init__(self, count: int = N_WORKERS) -> None:
        self.killed_at: dict[int, datetime] = {}
        """The process ids of killed workers, with the database's time right after it."""
        self._members = [self._start() for _ in range(count)]
        time.sleep(3.0)

    def kill_one(self) -> None:
        """Kill one, and start another in its place."""
        number = random.randrange(len(self._members))
        member = self._members[number]
        os.killpg(member.pid, signal.SIGKILL)
        member.wait()
        self.killed_at[member.pid] = _now()
        self._members[number] = self._start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for member in self._members:
            os.killpg(member.pid, signal.SIGKILL)
            member.wait()

    def _start(self) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "django", "lambda_tasks", "worker", "--queue", "default"]
        options = ["--concurrency", str(LANES), "--processes", "1"]
        with Path(tempfile.gettempdir(), "benchmark-limits.log").open("ab") as log:
            return subprocess.Popen(
                [*command, *options], stdout=log, stderr=log, start_new_session=True
            )


class Monitor:
    """What looks for places that are free while somebody waits for them."""

    def __init__(self, task: Any) -> None:
        from lambda_tasks.records.limits import digest

        keys = [f"lambda_tasks.limit.{task.name}.tenant='t{n}'" for n in range(N_TENANTS)]
        self._keys = [digest(key) for key in keys]
        self._idle_since: dict[str, float] = {}
        self._last = 0.0
        self.longest_s = self.longest_gap_s = 0.0
        self.n_long = self.n_samples = 0

    def sample(self) -> None:
        """Look once."""
        from django.db.models import Count

        from lambda_tasks.models import LimitPlace, TaskRecord
        from lambda_tasks.records.clock import Now

        now = time.monotonic()
        if self._last:
            self.longest_gap_s = max(self.longest_gap_s, now - self._last)
        self._last = now
        self.n_samples += 1
        held = LimitPlace.objects.filter(held_until__gte=Now(), token__isnull=False)
        taken = dict(held.values_list("key").annotate(n=Count("number")).order_by())
        waiting = set(
            TaskRecord.objects.filter(limit_key__in=self._keys, status="QUEUED")
            .order_by()
            .values_list("limit_key", flat=True)
            .distinct()
        )
        for key in self._keys:
            if key in waiting and taken.get(key, 0) < LIMIT:
                since = self._idle_since.setdefault(key, now)
                self.longest_s = max(self.longest_s, now - since)
            elif (since := self._idle_since.pop(key, now)) < now - MAX_IDLE_S:
                self.n_long += 1


def _most_at_once(killed_at: dict[int, datetime]) -> int:
    """Return the most runs of one tenant at a time. A killed run has ended with its process."""
    from benchmarks.limited.models import Span

    changes: defaultdict[str, list[tuple[datetime, int]]] = defaultdict(list)
    for span in Span.objects.all():
        ended_at = span.ended_at or killed_at.get(span.process)
        changes[span.tenant].append((span.began_at, 1))
        if ended_at is not None:
            changes[span.tenant].append((ended_at, -1))
    most = 0
    for each in changes.values():
        n = 0
        for _, change in sorted(each):
            n += change
            most = max(most, n)
    return most


def _now() -> datetime:
    from django.db import DEFAULT_DB_ALIAS

    from lambda_tasks.records.clock import read_clock

    return read_clock(DEFAULT_DB_ALIAS)


@contextmanager
def _database(engine: str) -> Iterator[dict[str, Any]]:
    with ExitStack() as stack:
        if engine == "sqlite":
            directory = stack.enter_context(tempfile.TemporaryDirectory())
            options = {
                "transaction_mode": "IMMEDIATE",
                "timeout": 20,
                "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF;",
            }
            yield {
                "ENGINE": "django.db.backends.sqlite3",
                "NAME": f"{directory}/db",
                "OPTIONS": options,
            }
            return
        if engine == "mysql":
            yield stack.enter_context(MariaDBServer()).django_database("limits")
        else:
            yield stack.enter_context(PostgresServer()).django_database("limits")


def _options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=ENGINES, default="postgresql")
    parser.add_argument("--parts", nargs="+", default=["kills", "rate", "latency"])
    parser.add_argument("--limit-s", type=float, default=1800.0, help="seconds for the kills")
    parser.add_argument("--quick", action="store_true", help="a look, not a measurement")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
