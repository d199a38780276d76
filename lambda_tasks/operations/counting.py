"""How the system stands: counts, a verdict on its health, and what is stuck."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, Literal

from asgiref.sync import sync_to_async

from .. import conf
from ..core.lifecycle import Status
from ..models import TaskRecord
from ..records import counts
from ..twins import sync_form
from .checking import check_number, check_time, known_queue
from .pausing import queue_states

WINDOW: Final = timedelta(hours=1)
"""How far back what has ended is counted, unless a caller says otherwise."""

STUCK_AFTER: Final = timedelta(minutes=20)
"""How long a run may be without a worker before it counts as stuck.

After 15 minutes the relay sends its message again.
"""

MIN_ENDED: Final = 20
"""The fewest ends of which a failure rate says something."""

COUNTED_STATES: Final = {
    Status.SUCCESS: "succeeded",
    Status.FAILED: "failed",
    Status.RETRYING: "retried",
    Status.CANCELLED: "cancelled",
}
"""The name of a count by the status that it counts."""


@dataclass(slots=True)
class Counts:
    """Counts of a queue, a task or everything."""

    waiting: int = 0
    """Calls that are due and that no worker has begun."""
    delayed: int = 0
    """Calls that are due later."""
    running: int = 0
    stuck: int = 0
    """Runs whose worker has died and that nobody has taken over for long."""
    succeeded: int = 0
    failed: int = 0
    retried: int = 0
    """Runs that have failed and were followed by a retry."""
    cancelled: int = 0
    oldest_waiting_s: float | None = None
    """The seconds since the oldest waiting call was due; None if none waits."""

    @property
    def failure_rate(self) -> float | None:
        """The share of runs that have FAILED, from 0 to 1; None without ends."""
        ended = self.succeeded + self.failed
        return self.failed / ended if ended else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """What waits and runs now, and what has ended since `ended_since`."""

    now: datetime
    """The time of the database's clock."""
    ended_since: datetime
    """The moment from which on ends are counted. In a busy system it is later than asked for."""
    is_complete: bool
    """Whether all that waits and runs is counted. If not, there are at least as many."""
    last_tick_s: float | None
    """About the seconds since schedules and relay were looked after; None for never."""
    total: Counts = field(default_factory=Counts)
    queues: Mapping[str, Counts] = field(default_factory=dict)
    """The counts by queue, with each queue of LAMBDA_TASKS_QUEUES."""
    tasks: Mapping[str, Counts] = field(default_factory=dict)
    """The counts by task, of those that have any."""


Level = Literal["ok", "warning", "critical"]


@dataclass(frozen=True, slots=True)
class Problem:
    """A limit that is exceeded, or more than half reached."""

    level: Level
    what: str
    """"age", "tick", "stuck" or "failures"."""
    message: str


@dataclass(frozen=True, slots=True)
class Health:
    """A verdict on the system, with the reasons and the numbers that it follows from."""

    status: Level
    problems: tuple[Problem, ...]
    stats: Stats


@sync_form("astats(...)")
def stats(*, window: timedelta = WINDOW, stuck_after: timedelta = STUCK_AFTER) -> Stats:
    """Count what waits and runs now, and what has ended within `window`.

    Takes milliseconds, however many records there are: of each queue, up to 5,000 records are
    counted that need somebody soon, and 5,000 that wait or run for longer; of what has ended, the
    last 5,000. `is_complete` and `ended_since` say whether that was all. Raises InvalidFilter for a
    window or time that is not positive.
    """
    check_time("window", window)
    check_time("stuck_after", stuck_after)
    counted = counts.count(window, stuck_after)
    last = counts.last_round()
    last_tick_s = None if last is None else max((counted.now - last).total_seconds() + SHIFT_S, 0.0)
    queues = {name: Counts() for name in conf.current().queues}
    tasks: dict[str, Counts] = {}
    total = Counts()
    for group in (*counted.unfinished, *counted.ended):
        for each in (
            total,
            queues.setdefault(group.queue, Counts()),
            tasks.setdefault(group.task_name, Counts()),
        ):
            add_group(each, group, counted.now)
    return Stats(
        now=counted.now,
        ended_since=counted.ended_since,
        is_complete=counted.is_complete,
        last_tick_s=last_tick_s,
        total=total,
        queues=queues,
        tasks=dict(sorted(tasks.items())),
    )


async def astats(*, window: timedelta = WINDOW, stuck_after: timedelta = STUCK_AFTER) -> Stats:
    """See stats()."""
    return await sync_to_async(stats)(window=window, stuck_after=stuck_after)


@sync_form("ahealth(...)")
def health(
    *,
    queue: str | None = None,
    max_age: timedelta = timedelta(minutes=10),
    max_tick_age: timedelta = timedelta(minutes=5),
    max_stuck: int = 1,
    max_failed: int | None = None,
    max_failure_rate: float = 0.5,
    window: timedelta = WINDOW,
    stuck_after: timedelta = STUCK_AFTER,
) -> Health:
    """Return whether the system is well, and what is wrong.

    A limit that is exceeded is critical; more than half of it is a warning. `max_age` is how long a
    call may wait, `max_tick_age` the time since the last tick, `max_stuck` how many runs may be
    without a worker for `stuck_after`. `max_failed` and `max_failure_rate` are the failures within
    `window`: their number, and their share, from 0 to 1, which counts from 20 ends on. With
    `queue`, only that queue counts, and the tick.

    Raises InvalidFilter for a limit that makes no sense, and for an unknown queue.
    """
    check_time("max_age", max_age)
    check_time("max_tick_age", max_tick_age)
    check_number("max_stuck", max_stuck)
    check_number("max_failed", 0 if max_failed is None else max_failed)
    check_number("max_failure_rate", max_failure_rate, most=1)
    found = stats(window=window, stuck_after=stuck_after)
    of_what = found.total if queue is None else found.queues[known_queue(queue)]
    problems = tuple(
        _problems(
            found,
            of_what,
            queue,
            max_age_s=max_age.total_seconds(),
            max_tick_age_s=max_tick_age.total_seconds(),
            max_stuck=max_stuck,
            max_failed=max_failed,
            max_failure_rate=max_failure_rate,
        )
    )
    reached = {problem.level for problem in problems}
    is_critical = "critical" in reached
    return Health("critical" if is_critical else "warning" if reached else "ok", problems, found)


