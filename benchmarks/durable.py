"""Durable functions: statements and time of a step, and what functions that are asleep cost.

A step is measured beside DBOS, which gets an environment of its own, and beside its own write in a
bare transaction. Run `uv run --group bench python -m benchmarks.durable --quick` for a first look.
Exits with 1 where a function that is asleep costs a message, or a look of the relay a statement.
"""

import argparse
import re
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks import contest, environments, options, report
from benchmarks.contest import Contestant, take_turns
from lambda_tasks.local import LocalSqs
from tests.servers.postgres import PostgresServer

TITLE: Final = "Durable functions"

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

LOGGED: Final = "@@ "
LOGGING: Final[Mapping[str, object]] = {
    "logging_collector": "on",
    "log_directory": "log",
    "log_filename": "statements.log",
    "log_statement": "all",
    "log_line_prefix": LOGGED,
}
"""Settings of a server that logs each statement, BEGIN and COMMIT included."""

STATEMENT: Final = re.compile(rf"^{LOGGED}LOG:  (?:statement|execute [^:]*): ", re.MULTILINE)

OURS: Final = {
    "async": "lambda_tasks, async step",
    "sync": "lambda_tasks, sync step",
    "bare": "Django, a transaction and no step",
}
DBOS: Final = {
    "transactions": "DBOS, a datasource's transaction",
    "steps": "DBOS, a step that writes by itself",
    "bare": "SQLAlchemy, a transaction and no step",
}

Way = tuple[str, str]
"""Whose, and how its rows are written."""

WAYS: Final[list[Way]] = [
    *(("ours", way) for way in OURS), *(("dbos", way) for way in DBOS)
]  # fmt: skip

LOOKS: Final = 20
"""Looks of the relay in each turn."""

TURNS: Final = 5

PATIENCE_S: Final = 30.0
"""For what was executed to be in the server's log."""


class Pair:
    """Both contestants on one server."""

    def __init__(self, stack: ExitStack, server: PostgresServer) -> None:
        common = {"BENCHMARK_QUEUE_URL": "http://127.0.0.1:9/0/unused", "BENCHMARK_STEPS": "yes"}
        ours = contest.django(server.django_database("ours"), durable=True) | common
        theirs = contest.database(server.django_database("dbos"))
        python = environments.peer("dbos", ["dbos", "sqlalchemy", "psycopg[binary]"])
        self._contestants = {
            "ours": stack.enter_context(Contestant("durable", environments.here(), ours)),
            "dbos": stack.enter_context(Contestant("durable_dbos", python, theirs)),
        }
        for each in self._contestants.values():
            each.ask("migrate")

    def run(self, way: Way, steps: int) -> float:
        """Return the seconds of so many steps, and of what they are steps of."""
        whose, kind = way
        return float(self._contestants[whose].ask("run", way=kind, steps=steps))

    def versions(self) -> dict[str, str | None]:
        """Return what is installed."""
        names = "lambda-tasks", "django", "psycopg"
        return self._contestants["ours"].versions(*names) | self._contestants["dbos"].versions(
            "dbos", "sqlalchemy"
        )


def main() -> None:
    chosen = _options()
    report.say("statements")
    statements = _statements(chosen.steps)
    times, versions = _times(chosen)
    report.say("asleep")
    asleep, is_free = _asleep(chosen.asleep)
    text = "\n\n".join(
        [report.conditions(versions), _table_of_steps(chosen, statements, times), asleep]
    )
    print(f"\n{text}")
    if not chosen.quick:
        report.write_section(chosen.output, TITLE, text)
    if not is_free:
        sys.exit("Functions that are asleep cost something.")


def _statements(steps: int) -> dict[Way, float]:
    """Return the statements of a step, by the server's log."""
    with ExitStack() as stack:
        server = stack.enter_context(PostgresServer(**LOGGING))
        pair = Pair(stack, server)
        found = {}
        for way in WAYS:
            pair.run(way, 2)  # what happens once for a process
            one = _count(server, partial(pair.run, way, 1))
            many = _count(server, partial(pair.run, way, steps + 1))
            found[way] = (many - one) / steps
    return found


def _count(server: PostgresServer, execute: Callable[[], object]) -> int:
    """Return the statements that the server has logged meanwhile."""
    before = _mark(server)
    execute()
    after = _mark(server)
    log = _log(server)
    return len(STATEMENT.findall(log[log.index(before) : log.index(after)])) - 1


def _mark(server: PostgresServer) -> str:
    """Let the server log a statement that nobody else executes; return when it has."""
    mark = uuid.uuid4().hex
    with server.connect() as connection:
        connection.execute(f"SELECT '{mark}'")
    until = time.monotonic() + PATIENCE_S
    while mark not in _log(server):
        assert time.monotonic() < until, "The server does not log its statements."
        time.sleep(0.05)
    return mark


