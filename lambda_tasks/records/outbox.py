"""The outbox: messages that are stored until their queue has accepted them."""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from django.db import connections, transaction
from django.db.models import Case, DateTimeField, F, Value, When
from django.db.models.functions import Cast, Coalesce, Greatest

from .. import interrupts
from ..core.lifecycle import LookTerms, Raised, Status
from ..core.message import Outgoing
from ..ports import Joined, Released, StoredWorkflow
from . import expiry, fifo, joins, looks, notify, pauses, postponing, refusals, unique, workflows
from .clock import Now
from .database import all_records, record_alias, statements
from .encryption import is_available
from .finishes import forgotten_columns
from .mapping import MESSAGE_COLUMNS, Row, is_expired, outgoing_of, queued_rows, read_messages
from .retrying import is_in_transaction, run_with_retries, with_retries
from .tables import RecordQuerySet, TaskRecord

ROW_LIMIT_S: Final = 0.02
"""Seconds for each row of an INSERT, beside those of the statement itself."""

MAX_HEADERS_TOGETHER: Final = 200
"""The most records whose headers one statement writes: it has three parameters for each."""

MAX_UPDATED_TOGETHER: Final = 1000
"""The most records that one statement of a look changes."""

UPDATE_FOR_S: Final = 5.0
"""Seconds in which one look may change records, so that messages to send don't wait long."""

LONG_AGO: Final = Cast(Value(datetime(1970, 1, 1, tzinfo=UTC)), DateTimeField())
"""The time to look at a record that is due at once. Without the cast, MySQL returns a text."""


class RecordOutbox:
    """See ports.Outbox. `look_terms` returns the look terms of a queue by its name."""

    def __init__(self, look_terms: Callable[[str], LookTerms]) -> None:
        self._look_terms = look_terms

    @property
    def alias(self) -> str:
        """See ports.Outbox."""
        return record_alias()

    def insert_queued(self, messages: Iterable[Outgoing], ages_s: Sequence[float] = ()) -> None:
        """See ports.Outbox. Executes one INSERT.

        In the caller's transaction, only the caller's own time limits apply to it.
        """
        rows = queued_rows(messages, ages_s)
        run_with_retries(self.alias, lambda: _insert(self.alias, rows))

    def insert_workflow(self, workflow: StoredWorkflow) -> None:
        """See ports.Outbox."""
        run_with_retries(self.alias, lambda: workflows.insert(workflow))

    def add_steps(self, addition: StoredWorkflow) -> None:
        """See ports.Outbox."""
        workflows.add(addition)

    @with_retries
    def find_released(self, released: Released, *, after: int, limit: int) -> Sequence[Outgoing]:
        """See ports.Outbox."""
        if released.run_id is not None:
            of_released = all_records().filter(id=released.run_id)
        else:
            of_released = all_records().filter(
                workflow_id=released.workflow_id,
                step__gte=max(released.first, after + 1),
                step__lt=released.stop,
            )
        rows = (
            of_released.filter(status=Status.QUEUED, sent_at=None)
            .order_by("step")
            .annotate(now=Now())
            .values("id", *MESSAGE_COLUMNS, "now")[:limit]
        )
        return [
            replace(outgoing_of(message, due_in_s, look), waits=look.waits(due_in_s))
            for message, due_in_s in read_messages(rows, {})
            if (look := self._look_terms(message.queue or ""))
        ]

    def insert_unique(self, messages: Sequence[Outgoing]) -> Sequence[Joined]:
        """See ports.Outbox."""
        return unique.insert_unique(self.alias, messages)

    @with_retries
    def write_headers(self, messages: Sequence[Outgoing]) -> None:
        """See ports.Outbox."""
        records = [
            TaskRecord(id=each.message.invocation_id, headers=each.message.headers)
            for each in messages
        ]
        all_records().bulk_update(records, ["headers"], batch_size=MAX_HEADERS_TOGETHER)

    @with_retries
    def leave_to_relay(self, messages: Sequence[Outgoing]) -> None:
        """See ports.Outbox."""
        unsent = looks.unsent([each.message.invocation_id for each in messages])
        unsent.filter(look_at__gt=Now()).update(look_at=Now())

    @with_retries
    def is_unsent(self, invocation_id: UUID) -> bool:
        """See ports.Outbox."""
        return looks.unsent([invocation_id]).exists()

    def can_rebuild(self, outgoing: Outgoing) -> bool:
        """See ports.Outbox."""
        return not outgoing.message.secret_kwargs or is_available()

    def is_shared(self) -> bool:
        """See ports.Outbox. SQLite has one writer: another one could fail the caller's request."""
        return connections[self.alias].vendor != "sqlite" and not is_in_transaction(self.alias)

    @with_retries
    def mark_sent(self, messages: Sequence[Outgoing], *, only_new: bool = False) -> None:
        """See ports.Outbox. Also wakes the workers of queues that are the table."""
        sent: defaultdict[timedelta, list[UUID]] = defaultdict(list)
        for each in messages:
            if each.look.is_sent:
                sent[each.look.ahead].append(each.message.invocation_id)
        for ahead, ids in sent.items():
            statements().mark_sent(ids, ahead, only_new=only_new)
        if not all(each.look.is_sent for each in messages):
            notify.notify(self.alias)

    @with_retries
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
        update_until = time.monotonic() + UPDATE_FOR_S
        levels = looks.due_levels(early=early)
        paused = pauses.paused_queues() if levels else frozenset()
        for level in levels:
            if queues is not None and level.queue not in queues:
                continue
            kept_too_long = looks.kept_secrets_due(level)
            _update_in_parts(kept_too_long, update_until, look_at=None, **forgotten_columns())
            _forget_waiting(level)
            look = self._look_terms(level.queue)
            if not look.is_sent or level.queue in paused:
                continue
            next_look = _next_look(look, lost_for, waiting_for)
            records = looks.due(level, early=early).annotate(next_look=next_look)
            not_yet = records.filter(next_look__gt=Greatest(Now(), F("look_at")))
            _update_in_parts(not_yet, update_until, look_at=next_look)
            to_send = records.filter(next_look__lte=Now())
            found += (
                fifo.select_in_order(level, to_send, limit) if look.in_order else to_send[:limit]
            )
        return self._readable(_without_expired(found))

    def postpone(self, messages: Sequence[Outgoing]) -> None:
        """See ports.Outbox."""
        postponing.postpone([each.message.invocation_id for each in messages])

    def _readable(self, records: Sequence[TaskRecord]) -> list[Outgoing]:
        """Return the messages of records; postpone records that can't be decrypted."""
        unreadable: dict[UUID, Raised] = {}
        messages = [
            outgoing_of(message, due_in_s, self._look_terms(message.queue or ""))
            for message, due_in_s in read_messages(map(vars, records), unreadable)
        ]
        if unreadable:
            refusals.refuse_unreadable(unreadable)
        return messages


