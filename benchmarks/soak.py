"""What is left of a consumer after a quarter of an hour under a mixed load and a fault a second:
as many connections, threads, processes and descriptors as before, as much memory, as much speed.

Run `uv run --group bench python -m benchmarks.soak --minutes 2` for a first look. Exits with 1
where something has grown or grown slow, or where an order is not as it is promised.
"""

import argparse
import logging
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Final, Literal

from benchmarks import options, report
from benchmarks.faults import trial
from benchmarks.faults.kinds import KINDS, Kind, Scene
from benchmarks.faults.site import ENGINES, Consumer, Engine, Site, open_site
from benchmarks.faults.storm import Storm
from benchmarks.faults.tables import ENGINES as ENGINE_NAMES
from benchmarks.faults.trial import Verdict
from tests.servers.family import family

TITLE: Final = "Soak"

Place = Literal["worker", "handler"]
CONSUMERS: Final[Mapping[Place, Consumer]] = {"worker": "worker", "handler": "lambda"}

FAULT_EVERY_S: Final = (0.5, 1.5)
ORDERS_PER_S: Final = 8.0
"""What two cores do beside a fault a second, which is a cold start now and then."""

VETERANS: Final = 1
"""Consumers that are never killed: it is them who could grow."""

FILL: Final = {"apack": 120, "pack": 40, "awrap": 60, "wrap": 40}
"""Orders of long tasks, more at once than there is room for: after them every lane and process has
begun, and has every connection that it may need."""

WARM_UP_S: Final = 90.0
"""For a storm before all is measured: what errors need once is no growth, such as the lines of
source that tracebacks show, and room in the allocator."""

DEADLY: Final = ("consumer", "deployment", "freeze", "long freeze")
"""Subjects of faults that the storm before is without: what they leave is settled late only."""

REST_S: Final = 90.0
"""Until what is kept for a while, as idle connections to SQS are, is let go."""

MEMORY_GROWTH: Final = 1.10
THROUGHPUT_LOSS: Final = 0.20
THIRDS: Final = 3
MIB: Final = 2**20


@dataclass(frozen=True)
class Holdings:
    """What all consumers hold at rest; threads and memory are the veterans' alone.

    The others were killed and began anew, and have begun more or fewer of the threads that they may
    need.
    """

    connections: int
    processes: int
    threads: int
    descriptors: int
    memory_bytes: int

    def counts(self) -> tuple[int, ...]:
        """All but the memory."""
        return astuple(self)[:-1]

    def is_no_more_than(self, other: "Holdings") -> bool:
        """In each of them; the memory may grow a little."""
        pairs = zip(self.counts(), other.counts(), strict=True)
        memory_bytes = other.memory_bytes * MEMORY_GROWTH
        return all(now <= then for now, then in pairs) and self.memory_bytes <= memory_bytes


@dataclass(frozen=True)
class Outcome:
    """What one run has shown."""

    before: Holdings
    after: Holdings
    done_per_s: tuple[float, ...]
    """In each third of the time."""
    verdict: Verdict

    @property
    def is_met(self) -> bool:
        """Nothing has grown, or grown slow, or gone wrong."""
        first, *_, last = self.done_per_s
        is_as_fast = last >= first * (1 - THROUGHPUT_LOSS)
        return self.after.is_no_more_than(self.before) and is_as_fast and self.verdict.is_clean


def run(site: Site, place: Place, *, minutes: float, seed: int) -> Outcome:
    """Fill, measure, let it storm, fill and measure again."""
    random.seed(seed)
    with trial.begun(site, CONSUMERS[place], veterans=VETERANS) as scene:
        _weather(scene, [kind for kind in KINDS if kind.subject not in DEADLY], WARM_UP_S, seed)
        trial.settle(site)
        before = _filled(scene, seed)
        began_at = time.time()
        storm = _weather(scene, KINDS, minutes * 60, seed)
        done_per_s = site.bookkeeper.ask(
            "done_per_s", since=began_at, until=began_at + minutes * 60, parts=THIRDS
        )
        trial.settle(site)
        after = _filled(scene, seed, at_most=before)
        orders = site.bookkeeper.ask("movement")["orders"]
        unresponsive = scene.unresponsive()
    verdict = trial.judge(scene, orders, storm.happened, unresponsive)
    return Outcome(before, after, tuple(done_per_s), verdict)


