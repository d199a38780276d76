"""What operators do to dead letters: count them, look at them, send them back, delete them.

Each message is joined with the record of its call, which says why it died, and whether it still has
to run. Messages go back one by one, and not by SQS's own StartMessageMoveTask: that would also move
those whose records have ended, and can neither choose nor tell.
"""

import logging
import math
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Final
from uuid import UUID

from asgiref.sync import sync_to_async

from .. import runtime
from ..errors import InvalidFilter, QueueUnavailable
from ..queues.dead_letters import DeadLetterQueue
from ..queues.sqs import SQSQueue
from ..twins import sync_form
from .asking import ask_queue, sqs_queues
from .checking import check_number, check_time
from .dead_letter_box import PEEK_HIDDEN_S, Box, DeadLetter, Found, opened
from .steering import OnProgress

logger = logging.getLogger("lambda_tasks")

SLOWEST: Final = 0.1
"""The fewest messages a second. Ten are received at once, and hidden for ten minutes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterCount:
    """How many messages a dead-letter queue has. SQS counts approximately."""

    queue: str
    """The key, in LAMBDA_TASKS_QUEUES, of the queue whose dead letters these are."""
    name: str | None
    """Its name in SQS; None where the queue has none."""
    url: str | None
    visible: int = 0
    in_flight: int = 0
    """The messages that somebody has received, such as peek_dead_letters() for a moment."""


@dataclass(frozen=True, slots=True)
class DeadLetterGroup:
    """Dead letters of one task with one error."""

    task_name: str | None
    error: str | None
    count: int


@dataclass(slots=True)
class Redriven:
    """What went back to its queue, or would in a dry run."""

    sent: list[DeadLetter] = field(default_factory=list)
    dropped: list[DeadLetter] = field(default_factory=list)
    """What was deleted, as its record had ended."""
    skipped: list[DeadLetter] = field(default_factory=list)
    """What stays: `must_not_go_back` says why; "" for what had gone back, and came again."""
    is_cut_off: bool = False
    """Whether the time was up before all were seen."""


@dataclass(slots=True)
class PurgedLetters:
    """What was deleted, or would be in a dry run."""

    deleted: list[DeadLetter] = field(default_factory=list)
    kept: int = 0
    """Other messages of the dead-letter queue that were seen."""
    is_cut_off: bool = False
    """Whether the time was up before all were seen."""


def _nothing(done: int, total: int) -> None:
    """Report no progress."""


@sync_form("acount_dead_letters(...)")
def count_dead_letters(queue: str | None = None) -> list[DeadLetterCount]:
    """Return how many dead letters each SQS queue has; with `queue`, this one only.

    Raises InvalidFilter for a queue that is unknown or not in SQS, and QueueUnavailable.
    """
    return [_count(name, each) for name, each in sqs_queues(queue).items()]


async def acount_dead_letters(queue: str | None = None) -> list[DeadLetterCount]:
    """See count_dead_letters()."""
    return await sync_to_async(count_dead_letters)(queue)


@sync_form("apeek_dead_letters(...)")
def peek_dead_letters(
    queue: str | None = None, *, limit: int = 100, within: timedelta | None = None
) -> list[DeadLetter]:
    """Return up to `limit` dead letters of each SQS queue, or of one; they stay where they are.

    They are hidden from others while this looks, a few seconds, or half a minute if it is killed.
    Of a FIFO queue only the first ten of each group are seen.
    Raises InvalidFilter for a queue that is unknown or not in SQS, and QueueUnavailable, also if
    SQS has not shown them `within` a time.
    """
    check_number("limit", limit, least=1)
    _check_within(within)
    found: list[DeadLetter] = []
    names = [queue] if queue is not None else [each.queue for each in _with_dead_letters()]
    for name in names:
        with opened(name, hidden_s=PEEK_HIDDEN_S, within=within) as box:
            found += [dead for batch in box.look(limit=limit) for _, dead in batch]
            if box.is_cut_off:
                raise QueueUnavailable(f"The queue {name!r}: SQS was too slow to show them all.")
    return found


async def apeek_dead_letters(
    queue: str | None = None, *, limit: int = 100, within: timedelta | None = None
) -> list[DeadLetter]:
    """See peek_dead_letters()."""
    return await sync_to_async(peek_dead_letters)(queue, limit=limit, within=within)


def group_dead_letters(letters: Iterable[DeadLetter]) -> list[DeadLetterGroup]:
    """Return dead letters by task and error, the most first."""
    counts = Counter((each.task_name, each.error) for each in letters)
    return [DeadLetterGroup(*key, count) for key, count in counts.most_common()]


@sync_form("aredrive_dead_letters(...)")
def redrive_dead_letters(
    queue: str,
    *,
    task: str | None = None,
    ids: Collection[str] | None = None,
    limit: int | None = None,
    per_second: float = 10,
    drop_ended: bool = False,
    dry_run: bool = False,
    within: timedelta | None = None,
    on_progress: OnProgress = _nothing,
) -> Redriven:
    """Send dead letters back to their queue, up to `limit`, so many a second.

    `task` chooses those of one task, and `ids` those whose messages have these ids in SQS. One
    whose record has ended would do nothing there: it stays, or with `drop_ended` is deleted, with a
    line in the log. What comes back while this runs stays, and so does what came from another
    queue. With `within`, no further one is sent after that time. Each one is sent first and deleted
    then, so whatever ends this in the middle loses nothing.

    Raises InvalidFilter for a queue that is unknown or not in SQS, and for a number that makes no
    sense; QueueUnavailable with the queue's own words.
    """
    check_number("per_second", per_second, least=SLOWEST)
    if limit is not None:
        check_number("limit", limit, least=1)
    _check_within(within)
    pace = _Pace(per_second)
    redriven = Redriven()
    with opened(queue, within=within) as box:
        try:
            _redrive(
                box,
                redriven,
                _Choice(task, ids),
                most=limit or math.inf,
                pace=pace,
                drop_ended=drop_ended,
                dry_run=dry_run,
                on_progress=on_progress,
            )
        finally:
            if not dry_run:
                logger.info("%d dead letters went back to %s", len(redriven.sent), queue)
    return redriven


async def aredrive_dead_letters(
    queue: str,
    *,
    task: str | None = None,
    ids: Collection[str] | None = None,
    limit: int | None = None,
    per_second: float = 10,
    drop_ended: bool = False,
    dry_run: bool = False,
    within: timedelta | None = None,
    on_progress: OnProgress = _nothing,
) -> Redriven:
    """See redrive_dead_letters()."""
    return await sync_to_async(redrive_dead_letters)(
        queue,
        task=task,
        ids=ids,
        limit=limit,
        per_second=per_second,
        drop_ended=drop_ended,
        dry_run=dry_run,
        within=within,
        on_progress=on_progress,
    )


@sync_form("apurge_dead_letters(...)")
def purge_dead_letters(
    queue: str,
    *,
    older_than: timedelta | None = None,
    all_time: bool = False,
    task: str | None = None,
    ids: Collection[str] | None = None,
    dry_run: bool = False,
    by: str = "",
    within: timedelta | None = None,
    on_progress: OnProgress = _nothing,
) -> PurgedLetters:
    """Delete dead letters for good; their records stay.

    A window is required: `older_than` counts back from now to the first send, `all_time` says that
    there is none, or `ids` names the messages by their ids in SQS. `task` chooses those of one
    task. Only what was seen is deleted: one that dies meanwhile may stay, and what came from
    another queue stays. With `within`, nothing else is deleted after that time. The log has a line
    for each call that nothing else knows of, and one with what was asked for and by whom.

    Raises InvalidFilter without a window, and for a queue that is unknown or not in SQS;
    QueueUnavailable with the queue's own words.
    """
    before = _window_end(older_than, all_time=all_time, ids=ids)
    _check_within(within)
    choice, purged = _Choice(task, ids), PurgedLetters()
    with opened(queue, within=within) as box:
        total = box.count() if on_progress is not _nothing else 0
        try:
            for batch in box.look():
                meant = [
                    each
                    for each in batch
                    if choice.takes(each[1])
                    and each[1].came_from is None
                    and (older_than is None or _is_older(each[1], before))
                ]
                purged.kept += len(batch) - len(meant)
                if meant and not dry_run:
                    _delete(box, meant)
                purged.deleted += [dead for _, dead in meant]
                on_progress(len(purged.deleted), max(total, len(purged.deleted)))
                if choice.is_complete:
                    break
            purged.is_cut_off = box.is_cut_off
        finally:
            if not dry_run:
                logger.warning(
                    "%d dead letters of %s, sent before %s, were deleted%s",
                    len(purged.deleted), queue, before.isoformat(timespec="seconds"),
                    by and f" by {by}",
                )  # fmt: skip
    return purged


async def apurge_dead_letters(
    queue: str,
    *,
    older_than: timedelta | None = None,
    all_time: bool = False,
    task: str | None = None,
    ids: Collection[str] | None = None,
    dry_run: bool = False,
    by: str = "",
    within: timedelta | None = None,
    on_progress: OnProgress = _nothing,
) -> PurgedLetters:
    """See purge_dead_letters()."""
    return await sync_to_async(purge_dead_letters)(
        queue,
        older_than=older_than,
        all_time=all_time,
        task=task,
        ids=ids,
        dry_run=dry_run,
        by=by,
        within=within,
        on_progress=on_progress,
    )


class _Choice:
    """The dead letters that are meant: those of a task, with certain ids, or all."""

    def __init__(self, task: str | None, ids: Collection[str] | None) -> None:
        self._task = task
        self._ids = None if ids is None else {ids} if isinstance(ids, str) else set(ids)

    def takes(self, dead: DeadLetter) -> bool:
        """Return whether one is meant. Each is asked about once."""
        if self._ids is not None:
            if dead.message_id not in self._ids:
                return False
            self._ids.remove(dead.message_id)
        return self._task in (None, dead.task_name)

    @property
    def is_complete(self) -> bool:
        """Whether no further one is meant."""
        return self._ids is not None and not self._ids


def _redrive(
    box: Box,
    redriven: Redriven,
    choice: _Choice,
    *,
    most: float,
    pace: "_Pace",
    drop_ended: bool,
    dry_run: bool,
    on_progress: OnProgress,
) -> None:
    total = int(min(most, box.count())) if on_progress is not _nothing else 0
    gone: set[UUID | None] = set()
    for message, dead in _look_for(choice, box):
        if dead.invocation_id in gone:
            # It died again meanwhile, or is a copy: sent on, it could go round for ever.
            redriven.skipped.append(dead)
        elif not (reason := dead.must_not_go_back):
            if not dry_run:
                pace.wait()
                box.send_back(message)
            redriven.sent.append(dead)
            gone.add(dead.invocation_id)
        elif drop_ended and dead.refused is None and dead.came_from is None:
            if not dry_run:
                box.delete([message])
                logger.warning("Dead letter %s is dropped: %s", _named(dead), reason)
            redriven.dropped.append(dead)
        else:
            redriven.skipped.append(dead)
        on_progress(len(redriven.sent), max(total, len(redriven.sent)))
        if len(redriven.sent) >= most:
            return
    redriven.is_cut_off = box.is_cut_off


def _look_for(choice: _Choice, box: Box) -> Iterator[Found]:
    """Yield the dead letters that are meant, until all were seen or the time is up."""
    for found in chain.from_iterable(box.look()):
        if choice.takes(found[1]):
            if box.is_over:
                box.is_cut_off = True
                return
            yield found
        if choice.is_complete:
            return


def _delete(box: Box, found: Sequence[Found]) -> None:
    box.delete([message for message, _ in found])
    for _, dead in found:
        if dead.status is None and dead.is_direct:
            logger.warning("Dead letter %s is deleted; it has no record", _named(dead))


def _is_older(dead: DeadLetter, before: datetime) -> bool:
    return dead.sent_at is not None and dead.sent_at < before


class _Pace:
    """A pace of so many messages a second."""

    def __init__(self, per_second: float) -> None:
        self._interval_s = 1 / per_second
        self._next_at = time.monotonic()

    def wait(self) -> None:
        """Wait for the next message's turn."""
        now = time.monotonic()
        if self._next_at > now:
            time.sleep(self._next_at - now)
        self._next_at = max(now, self._next_at) + self._interval_s