def _insert(alias: str, rows: Sequence[Row]) -> None:
    limit_s = math.inf
    if not is_in_transaction(alias):
        own_limit_s = interrupts.LIBRARY_STATEMENT_LIMIT_S + ROW_LIMIT_S * len(rows)
        limit_s = interrupts.statement_limit_s(connections[alias], own_limit_s)
    with interrupts.interrupt_after(limit_s):
        statements().insert_queued(rows)


def forget_sent() -> None:
    """Make the relay send all QUEUED records again, because their queues were lost."""
    all_records().filter(status=Status.QUEUED).update(sent_at=None, look_at=Now())


def _without_expired(records: Sequence[TaskRecord]) -> Sequence[TaskRecord]:
    """Cancel the records that have not begun in time, and return the others."""
    expired = [each.id for each in records if is_expired(vars(each))]
    if not expired:
        return records
    expiry.expire(expired)
    return [each for each in records if each.id not in expired]


def _forget_waiting(level: looks.Level) -> None:
    """Cancel steps that have waited in failed workflows for long, some of them at each look."""
    with transaction.atomic(using=record_alias()):
        due = looks.lock_unlocked(looks.waiting_secrets_due(level)).values_list("id", flat=True)
        if ids := list(due[:MAX_UPDATED_TOGETHER]):
            joins.forget_waiting(all_records().filter(id__in=ids))


def _next_look(look: LookTerms, lost_for: timedelta, waiting_for: timedelta) -> Case:
    """Return the time at which a record's message must be sent, for the first time or again."""
    sent = Greatest(F("sent_at"), Coalesce(F("run_after"), F("sent_at")))
    next_look = Case(
        When(status=Status.RUNNING, then=F("lease_until") + lost_for),
        # No Now() here: SQLite reads its clock anew for each row, but that of WHERE only once.
        When(sent_at=None, then=Coalesce(F("run_after") - look.ahead, LONG_AGO)),
        default=sent + waiting_for,
        output_field=DateTimeField(),
    )
    return expiry.not_after_expiry(next_look)


def _update_in_parts(records: RecordQuerySet, until: float, **values: Any) -> None:
    """Update records part by part, until `until` in monotonic seconds.

    Records that somebody else has locked are left to the next look.
    """
    while time.monotonic() < until:
        with transaction.atomic(using=records.db):
            free = looks.lock_unlocked(records).values_list("id", flat=True)
            ids = list(free[:MAX_UPDATED_TOGETHER])
            all_records().filter(id__in=ids).update(**values)
        if len(ids) < MAX_UPDATED_TOGETHER:
            return