def _log(server: PostgresServer) -> str:
    path = Path(server.socket_directory) / "data" / "log" / "statements.log"
    return path.read_text() if path.exists() else ""


def _times(
    chosen: argparse.Namespace,
) -> tuple[dict[str, dict[Way, float]], dict[str, str | None]]:
    """Return the milliseconds of a step at each duration of a commit, and the versions."""
    found = {}
    versions: dict[str, str | None] = {}
    for commit, settings in SERVERS.items():
        report.say(f"{commit} a commit")
        with ExitStack() as stack:
            pair = Pair(stack, stack.enter_context(PostgresServer(**settings)))

            def step_ms(way: Way, pair: Pair = pair) -> float:
                one, many = pair.run(way, 1), pair.run(way, chosen.steps + 1)
                return float(1000 * (many - one) / chosen.steps)

            for way in WAYS:
                step_ms(way)
            turns = take_turns(WAYS, chosen.runs, step_ms)
            versions = pair.versions()
        found[commit] = {way: median(each) for way, each in turns.items()}
    return found, versions


def _table_of_steps(
    chosen: argparse.Namespace,
    statements: Mapping[Way, float],
    times: Mapping[str, Mapping[Way, float]],
) -> str:
    names = {("ours", way): name for way, name in OURS.items()}
    names |= {("dbos", way): name for way, name in DBOS.items()}
    bare = {"ours": ("ours", "bare"), "dbos": ("dbos", "bare")}
    rows = []
    for way in WAYS:
        cells = [names[way], f"{statements[way]:.1f}"]
        for each in times.values():
            cells += [f"{each[way]:.2f}", f"{each[way] / each[bare[way[0]]]:.1f}"]
        rows.append(cells)
    head = ["A step that writes a row", "statements"]
    for commit in times:
        head += [f"ms, {commit} a commit", "times bare"]
    return (
        f"{chosen.steps} steps of one function, less one of one step. Statements by the server's "
        f"log, BEGIN and COMMIT included, and what DBOS's threads ask meanwhile. Medians of "
        f"{chosen.runs} interleaved runs.\n\n"
        f"{report.table(head, rows)}"
    )


def _asleep(functions: int) -> tuple[str, bool]:
    """Measure functions that sleep for a day; return a text, and whether they cost nothing."""
    with ExitStack() as stack:
        sqs = stack.enter_context(LocalSqs())
        server = stack.enter_context(PostgresServer(**LOGGING))
        url = sqs.create_queue("asleep", visibility_timeout_s=900)
        environment = (
            contest.aws(sqs.client_options)
            | contest.django(server.django_database("asleep"), durable=True, waits=True)
            | {"BENCHMARK_QUEUE_URL": url, "BENCHMARK_STEPS": "yes"}
        )
        contestant = stack.enter_context(Contestant("durable", environments.here(), environment))
        contestant.ask("migrate")
        contestant.ask("look", times=LOOKS)
        rested = [_look(server, contestant)]
        contestant.ask("sleep", functions=functions)
        sqs.purge(url)  # of the calls, which were delivered by hand
        asleep = [_look(server, contestant)]
        for _ in range(TURNS - 1):
            asleep.append(_look(server, contestant))
        stored = contestant.ask("stored")
        counts = sqs.counts(url)
        contestant.ask("forget")
        rested += [_look(server, contestant) for _ in range(TURNS - 1)]
    rows = [_row("none", rested), _row(f"{functions:,}", asleep)]
    is_free = not any(counts.values()) and rows[0][1] == rows[1][1] and not _sent(asleep)
    text = (
        f"{functions:,} functions sleep for a day. There are {sum(counts.values())} messages in "
        f"the queue, and so nobody receives any; {stored['QUEUED']:,} records wait, a row each.\n\n"
        + report.table(["Functions asleep", "statements of a look of the relay", "ms"], rows)
    )
    return text, is_free


def _look(server: PostgresServer, contestant: Contestant) -> Mapping[str, float]:
    found: dict[str, Any] = {}
    statements = _count(server, lambda: found.update(contestant.ask("look", times=LOOKS)))
    return {**found, "statements": statements / LOOKS}


def _row(name: str, looks: Sequence[Mapping[str, float]]) -> list[str]:
    statements = median(each["statements"] for each in looks)
    return [name, f"{statements:.1f}", f"{median(each['ms'] for each in looks):.2f}"]


def _sent(looks: Sequence[Mapping[str, float]]) -> bool:
    return any(each["sent"] for each in looks)


def _options() -> argparse.Namespace:
    parser = options.parser(__doc__, messages=1)
    parser.add_argument("--steps", type=int, default=100, help="of a function")
    parser.add_argument("--asleep", type=int, default=1_000, help="functions")
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.runs, chosen.steps = 3, min(chosen.steps, 20)
    return chosen


if __name__ == "__main__":
    main()
