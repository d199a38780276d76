"""What a call returns: a handle on the run that it asked for."""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from asgiref.sync import sync_to_async

from .core.lifecycle import Status
from .errors import TaskFailed

if TYPE_CHECKING:
    from .records.tables import TaskRecord

FIRST_POLL_S: Final = 0.02
LONGEST_POLL_S: Final = 1.0


@dataclass(frozen=True, slots=True, repr=False)
class Invocation:
    """One asked-for run. `id` is fixed at the call and stays the same for all its attempts."""

    id: UUID
    task_name: str

    def __repr__(self) -> str:
        return f"<Invocation {self.id} of {self.task_name}>"

    def record(self) -> "TaskRecord | None":
        """Its record, or None where there is none: not before a direct message has started."""
        from .records.queries import find

        return find(self.id)

    async def arecord(self) -> "TaskRecord | None":
        """See record()."""
        return await sync_to_async(self.record)()

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the end and return the task's result as JSON values; for scripts and tests.

        Raises TaskFailed, with the traceback, where it ended otherwise, and TimeoutError after
        `timeout` seconds. Follows retries, and runs that go on, to their own end.
        """
        for pause_s in _pauses(self, timeout):
            record = self._followed()
            if record is not None and Status(record.status).is_finished:
                return _result(record)
            time.sleep(pause_s)
        raise AssertionError("unreachable")

    async def aresult(self, timeout: float | None = None) -> Any:
        """See result()."""
        for pause_s in _pauses(self, timeout):
            record = await sync_to_async(self._followed)()
            if record is not None and Status(record.status).is_finished:
                return _result(record)
            await asyncio.sleep(pause_s)
        raise AssertionError("unreachable")

    def _followed(self) -> "TaskRecord | None":
        from .records.queries import find_last

        return find_last(self.id)


def _pauses(invocation: Invocation, timeout: float | None) -> Iterator[float]:
    """Growing pauses; raises TimeoutError in the place of the one that would be too long."""
    deadline = None if timeout is None else time.monotonic() + timeout
    pause_s = FIRST_POLL_S
    while True:
        left = float("inf") if deadline is None else deadline - time.monotonic()
        yield min(pause_s, max(left, 0.0))
        if left <= 0:
            raise TimeoutError(f"{invocation!r} had no end after {timeout} s.")
        pause_s = min(pause_s * 1.5, LONGEST_POLL_S)


def _result(record: "TaskRecord") -> Any:
    if record.status != Status.SUCCESS:
        raise TaskFailed(f"{record} is {record.status}.\n\n{record.traceback or ''}".rstrip())
    return record.result
