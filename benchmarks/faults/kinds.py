"""The kinds of faults: what is disturbed, how it begins and ends, and for how long."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Final

from benchmarks.faults.lapsed import LapsedLeases
from benchmarks.faults.site import FUNCTION_TIMEOUT_S, Site
from benchmarks.faults.web import Web
from tests.servers import Crew, Fleet

SHORT_S: Final = (0.5, 4.0)
"""Much less than a task's limits leave it beside its work."""

INSTANT_S: Final = (0.0, 0.0)

LEASE_S: Final = FUNCTION_TIMEOUT_S + 30
"""The longest for which what is claimed is held after the death of its worker or function."""

BEYOND_THE_LEASE_S: Final = (LEASE_S + 5.0, LEASE_S + 10.0)

SLOW_BYTES_PER_S: Final = 20_000
LOCKED_RECORDS: Final = 10
SHORT_STATEMENT_S: Final = 0.02


@dataclass(frozen=True)
class Scene:
    """Where faults happen: the site, the processes of the project that can be ended, and what was
    seen of claims whose holders were."""

    site: Site
    web: Web
    consumers: Crew | Fleet
    lapsed: LapsedLeases

    def unresponsive(self) -> Sequence[str]:
        """What each function printed that does not answer any more. It ends their feeding.

        Workers show it when they are told to end.
        """
        return self.consumers.unresponsive() if isinstance(self.consumers, Fleet) else []


@dataclass(frozen=True)
class Kind:
    """One kind of fault. It is there in the body of what `begin` returns.

    Of those of one `subject` one is there at a time. `weight` says how often it happens beside the
    others; `is_possible` where it can.
    """

    name: str
    subject: str
    begin: Callable[[Scene], AbstractContextManager[object]]
    lasts_s: tuple[float, float] = SHORT_S
    weight: float = 1.0
    is_possible: Callable[[Scene], bool] = lambda scene: True

    def duration_s(self) -> float:
        """For how long it lasts this time."""
        return random.uniform(*self.lasts_s)


def _instant(do: Callable[[Scene], object]) -> Callable[[Scene], AbstractContextManager[None]]:
    """A fault that is over as soon as it has begun."""

    @contextmanager
    def begin(scene: Scene) -> Iterator[None]:
        do(scene)
        yield

    return begin


def _has_workers(scene: Scene) -> bool:
    return isinstance(scene.consumers, Crew)


def _is_postgres(scene: Scene) -> bool:
    return scene.site.engine == "postgresql"


def _terminate(scene: Scene) -> None:
    assert isinstance(scene.consumers, Crew)
    scene.consumers.terminate_one()


def _kill_alone(scene: Scene) -> None:
    assert isinstance(scene.consumers, Crew)
    scene.consumers.kill_one(alone=True)


KINDS: Final = (
    Kind(
        "consumer killed",
        "consumer",
        _instant(lambda scene: scene.consumers.kill_one()),
        INSTANT_S,
        weight=6,
    ),
    Kind(
        "worker's main process killed",
        "consumer",
        _instant(_kill_alone),
        INSTANT_S,
        weight=2,
        is_possible=_has_workers,
    ),
    Kind(
        "worker terminated",
        "deployment",
        _instant(_terminate),
        INSTANT_S,
        weight=4,
        is_possible=_has_workers,
    ),
    Kind("consumer frozen", "freeze", lambda scene: scene.consumers.one_frozen(), weight=2),
    Kind(
        "consumer frozen beyond its lease",
        "long freeze",
        lambda scene: scene.consumers.one_frozen(may_die=True),
        BEYOND_THE_LEASE_S,
        weight=1,
    ),
    Kind(
        "web process killed", "web", _instant(lambda scene: scene.web.kill()), INSTANT_S, weight=4
    ),
    Kind(
        "way to the database held",
        "database",
        lambda scene: scene.site.database_way.held(),
        weight=2,
    ),
    Kind(
        "way to the database slow",
        "database",
        lambda scene: scene.site.database_way.slowed(SLOW_BYTES_PER_S),
        weight=2,
    ),
    Kind(
        "ways to the database cut",
        "database",
        _instant(lambda scene: scene.site.database_way.cut()),
        INSTANT_S,
        weight=2,
    ),
    Kind(
        "sessions ended",
        "database",
        _instant(lambda scene: scene.site.stranger.end_sessions()),
        INSTANT_S,
    ),
    Kind(
        "listeners ended",
        "database",
        _instant(lambda scene: scene.site.stranger.end_listeners()),
        INSTANT_S,
        is_possible=lambda scene: _is_postgres(scene) and _has_workers(scene),
    ),
    Kind(
        "records locked",
        "database",
        lambda scene: scene.site.stranger.locked_records(LOCKED_RECORDS),
        weight=2,
    ),
    Kind(
        "statements cut short",
        "database",
        lambda scene: scene.site.stranger.short_statements(SHORT_STATEMENT_S),
    ),
    Kind("connections used up", "database", lambda scene: scene.site.stranger.all_connections()),
    Kind("database restarted", "database", lambda scene: scene.site.database.down()),
    Kind("way to SQS held", "SQS", lambda scene: scene.site.sqs_way.held(), weight=2),
    Kind("way to SQS slow", "SQS", lambda scene: scene.site.sqs_way.slowed(SLOW_BYTES_PER_S)),
    Kind("ways to SQS cut", "SQS", _instant(lambda scene: scene.site.sqs_way.cut()), INSTANT_S),
)

BY_NAME: Final[Mapping[str, Kind]] = {kind.name: kind for kind in KINDS}
