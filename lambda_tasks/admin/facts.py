"""The facts at the top: at most five that can be wrong, each with a link to its cure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

from django.urls import reverse
from django.utils.translation import gettext, pgettext_lazy
from django.utils.translation import gettext_lazy as _

from ..operations.figures import Facts
from . import words
from .words import StrPromise

Level = Literal["ok", "warning", "critical", "unknown"]

LEVEL_NAMES: Final[dict[Level, StrPromise]] = {
    "ok": pgettext_lazy("level", "well"),
    "warning": pgettext_lazy("level", "look at it"),
    "critical": pgettext_lazy("level", "act on it"),
    "unknown": pgettext_lazy("level", "unknown"),
}
"""What a colour says, for those who don't see it."""

TICK_LIMITS_S: Final = (150, 300)
WAIT_LIMITS_S: Final = (300, 600)
"""The seconds from which on the last tick, and the oldest call, are worth a look, and an act."""

FULL: Final = (0.7, 0.9)
"""The shares of all connections from which on they are worth a look, and an act."""

RISEN_BY: Final = 0.02
"""How much the failure rate may exceed the usual one, beside twice that."""

UNUSUAL_RATE: Final = 0.5
"""The failure rate that is critical whatever is usual."""


@dataclass(frozen=True, slots=True)
class Fact:
    """A fact of the strip."""

    name: StrPromise
    value: str
    level: Level
    url: str
    remark: str = ""

    @property
    def level_name(self) -> StrPromise:
        """The level in words."""
        return LEVEL_NAMES[self.level]


def shown(
    facts: Facts, site: str, *, dead_letters: Mapping[str, int] = MappingProxyType({})
) -> list[Fact]:
    """Return the facts of the strip. That of dead letters is there if any queue's are known."""
    return list(_shown(facts, site, dead_letters))


def is_late(tick_s: float | None) -> bool:
    """Return whether a tick, or what it does, is so long ago that it is worth a look."""
    return _level(tick_s, TICK_LIMITS_S, none="critical") != "ok"


def _shown(facts: Facts, site: str, dead_letters: Mapping[str, int]) -> Iterator[Fact]:
    runs = reverse(f"{site}:lambda_tasks_taskrecord_changelist")
    yield Fact(
        _("Last tick"),
        words.ago(facts.last_tick_s),
        _level(facts.last_tick_s, TICK_LIMITS_S, none="critical"),
        reverse(f"{site}:lambda_tasks_schedulestate_changelist"),
    )
    stuck = gettext("%d stuck") % facts.stuck if facts.stuck else ""
    waits = _level(facts.oldest_waiting_s, WAIT_LIMITS_S, none="ok")
    yield Fact(
        _("Longest wait"),
        words.span(facts.oldest_waiting_s) or gettext("nobody waits"),
        "critical" if facts.stuck else waits,
        f"{runs}?status__exact=QUEUED",
        " · ".join(filter(None, [facts.oldest_waiting_queue, stuck])),
    )
    if dead_letters:
        having = [name for name, n in dead_letters.items() if n]
        yield Fact(
            _("Dead letters"),
            words.number(sum(dead_letters.values())),
            "critical" if having else "ok",
            reverse(f"{site}:lambda_tasks_dead_letters", args=having)
            if len(having) == 1
            else reverse(f"{site}:lambda_tasks_queuestate_changelist"),
            ", ".join(having),
        )
    usual = facts.usual_failure_rate
    yield Fact(
        _("Failure rate"),
        words.share(facts.failure_rate),
        _rate_level(facts.failure_rate, usual),
        f"{runs}?broken=yes",
        "" if usual is None else gettext("usually %s") % words.share(usual),
    )
    if facts.connections is not None and facts.max_connections:
        share = facts.connections / facts.max_connections
        yield Fact(
            _("Database connections"),
            words.number(facts.connections),
            _level(share, FULL, none="unknown"),
            reverse(f"{site}:lambda_tasks_queuestate_changelist"),
            gettext("of %s") % words.number(facts.max_connections),
        )


def _level(value: float | None, limits: tuple[float, float], *, none: Level) -> Level:
    if value is None:
        return none
    return "critical" if value >= limits[1] else "warning" if value >= limits[0] else "ok"


def _rate_level(rate: float | None, usual: float | None) -> Level:
    """Return how the failure rate is, compared with the same hours of past days."""
    if rate is None:
        return "unknown"
    if rate >= UNUSUAL_RATE:
        return "critical"
    return "warning" if rate > 2 * (usual or 0.0) + RISEN_BY else "ok"
