"""Networks that stall, strangers at the database, servers that restart, processes that stand still:
each of it, for a short while, under a load of every kind of task.

`python -m benchmarks.faults` does it at random, for long, and with kills among it.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks.faults import trial
from benchmarks.faults.kinds import BY_NAME, Scene
from benchmarks.faults.site import DRAIN_MARGIN_S, DRAIN_S, Consumer, Engine, open_site
from tests.conftest import PATIENCE_S, starting, wait_for
from tests.servers import Crew

ORDERS = 50
LASTS_S = 1.5
LOAD = {"pause_s": 0.1, "seed": 20, "longest_delay_s": 2}

FUNCTION_TIMEOUT_S = 25
"""Room for the hard timeout of a task, and no more, as what comes back does so after it."""

LONG_KINDS = ("pack", "apack", "wrap", "awrap")
"""The tasks that a process is most likely in the middle of when it is frozen or killed."""

STILL_S = 5.0
"""More than any task here runs or waits: what is claimed and moves no more has lost its worker."""

DISTURBED = {
    "way to the database": [
        "way to the database held",
        "way to the database slow",
        "ways to the database cut",
    ],
    "way to SQS": ["way to SQS held", "way to SQS slow", "ways to SQS cut"],
    "sessions": ["sessions ended", "listeners ended", "records locked", "statements cut short"],
    "connections": ["connections used up"],
    "server": ["database restarted"],
    "consumers": ["consumer frozen"],
}
"""What is disturbed, and by which kinds of faults, one after the other."""


@pytest.fixture(scope="class")
def scene(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scene]:
    directory: Path = tmp_path_factory.mktemp("faults")
    disturbances: Any = request.cls
    engine: Engine = disturbances.engine
    with starting(engine):
        with (
            open_site(
                engine, directory, processes=2, function_timeout_s=FUNCTION_TIMEOUT_S
            ) as site,
            trial.begun(site, disturbances.consumer) as scene,
        ):
            yield scene


class Disturbances:
    engine: Engine
    consumer: Consumer

    @pytest.mark.parametrize("disturbed", DISTURBED)
    def test_what_is_disturbed_for_a_while_loses_and_doubles_nothing(
        self, scene: Scene, disturbed: str
    ) -> None:
        kinds = [BY_NAME[name] for name in DISTURBED[disturbed]]
        with _load(scene) as first:
            for kind in kinds:
                if kind.is_possible(scene):
                    with kind.begin(scene):
                        time.sleep(LASTS_S)

        assert _wrong(scene, since=first) == {}

    def test_what_was_frozen_beyond_its_lease_can_not_commit(self, scene: Scene) -> None:
        stranger = scene.site.stranger
        with _load(scene, kinds=LONG_KINDS) as first, scene.consumers.one_frozen():
            tokens = {each.token for each in stranger.claims().values()}
            stranger.end_leases()
            wait_for(lambda: {each.token for each in stranger.claims().values()}.isdisjoint(tokens))

        assert _wrong(scene, since=first) == {}


class OfWorkers(Disturbances):
    consumer = "worker"

    def test_workers_that_are_told_to_end_do_so_within_their_drain(self, scene: Scene) -> None:
        assert isinstance(scene.consumers, Crew)
        with _load(scene) as first:
            for _ in range(2):
                scene.consumers.terminate_one()

        assert scene.consumers.stuck == []
        assert max(scene.consumers.ended_after_s) <= DRAIN_S + DRAIN_MARGIN_S
        assert _wrong(scene, since=first) == {}

    @pytest.mark.parametrize("alone", [False, True], ids=["with all it has started", "alone"])
    def test_what_a_killed_worker_had_is_done_by_others(self, scene: Scene, alone: bool) -> None:
        assert isinstance(scene.consumers, Crew)
        with _load(scene, kinds=LONG_KINDS) as first:
            scene.consumers.kill_one(alone=alone)
            scene.site.stranger.end_leases()

        assert _wrong(scene, since=first) == {}


class TestWorkersOnPostgres(OfWorkers):
    engine = "postgresql"


class TestWorkersOnMariaDB(OfWorkers):
    engine = "mariadb"


class TestFunctionsOnPostgres(Disturbances):
    engine = "postgresql"
    consumer = "lambda"


@contextmanager
def _load(scene: Scene, **options: Any) -> Iterator[int]:
    """In the body tasks run; after it all are done, or the audit shows which are not, as patience
    is over. Gives the first of their orders."""
    before = _movement(scene)
    with trial.taking_orders(scene, before["orders"] + ORDERS, **LOAD, **options):
        wait_for(lambda: _movement(scene)["shipped"] > before["shipped"])
        yield before["orders"]
    end, patient_until = _End(scene), time.monotonic() + PATIENCE_S
    while not end.has_come() and time.monotonic() < patient_until:
        time.sleep(0.2)


class _End:
    """The end of all that a scene's orders have asked for. It waits for no lease of the dead."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._seen: dict[str, int] = {}
        self._changed_at = time.monotonic()

    def has_come(self) -> bool:
        now = _movement(self._scene)
        if now != self._seen:
            self._seen, self._changed_at = now, time.monotonic()
        elif time.monotonic() - self._changed_at > STILL_S:
            self._scene.site.stranger.end_leases()
        return not now["open"] and not now["waiting"]


def _movement(scene: Scene) -> dict[str, int]:
    seen: dict[str, int] = scene.site.bookkeeper.ask("movement")
    return seen


def _wrong(scene: Scene, *, since: int) -> dict[str, list[Any]]:
    found = trial.audit(scene, since=since)
    wrong = {name: each["shown"] for name, each in found.items() if each["count"]}
    if isinstance(scene.consumers, Crew) and scene.consumers.surprises:
        wrong["ended untold, with"] = scene.consumers.surprises
    return wrong