def _with_dead_letters() -> list[DeadLetterCount]:
    return [each for each in count_dead_letters() if each.name is not None]


def _count(name: str, queue: SQSQueue) -> DeadLetterCount:
    letters = ask_queue(name, DeadLetterQueue.find, queue, runtime.current())
    counts = None if letters is None else ask_queue(name, letters.count)
    if letters is None or counts is None:
        return DeadLetterCount(queue=name, name=None, url=None)
    return DeadLetterCount(
        queue=name,
        name=letters.name,
        url=letters.url,
        visible=counts["visible"],
        in_flight=counts["in_flight"],
    )


def _named(dead: DeadLetter) -> str:
    return f"{dead.message_id} ({dead.task_name}, {dead.invocation_id})"


def _check_within(within: timedelta | None) -> None:
    if within is not None:
        check_time("within", within)


def _window_end(
    older_than: timedelta | None, *, all_time: bool, ids: Collection[str] | None
) -> datetime:
    """Return the moment before which messages are meant. Raises InvalidFilter without a window."""
    if (older_than is not None) + all_time + (ids is not None) != 1:
        raise InvalidFilter(
            "Say how old they must be: older_than=timedelta(...), or all_time=True; or which they "
            "are: ids=[...]."
        )
    if older_than is None:
        return datetime.now(UTC)
    check_time("older_than", older_than)
    return datetime.now(UTC) - older_than
