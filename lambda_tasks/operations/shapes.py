"""What pages draw: the figures of a range of time, by moment, queue, task and error."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from ..core.figures import Range
from ..models import DoctorReport
from ..records.figures import MAX_BROKEN
from .counting import Counts


@dataclass(frozen=True, slots=True)
class Outcomes:
    """How runs have ended."""

    succeeded: int = 0
    failed: int = 0
    retried: int = 0
    """The runs that have failed, and that a retry has followed by itself."""
    cancelled: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.succeeded + self.failed + self.retried + self.cancelled

    @property
    def failure_rate(self) -> float | None:
        """The share of FAILED among SUCCESS and FAILED, from 0 to 1; None without ends."""
        ended = self.succeeded + self.failed
        return self.failed / ended if ended else None


@dataclass(frozen=True, slots=True)
class Spread:
    """How long something took, of many times: the median, and what one in twenty exceeds."""

    p50_s: float | None = None
    p95_s: float | None = None
    total_s: float = 0.0
    """The seconds of all of them."""


@dataclass(frozen=True, slots=True)
class Moment:
    """One span of a chart's time: a bar, a point, or a column of the heat map."""

    start: datetime
    minutes: int
    outcomes: Outcomes
    wait: Spread
    run: Spread
    waits: Mapping[int, int]
    """How many waited for so long, by the index of `HEAT_S`, without those that are 0."""


HEAT_S: Final = (0.1, 1, 10, 60, 600, 3600)
"""The seconds at which the heat map's rows end; the last row has what waited longer.

Row 0 has waits below 0.1 s, row 6 those of an hour and more. At an edge they are a tenth off.
"""


@dataclass(frozen=True, slots=True)
class ReleaseMark:
    """A release, and when it first ran a task."""

    name: str
    first_seen: datetime


@dataclass(frozen=True, slots=True)
class Series:
    """What has ended in a range of time, one moment after the other, without gaps."""

    range: Range
    moments: Sequence[Moment]
    total: Moment
    """All of them as one."""
    releases: Sequence[ReleaseMark] = ()
    """The releases that are new in the range, the earliest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What can be wrong with the system as a whole."""

    now: datetime
    """The time of the database's clock."""
    last_tick_s: float | None
    """About the seconds since the last tick; None for never."""
    counted_s: float | None
    """The seconds since the ends were counted last, from which all other figures are; None for
    never. It is much more than `last_tick_s` only if ticks fail to count."""
    oldest_waiting_s: float | None
    """The seconds since the oldest waiting call was due; None if none waits."""
    oldest_waiting_queue: str | None
    stuck: int
    """Runs whose worker has died and that nobody has taken over for long."""
    still_broken: int
    """FAILED records that nobody has put right; at most STILL_BROKEN_COUNTED."""
    failure_rate: float | None
    """The share of runs that have FAILED since the hour began, or in the hour before, if fewer than
    20 have ended since; None without ends."""
    usual_failure_rate: float | None
    """The same of the same hours of the past seven days; None if fewer than 20 have ended then."""
    connections: int | None
    """The connections to the database server, of everybody, at the last tick; None where that is
    unknown."""
    max_connections: int | None


STILL_BROKEN_COUNTED: Final = MAX_BROKEN
"""The most records that are counted as still broken, the last ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueFigures:
    """How a queue stands, and what has ended in it."""

    name: str
    counts: Counts
    """What waits (`waiting`, `delayed`), is in flight (`running`, `stuck`), and the age of the
    oldest, now. Its counts of ends are those of the range."""
    is_complete: bool
    """Whether all that waits is counted; if not, there is at least as much."""
    is_paused: bool
    """Whether somebody has paused it. See pause_queue()."""
    outcomes: Outcomes
    """In the range."""
    wait: Spread
    throughput: Sequence[int]
    """The ends of each moment of the range: a spark line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorGroup:
    """Failures by error: the class, the text without what differs, and where it was raised."""

    id: UUID
    exception_class: str
    message: str
    raised_in: str
    """The file and function of the project's own code, as "shop/tasks.py in charge"; or ""."""
    task_names: Sequence[str]
    """The tasks that had it in the range, the most failures first."""
    failed: int
    """In the range."""
    retried: int
    still_broken: int
    """The FAILED records with it that nobody has put right, of any time; up to
    STILL_BROKEN_COUNTED of all errors together are counted."""
    first_seen: datetime
    last_seen: datetime
    releases: Sequence[str]
    """The releases in which it was seen, the first one first; empty if releases have no names."""
    examples: Sequence[UUID]
    """The ids of the last records with it, the latest first."""
    trend: Sequence[int]
    """The failures and retries of each moment of the range: a spark line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFigures:
    """What has ended of one task in a range."""

    name: str
    outcomes: Outcomes = Outcomes()
    wait: Spread = Spread()
    run: Spread = Spread()
    share: float = 0.0
    """The share of the seconds of all runs that these took: what it costs, from 0 to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NextDue:
    """A schedule that is due next."""

    name: str
    task_name: str
    rule: str
    due: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """All that the first page shows, but dead letters."""

    facts: Facts
    series: Series
    queues: Sequence[QueueFigures]
    """By name, with each queue of LAMBDA_TASKS_QUEUES."""
    errors: Sequence[ErrorGroup]
    """Up to ten: those that are still broken first, then the most failures."""
    slowest: Sequence[TaskFigures]
    """Up to ten, by the p95 of their runs."""
    costliest: Sequence[TaskFigures]
    """Up to ten, by the seconds of all their runs."""
    next_due: Sequence[NextDue]
    """Up to ten, the earliest first."""
    report: DoctorReport | None
    """What the doctor has found last, without the comparison of queues; None if nobody asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskStory:
    """How one task is doing: figures, the moments of a range, and its last success."""

    figures: TaskFigures
    series: Series
    last_success: datetime | None
    errors: Sequence[ErrorGroup]
    """Up to ten, of this task alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleRun:
    """One of the last runs of a schedule."""

    due: datetime
    record_id: UUID
    status: str | None
    """The status of the last record of its lineage; None where there is no record any more, or
    none yet."""
    run_s: float | None
