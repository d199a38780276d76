"""The capture of calls, which keeps them instead of sending them, and runs them on request."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Final, overload
from uuid import UUID

from asgiref.sync import async_to_sync, sync_to_async
from django.test import override_settings

from .. import conf, runtime
from ..core.lifecycle import Status
from ..core.message import Outgoing
from ..errors import TaskFailed
from ..twins import sync_form
from .events import CapturedTask, event_of
from .faults import simulated_fault
from .inline import CapturingRuntime

if TYPE_CHECKING:
    from ..records.tables import TaskRecord

MAX_ROUNDS: Final = 1000
"""The number of rounds of one run_enqueued(). Each round runs what the one before has enqueued.

Tasks that still enqueue others after so many rounds probably never stop.
"""

MAX_DELIVERIES: Final = 10
"""The number of deliveries of one message, after which run_enqueued() raises AssertionError."""


class CapturedTasks(Sequence[CapturedTask]):
    """The calls that were enqueued since capture_tasks(), in order: a sequence that grows.

    A call counts from the moment it is made, not from its commit, which never comes in a TestCase.
    A call disappears when its transaction or savepoint is rolled back.
    """

    def __init__(self, capturing: CapturingRuntime) -> None:
        self._runtime = capturing
        self._delivered: Counter[UUID] = Counter()
        """How often each message had been enqueued when it was delivered."""
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

    @sync_form("captured.arun()")
    def run(self, *, raise_failures: bool = True, times_out: bool = False) -> "list[TaskRecord]":
        """Run the calls that have not run yet, and those that they enqueue, as if committed.

        Each message goes through the Lambda handler, on the test's own thread and connection and
        without waiting for delays. So durable functions sleep no longer than it takes. They do wait
        for signals, until the test sends these; with `times_out`, these waits reach their timeouts
        once nothing else is left to run. Returns the records in the order of the runs.

        Raises TaskFailed, with the tracebacks, where tasks end as FAILED, unless `raise_failures`
        is False; AssertionError where tasks enqueue others without end, or where a message returns
        to its queue 10 times.
        """
        return async_to_sync(self.arun)(raise_failures=raise_failures, times_out=times_out)

    async def arun(
        self, *, raise_failures: bool = True, times_out: bool = False
    ) -> "list[TaskRecord]":
        """See run()."""
        delivered: list[UUID] = []
        # This may run after capture_tasks() has ended, and tasks may enqueue others meanwhile.
        # No other release could run what this one can't, so that fails at once.
        no_grace = override_settings(LAMBDA_TASKS_DEPLOYMENT_GRACE=0)
        with runtime.replace_current(self._runtime), no_grace:
            for _ in range(MAX_ROUNDS):
                enqueued = self._count_enqueued()
                outstanding = await sync_to_async(self._store_outstanding)(enqueued)
                if not outstanding and times_out:
                    outstanding = await sync_to_async(self._end_next_wait)()
                if not outstanding:
                    break
                for outgoing in outstanding:
                    id = outgoing.message.invocation_id
                    self._delivered[id] = enqueued[id]
                    delivered.append(outgoing.message.invocation_id)
                    await self._deliver(outgoing)
            else:
                raise AssertionError(
                    f"After {MAX_ROUNDS} rounds tasks still enqueue others. Look for a task that "
                    "enqueues itself."
                )
        return await sync_to_async(self._records)(delivered, raise_failures=raise_failures)

    def keep(self) -> None:
        """Keep the calls captured so far, even if their transaction is rolled back later."""
        self._kept = self._all()

    def _all(self) -> list[Outgoing]:
        enqueuer = self._runtime.enqueuer
        by_id: dict[UUID, Outgoing] = {}
        for outgoing in (*self._kept, *self._runtime.sender.sent, *enqueuer.uncommitted_messages()):
            by_id[outgoing.message.invocation_id] = outgoing  # The last has what replaced others.
        last = len(enqueuer.call_order)
        return sorted(
            by_id.values(),
            key=lambda each: enqueuer.call_order.get(each.message.invocation_id, last),
        )

    def _store_outstanding(self, enqueued: Counter[UUID]) -> list[Outgoing]:
        """Store the records of the calls that have not run, make them due, and return the calls."""
        from ..records.postponing import make_due

        found = [
            each
            for each in self._all()
            if enqueued[each.message.invocation_id] > self._delivered[each.message.invocation_id]
        ]
        self._runtime.enqueuer.store(found)
        for outgoing in found:
            if outgoing.message.durable:
                make_due(outgoing.message.invocation_id)
        return found

    def _end_next_wait(self) -> list[Outgoing]:
        """Let the wait that ends first reach its timeout; return the message of its run."""
        from ..records import steering
        from ..records.checkpoints import next_timeout
        from ..records.postponing import make_due

        id = next_timeout()
        if id is None:
            return []
        make_due(id)
        return steering.stored_messages([id], conf.current().look_terms)

    def _count_enqueued(self) -> Counter[UUID]:
        """Count how often each message was enqueued: again by a retry under the same id."""
        enqueuer = self._runtime.enqueuer
        enqueued = (*self._runtime.sender.sent, *enqueuer.uncommitted_messages())
        counted = Counter(outgoing.message.invocation_id for outgoing in enqueued)
        kept = Counter(outgoing.message.invocation_id for outgoing in self._kept)
        return counted | kept

    async def _deliver(self, outgoing: Outgoing) -> None:
        due = replace(outgoing, body=replace(outgoing.message, run_after=None).encode())
        call = CapturedTask(due)
        if simulated_fault() == "duplicate":
            await self._runtime.handle(event_of([due.body, due.body]))
        for _ in range(MAX_DELIVERIES):
            if not await self._runtime.handle(event_of([due.body])):
                return
        raise AssertionError(
            f"{call!r} came back to its queue {MAX_DELIVERIES} times. On AWS the message would be "
            "a dead letter. The log says why."
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
    """Capture the calls that are made in the body, instead of sending them.

    Yields the captured calls. Calls of all threads and of both interfaces are captured. In the
    body no task runs by itself, whatever mode the settings name.
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


def innermost_capture() -> CapturedTasks:
    """Return the calls of the innermost capture_tasks(). Raises RuntimeError outside of one."""
    if not _captures:
        raise RuntimeError(
            "Nothing is captured here. Use `with capture_tasks():`, the fixture captured_tasks or "
            "CaptureTasksMixin."
        )
    return _captures[-1]


@sync_form("arun_enqueued()")
def run_enqueued(*, raise_failures: bool = True, times_out: bool = False) -> "list[TaskRecord]":
    """Run the calls of the innermost capture_tasks(). See CapturedTasks.run().

    Raises RuntimeError outside of capture_tasks().
    """
    return innermost_capture().run(raise_failures=raise_failures, times_out=times_out)


async def arun_enqueued(
    *, raise_failures: bool = True, times_out: bool = False
) -> "list[TaskRecord]":
    """See run_enqueued()."""
    return await innermost_capture().arun(raise_failures=raise_failures, times_out=times_out)