def _weather(scene: Scene, kinds: Sequence[Kind], seconds: float, seed: int) -> Storm:
    """Let it storm for so long under the load."""
    load = trial.taking_orders(
        scene, sys.maxsize, pause_s=1 / ORDERS_PER_S, seed=seed, until=time.time() + seconds
    )
    with load, Storm(scene, kinds) as storm:
        storm.blow(every_s=FAULT_EVERY_S, seconds=seconds)
    return storm


def _filled(scene: Scene, seed: int, *, at_most: Holdings | None = None) -> Holdings:
    """What they hold at rest after as much work at once as they take.

    What is let go only after a while has the time for it, until it is `at_most` so much.
    """
    for kind, count in FILL.items():
        orders = scene.site.bookkeeper.ask("movement")["orders"]
        with trial.taking_orders(scene, orders + count, pause_s=0, seed=seed, kinds=[kind]):
            pass
        trial.settle(scene.site, clean_s=1)
    rested_at = time.monotonic() + REST_S
    while True:
        held = _holdings(scene)
        is_low = at_most is not None and held.is_no_more_than(at_most)
        if is_low or time.monotonic() > rested_at:
            return held
        time.sleep(1)


def _holdings(scene: Scene) -> Holdings:
    pids = scene.consumers.pids
    families = [family(pid) for pid in pids]
    members = [member for each in families for member in each]
    veterans = [member for each in families[:VETERANS] for member in each]
    return Holdings(
        connections=scene.site.stranger.count_sessions(),
        processes=len(members),
        threads=sum(member.num_threads() for member in veterans),
        descriptors=sum(member.num_fds() for member in members),
        memory_bytes=sum(_memory_bytes(member) for member in veterans),
    )


def _memory_bytes(process: Any) -> int:
    """Its share of what it has in common with others, where the kernel tells it."""
    info = process.memory_full_info()
    return int(getattr(info, "pss", info.rss))


def table(outcomes: Mapping[tuple[Place, Engine], Outcome]) -> str:
    """What there was before and after, a row for each run."""
    head = ["Consumers", "Faults", "Connections", "Processes", "Threads", "Descriptors", "MiB",
            "Tasks/s by thirds", "Wrong", "Met"]  # fmt: skip
    rows = []
    for (place, engine), outcome in outcomes.items():
        counts = zip(outcome.before.counts(), outcome.after.counts(), strict=True)
        rows.append(
            [
                f"{place}s, {ENGINE_NAMES[engine]}",
                f"{sum(outcome.verdict.faults.values()):,}",
                *(f"{then} → {now}" for then, now in counts),
                f"{outcome.before.memory_bytes / MIB:.0f} → {outcome.after.memory_bytes / MIB:.0f}",
                ", ".join(f"{rate:.1f}" for rate in outcome.done_per_s),
                str(len(outcome.verdict.shown().splitlines())),
                "yes" if outcome.is_met else "no",
            ]
        )
    return report.table(head, rows)


def main() -> None:
    chosen = _options()
    logging.getLogger("lambda_tasks").setLevel(logging.CRITICAL)  # the faults are no news
    outcomes = {
        (place, engine): _run(place, engine, chosen)
        for engine in chosen.database
        for place in chosen.consumer
    }
    versions = next(iter(outcomes.values())).verdict.versions
    text = (
        f"{report.conditions(versions)} {ORDERS_PER_S:g} orders and a fault a second. "
        f"`--minutes {chosen.minutes:g} --seed {chosen.seed}`.\n\n{table(outcomes)}"
    )
    print(f"\n{text}")
    report.write_section(chosen.output, TITLE, text)
    if not all(outcome.is_met for outcome in outcomes.values()):
        sys.exit(1)


def _run(place: Place, engine: Engine, chosen: argparse.Namespace) -> Outcome:
    report.say(f"{place}, {engine}, seed {chosen.seed}")
    directory = Path(tempfile.mkdtemp(prefix="lambda_tasks_soak_"))
    with open_site(engine, directory) as site:
        outcome = run(site, place, minutes=chosen.minutes, seed=chosen.seed)
    if outcome.is_met:
        shutil.rmtree(directory)
    else:
        report.say(f"{outcome.verdict.shown()}\n  Logs and logbook are in {directory}.")
    return outcome


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=15, help="of each run's storm")
    parser.add_argument("--consumer", nargs="+", choices=CONSUMERS, default=list(CONSUMERS))
    parser.add_argument("--database", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="of the faults")
    parser.add_argument(
        "--output", type=Path, default=options.RESULTS, metavar="DIR", help="of the table"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
