"""Memory of a web process before and after its first call, and of a warm handler.

Run `uv run --group bench python -m benchmarks.memory`.
"""

import argparse
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks import contest, environments, options, report
from benchmarks.contest import Contestant
from benchmarks.fast_sqs import FastSqs
from tests.servers.postgres import PostgresServer

TITLE: Final = "Memory"

OURS: Final = "lambda_tasks"
PEER: Final = "django-lambda-tasks"

EVENTS: Final = 30
"""Events of ten records, after which a handler is warm."""


@dataclass(frozen=True)
class Entry:
    """A process of one library, and what it does before its memory is measured."""

    process: str
    library: str
    module: str
    perform: Callable[[Contestant], object]


def _nothing(contestant: Contestant) -> None:
    contestant.versions("django")  # answers once the project is set up


def _call(contestant: Contestant) -> None:
    contestant.ask("send", messages=1, form="atomic")


def _handle(task: str) -> Callable[[Contestant], object]:
    return lambda contestant: contestant.ask("handle", task=task, kwargs={}, size=10, events=EVENTS)


ENTRIES: Final = [
    Entry("web process, nothing of tasks imported", "Django", "bare", _nothing),
    Entry("web process, before its first call", OURS, "enqueue_tasks", _nothing),
    Entry("web process, before its first call", PEER, "enqueue_tasks", _nothing),
    Entry("web process, after its first call", OURS, "enqueue_tasks", _call),
    Entry("web process, after its first call", PEER, "enqueue_tasks", _call),
    Entry("handler, after async tasks", OURS, "handle_events", _handle("async_tasks.trivial")),
    Entry("handler, after sync tasks", OURS, "handle_events", _handle("tasks.trivial")),
    Entry("handler, after sync tasks", PEER, "handle_events", _handle("tasks.trivial")),
]


def main() -> None:
    chosen = _options()
    with ExitStack() as stack:
        sqs, postgres = stack.enter_context(FastSqs()), stack.enter_context(PostgresServer())
        common = {"AWS_ENDPOINT_URL": sqs.url, "BENCHMARK_QUEUE_URL": sqs.queue_url}
        environment = {
            library: common | contest.django(postgres.django_database(f"memory_{number}"))
            for number, library in enumerate((OURS, PEER))
        }
        for library in (OURS, PEER):
            with _contestant("handle_events", library, environment) as contestant:
                contestant.ask("migrate")
                versions = contestant.versions("lambda-tasks", "django")
        rows = []
        for entry in ENTRIES:
            mib = [_measure(entry, environment) for _ in range(chosen.runs)]
            rows.append([f"{entry.process} ({entry.library})", f"{median(mib):.0f}"])
    text = (
        f"{report.conditions(versions)} Medians of {chosen.runs} runs; pages that processes share "
        f"count once.\n\n{report.table(['Process', 'MiB'], rows)}"
    )
    print(text)
    report.write_section(chosen.output, TITLE, text)


def _measure(entry: Entry, environment: Mapping[str, Mapping[str, str]]) -> float:
    with _contestant(entry.module, entry.library, environment) as contestant:
        entry.perform(contestant)
        return contestant.memory_mib()


def _contestant(
    module: str, library: str, environment: Mapping[str, Mapping[str, str]]
) -> Contestant:
    is_peer = library == PEER
    python: Path = environments.django_lambda_tasks() if is_peer else environments.here()
    return Contestant(module, python, environment[PEER if is_peer else OURS])


def _options() -> argparse.Namespace:
    return options.parser(__doc__, messages=1).parse_args()


if __name__ == "__main__":
    main()
