"""Cancels records, and announces that."""

from collections.abc import Callable
from functools import partial

from django.db import models, transaction

from .. import hooks
from ..core.lifecycle import ACTIVE, Cancelled, Status
from ..hooks.beside import call_beside
from .finishes import finish
from .tables import TaskRecord


def cancel(
    unfinished: "models.QuerySet[TaskRecord]", end: Cancelled, *, is_counted: bool = True
) -> int:
    """Cancel unfinished records, and announce that; return how many. See finish()."""
    make = _cancel if is_counted else _cancel_uncounted
    return _cancel_and_announce(unfinished, end, make) if hooks.cancelled else make(unfinished, end)


def _cancel_uncounted(unfinished: "models.QuerySet[TaskRecord]", end: Cancelled) -> int:
    return finish(unfinished, end, is_counted=False)


def _cancel(unfinished: "models.QuerySet[TaskRecord]", end: Cancelled) -> int:
    """Cancel unfinished records. A step that waits is counted by its gate: see records.joins."""
    with transaction.atomic(using=unfinished.db, savepoint=False):
        # First: one that is released meanwhile is then found among the others.
        n_waiting = finish(unfinished.filter(status=Status.WAITING), end, is_counted=False)
        return n_waiting + finish(unfinished.filter(status__in=ACTIVE), end)


def _cancel_and_announce(
    unfinished: "models.QuerySet[TaskRecord]",
    end: Cancelled,
    make: "Callable[[models.QuerySet[TaskRecord], Cancelled], int]",
) -> int:
    """Cancel records, and have hooks.cancelled called beside for each after the commit."""
    with transaction.atomic(using=unfinished.db):
        records = list(unfinished.select_for_update().only("task_name", "queue", "headers"))
        ids = [record.pk for record in records]
        n_cancelled = make(TaskRecord.objects.using(unfinished.db).filter(pk__in=ids), end)
        reason = end.raised.traceback if end.raised else None
        transaction.on_commit(partial(_announce_cancelled, records, reason), using=unfinished.db)
    return n_cancelled


def _announce_cancelled(records: "list[TaskRecord]", reason: str | None) -> None:
    for record in records:
        event = hooks.Cancelled(
            task_name=record.task_name,
            invocation_id=record.pk,
            queue=record.queue,
            headers=record.headers or {},
            reason=reason,
        )
        call_beside(hooks.cancelled, event)
