"""What a look costs in an empty table, and among a million records in each state.

Run `uv run --group bench python -m benchmarks.rows --quick` for a first look.
"""

import argparse
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from benchmarks import contest, environments, options, report
from benchmarks.contest import Contestant
from tests.servers.mariadb import MariaDBServer
from tests.servers.postgres import PostgresServer

TITLE: Final = "A million rows"

SERVERS: Final[dict[str, type[PostgresServer] | type[MariaDBServer]]] = {
    "PostgreSQL": PostgresServer,
    "MariaDB": MariaDBServer,
}

DATABASES: Final = ["PostgreSQL", "MariaDB", "SQLite"]

LOOKS: Final = {
    "relay": "the relay's look",
    "worker": "a worker's look for ten due records",
    "cleanup": "a chunk of clean-up that finds nothing",
}
STATES: Final = ("finished", "sent", "scheduled")
LOOKED_AT: Final = 30
"""Looks of which the median counts."""

LIVES: Final = 500
"""Tasks whose statements are measured."""


def main() -> None:
    chosen = _options()
    sections: list[str] = []
    versions: dict[str, str | None] = {}
    with ExitStack() as stack:
        for name, database in _databases(stack, chosen.databases).items():
            environment = contest.django(database, durable=True) | {
                "BENCHMARK_QUEUE_URL": "http://127.0.0.1:9/queue",
                "BENCHMARK_TABLE": "yes",
            }
            contestant = stack.enter_context(
                Contestant("full_table", environments.here(), environment)
            )
            sections.append(_section(name, contestant, chosen.messages))
            versions = contestant.versions("lambda-tasks", "django", "psycopg")
    text = "\n\n".join([f"{report.conditions(versions)}", *sections])
    print(text)
    report.write_section(chosen.output, TITLE, text)


def _databases(stack: ExitStack, names: list[str]) -> dict[str, Mapping[str, Any]]:
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    sqlite = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(directory / "rows.sqlite3")}
    databases: dict[str, Mapping[str, Any]] = {}
    for name in names:
        if name == "PostgreSQL":
            databases[name] = stack.enter_context(PostgresServer()).django_database("rows")
        elif name == "MariaDB":
            databases[name] = stack.enter_context(MariaDBServer()).django_database("rows")
        else:
            databases[name] = sqlite
    return databases


def _section(name: str, contestant: Contestant, rows: int) -> str:
    contestant.ask("migrate")
    has_life = name == "PostgreSQL"
    empty, empty_life = _measure(contestant), _life(contestant) if has_life else {}
    for state in STATES:
        report.say(f"{name}: {rows:,} records that are {state}")
        contestant.ask("fill", state=state, rows=rows)
    contestant.ask("analyze")
    full, full_life = _measure(contestant), _life(contestant) if has_life else {}
    lines = [
        [text, f"{empty[look]:.2f}", f"{full[look]:.2f}", f"{full[look] / empty[look]:.2f}"]
        for look, text in LOOKS.items()
    ]
    head = [f"{name}, milliseconds", "Empty", f"{rows:,} in each state", "Times"]
    text = report.table(head, lines)
    if has_life:
        text += (
            "\n\nThe statements of one task (insert, mark as sent, claim, close) take "
            f"{empty_life['us']:.0f} µs and write {empty_life['wal']:,.0f} bytes of WAL in the "
            f"empty table; in the full one {full_life['us']:.0f} µs and "
            f"{full_life['wal']:,.0f} bytes."
        )
    return text


def _measure(contestant: Contestant) -> dict[str, float]:
    for look in LOOKS:
        contestant.ask("look", of=look, times=3)  # warm
    return {look: contestant.ask("look", of=look, times=LOOKED_AT) for look in LOOKS}


def _life(contestant: Contestant) -> dict[str, float]:
    contestant.ask("life", tasks=50)  # warm
    life: dict[str, float] = contestant.ask("life", tasks=LIVES)
    return life


def _options() -> argparse.Namespace:
    parser = options.parser(__doc__, messages=1_000_000)
    parser.add_argument("--databases", nargs="+", default=DATABASES, metavar="NAME")
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.messages = min(chosen.messages, 20_000)
    return chosen


if __name__ == "__main__":
    main()
