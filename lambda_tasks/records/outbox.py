"""What the way out writes and reads: messages that are stored until their queue has them."""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import timedelta
from typing import Final
from uuid import UUID

from django.db import connections, transaction
from django.db.models import Case, DateTimeField, F, When
from django.db.models.functions import Coalesce, Greatest

from .. import interrupts
from ..core.lifecycle import LookTerms, Status
from ..core.message import Outgoing
from . import fifo, looks, notify, waiting
from .clock import Now
from .database import all_records, record_alias, statements
from .encryption import is_available
from .mapping import Row, outgoing_of, queued_row, readable
from .retrying import is_in_transaction, tried_again, try_again
from .tables import RecordQuerySet, TaskRecord

INSERT_ROW_S: Final = 0.02
"""For each row of an INSERT, beside interrupts.LIBRARY_STATEMENT_LIMIT_S for the whole."""

MOVED_TOGETHER: Final = 1000
"""Records whose time to look one statement moves."""

MOVE_WITHIN_S: Final = 5.0
"""The time of one look for that, so that what is to be sent does not wait for long."""


class RecordOutbox:
    """See ports.Outbox. `look_terms` tells those of a queue."""

    def __init__(self, look_terms: Callable[[str], LookTerms]) -> None:
        self._look_terms = look_terms

    @property
    def alias(self) -> str:
        """See ports.Outbox."""
        return record_alias()

    def insert_queued(self, messages: Iterable[Outgoing]) -> None:
        """See ports.Outbox. One INSERT.

        In a transaction it is one of the caller's statements, and lasts as long as these may.
        """
        rows = [queued_row(outgoing, number) for number, outgoing in enumerate(messages)]
        try_again(self.alias, lambda: _insert(self.alias, rows))

    @tried_again
    def leave_to_relay(self, messages: Sequence[Outgoing]) -> None:
        """See ports.Outbox."""
        left = looks.left([each.message.invocation_id for each in messages])
        left.filter(look_at__gt=Now()).update(look_at=Now())

    @tried_again
    def is_unsent(self, invocation_id: UUID) -> bool:
        """See ports.Outbox."""
        return looks.left([invocation_id]).exists()

    def can_rebuild(self, outgoing: Outgoing) -> bool:
        """See ports.Outbox."""
        return not outgoing.message.secret_kwargs or is_available()

    @tried_again
    def mark_sent(self, messages: Sequence[Outgoing]) -> None:
        """See ports.Outbox. Where the queue is the table, workers that wait for it are woken."""
        sent: defaultdict[timedelta, list[UUID]] = defaultdict(list)
        for each in messages:
            if each.look.is_sent:
                sent[each.look.ahead].append(each.message.invocation_id)
        for ahead, ids in sent.items():
            statements().mark_sent(ids, ahead)
        if not all(each.look.is_sent for each in messages):
            notify.notify(self.alias)

    @tried_again
    def find_unsent(
        self,
        *,
        early: timedelta,
        lost_for: timedelta,
        waiting_for: timedelta,
        limit: int,
        queues: Collection[str] | None = None,
    ) -> list[Outgoing]:
        """See ports.Outbox."""
        found: list[TaskRecord] = []
        move_until = time.monotonic() + MOVE_WITHIN_S
        for level in looks.levels():
            if queues is not None and level.queue not in queues:
                continue
            looks.kept_secrets_due(level).update(secrets=None, look_at=None)
            look = self._look_terms(level.queue)
            if not look.is_sent:
                continue
            next_look = _next_look(look, lost_for, waiting_for)
            records = looks.due(level, early=early).annotate(next_look=next_look)
            not_yet = records.filter(next_look__gt=Greatest(Now(), F("look_at")))
            _move_looks(not_yet, next_look, move_until)
            to_send = records.filter(next_look__lte=Now())
            found += fifo.in_order(level, to_send, limit) if look.in_order else to_send[:limit]
        return self._readable(found)

    def postpone(self, messages: Sequence[Outgoing]) -> None:
        """See ports.Outbox."""
        waiting.postpone([each.message.invocation_id for each in messages])

    def _readable(self, records: Sequence[TaskRecord]) -> list[Outgoing]:
        """The messages of records; those that can't be read are put behind the others."""
        unreadable: list[UUID] = []
        messages = [
            outgoing_of(message, due_in_s, self._look_terms(message.queue or ""))
            for message, due_in_s in readable(records, unreadable)
        ]
        if unreadable:
            waiting.postpone(unreadable)
        return messages


def _insert(alias: str, rows: Sequence[Row]) -> None:
    limit_s = math.inf
    if not is_in_transaction(alias):
        ours_s = interrupts.LIBRARY_STATEMENT_LIMIT_S + INSERT_ROW_S * len(rows)
        limit_s = interrupts.statement_limit_s(connections[alias], ours_s)
    with interrupts.interrupt_after(limit_s):
        statements().insert_queued(rows)


def forget_sent() -> None:
    """Let the relay send all that is QUEUED once more, as its queues are gone."""
    all_records().filter(status=Status.QUEUED).update(sent_at=None, look_at=Now())


def _next_look(look: LookTerms, lost_for: timedelta, waiting_for: timedelta) -> Case:
    """When the message of a record is to be sent: the first time, or once more."""
    sent = Greatest(F("sent_at"), Coalesce(F("run_after"), F("sent_at")))
    return Case(
        When(status=Status.RUNNING, then=F("lease_until") + lost_for),
        When(sent_at=None, then=Coalesce(F("run_after") - look.ahead, Now())),
        default=sent + waiting_for,
        output_field=DateTimeField(),
    )


def _move_looks(records: RecordQuerySet, next_look: Case, until: float) -> None:
    """Move their times to look, one part after the other, until then in monotonic seconds."""
    while time.monotonic() < until:
        with transaction.atomic(using=records.db):
            ids = list(looks.unlocked(records).values_list("id", flat=True)[:MOVED_TOGETHER])
            all_records().filter(id__in=ids).update(look_at=next_look)
        if len(ids) < MOVED_TOGETHER:
            return
