"""What is lost, what happens twice and what stays open when processes are killed at random
moments: functions with all that they have started, and the web process that takes the orders.

Run `uv run --group bench python -m benchmarks.faults --quick` for a first look.
"""

import argparse
import logging
import random
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from benchmarks import contest, environments, options, report
from benchmarks.contest import Contestant, ContestantEnded
from lambda_tasks.local import LocalSqs
from tests.servers import Fleet, LambdaProcess
from tests.servers.postgres import PostgresServer

TITLE: Final = "Faults"

OURS: Final = "lambda_tasks"
PEER: Final = "django-lambda-tasks"

FUNCTIONS: Final = 3
FUNCTION_TIMEOUT_S: Final = 30
"""And the queue's visibility timeout, the shortest that AWS takes with it."""

KILL_EVERY_S: Final = (0.5, 1.5)
WEB_KILLS: Final = 5
"""One kill of so many hits the web process."""

TICK_EVERY_S: Final = 60
"""The schedule that the README advises."""

QUIET_S: Final = 180
"""So long after the last change nothing more will happen: more than a lease, a visibility timeout
and the schedule's interval together."""

CLEAN_S: Final = 45
"""The same where nothing is open: for deliveries that may yet come again."""


@dataclass(frozen=True)
class Outcome:
    """What the ledger says when nothing moves any more."""

    tally: Mapping[str, int]
    function_kills: int
    web_kills: int
    versions: Mapping[str, str | None]


class Shop:
    """The web process: killed now and then, and started again."""

    def __init__(self, python: Path, environment: Mapping[str, str]) -> None:
        self.kills = 0
        self._python = python
        self._environment = environment
        self._current = self._make()

    def take_orders(self, orders: int, *, pause_s: float) -> None:
        """All of them, in as many processes as it takes."""
        while True:
            with self._current:
                try:
                    self._current.ask("take_orders", up_to=orders, pause_s=pause_s)
                except ContestantEnded:
                    self._current = self._make()
                else:
                    return

    def kill(self) -> None:
        self._current.kill()
        self.kills += 1

    def _make(self) -> Contestant:
        return Contestant("shop", self._python, self._environment)


@contextmanager
def project_directory() -> Iterator[Path]:
    """The benchmarks' project without the lambda_tasks beside it, which would hide the peer's."""
    with TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "benchmarks").symlink_to(Path(__file__).parent)
        yield directory


def run(library: str, python: Path, *, orders: int, kills: int) -> Outcome:
    with ExitStack() as stack:
        sqs, postgres = stack.enter_context(LocalSqs()), stack.enter_context(PostgresServer())
        queue_url = sqs.create_queue("default", visibility_timeout_s=FUNCTION_TIMEOUT_S)
        database = postgres.django_database("shop")
        environment = contest.AWS | contest.django(database, durable=library == OURS)
        environment |= {"BENCHMARK_QUEUE_URL": queue_url, "AWS_ENDPOINT_URL": sqs.endpoint_url}
        bookkeeper = stack.enter_context(Contestant("shop", python, environment))
        bookkeeper.ask("migrate")
        directory = stack.enter_context(project_directory())
        functions = [_function(python, directory, environment) for _ in range(FUNCTIONS)]
        shop = Shop(python, environment)
        fleet = Fleet(queue_url, functions, client_options=sqs.client_options)
        with fleet, _schedule(_function(python, directory, environment), library):
            _kill_at_random(fleet, shop, orders=orders, kills=kills)
            tally = _settled(bookkeeper, library)
        return Outcome(
            tally=tally,
            function_kills=fleet.kills,
            web_kills=shop.kills,
            versions=bookkeeper.versions(library.replace("_", "-"), "django"),
        )


def _function(python: Path, directory: Path, environment: Mapping[str, str]) -> LambdaProcess:
    function = LambdaProcess(
        "benchmarks.contestants.function.handler", timeout_s=FUNCTION_TIMEOUT_S, **environment
    )
    function.python, function.directory = str(python), directory
    return function


@contextmanager
def _schedule(function: LambdaProcess, library: str) -> Iterator[None]:
    """The tick event, in a sandbox of its own; django-lambda-tasks has none."""
    over = threading.Event()

    def tick() -> None:
        while not over.wait(TICK_EVERY_S):
            function.invoke({"lambda_tasks": "tick"})

    if library == PEER:
        yield
        return
    with function:
        ticking = threading.Thread(target=tick)
        ticking.start()
        yield
        over.set()
        ticking.join()


def _kill_at_random(fleet: Fleet, shop: Shop, *, orders: int, kills: int) -> None:
    pause_s = kills * sum(KILL_EVERY_S) / 2 / orders
    taking = threading.Thread(target=shop.take_orders, args=[orders], kwargs={"pause_s": pause_s})
    taking.start()
    for number in range(kills):
        time.sleep(random.uniform(*KILL_EVERY_S))
        if number % WEB_KILLS == 0 and taking.is_alive():
            shop.kill()
        else:
            fleet.kill_one()
        _say(f"{number + 1} of {kills} kills")
    taking.join()


def _settled(bookkeeper: Contestant, library: str) -> dict[str, int]:
    """The tally when it has not changed for long."""
    tally: dict[str, int] = {}
    changed_at = time.monotonic()
    while time.monotonic() - changed_at < (QUIET_S if _is_open(tally) else CLEAN_S):
        seen = bookkeeper.ask("tally")
        if seen != tally:
            tally, changed_at = seen, time.monotonic()
            _say(f"{library}: {tally}")
        time.sleep(1)
    return tally


def _is_open(tally: Mapping[str, int]) -> bool:
    return bool(tally.get("lost") or tally.get("stuck"))


def _say(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)


def table(outcomes: Mapping[str, Outcome]) -> str:
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
    return report.table(head, rows)


def main() -> None:
    chosen = _options()
    random.seed(chosen.seed)
    logging.getLogger("lambda_tasks").setLevel(logging.CRITICAL)  # the kills are no news
    pythons = {OURS: environments.here(), PEER: environments.django_lambda_tasks()}
    outcomes = {
        library: run(library, python, orders=chosen.orders, kills=chosen.kills)
        for library, python in pythons.items()
    }
    versions = {name: it for outcome in outcomes.values() for name, it in outcome.versions.items()}
    text = (
        f"{report.conditions(versions)} {FUNCTIONS} functions, batches of 10, a kill every "
        f"{KILL_EVERY_S[0]:g} to {KILL_EVERY_S[1]:g} s; one order of ten is retried. "
        f"`--kills {chosen.kills} --seed {chosen.seed}`.\n\n{table(outcomes)}"
    )
    print(f"\n{text}")
    report.write_section(chosen.output, TITLE, text)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--orders", type=int, default=10_000, help="tasks of each library")
    parser.add_argument("--kills", type=int, default=300, help="processes killed meanwhile")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="of the kills")
    parser.add_argument("--quick", action="store_true", help="a look, not a measurement")
    parser.add_argument(
        "--output", type=Path, default=options.RESULTS, metavar="DIR", help="of the table"
    )
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.orders, chosen.kills = min(chosen.orders, 500), min(chosen.kills, 15)
    return chosen


if __name__ == "__main__":
    main()
