"""Keeps what is enqueued, instead of sending it, and runs it when asked to."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Final, overload
from uuid import UUID

from asgiref.sync import async_to_sync, sync_to_async

from .. import runtime
from ..core.lifecycle import Status
from ..core.message import Outgoing
from ..errors import TaskFailed
from .events import CapturedTask, event_of
from .faults import simulated
from .inline import CapturingRuntime

if TYPE_CHECKING:
    from ..records.tables import TaskRecord

MOST_ROUNDS: Final = 1000
"""The most rounds of one run_enqueued(). Each runs what the one before has enqueued: what enqueues
still more after so many does so for ever."""

MOST_DELIVERIES: Final = 10


class CapturedTasks(Sequence[CapturedTask]):
    """What was enqueued since capture_tasks(), in order; a list that grows.

    A call counts from the moment it is made, before its transaction commits, which under a
    TestCase never happens. One whose transaction, or savepoint, was rolled back is gone.
    """

    def __init__(self, capturing: CapturingRuntime) -> None:
        self._runtime = capturing
        self._done: set[UUID] = set()
        self._kept: list[Outgoing] = []

    def __repr__(self) -> str:
        return repr(list(self))

    def __eq__(self, other: object) -> bool:
        return list(self) == other

    __hash__ = None  # type: ignore[assignment]

    def __len__(self) -> int:
        return len(self._all())

    def __iter__(self) -> Iterator[CapturedTask]:
        return iter([CapturedTask(outgoing) for outgoing in self._all()])

    @overload
    def __getitem__(self, index: int) -> CapturedTask: ...

    @overload
    def __getitem__(self, index: slice) -> list[CapturedTask]: ...

    def __getitem__(self, index: int | slice) -> CapturedTask | list[CapturedTask]:
        return list(self)[index]

    def run(self, *, raise_failures: bool = True) -> "list[TaskRecord]":
        """Run what has not run yet, and what that enqueues, as if all had been committed.

        Each message goes through the Lambda handler, on the test's own thread and connection and
        without waiting for delays. Returns the records in the order of the runs. Raises
        TaskFailed for tasks that end as FAILED, unless `raise_failures=False`.
        """
        return async_to_sync(self.arun)(raise_failures=raise_failures)

    async def arun(self, *, raise_failures: bool = True) -> "list[TaskRecord]":
        """See run()."""
        ran: list[UUID] = []
        # Also after capture_tasks(): what runs now may enqueue, and nothing is to leave.
        with runtime.replace_current(self._runtime):
            for _ in range(MOST_ROUNDS):
                outstanding = await sync_to_async(self._outstanding)()
                if not outstanding:
                    break
                for outgoing in outstanding:
                    self._done.add(outgoing.message.invocation_id)
                    ran.append(outgoing.message.invocation_id)
                    await self._deliver(outgoing)
            else:
                raise AssertionError(f"After {MOST_ROUNDS} rounds tasks still enqueue others.")
        return await sync_to_async(self._records)(ran, raise_failures=raise_failures)

    def keep(self) -> None:
        """What there is by now, whatever becomes of its transaction."""
        self._kept = self._all()

    def _all(self) -> list[Outgoing]:
        enqueuer = self._runtime.enqueuer
        by_id: dict[UUID, Outgoing] = {}
        for outgoing in (*self._kept, *self._runtime.sender.sent, *enqueuer.uncommitted()):
            by_id.setdefault(outgoing.message.invocation_id, outgoing)
        last = len(enqueuer.order)
        return sorted(
            by_id.values(), key=lambda each: enqueuer.order.get(each.message.invocation_id, last)
        )

    def _outstanding(self) -> list[Outgoing]:
        """Stored, as after the commit, and due."""
        from ..records.postponing import make_due

        found = [each for each in self._all() if each.message.invocation_id not in self._done]
        self._runtime.enqueuer.store(found)
        for outgoing in found:
            if outgoing.message.durable:
                make_due(outgoing.message.invocation_id)
        return found

    async def _deliver(self, outgoing: Outgoing) -> None:
        due = replace(outgoing, body=replace(outgoing.message, run_after=None).encode())
        call = CapturedTask(due)
        if simulated() == "duplicate":
            await self._runtime.handle(event_of([due.body, due.body]))
        for _ in range(MOST_DELIVERIES):
            if not await self._runtime.handle(event_of([due.body])):
                return
        raise AssertionError(
            f"{call!r} came back to its queue {MOST_DELIVERIES} times, as a message does that ends "
            "among the dead letters. The log says why."
        )

    def _records(self, ids: Sequence[UUID], *, raise_failures: bool) -> "list[TaskRecord]":
        from ..records.queries import find

        found = [record for id in ids if (record := find(id)) is not None]
        failed = [record for record in found if record.status == Status.FAILED]
        if failed and raise_failures:
            raise TaskFailed("\n\n".join(f"{each} failed.\n{each.traceback}" for each in failed))
        return found


_captures: list[CapturedTasks] = []


@contextmanager
def capture_tasks() -> Iterator[CapturedTasks]:
    """Let nothing leave in the body; yields what was enqueued in it.

    Holds for all threads, and for both interfaces. In no mode does a task run by itself.
    """
    capturing = CapturingRuntime()
    captured = CapturedTasks(capturing)
    _captures.append(captured)
    try:
        with runtime.replace_current(capturing):
            yield captured
    finally:
        captured.keep()
        _captures.remove(captured)


def captured_now() -> CapturedTasks:
    """What the innermost capture_tasks() has. Raises RuntimeError where there is none."""
    if not _captures:
        raise RuntimeError(
            "Nothing is captured here. Use `with capture_tasks():`, the fixture captured_tasks or "
            "CaptureTasksMixin."
        )
    return _captures[-1]


def run_enqueued(*, raise_failures: bool = True) -> "list[TaskRecord]":
    """Run what the innermost capture_tasks() has. See CapturedTasks.run()."""
    return captured_now().run(raise_failures=raise_failures)


async def arun_enqueued(*, raise_failures: bool = True) -> "list[TaskRecord]":
    """See run_enqueued()."""
    return await captured_now().arun(raise_failures=raise_failures)
