"""Postponement of records that can't be sent or run, so that they block no others."""

from collections.abc import Collection
from datetime import timedelta
from typing import Final
from uuid import UUID

from django.db.models import Case, F, QuerySet, When
from django.db.models.functions import Least

from ..core.grace import ROW_WAITS
from ..core.lifecycle import UNFINISHED, Status
from .clock import Now
from .database import all_records
from .retrying import with_retries
from .tables import TaskRecord

MAX_N_WAITS: Final = 30_000
"""The highest `n_waits`, below the limit of a small integer."""


@with_retries
def postpone(ids: Collection[UUID]) -> None:
    """Move the time to look of unfinished records into the future, further each time."""
    unfinished: QuerySet[TaskRecord] = all_records().filter(id__in=ids, status__in=UNFINISHED)
    unfinished.update(look_at=next_wait(), n_waits=count_wait())


def wait_after(n_waits: int) -> timedelta:
    """Return the wait of a record that has waited `n_waits` times."""
    return ROW_WAITS[min(n_waits, len(ROW_WAITS) - 1)]


def next_wait() -> Case:
    """Return the end of a record's next wait, as an expression. See wait_after()."""
    waits = [When(n_waits=n_waits, then=Now() + wait) for n_waits, wait in enumerate(ROW_WAITS)]
    return Case(*waits, default=Now() + ROW_WAITS[-1])


def count_wait() -> Least:
    """Return the number of a record's waits with the next one, as an expression."""
    return Least(F("n_waits") + 1, MAX_N_WAITS)


def make_due(invocation_id: UUID) -> None:
    """Make a QUEUED record due now, whenever it was due."""
    all_records().filter(id=invocation_id, status=Status.QUEUED).update(
        run_after=Now(), look_at=Now()
    )
