"""Records that this release can't run: they wait out a deployment, and are FAILED after it."""

import logging
from collections.abc import Collection, Mapping
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from django.db import transaction
from django.db.models import F, Q
from django.db.models.functions import Least

from ..core.grace import DEPLOYMENT_GRACE_S, RefusedRecord, failure_of
from ..core.lifecycle import Failed, Raised, Status
from . import settings
from .clock import Now
from .database import record_alias, statements
from .finishes import finish
from .portable import IS_LOST
from .postponing import count_wait, next_wait, wait_after
from .retrying import with_retries

logger = logging.getLogger("lambda_tasks")

DEPLOYMENT_GRACE: Final = "LAMBDA_TASKS_DEPLOYMENT_GRACE"
"""Name of a setting that `conf` checks. The records can't import `conf`, which is above them."""


def deployment_grace() -> timedelta:
    """Return how long a record that can't be run waits for another release."""
    return timedelta(seconds=settings.read(DEPLOYMENT_GRACE, DEPLOYMENT_GRACE_S))


@with_retries
def refuse(
    reasons: Mapping[UUID, Raised], waiting: Collection[UUID]
) -> Mapping[UUID, RefusedRecord]:
    """Note that this release can't run these records, and fail those whose grace is over.

    Those in `waiting` wait in their rows: they are due again after a while, which grows. Returns
    what was noted, without the records that are finished, or that others run or have locked.
    """
    grace = deployment_grace()
    with transaction.atomic(using=record_alias()), statements().lock_idle(list(reasons)) as free:
        unfinished = free.filter(Q(status=Status.QUEUED) | IS_LOST)
        columns = ("id", "refused_at", "start_time", "n_waits", "now")
        noted = {
            row["id"]: _refused(row, grace)
            for row in unfinished.annotate(now=Now()).values(*columns)
        }
        for id in [id for id, record in noted.items() if record.is_over]:
            finish(unfinished.filter(id=id), Failed(failure_of(reasons[id], grace.total_seconds())))
        kept = {id: record for id, record in noted.items() if not record.is_over}
        if first := [id for id, record in kept.items() if record.is_first]:
            unfinished.filter(id__in=first).update(refused_at=Now())
        if waits := [id for id in kept if id in waiting]:
            due_at = Least(next_wait(), F("refused_at") + grace)
            unfinished.filter(id__in=waits).update(
                look_at=due_at, sent_at=None, n_waits=count_wait()
            )
    return noted


def refuse_unreadable(reasons: Mapping[UUID, Raised]) -> None:
    """Let records wait whose secrets this release can't decrypt. See refuse()."""
    for id, record in refuse(reasons, reasons).items():
        reason = reasons[id].traceback
        if record.is_over:
            logger.error("The record %s failed, as no release could read it: %s", id, reason)
        elif record.is_first:
            logger.warning(
                "The record %s can't be sent or run by this release: %s. It waits for %.0f s.",
                id, reason, record.wait_s,
            )  # fmt: skip


def _refused(row: Mapping[str, Any], grace: timedelta) -> RefusedRecord:
    refused_at, start_time, now = row["refused_at"], row["start_time"], row["now"]
    # A lost run that started after it was refused has been run since.
    is_first = refused_at is None or (start_time is not None and start_time > refused_at)
    left = grace if is_first else grace - (now - refused_at)
    return RefusedRecord(
        is_first=is_first,
        left_s=left.total_seconds(),
        wait_s=min(wait_after(row["n_waits"]), left).total_seconds(),
    )
