"""The queues that are the table itself: their due records, and wake-ups for new ones."""

import math
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from itertools import groupby
from operator import attrgetter, itemgetter
from typing import Final
from uuid import UUID

from django.db import transaction
from django.db.models import F

from ..core.lifecycle import Status
from ..core.message import Message
from ..ports import LeftOut
from . import looks, notify, pauses, postponing
from .database import all_records, record_alias
from .mapping import Row, wake_up_of
from .retrying import run_with_retries

LOOK_AT_ALL_EVERY_S: Final = 1.0
"""Seconds within which each worker looks at all that is due, as an idle one does each time."""

LOOK_AT_ALL_FOR_S: Final = 60.0
"""Seconds in which each look is one at all, after one has found a record that was put first."""

LATELY_S: Final = 60.0
"""Seconds for which a level that had due records is likely to have the next ones."""

MAX_LIKELY: Final = 2
"""The most levels that are looked at before all; each takes a third of the time for all."""


class RecordTableQueue:
    """See ports.TableQueue. Remembers where the looks of one worker have got to."""

    def __init__(self) -> None:
        self._reached = _Reached()

    @contextmanager
    def lock_due(
        self, queues: Collection[str], *, limit: int, without: Collection[LeftOut] = ()
    ) -> Iterator[list[Message]]:
        """See ports.TableQueue.

        The records stay locked in the body, where the database has SKIP LOCKED, so that no two
        workers try to claim the same ones. A lost run is due once its lease has run out.
        """
        alias = record_alias()
        with ExitStack() as locks:
            try:
                yield run_with_retries(
                    alias, lambda: self._lock_due(alias, queues, limit, without, locks)
                )
            except BaseException:
                self._reached.forget()
                raise

    def listen(self) -> notify.PostgresListener | None:
        """See ports.TableQueue."""
        return notify.listen(record_alias())

    def postpone(self, invocation_id: UUID) -> None:
        """See ports.TableQueue."""
        postponing.postpone([invocation_id])

    def _lock_due(
        self,
        alias: str,
        queues: Collection[str],
        limit: int,
        without: Collection[LeftOut],
        locks: ExitStack,
    ) -> list[Message]:
        """Return due messages; their records stay locked until `locks` is closed."""
        with ExitStack() as transaction_stack:
            transaction_stack.enter_context(transaction.atomic(using=alias))
            reached = self._reached
            messages: list[Message] = []
            if reached.is_recent():
                if levels := reached.levels(queues):
                    messages = _lock_due_beyond(reached, levels, limit, without)
                elif messages := _lock_due_beyond(reached, reached.likely(queues), limit, without):
                    reached.forget()  # there may be some of a higher priority
            if not messages:
                due = looks.due_levels()
                reached.begin(due, paused=pauses.paused_queues() if due else ())
                levels = reached.levels(queues)
                messages = _lock_due_beyond(reached, levels, limit, without)
            # Only now the caller holds the transaction: an error above ends it, so that it is
            # retried.
            locks.push(transaction_stack.pop_all())
        return messages


CLOCK_TICK: Final = timedelta(milliseconds=1)
"""The unit of SQLite's clock. It compares times as text, and a whole millisecond has two."""


class _Reached:
    """Where the looks of one worker have got to, since it last looked at all that is due.

    While another transaction may still see them, the records that have run stand in the index
    before those that are due, and each look would step over all of them: 50,000 take 5 ms. So a
    look goes on from the first record that the one before it found. What comes to be due before
    that one, as a transaction was committed late or has let go of it, waits for the next look at
    all. So does a new queue or priority. Records that are put first, as a place of a limit is kept
    for them, would wait each time: while there are some, each look is one at all.

    Where nothing was due, a new record is mostly of a level that had some lately. Looking there
    first takes a third of the time of a look at all.
    """

    def __init__(self) -> None:
        self._since: dict[looks.Level, datetime | None] = {}
        self._found_at: dict[looks.Level, float] = {}
        """When a look has last found records of a level, the last one at the end."""
        self._began_at = -math.inf
        self._found_first_at = -math.inf

    def is_recent(self) -> bool:
        """Return whether the next look may go on from the last one."""
        now = time.monotonic()
        if now < self._found_first_at + LOOK_AT_ALL_FOR_S:
            return False
        return now < self._began_at + LOOK_AT_ALL_EVERY_S

    def begin(self, levels: Sequence[looks.Level], *, paused: Collection[str] = ()) -> None:
        """Begin anew, with the levels that have due records now, highest priority first.

        Those of paused queues are left out. Their records stay due, and were they likely, a look
        would find them again and again, for claims that refuse them.
        """
        self._began_at = time.monotonic()
        self._since = {level: None for level in levels if level.queue not in paused}
        for level in [each for each in self._found_at if each.queue in paused]:
            del self._found_at[level]

    def forget(self) -> None:
        """Let the next look be one at all."""
        self._began_at = -math.inf

    def levels(self, queues: Collection[str]) -> list[looks.Level]:
        """Return the levels of these queues that had due records, highest priority first."""
        return [level for level in self._since if level.queue in queues]

    def likely(self, queues: Collection[str]) -> list[looks.Level]:
        """Return the few levels of these queues in which records were found last, like levels()."""
        after = time.monotonic() - LATELY_S
        lately = [
            level for level, at in self._found_at.items() if level.queue in queues and at > after
        ]
        return sorted(lately[-MAX_LIKELY:], key=lambda level: -level.priority)

    def lock(
        self, level: looks.Level, *, limit: int, without: Collection[LeftOut]
    ) -> Sequence[Row]:
        """Lock due records of a level, from where the last look has got to. See looks."""
        since = self._since.get(level)
        rows = looks.lock_due(level, limit=limit, without=without, since=since)
        if rows:
            self._found_at.pop(level, None)
            self._found_at[level] = time.monotonic()
            # Not the last one: a worker leaves to others what it would not start soon.
            self._since[level] = rows[0]["look_at"] - CLOCK_TICK
            if looks.is_first(rows[0]):
                self._found_first_at = time.monotonic()
        return rows


def _lock_due_beyond(
    reached: _Reached, levels: Sequence[looks.Level], limit: int, without: Collection[LeftOut]
) -> list[Message]:
    messages: list[Message] = []
    for _, same_priority in groupby(levels, attrgetter("priority")):
        left = limit - len(messages)
        messages += _lock_due_of_priority(reached, list(same_priority), left, without)
        if len(messages) >= limit:
            break
    return messages


def _lock_due_of_priority(
    reached: _Reached, levels: Sequence[looks.Level], limit: int, without: Collection[LeftOut]
) -> list[Message]:
    """Return up to `limit` wake-ups of levels with one priority, the longest due first."""
    while True:
        due = [row for level in levels for row in reached.lock(level, limit=limit, without=without)]
        due.sort(key=itemgetter("look_at"))
        early = [row["id"] for row in due if _is_early(row)]
        messages = [wake_up_of(row) for row in due[:limit] if not _is_early(row)]
        if early:
            all_records().filter(id__in=early).update(look_at=F("run_after"))
        if messages or not early:
            return messages


def _is_early(row: Row) -> bool:
    """Return whether a record is due later than its time to look.

    That happens where the queue was of another kind when the record was stored, for example.
    """
    is_later = row["run_after"] is not None and row["run_after"] > row["now"]
    return is_later and row["status"] == Status.QUEUED
