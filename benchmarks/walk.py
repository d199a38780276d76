"""The walk of one task through the code: which functions of lambda_tasks run between its call and
its sent message, and between the SQS event and its answer; and in how many files they stand.

Run `uv run --group bench python -m benchmarks.walk`, with `--json` for the totals alone.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from benchmarks import contest, environments
from benchmarks.contest import Contestant
from lambda_tasks.local import EventSourceMapping, LocalSqs
from tests.servers.postgres import PostgresServer

KINDS: Final = ("durable, async", "durable, sync", "direct, async", "direct, sync")

LISTED: Final = ("durable, async, out", "durable, async, in", "durable, sync, in")

Step = tuple[str, str]


class Walker:
    """A contestant, and the queue between its two halves."""

    def __init__(self, contestant: Contestant, queue_url: str, sqs: LocalSqs) -> None:
        self._contestant = contestant
        self._queue_url = queue_url
        self._client_options = sqs.client_options

    def walks(self, kind: str, *, warm_up: int) -> dict[str, list[Step]]:
        """Each with its name, after so many of its kind."""
        for _ in range(warm_up):
            self._go_out(kind)
            self._come_in("come_in")
        walks = {"out": self._go_out(kind), "in": self._come_in("come_in")}
        if kind.endswith(" sync"):
            self._go_out(kind)
            parent, worker = walks["in"], self._come_in("come_in_after")
            both = list(dict.fromkeys([*parent, *worker]))
            walks |= {"in": both, "in, handler": parent, "in, worker process": worker}
        return walks

    def _go_out(self, kind: str) -> list[Step]:
        return _steps(self._contestant.ask("go_out", kind=kind))

    def _come_in(self, action: str) -> list[Step]:
        found: list[Step] = []

        def invoke(event: Any) -> Any:
            found.extend(_steps(self._contestant.ask(action, event=event)))
            return {"batchItemFailures": []}

        with EventSourceMapping(
            self._queue_url, invoke, client_options=self._client_options
        ) as mapping:
            assert mapping.poll_once() == 1
        return found


def _steps(answer: Any) -> list[Step]:
    return [(file, function) for file, function in answer]


@contextmanager
def walker(engine: str) -> Iterator[Walker]:
    with ExitStack() as stack:
        sqs = stack.enter_context(LocalSqs())
        queue_url = sqs.create_queue("walk")
        database = contest.django(stack.enter_context(_database(engine)), waits=True)
        environment = (
            contest.aws(sqs.client_options)
            | database
            | {
                "BENCHMARK_QUEUE_URL": queue_url,
                "PYTHONPATH": stack.enter_context(_path()),
            }
        )
        contestant = stack.enter_context(Contestant("walk", environments.here(), environment))
        contestant.ask("migrate")
        yield Walker(contestant, queue_url, sqs)


@contextmanager
def _path() -> Iterator[str]:
    """PYTHONPATH, behind what makes these benchmarks those of the contestant, and of its worker
    processes: another checkout, which is walked through, has some of its own."""
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "benchmarks").symlink_to(Path(__file__).resolve().parent)
        yield os.pathsep.join([directory, *filter(None, [os.environ.get("PYTHONPATH")])])


@contextmanager
def _database(engine: str) -> Iterator[dict[str, Any]]:
    if engine == "postgresql":
        with PostgresServer() as postgres:
            yield postgres.django_database("walk")
        return
    with tempfile.TemporaryDirectory() as directory:
        yield {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": str(Path(directory) / "walk.sqlite3"),
            "OPTIONS": {"transaction_mode": "IMMEDIATE"},
        }


def totals(steps: Sequence[Step]) -> dict[str, int]:
    """`functions` are qualified names; `merged` are those that are left when what is nameless (a
    comprehension, a lambda) counts as the function around it, as most does from Python 3.12 on."""
    merged = {(file, _around(function)) for file, function in steps}
    return {
        "functions": len(steps),
        "merged": len(merged),
        "files": len({file for file, _ in steps}),
    }


def _around(function: str) -> str:
    names = function.split(".")
    while len(names) > 1 and names[-1].startswith("<"):
        names.pop()
    return ".".join(names)


def headline(name: str, steps: Sequence[Step]) -> str:
    numbers = totals(steps)
    return (
        f"{name}: {numbers['functions']} functions in {numbers['files']} files "
        f"({numbers['merged']} without what is nameless)"
    )


def listing(steps: Sequence[Step]) -> str:
    """Files and functions in the order of their first calls."""
    return "\n".join(
        f"  {file}:{function}"
        for each in dict.fromkeys(file for file, _ in steps)
        for file, function in steps
        if file == each
    )


def main() -> None:
    chosen = _options()
    with walker(chosen.database) as walking:
        every = {
            f"{kind}, {name}": steps
            for kind in KINDS
            for name, steps in walking.walks(kind, warm_up=chosen.warm_up).items()
        }
    if chosen.json:
        print(json.dumps({name: totals(steps) for name, steps in every.items()}, indent=2))
        return
    for name in LISTED:
        print(f"{headline(name, every[name])}\n{listing(every[name])}\n")
    print("\n".join(headline(name, steps) for name, steps in every.items()))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--database", choices=["postgresql", "sqlite"], default="postgresql")
    parser.add_argument("--warm-up", type=int, default=1, help="tasks of a kind that come before")
    parser.add_argument("--json", action="store_true", help="the totals alone")
    return parser.parse_args()


if __name__ == "__main__":
    main()
