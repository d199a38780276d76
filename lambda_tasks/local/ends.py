"""The runs that have ended since a moment, each found once."""

from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Final
from uuid import UUID

from django.utils import timezone

from ..records import queries
from ..records.mapping import last_worker_id

if TYPE_CHECKING:
    from ..records.tables import TaskRecord

LOOK_BACK: Final = timedelta(seconds=10)
"""The time before the latest end in which each look searches again.

A run is found after its commit, which may come after that of a run that ended at the same moment or
later.
"""


class Ends:
    """The ends of the runs of some workers, from now on.

    `is_own` says whether a worker id is one of theirs. What ended without a run counts, too.
    """

    def __init__(self, is_own: Callable[[str], bool]) -> None:
        self._is_own = is_own
        self._since = timezone.now() - LOOK_BACK
        self._found: set[UUID] = set()
        self.counts: Counter[str] = Counter()
        """The number of ends that new() has returned, by status."""
        self._new_ids()

    def new(self) -> "list[TaskRecord]":
        """Return the records that have ended since the last call."""
        ids = self._new_ids()
        records = queries.find_many(ids) if ids else []
        own = [each for each in records if self._is_of_worker(each)]
        self.counts.update(each.status for each in own)
        return own

    def _new_ids(self) -> list[UUID]:
        ended = queries.ended_since(self._since)
        new = [id for id, _ in ended if id not in self._found]
        self._found = {id for id, _ in ended}
        if ended:
            self._since = max(self._since, ended[-1][1] - LOOK_BACK)
        return new

    def _is_of_worker(self, record: "TaskRecord") -> bool:
        worker_id = last_worker_id(record.worker_ids)
        return not worker_id or self._is_own(worker_id)
