"""What the way out writes and reads: messages that are stored until their queue has them."""

from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import timedelta
from uuid import UUID

from django.db.models import Q

from ..core.lifecycle import Status
from ..core.message import Outgoing
from . import notify, waiting
from .clock import Now
from .database import all_records, record_alias, statements
from .encryption import UNAVAILABLE
from .mapping import outgoing_of, queued_row, readable
from .retrying import tried_again, try_again


class RecordOutbox:
    """See ports.Outbox. `table_queues` tells the names of the queues that are the table itself."""

    def __init__(self, table_queues: Callable[[], Collection[str]]) -> None:
        self._table_queues = table_queues

    @property
    def alias(self) -> str:
        """See ports.Outbox."""
        return record_alias()

    def insert_queued(self, messages: Iterable[Outgoing]) -> None:
        """See ports.Outbox. One INSERT."""
        rows = [queued_row(outgoing) for outgoing in messages]
        try_again(self.alias, lambda: statements().insert_queued(rows))

    @tried_again
    def mark_sent(self, messages: Sequence[Outgoing]) -> None:
        """See ports.Outbox. Where the queue is the table, workers that wait for it are woken."""
        tables = self._table_queues()
        sent = [each.message.invocation_id for each in messages if each.queue not in tables]
        if sent:
            statements().mark_sent(sent)
        if len(sent) < len(messages):
            notify.notify(self.alias)

    @tried_again
    def unsent(
        self,
        *,
        older_than: timedelta,
        due_within: timedelta,
        lost_for: timedelta,
        waiting_for: timedelta,
        limit: int,
    ) -> list[Outgoing]:
        """See ports.Outbox."""
        is_due = Q(run_after=None) | Q(run_after__lte=Now() + due_within)
        waits_since = Q(run_after=None) | Q(run_after__lt=Now() - waiting_for)
        queued, running = Q(status=Status.QUEUED), Q(status=Status.RUNNING)
        records = (
            all_records()
            .filter(
                queued & is_due & Q(sent_at=None, enqueued_at__lt=Now() - older_than)
                | queued & waits_since & Q(sent_at__lt=Now() - waiting_for)
                | running & Q(lease_until__lt=Now() - lost_for)
            )
            .filter(waiting.to_look_at())
            .annotate(now=Now())
            .exclude(secrets=UNAVAILABLE)
            .exclude(queue__in=self._table_queues())
            .order_by("enqueued_at")[:limit]
        )
        unreadable: list[UUID] = []
        found = [outgoing_of(*each) for each in readable(records, unreadable)]
        if unreadable:
            waiting.put_behind(unreadable)
        return found

    def put_behind(self, messages: Sequence[Outgoing]) -> None:
        """See ports.Outbox."""
        waiting.put_behind([each.message.invocation_id for each in messages])


def forget_sent() -> None:
    """Let the relay send all that is QUEUED once more, as its queues are gone."""
    all_records().filter(status=Status.QUEUED).update(sent_at=None)
