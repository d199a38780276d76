"""The handle that an enqueued call returns."""

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
MAX_POLL_S: Final = 1.0
"""Seconds between two looks at the record: at first, and at most."""


@dataclass(frozen=True, slots=True, repr=False)
class Invocation:
    """The handle on one run that was enqueued."""

    id: UUID
    """The id of the invocation, fixed at the call and the same for all its attempts."""
    task_name: str
    """The dotted name of the task."""

    def __repr__(self) -> str:
        return f"<Invocation {self.id} of {self.task_name}>"

    def record(self) -> "TaskRecord | None":
        """Return the record of the invocation, or None.

        A direct message has no record before it starts.
        """
        from .records.queries import find

        return find(self.id)

    async def arecord(self) -> "TaskRecord | None":
        """See record()."""
        return await sync_to_async(self.record)()

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the task to succeed, and return its result as a JSON value.

        For scripts and tests. Waits for retries and continued runs too. Raises TaskFailed, with the
        traceback, where the task ends otherwise, and TimeoutError after `timeout` seconds; None
        waits for ever.
        """
        for pause_s in _pauses(self, timeout):
            record = self._last_record()
            if record is not None and Status(record.status).is_finished:
                return _result(record)
            time.sleep(pause_s)
        raise AssertionError("unreachable")

    async def aresult(self, timeout: float | None = None) -> Any:
        """See result()."""
        for pause_s in _pauses(self, timeout):
            record = await sync_to_async(self._last_record)()
            if record is not None and Status(record.status).is_finished:
                return _result(record)
            await asyncio.sleep(pause_s)
        raise AssertionError("unreachable")

    def _last_record(self) -> "TaskRecord | None":
        from .records.queries import find_last

        return find_last(self.id)


def _pauses(invocation: Invocation, timeout: float | None) -> Iterator[float]:
    """Yield growing pauses in seconds. Raises TimeoutError once `timeout` is over."""
    deadline = None if timeout is None else time.monotonic() + timeout
    pause_s = FIRST_POLL_S
    while True:
        remaining_s = float("inf") if deadline is None else deadline - time.monotonic()
        yield min(pause_s, max(remaining_s, 0.0))
        if remaining_s <= 0:
            raise TimeoutError(f"{invocation!r} has not ended within {timeout} s.")
        pause_s = min(pause_s * 1.5, MAX_POLL_S)


def _result(record: "TaskRecord") -> Any:
    if record.status != Status.SUCCESS:
        raise TaskFailed(f"{record} is {record.status}.\n\n{record.traceback or ''}".rstrip())
    return record.result
