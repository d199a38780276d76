"""The two tables of the faults, with the words around them."""

from collections.abc import Mapping
from typing import Final

from benchmarks import report
from benchmarks.faults.comparison import FUNCTIONS, KILL_EVERY_S, Outcome
from benchmarks.faults.site import PROCESSES, Consumer, Engine
from benchmarks.faults.trial import Verdict

Run = tuple[Consumer, Engine]

CONSUMERS: Final[Mapping[Consumer, str]] = {"lambda": "functions", "worker": "workers"}
ENGINES: Final[Mapping[Engine, str]] = {"postgresql": "PostgreSQL", "mariadb": "MariaDB"}

HEADS: Final = {
    "lost": "Lost",
    "twice": "Twice in effect",
    "disordered": "Undone out of order",
    "stuck": "Stuck",
    "failed": "Failed by no fault of theirs",
    "dead_lettered": "Dead-lettered unbegun",
    "late": "Late",
}
"""What an audit finds, and its column."""


def of_trials(verdicts: Mapping[Run, Verdict], *, options: str) -> str:
    """What each run of lambda_tasks has shown."""
    versions = next(iter(verdicts.values())).versions
    head = ["Consumers", "Orders", "Faults", *HEADS.values(), "Frozen", "Seconds to end"]
    rows = [
        [
            f"{CONSUMERS[consumer]}, {ENGINES[engine]}",
            f"{verdict.orders:,}",
            f"{sum(verdict.faults.values()):,}",
            *(f"{verdict.found[name]['count']:,}" for name in HEADS),
            f"{len(verdict.frozen):,}",
            "" if verdict.longest_end_s is None else f"{verdict.longest_end_s:.1f}",
        ]
        for (consumer, engine), verdict in verdicts.items()
    ]
    return (
        f"{report.conditions(versions)} {PROCESSES} functions or workers. `{options}`.\n\n"
        f"{report.table(head, rows)}\n\n{_kinds(verdicts)}"
    )


def _kinds(verdicts: Mapping[Run, Verdict]) -> str:
    head = ["Fault", *(f"{CONSUMERS[each]}, {ENGINES[engine]}" for each, engine in verdicts)]
    names = sorted({name for verdict in verdicts.values() for name in verdict.faults})
    rows = [
        [name, *(f"{verdict.faults.get(name, 0):,}" for verdict in verdicts.values())]
        for name in names
    ]
    return report.table(head, rows)


def of_comparison(outcomes: Mapping[str, Outcome], *, options: str) -> str:
    """What is left of the orders of each library."""
    versions = {name: it for outcome in outcomes.values() for name, it in outcome.versions.items()}
    head = ["Library", "Orders", "Functions killed", "Web processes killed",
            "Lost", "Twice in effect", "Stuck"]  # fmt: skip
    rows = [
        [
            library,
            *(
                f"{number:,}"
                for number in (
                    outcome.tally["orders"],
                    outcome.function_kills,
                    outcome.web_kills,
                    outcome.tally["lost"],
                    outcome.tally["twice"],
                    outcome.tally["stuck"],
                )
            ),
        ]
        for library, outcome in outcomes.items()
    ]
    return (
        f"{report.conditions(versions)} {FUNCTIONS} functions, batches of 10, a kill every "
        f"{KILL_EVERY_S[0]:g} to {KILL_EVERY_S[1]:g} s; one order of ten is retried. "
        f"`{options}`.\n\n{report.table(head, rows)}"
    )
