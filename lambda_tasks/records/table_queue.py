"""The queues that are the table itself: their due records, and wake-ups for new ones."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import groupby
from operator import attrgetter, itemgetter
from uuid import UUID

from django.db import transaction
from django.db.models import F

from ..core.lifecycle import Raised, Status
from ..core.message import Message
from ..ports import LeftOut
from . import looks, notify, postponing, refusals
from .database import all_records, record_alias
from .mapping import Row, read_messages
from .retrying import run_with_retries


class RecordTableQueue:
    """See ports.TableQueue."""

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
            yield run_with_retries(alias, lambda: _lock_due(alias, queues, limit, without, locks))

    def listen(self) -> notify.PostgresListener | None:
        """See ports.TableQueue."""
        return notify.listen(record_alias())

    def postpone(self, invocation_id: UUID) -> None:
        """See ports.TableQueue."""
        postponing.postpone([invocation_id])


def _lock_due(
    alias: str,
    queues: Collection[str],
    limit: int,
    without: Collection[LeftOut],
    locks: ExitStack,
) -> list[Message]:
    """Return due messages; their records stay locked until `locks` is closed."""
    messages: list[Message] = []
    with ExitStack() as transaction_stack:
        transaction_stack.enter_context(transaction.atomic(using=alias))
        levels = [level for level in looks.due_levels() if level.queue in queues]
        for _, same_priority in groupby(levels, attrgetter("priority")):
            left = limit - len(messages)
            messages += _lock_due_of_priority(list(same_priority), left, without)
            if len(messages) >= limit:
                break
        # Only now the caller holds the transaction: an error above ends it, so that it is retried.
        locks.push(transaction_stack.pop_all())
    return messages


def _lock_due_of_priority(
    levels: Sequence[looks.Level], limit: int, without: Collection[LeftOut]
) -> list[Message]:
    """Return up to `limit` messages of levels with one priority, the longest due first.

    Postpones records that can't be decrypted, and looks for others instead.
    """
    while True:
        due = [
            row for level in levels for row in looks.lock_due(level, limit=limit, without=without)
        ]
        due.sort(key=itemgetter("look_at"))
        early = [row["id"] for row in due if _is_early(row)]
        unreadable: dict[UUID, Raised] = {}
        in_time = [row for row in due[:limit] if not _is_early(row)]
        messages = [message for message, _ in read_messages(in_time, unreadable)]
        if early:
            all_records().filter(id__in=early).update(look_at=F("run_after"))
        if unreadable:
            refusals.refuse_unreadable(unreadable)
        if messages or not (early or unreadable):
            return messages


def _is_early(row: Row) -> bool:
    """Return whether a record is due later than its time to look.

    That happens where the queue was of another kind when the record was stored, for example.
    """
    is_later = row["run_after"] is not None and row["run_after"] > row["now"]
    return is_later and row["status"] == Status.QUEUED
