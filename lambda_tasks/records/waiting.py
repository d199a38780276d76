"""Puts behind others what can't be sent or run, so that it blocks nobody, with growing waits."""

from collections.abc import Collection
from datetime import timedelta
from typing import Final
from uuid import UUID

from django.db.models import Case, F, QuerySet, When

from ..core.lifecycle import UNFINISHED, Status
from .clock import Now
from .database import all_records
from .retrying import tried_again
from .tables import TaskRecord

WAITS: Final = tuple(timedelta(minutes=minutes) for minutes in (1, 2, 4, 8, 15))
"""The first, the second and so on; the last is that of all that follow."""

MAX_COUNT: Final = 30_000
"""The column is a small integer."""


@tried_again
def postpone(ids: Collection[UUID]) -> None:
    """Let nobody look at these unfinished records for a while, which grows each time."""
    waits = [When(n_waits=n_waits, then=Now() + wait) for n_waits, wait in enumerate(WAITS)]
    unfinished: QuerySet[TaskRecord] = all_records().filter(id__in=ids, status__in=UNFINISHED)
    unfinished.filter(n_waits__lt=MAX_COUNT).update(
        look_at=Case(*waits, default=Now() + WAITS[-1]), n_waits=F("n_waits") + 1
    )


def make_due(invocation_id: UUID) -> None:
    """Let a QUEUED record run at once, whenever it was to be."""
    all_records().filter(id=invocation_id, status=Status.QUEUED).update(
        run_after=Now(), look_at=Now()
    )
