"""The handle that an enqueued call returns."""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Generic, NoReturn
from uuid import UUID

from asgiref.sync import sync_to_async
from django.db.transaction import TransactionManagementError

from . import registry, runtime
from .core.foreign_words import OF_INVOCATIONS, missing
from .core.lifecycle import Status
from .errors import TaskFailed
from .twins import sync_form

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    from .records.tables import TaskRecord

    # Any, so that `Invocation(id)` and a plain `Invocation` in an annotation need no type.
    R_co = TypeVar("R_co", covariant=True, default=Any)
else:
    from typing import TypeVar

    R_co = TypeVar("R_co", covariant=True)

FIRST_POLL_S: Final = 0.02
MAX_POLL_S: Final = 1.0
"""Seconds between two looks at the record: at first, and at most."""


@dataclass(frozen=True, repr=False)  # without slots, so that `Invocation[str](id)` works
class Invocation(Generic[R_co]):
    """The handle on one run that was enqueued, generic in the task's result.

    Can be made of an id that was kept: `Invocation(id)`.
    """

    id: UUID
    """The id of the invocation, fixed at the call and the same for all its attempts."""
    task_name: str = ""
    """The dotted name of the task. It is for display only."""
    created: bool = field(default=True, compare=False)
    """Whether the call has made this invocation; False if it has joined an earlier one, as a unique
    call does."""

    def __repr__(self) -> str:
        return f"<Invocation {self.id} of {self.task_name or 'a task'}>"

    if not TYPE_CHECKING:  # where any name would then be right

        def __getattr__(self, name: str) -> NoReturn:
            text = missing("An Invocation", name, OF_INVOCATIONS)
            raise AttributeError(text, name=name, obj=self)

    @sync_form("invocation.arecord()")
    def record(self) -> "TaskRecord | None":
        """Return the record of the invocation, or None.

        A direct message has no record before it starts.
        """
        from .records.queries import find

        return find(self.id)

    async def arecord(self) -> "TaskRecord | None":
        """See record()."""
        return await sync_to_async(self.record)()

    @sync_form("invocation.aresult(...)")
    def result(self, timeout: float | None = None) -> R_co:
        """Wait for the task to succeed, and return its result.

        The result has the type of the function's return annotation. Without one it is a JSON value.

        For scripts and tests. Waits for retries and continued runs too. Raises TaskFailed, with the
        traceback, where the task ends otherwise, and TimeoutError after `timeout` seconds; None
        waits for ever. Raises TransactionManagementError where the call waits for the commit of a
        transaction that is still open, and TypeError where the result does not fit the annotation.
        """
        for pause_s in pauses(self, timeout):
            if (record := self._find_finished()) is not None:
                result: R_co = _result_of(record)
                return result
            time.sleep(pause_s)
        raise AssertionError("unreachable")

    async def aresult(self, timeout: float | None = None) -> R_co:
        """See result()."""
        for pause_s in pauses(self, timeout):
            if (record := await sync_to_async(self._find_finished)()) is not None:
                result: R_co = await sync_to_async(_result_of)(record)
                return result
            await asyncio.sleep(pause_s)
        raise AssertionError("unreachable")

    def _find_finished(self) -> "TaskRecord | None":
        """Return the last record of the invocation if it is finished."""
        from .records.queries import find_last

        record = find_last(self.id)
        if record is not None and Status(record.status).is_finished:
            return record
        if runtime.current().enqueuer.waits_for_commit(self.id):
            raise TransactionManagementError(
                f"{self!r} was enqueued in a transaction that is still open, and runs only after "
                "its commit. Wait for the result after the `with transaction.atomic():` block. In "
                "a TestCase, run what was enqueued with lambda_tasks.testing.capture_tasks()."
            )
        return None


def pauses(handle: object, timeout: float | None) -> Iterator[float]:
    """Yield growing pauses in seconds. Raises TimeoutError once `timeout` is over."""
    deadline = None if timeout is None else time.monotonic() + timeout
    pause_s = FIRST_POLL_S
    while True:
        remaining_s = float("inf") if deadline is None else deadline - time.monotonic()
        yield min(pause_s, max(remaining_s, 0.0))
        if remaining_s <= 0:
            raise TimeoutError(f"{handle!r} has not ended within {timeout} s.")
        pause_s = min(pause_s * 1.5, MAX_POLL_S)


def _result_of(record: "TaskRecord") -> Any:
    if record.status != Status.SUCCESS:
        raise TaskFailed(f"{record} is {record.status}.\n\n{record.traceback or ''}".rstrip())
    task = registry.find_task(record.task_name)
    return record.result if task is None else task.result_from_json(record.result)
