"""Orders under kills alone, of functions and of the web process, beside django-lambda-tasks."""

import random
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks import contest, report
from benchmarks.contest import Contestant
from benchmarks.faults.directory import project_directory
from benchmarks.faults.ticks import ticking
from benchmarks.faults.web import Web
from lambda_tasks.local import LocalSqs
from tests.servers import Fleet, LambdaProcess
from tests.servers.postgres import PostgresServer

OURS: Final = "lambda_tasks"
PEER: Final = "django-lambda-tasks"

FUNCTIONS: Final = 3
FUNCTION_TIMEOUT_S: Final = 30
"""And the queue's visibility timeout, the shortest that AWS takes with it."""

KILL_EVERY_S: Final = (0.5, 1.5)
WEB_KILLS: Final = 5
"""One kill of so many hits the web process."""

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


def run(library: str, python: Path, *, orders: int, kills: int) -> Outcome:
    with ExitStack() as stack:
        sqs, postgres = stack.enter_context(LocalSqs()), stack.enter_context(PostgresServer())
        queue_url = sqs.create_queue("default", visibility_timeout_s=FUNCTION_TIMEOUT_S)
        database = postgres.django_database("shop")
        environment = contest.aws(sqs.client_options) | contest.django(
            database, durable=library == OURS
        )
        environment["BENCHMARK_QUEUE_URL"] = queue_url
        bookkeeper = stack.enter_context(Contestant("shop", python, environment))
        bookkeeper.ask("migrate")
        directory = stack.enter_context(project_directory())
        functions = [_function(python, directory, environment) for _ in range(FUNCTIONS)]
        shop = Web(Contestant("shop", python, environment))
        fleet = Fleet(queue_url, functions, client_options=sqs.client_options)
        with fleet:
            if library == OURS:  # django-lambda-tasks has no tick event
                stack.enter_context(ticking(_function(python, directory, environment)))
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


def _kill_at_random(fleet: Fleet, shop: Web, *, orders: int, kills: int) -> None:
    pause_s = kills * sum(KILL_EVERY_S) / 2 / orders
    taking = threading.Thread(target=shop.take_orders, args=[orders], kwargs={"pause_s": pause_s})
    taking.start()
    for number in range(kills):
        time.sleep(random.uniform(*KILL_EVERY_S))
        if number % WEB_KILLS == 0 and taking.is_alive():
            shop.kill()
        else:
            fleet.kill_one()
        report.say(f"{number + 1} of {kills} kills")
    taking.join()


def _settled(bookkeeper: Contestant, library: str) -> dict[str, int]:
    """The tally when it has not changed for long."""
    tally: dict[str, int] = {}
    changed_at = time.monotonic()
    while time.monotonic() - changed_at < (QUIET_S if _is_open(tally) else CLEAN_S):
        seen = bookkeeper.ask("tally")
        if seen != tally:
            tally, changed_at = seen, time.monotonic()
            report.say(f"{library}: {tally}")
        time.sleep(1)
    return tally


def _is_open(tally: Mapping[str, int]) -> bool:
    return bool(tally.get("lost") or tally.get("stuck"))