async def ahealth(
    *,
    queue: str | None = None,
    max_age: timedelta = timedelta(minutes=10),
    max_tick_age: timedelta = timedelta(minutes=5),
    max_stuck: int = 1,
    max_failed: int | None = None,
    max_failure_rate: float = 0.5,
    window: timedelta = WINDOW,
    stuck_after: timedelta = STUCK_AFTER,
) -> Health:
    """See health()."""
    return await sync_to_async(health)(
        queue=queue,
        max_age=max_age,
        max_tick_age=max_tick_age,
        max_stuck=max_stuck,
        max_failed=max_failed,
        max_failure_rate=max_failure_rate,
        window=window,
        stuck_after=stuck_after,
    )


@sync_form("astuck(...)")
def stuck(
    *,
    older_than: timedelta = STUCK_AFTER,
    queue: str | Iterable[str] | None = None,
    limit: int = 100,
) -> list[TaskRecord]:
    """Return up to `limit` records that should have gone on `older_than` ago.

    They are runs whose lease is over and that nobody took over, and calls that are due and that no
    worker has begun: if there are many of these, the workers may just be too few. requeue() makes
    them due at once. Raises InvalidFilter for a time that is not positive.
    """
    check_time("older_than", older_than)
    check_number("limit", limit)
    queues = [queue] if isinstance(queue, str) else None if queue is None else list(queue)
    return counts.find_stuck(older_than=older_than, queues=queues, limit=limit)


async def astuck(
    *,
    older_than: timedelta = STUCK_AFTER,
    queue: str | Iterable[str] | None = None,
    limit: int = 100,
) -> list[TaskRecord]:
    """See stuck()."""
    return await sync_to_async(stuck)(older_than=older_than, queue=queue, limit=limit)


SHIFT_S: Final = 60.0
"""Seconds that the shift of a relay lasts: it began so long before its end."""


def add_group(to: Counts, group: counts.Group, now: datetime) -> None:
    """Add a group of records to counts."""
    name = COUNTED_STATES.get(group.state, group.state)  # type: ignore[call-overload]
    setattr(to, name, getattr(to, name) + group.n)
    if name == counts.WAITING and group.first is not None:
        age_s = max((now - group.first).total_seconds(), 0.0)
        to.oldest_waiting_s = max(to.oldest_waiting_s or 0.0, age_s)


def _problems(
    found: Stats,
    of_what: Counts,
    queue: str | None,
    *,
    max_age_s: float,
    max_tick_age_s: float,
    max_stuck: int,
    max_failed: int | None,
    max_failure_rate: float,
) -> Iterator[Problem]:
    """Yield what is wrong, as limits that are exceeded or more than half reached."""
    where = "" if queue is None else f" in the queue {queue!r}"
    if (age_s := of_what.oldest_waiting_s) is not None and (level := _level(age_s, max_age_s)):
        text = f"The oldest call waits for {age_s:.0f} s{where}; the limit is {max_age_s:.0f} s."
        yield Problem(level, "age", text + _pause_of(found, queue))
    if found.last_tick_s is None:
        yield Problem("warning", "tick", f"Nobody has ever ticked. {TICK_REMEDY}")
    elif level := _level(found.last_tick_s, max_tick_age_s):
        text = (
            f"The last tick was {found.last_tick_s:.0f} s ago; the limit is {max_tick_age_s:.0f} s."
        )
        yield Problem(level, "tick", f"{text} {TICK_REMEDY}")
    if level := _level(of_what.stuck, max_stuck):
        text = f"Runs without a worker{where}: {of_what.stuck}; the limit is {max_stuck}."
        yield Problem(level, "stuck", text)
    since = found.ended_since.isoformat(timespec="seconds")
    if max_failed is not None and (level := _level(of_what.failed, max_failed)):
        text = f"Failed since {since}{where}: {of_what.failed}; the limit is {max_failed}."
        yield Problem(level, "failures", text)
    rate, ended = of_what.failure_rate, of_what.succeeded + of_what.failed
    if rate is not None and ended >= MIN_ENDED and (level := _level(rate, max_failure_rate)):
        text = f"{rate:.0%} of {ended} runs{where} have failed since {since}"
        yield Problem(level, "failures", f"{text}; the limit is {max_failure_rate:.0%}.")


def _pause_of(found: Stats, queue: str | None) -> str:
    """Return that somebody has paused the queue in which the oldest call waits; "" if not."""
    name = queue or max(found.queues, key=lambda each: found.queues[each].oldest_waiting_s or 0)
    state = queue_states().get(name)
    return f" The queue {name!r} is paused." if state is not None and state.is_paused else ""


TICK_REMEDY: Final = (
    "Schedules and messages that were left wait: run a worker, or send the function a tick event "
    "each minute."
)


def _level(value: float, limit: float) -> Level | None:
    if value > limit:
        return "critical"
    return "warning" if value > limit / 2 else None
