"""Postponement of records that can't be sent or run, so that they block no others."""

from collections.abc import Collection
from datetime import timedelta
from typing import Final
from uuid import UUID

from django.db.models import Case, F, QuerySet, When

from ..core.lifecycle import UNFINISHED, Status
from .clock import Now
from .database import all_records
from .retrying import with_retries
from .tables import TaskRecord

POSTPONE_FOR: Final = tuple(timedelta(minutes=minutes) for minutes in (1, 2, 4, 8, 15))
"""The first wait, the second one and so on; the last one repeats."""

MAX_N_WAITS: Final = 30_000
"""The highest `n_waits`, below the limit of a small integer."""


@with_retries
def postpone(ids: Collection[UUID]) -> None:
    """Move the time to look of unfinished records into the future, further each time."""
    waits = [When(n_waits=n_waits, then=Now() + wait) for n_waits, wait in enumerate(POSTPONE_FOR)]
    unfinished: QuerySet[TaskRecord] = all_records().filter(id__in=ids, status__in=UNFINISHED)
    unfinished.filter(n_waits__lt=MAX_N_WAITS).update(
        look_at=Case(*waits, default=Now() + POSTPONE_FOR[-1]), n_waits=F("n_waits") + 1
    )


def make_due(invocation_id: UUID) -> None:
    """Make a QUEUED record due now, whenever it was due."""
    all_records().filter(id=invocation_id, status=Status.QUEUED).update(
        run_after=Now(), look_at=Now()
    )
