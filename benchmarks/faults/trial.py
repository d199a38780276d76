"""Orders under a storm of faults, and what became of them."""

import random
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from benchmarks import report
from benchmarks.faults.kinds import KINDS, LEASE_S, Kind, Scene
from benchmarks.faults.site import (
    DRAIN_MARGIN_S,
    DRAIN_S,
    MAX_RECEIVES,
    Consumer,
    Site,
)
from benchmarks.faults.storm import Storm
from benchmarks.faults.ticks import ticking
from tests.servers import Crew, Fleet

QUEUES: Final[Mapping[Consumer, Sequence[str]]] = {
    "lambda": ["default"],
    "worker": ["default", "table"],
}

OPEN_S: Final = 200.0
"""So long after the last change nothing more will happen, where something is open: more than a
lease, a visibility timeout and the interval of the relay together."""

DEAD_LETTERED_S: Final = 20 * 60.0
"""The same where there are dead letters, which the relay sends again once they are given up."""

CLEAN_S: Final = 30.0
"""The same where nothing is open: for deliveries that may yet come again."""


@dataclass(frozen=True)
class Verdict:
    """What must not be, by its name, with orders that show it; and what happened meanwhile."""

    orders: int
    faults: Mapping[str, int]
    found: Mapping[str, Mapping[str, Any]]
    frozen: Sequence[str]
    """Consumers that did not answer, or end, when all was calm; a text for each."""
    surprises: Sequence[int]
    """Exit codes of workers that ended untold."""
    longest_end_s: float | None
    """From SIGTERM to the end of a worker; None where there are none."""
    versions: Mapping[str, str | None]

    @property
    def is_clean(self) -> bool:
        """All is as it was promised."""
        return not self.shown()

    def shown(self) -> str:
        """What is wrong, a line for each order or consumer that shows it."""
        lines = [f"{name}: {order}" for name, each in self.found.items() for order in each["shown"]]
        lines += [f"frozen: {text}" for text in self.frozen]
        lines += [f"a worker ended by itself with {code}" for code in self.surprises]
        if self.longest_end_s is not None and self.longest_end_s > DRAIN_S + DRAIN_MARGIN_S:
            lines.append(f"a worker ended {self.longest_end_s:.1f} s after SIGTERM")
        return "\n".join(lines)


def run(
    site: Site,
    consumer: Consumer,
    *,
    orders: int,
    faults: int,
    every_s: tuple[float, float],
    seed: int,
    kinds: Sequence[Kind] = KINDS,
    clean_s: float = CLEAN_S,
) -> Verdict:
    """Take orders while so many faults happen, one in `every_s` seconds; audit when all is calm."""
    random.seed(seed)
    consumers: Crew | Fleet = site.crew() if consumer == "worker" else site.fleet()
    scene = Scene(site, site.web(), consumers)
    with consumers, _ticks(site, consumer):
        taking = threading.Thread(
            target=scene.web.take_orders,
            args=[orders],
            kwargs={
                "pause_s": faults * sum(every_s) / 2 / orders,
                "queues": QUEUES[consumer],
                "seed": seed,
            },
        )
        taking.start()
        with Storm(scene, kinds) as storm:
            _blow(storm, faults, every_s)
        taking.join()
        settle(site, clean_s=clean_s)
        stuck = consumers.unresponsive() if isinstance(consumers, Fleet) else []
    return _verdict(site, consumers, storm, orders, stuck)


def _blow(storm: Storm, faults: int, every_s: tuple[float, float]) -> None:
    number = 0
    while number < faults:
        time.sleep(random.uniform(*every_s))
        if name := storm.strike():
            number += 1
            report.say(f"{number} of {faults} faults: {name}")


def settle(site: Site, *, clean_s: float) -> None:
    """Return when nothing has changed for long."""
    seen: dict[str, int] = {}
    changed_at = time.monotonic()
    while time.monotonic() - changed_at < _patience_s(site, seen, clean_s):
        now = site.bookkeeper.ask("movement")
        if now != seen:
            seen, changed_at = now, time.monotonic()
            report.say(f"{seen}")
        time.sleep(1)


def _patience_s(site: Site, seen: Mapping[str, int], clean_s: float) -> float:
    if not seen:
        return float("inf")
    if not seen["open"] and not seen["waiting"]:
        return clean_s
    dead = site.sqs.counts(site.sqs.queue_url("default-dlq"))
    return DEAD_LETTERED_S if any(dead.values()) else OPEN_S


def _verdict(
    site: Site, consumers: Crew | Fleet, storm: Storm, orders: int, unresponsive: Sequence[str]
) -> Verdict:
    crew = consumers if isinstance(consumers, Crew) else None
    return Verdict(
        orders=orders,
        faults=storm.happened,
        found=site.bookkeeper.ask(
            "audit",
            lease_s=LEASE_S,
            max_receives=MAX_RECEIVES,
            dead_letters=site.dead_letters(),
        ),
        frozen=unresponsive if crew is None else crew.stuck,
        surprises=[] if crew is None else crew.surprises,
        longest_end_s=None if crew is None else max(crew.ended_after_s, default=None),
        versions=site.bookkeeper.versions("lambda-tasks", "django", "ministack"),
    )


@contextmanager
def _ticks(site: Site, consumer: Consumer) -> Iterator[None]:
    """The tick event, in a sandbox of its own; workers relay by themselves."""
    if consumer == "worker":
        yield
        return
    with ticking(site.function()):
        yield
