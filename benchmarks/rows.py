"""What a look costs with one record in each state, and among a million of each.

Run `uv run --group bench python -m benchmarks.rows --quick` for a first look.
"""

import argparse
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from benchmarks import contest, environments, options, report
from benchmarks.contest import Contestant
from benchmarks.plot import Bar, Panel, draw
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

HELD: Final = {
    "relay": "the relay's look",
    "worker": "a worker's look at all that is due",
    "busy worker": "a worker's next look, while it finds tasks",
}
"""What is measured while a snapshot is held open."""

HELD_ROWS: Final = 50_000
"""Tasks that are run meanwhile."""


def main() -> None:
    chosen = _options()
    sections: list[str] = []
    panels: list[Panel] = []
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
            for text, panel in _sections(name, contestant, chosen.messages):
                sections.append(text)
                panels.append(panel)
            versions = contestant.versions("lambda-tasks", "django", "psycopg")
    plot = "![Milliseconds of a look](rows.png)"
    text = "\n\n".join([f"{report.conditions(versions)}", *sections, plot])
    print(text)
    report.write_section(chosen.output, TITLE, text)
    draw(chosen.output / "rows.png", "What a look for records costs", panels)


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


def _sections(name: str, contestant: Contestant, rows: int) -> Iterator[tuple[str, Panel]]:
    """Yield tables and their plots."""
    contestant.ask("migrate")
    has_life = name == "PostgreSQL"
    # One of each, so that the queues are known: where a look has statements for each of them, it
    # has as many in both tables.
    small, small_life = _filled(name, contestant, 1, has_life)
    full, full_life = _filled(name, contestant, rows, has_life)
    measured = {"one in each state": small, f"{rows:,} in each state": full}
    text = _table(name, LOOKS, measured)
    if has_life:
        text += (
            "\n\nThe statements of one task (insert, mark as sent, claim, close) take "
            f"{small_life['us']:.0f} µs and write {small_life['wal']:,.0f} bytes of WAL in the "
            f"small table; in the full one {full_life['us']:.0f} µs and "
            f"{full_life['wal']:,.0f} bytes."
        )
    yield text, _panel(name, LOOKS, measured)
    if not has_life:
        return
    run = min(rows, HELD_ROWS)
    report.say(f"{name}: {run:,} tasks while a snapshot is held open")
    before = _measure(contestant, HELD)
    contestant.ask("hold_snapshot")
    contestant.ask("run_through", rows=run)
    measured = {"before": before, f"after {run:,} tasks": _measure(contestant, HELD)}
    name = f"{name} with a snapshot that is held open"
    yield _table(name, HELD, measured), _panel(name, HELD, measured)


def _filled(
    name: str, contestant: Contestant, rows: int, has_life: bool
) -> tuple[Mapping[str, float], Mapping[str, float]]:
    """Add so many records in each state; return what looks cost then, and the life of a task."""
    for state in STATES:
        report.say(f"{name}: {rows:,} records that are {state}")
        contestant.ask("fill", state=state, rows=rows)
    contestant.ask("analyze")
    return _measure(contestant), _life(contestant) if has_life else {}


def _table(name: str, looks: Mapping[str, str], measured: Mapping[str, Mapping[str, float]]) -> str:
    """Return a table of what was measured before and after, by its label."""
    before, after = measured.values()
    lines = [
        [text, f"{before[look]:.2f}", f"{after[look]:.2f}", f"{after[look] / before[look]:.2f}"]
        for look, text in looks.items()
    ]
    return report.table([f"{name}, milliseconds", *measured, "Times"], lines)


def _panel(
    name: str, looks: Mapping[str, str], measured: Mapping[str, Mapping[str, float]]
) -> Panel:
    last = list(measured)[-1]
    bars = [
        Bar(f"{text}, {when}", [found[look]], f"{found[look]:.2f} ms", is_ours=when == last)
        for look, text in looks.items()
        for when, found in measured.items()
    ]
    return Panel(name, "milliseconds, less is better", bars)


def _measure(contestant: Contestant, looks: Mapping[str, str] = LOOKS) -> dict[str, float]:
    for look in looks:
        contestant.ask("look", of=look, times=3)  # warm
    return {look: contestant.ask("look", of=look, times=LOOKED_AT) for look in looks}


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
