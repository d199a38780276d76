"""The queues that are the table itself: what is due, and waking up for it."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import groupby
from operator import attrgetter
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import F

from ..core.lifecycle import Status
from ..core.message import Message
from . import looks, notify, waiting
from .database import all_records, record_alias
from .mapping import readable
from .retrying import try_again


class RecordTableQueue:
    """See ports.TableQueue."""

    @contextmanager
    def lock_due(self, queues: Collection[str], *, limit: int) -> Iterator[list[Message]]:
        """See ports.TableQueue.

        Locked in the body, where the database can skip what others have locked: so no two workers
        try to claim the same. What a worker that died has left is due when its lease is over.
        """
        alias = record_alias()
        with ExitStack() as locks:
            yield try_again(alias, lambda: _lock_due(alias, queues, limit, locks))

    def listen(self) -> notify.PostgresListener | None:
        """See ports.TableQueue."""
        return notify.listen(record_alias())

    def postpone(self, invocation_id: UUID) -> None:
        """See ports.TableQueue."""
        waiting.postpone([invocation_id])


def _lock_due(alias: str, queues: Collection[str], limit: int, locks: ExitStack) -> list[Message]:
    """What is due, locked until `locks` are left."""
    messages: list[Message] = []
    with ExitStack() as own:
        own.enter_context(transaction.atomic(using=alias))
        levels = [level for level in looks.levels() if level.queue in queues]
        for _, alike in groupby(levels, attrgetter("priority")):
            messages += _lock_alike(list(alike), limit - len(messages))
            if len(messages) >= limit:
                break
        locks.push(own.pop_all())
    return messages


def _lock_alike(levels: Sequence[looks.Level], limit: int) -> list[Message]:
    """Up to `limit` messages of one priority, the longest due first.

    Records that can't be read are put behind the others.
    """
    while True:
        due = [each for level in levels for each in looks.unlocked(looks.due(level))[:limit]]
        due.sort(key=attrgetter("look_at"))
        early = [each.id for each in due if _is_early(each)]
        unreadable: list[UUID] = []
        in_time = [each for each in due[:limit] if not _is_early(each)]
        messages = [message for message, _ in readable(in_time, unreadable)]
        if early:
            all_records().filter(id__in=early).update(look_at=F("run_after"))
        if unreadable:
            waiting.postpone(unreadable)
        if messages or not (early or unreadable):
            return messages


def _is_early(record: Any) -> bool:
    """It is to run later than somebody was to look at it: another kind of queue it was, say."""
    is_later = record.run_after is not None and record.run_after > record.now
    return is_later and record.status == Status.QUEUED
