"""What operators ask of the queues themselves: how they are set, what differs, and to put it right.

Only SQS queues have anything to set. Nothing is ever deleted.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from asgiref.sync import sync_to_async

from .. import conf, runtime
from ..core.aws_values import QueuePlan
from ..deployment.planning import make_plan
from ..models import QueueState
from ..queues.sqs import SQSQueue
from ..queues.sqs_provision import COUNTS, LivePair, LiveQueue, look_at, make_right
from ..twins import sync_form
from .asking import ask_queue, sqs_queues
from .checking import known_queue
from .counting import stats
from .pausing import queue_states

logger = logging.getLogger("lambda_tasks")


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueDescription:
    """A queue as it is."""

    queue: str
    """The queue's key in LAMBDA_TASKS_QUEUES."""
    kind: str
    """The name of its class, such as "SQSQueue"."""
    name: str | None = None
    """Its name in SQS; None for other kinds."""
    url: str | None = None
    is_dead_letters: bool = False
    """Whether it is the dead-letter queue."""
    exists: bool = True
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """The attributes in SQS, without the counts."""
    visible: int | None = None
    """About how many messages wait in SQS; None for other kinds."""
    in_flight: int | None = None
    """About how many were received and not answered yet."""
    delayed: int | None = None
    oldest_waiting_s: float | None = None
    """The seconds for which its oldest call has been due, by the records."""
    n_differences: int = 0
    """How many attributes are not as recommended. See diff_queues()."""
    is_paused: bool = False
    """Whether it hands out nothing. See pause_queue()."""
    changed_by: str = ""
    """Who has paused it, or let it go on; "" for nobody."""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueChange:
    """An attribute that differs from the recommended one, or a queue that is missing."""

    queue: str
    """The queue's key in LAMBDA_TASKS_QUEUES."""
    name: str
    """Its name in SQS."""
    action: Literal["create", "set"]
    attribute: str | None = None
    """The attribute's name in SQS; None for a queue as a whole."""
    before: Any = None
    after: Any = None


@sync_form("adescribe_queues(...)")
def describe_queues(queue: str | None = None) -> list[QueueDescription]:
    """Return the queues of LAMBDA_TASKS_QUEUES as they are, each dead-letter queue after its own.

    `queue` describes one of them. Raises InvalidFilter for an unknown queue, and QueueUnavailable.
    """
    names = list(conf.current().queues) if queue is None else [known_queue(queue)]
    ages = {name: counts.oldest_waiting_s for name, counts in stats().queues.items()}
    plans, states = _plans(), queue_states()
    return [
        each
        for name in names
        for each in _describe(name, plans, ages.get(name), states.get(name) or QueueState())
    ]


async def adescribe_queues(queue: str | None = None) -> list[QueueDescription]:
    """See describe_queues()."""
    return await sync_to_async(describe_queues)(queue)


@sync_form("adiff_queues(...)")
def diff_queues(queue: str | None = None) -> list[QueueChange]:
    """Return what ensure_queues() would change. See describe_queues() for what it raises."""
    return [
        change
        for name, pair in _look(sqs_queues(queue), _plans())
        for live in pair
        for change in _changes(name, live)
    ]


async def adiff_queues(queue: str | None = None) -> list[QueueChange]:
    """See diff_queues()."""
    return await sync_to_async(diff_queues)(queue)


@sync_form("aensure_queues(...)")
def ensure_queues(queue: str | None = None, *, dry_run: bool = False) -> list[QueueChange]:
    """Create the queues in SQS that are missing, with their dead letters, and set what differs.

    Attributes that are already as recommended, or stricter, are left as they are, and nothing is
    deleted. Returns what was changed, or would be in a dry run. What is cut off in the middle is
    done by the next call. See describe_queues() for what it raises.
    """
    queues, plans = sqs_queues(queue), _plans()
    changes: list[QueueChange] = []
    for name, pair in _look(queues, plans):
        found = [change for live in pair for change in _changes(name, live)]
        if found and not dry_run:
            mine = queues[name]
            ask_queue(name, make_right, mine, plans[mine.queue_name], runtime.current())
            for each in found:
                logger.info("Queue %s: %s", each.name, _describe_change(each))
        changes += found
    return changes


async def aensure_queues(queue: str | None = None, *, dry_run: bool = False) -> list[QueueChange]:
    """See ensure_queues()."""
    return await sync_to_async(ensure_queues)(queue, dry_run=dry_run)


def _plans() -> dict[str, QueuePlan]:
    """Return the plans of queues by their names in SQS."""
    return {plan.name: plan for plan in make_plan().queues}


def _look(
    queues: Mapping[str, SQSQueue], plans: Mapping[str, QueuePlan]
) -> Iterator[tuple[str, LivePair]]:
    """Yield each queue of AWS once, although the settings may name it several times."""
    seen: set[str] = set()
    for name, queue in queues.items():
        if queue.arn not in seen:
            seen.add(queue.arn)
            plan = plans[queue.queue_name]
            yield name, ask_queue(name, look_at, queue, plan, runtime.current())


def _describe(
    name: str, plans: Mapping[str, QueuePlan], oldest_s: float | None, state: QueueState
) -> Iterable[QueueDescription]:
    queue = conf.current().queue(name)
    kind = type(queue).__qualname__
    ours: dict[str, Any] = {
        "oldest_waiting_s": oldest_s, "is_paused": state.is_paused,
        "changed_by": state.changed_by, "reason": state.reason,
    }  # fmt: skip
    if not isinstance(queue, SQSQueue):
        return [QueueDescription(queue=name, kind=kind, **ours)]
    ((_, pair),) = _look({name: queue}, plans)
    return [
        _describe_live(name, kind, pair.queue, ours),
        _describe_live(name, kind, pair.dead_letters, {}),
    ]


def _describe_live(
    name: str, kind: str, live: LiveQueue, ours: Mapping[str, Any]
) -> QueueDescription:
    """Return a description of a queue in SQS; `ours` is what only the database knows of it."""
    known: dict[str, Any] = {**ours, **(live.counts or {})}
    return QueueDescription(
        queue=name,
        kind=kind,
        name=live.name,
        url=live.url,
        is_dead_letters=live.is_dead_letters,
        exists=live.attributes is not None,
        attributes={
            key: value
            for key, value in (live.attributes or {}).items()
            if key not in COUNTS.values()
        },
        n_differences=len(live.differences),
        **known,
    )


def _changes(name: str, live: LiveQueue) -> Iterator[QueueChange]:
    if live.attributes is None:
        yield QueueChange(queue=name, name=live.name, action="create")
    for each in live.differences:
        yield QueueChange(
            queue=name,
            name=live.name,
            action="set",
            attribute=each.attribute,
            before=each.live,
            after=each.wanted,
        )


def _describe_change(change: QueueChange) -> str:
    if change.action == "create":
        return "created"
    return f"{change.attribute} is {change.after!r}; it was {change.before!r}"
