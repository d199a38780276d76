"""The queues that are paused: their rows, and who has switched them.

A paused queue hands out nothing. No worker and no relay looks at its records, and no claim takes
one: what arrives all the same waits in its row. So a pause holds from its commit on, whatever was
sent before. A call whose secret arguments are in its message only can't wait in a row; it runs.
"""

from collections.abc import Mapping
from functools import partial

from django.db import transaction
from django.db.models import QuerySet

from . import notify
from .clock import Now
from .database import record_alias
from .retrying import with_retries
from .tables import QueueState


@with_retries
def paused_queues() -> frozenset[str]:
    """Return the names of the queues that are paused."""
    return frozenset(_states().filter(is_paused=True).values_list("name", flat=True))


@with_retries
def queue_states() -> Mapping[str, QueueState]:
    """Return the rows of the queues that were ever switched, by name."""
    return {state.name: state for state in _states()}


@with_retries
def switch(name: str, *, is_paused: bool, by: str, reason: str) -> bool:
    """Pause a queue, or let it go on; return False where it is so already."""
    alias = record_alias()
    with transaction.atomic(using=alias):
        _states().bulk_create([QueueState(name=name)], ignore_conflicts=True)
        other = _states().filter(name=name, is_paused=not is_paused)
        n_changed = other.update(
            is_paused=is_paused, changed_by=by, reason=reason, changed_at=Now()
        )
        if n_changed and not is_paused:
            transaction.on_commit(partial(notify.notify, alias), using=alias)
    return bool(n_changed)


def _states() -> QuerySet[QueueState]:
    return QueueState.objects.using(record_alias())
