"""The queues that are the table itself: what is due, and waking up for it."""

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from uuid import UUID

from django.db import connections, transaction
from django.db.models import Q

from ..core.lifecycle import Status
from ..core.message import Message
from . import notify, waiting
from .clock import Now
from .database import all_records, record_alias
from .encryption import UNAVAILABLE
from .mapping import readable
from .portable import IS_LOST
from .retrying import try_again
from .tables import RecordQuerySet


class RecordTableQueue:
    """See ports.TableQueue."""

    @contextmanager
    def due(self, queues: Collection[str], *, limit: int) -> Iterator[list[Message]]:
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

    def put_behind(self, invocation_id: UUID) -> None:
        """See ports.TableQueue."""
        waiting.put_behind([invocation_id])


def _lock_due(alias: str, queues: Collection[str], limit: int, locks: ExitStack) -> list[Message]:
    """What is due, locked until `locks` are left."""
    records = all_records().filter(queue__in=queues).annotate(now=Now())
    records = records.filter(waiting.to_look_at()).exclude(secrets=UNAVAILABLE)
    if connections[alias].features.has_select_for_update_skip_locked:
        records = records.select_for_update(skip_locked=True)
    # Two queries, so that each follows an index however long the queue is.
    lost = records.filter(IS_LOST).order_by()
    is_due = Q(run_after=None) | Q(run_after__lte=Now())
    queued = records.filter(is_due, status=Status.QUEUED).order_by("-priority", "enqueued_at")
    with ExitStack() as own:
        own.enter_context(transaction.atomic(using=alias))
        messages = _readable(lost, queued, limit)
        locks.push(own.pop_all())
    return messages


def _readable(lost: RecordQuerySet, queued: RecordQuerySet, limit: int) -> list[Message]:
    """Up to `limit` messages; records that can't be read are put behind the others."""
    while True:
        due = list(lost[:limit])
        due += queued[: limit - len(due)]
        unreadable: list[UUID] = []
        messages = [message for message, _ in readable(due, unreadable)]
        if not unreadable:
            return messages
        waiting.put_behind(unreadable)
        if messages:
            return messages
