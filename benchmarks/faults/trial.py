"""Orders under a storm of faults, and what became of them."""

import random
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks import report
from benchmarks.faults.kinds import BY_NAME, LEASE_S, Scene
from benchmarks.faults.lapsed import LapsedLeases
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

OPEN_S: Final = 200.0
"""So long after the last change nothing more will happen, where something is open: more than a
lease, a visibility timeout and the interval of the relay together."""

DEAD_LETTERED_S: Final = 20 * 60.0
"""The same where there are dead letters, which the relay sends again once they are given up."""

CLEAN_S: Final = 30.0
"""The same where nothing is open: for deliveries that may yet come again."""


LOOK_EVERY_S: Final = 0.5


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
    kinds: Sequence[str] | None = None,
    only: Sequence[str] | None = None,
) -> Verdict:
    """Take orders while so many faults happen, one in `every_s` seconds; audit when all is calm.

    `kinds` of orders, and `only` these faults; all of them by default.
    """
    random.seed(seed)
    disturbances = [BY_NAME[name] for name in only or BY_NAME]
    with begun(site, consumer) as scene:
        pause_s = faults * sum(every_s) / 2 / orders
        chosen = {} if kinds is None else {"kinds": kinds}
        taking = taking_orders(scene, orders, pause_s=pause_s, seed=seed, **chosen)
        with taking, Storm(scene, disturbances) as storm:
            storm.blow(every_s=every_s, faults=faults)
        settle(site)
        unresponsive = scene.unresponsive()
    return judge(scene, orders, storm.happened, unresponsive)


@contextmanager
def begun(site: Site, consumer: Consumer, *, veterans: int = 0) -> Iterator[Scene]:
    """In the body the site's queues are worked off, and what was left is sent by schedule."""
    with ExitStack() as stack:
        consumers: Crew | Fleet
        if consumer == "worker":  # which relays by itself
            consumers = site.crew(veterans=veterans)
        else:
            consumers = site.fleet(veterans=veterans)
            stack.enter_context(ticking(site.function()))
        stack.callback(_keep_output, consumers, site.directory)
        lapsed = stack.enter_context(LapsedLeases(site.stranger))
        stack.enter_context(consumers)
        yield Scene(site, site.web(), consumers, lapsed)


def _keep_output(consumers: Crew | Fleet, directory: Path) -> None:
    """Write down what functions have printed; workers do so themselves."""
    if isinstance(consumers, Fleet):
        for number, output in enumerate(consumers.outputs()):
            (directory / f"function-{number}.log").write_text(output)


@contextmanager
def taking_orders(scene: Scene, up_to: int, **options: Any) -> Iterator[None]:
    """Begins to take orders until there are so many; all are taken when the body is left.

    See the web process's take_orders for `options`.
    """
    options["queues"] = ["default", "table"] if isinstance(scene.consumers, Crew) else ["default"]
    taking = threading.Thread(target=scene.web.take_orders, args=[up_to], kwargs=options)
    taking.start()
    try:
        yield
    finally:
        taking.join()


def settle(
    site: Site, *, clean_s: float = CLEAN_S, open_s: float = OPEN_S, dead_s: float = DEAD_LETTERED_S
) -> None:
    """Return when nothing has changed for so long, which depends on what is open."""
    seen: dict[str, int] = {}
    changed_at = time.monotonic()
    patience_s = open_s
    while time.monotonic() - changed_at < patience_s:
        now = site.bookkeeper.ask("movement")
        if now != seen:
            seen, changed_at = now, time.monotonic()
            report.say(f"{seen}")
        if not seen["open"] and not seen["waiting"]:
            patience_s = clean_s
        else:
            patience_s = dead_s if site.has_dead_letters() else open_s
        time.sleep(LOOK_EVERY_S)


def audit(scene: Scene, *, since: int = 0) -> dict[str, dict[str, Any]]:
    """What must not be; see the bookkeeper's audit. `since` is the first of the orders in question.

    The dead letters are told once.
    """
    found: dict[str, dict[str, Any]] = scene.site.bookkeeper.ask(
        "audit",
        since=since,
        lease_s=LEASE_S,
        lapsed=scene.lapsed.counts,
        max_receives=MAX_RECEIVES,
        dead_letters=scene.site.dead_letters(),
    )
    return found


def judge(
    scene: Scene, orders: int, faults: Mapping[str, int], unresponsive: Sequence[str]
) -> Verdict:
    """Audit what consumers did that have ended by now."""
    crew = scene.consumers if isinstance(scene.consumers, Crew) else None
    struck = scene.site.bookkeeper.ask("struck")
    happened = dict(faults) | ({"struck itself down": struck} if struck else {})
    return Verdict(
        orders=orders,
        faults=happened,
        found=audit(scene),
        frozen=unresponsive if crew is None else crew.stuck,
        surprises=[] if crew is None else _untold(crew.surprises, struck),
        longest_end_s=None if crew is None else max(crew.ended_after_s, default=None),
        versions=scene.site.bookkeeper.versions("lambda-tasks", "django", "ministack"),
    )


def _untold(codes: Sequence[int], struck: int) -> Sequence[int]:
    """Leave out the ends of workers whose tasks have struck them down."""
    killed = [code for code in codes if code == -signal.SIGKILL]
    return [code for code in codes if code != -signal.SIGKILL] + killed[struck:]
