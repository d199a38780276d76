"""Cancels records, and announces that."""

from functools import partial

from django.db import models, transaction

from .. import hooks
from ..core.lifecycle import Cancelled
from ..hooks.beside import call_beside
from .finishes import finish
from .tables import TaskRecord


def cancel(unfinished: "models.QuerySet[TaskRecord]", end: Cancelled) -> int:
    """Cancel unfinished records, and announce that; return how many."""
    return _cancel_and_announce(unfinished, end) if hooks.cancelled else finish(unfinished, end)


def _cancel_and_announce(unfinished: "models.QuerySet[TaskRecord]", end: Cancelled) -> int:
    """Cancel records, and have hooks.cancelled called beside for each after the commit."""
    with transaction.atomic(using=unfinished.db):
        records = list(unfinished.select_for_update().only("task_name", "queue", "headers"))
        ids = [record.pk for record in records]
        n_cancelled = finish(TaskRecord.objects.using(unfinished.db).filter(pk__in=ids), end)
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
