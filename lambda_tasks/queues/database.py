"""Database queues: the table of the records is the queue, and the QUEUED row is the message."""

import asyncio
import heapq
import logging
import time
import uuid
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Self

from ..core.batching import BatchLimits
from ..core.lifecycle import TABLE_TERMS, LookTerms
from ..core.message import Message, Outgoing
from ..database_calls import call_database
from ..ports import (
    Delivery,
    LeftOut,
    Listener,
    ReceivedBatch,
    SendFailure,
    Settlement,
    Source,
    TableQueue,
)
from .base import Queue, Wiring

logger = logging.getLogger("lambda_tasks")

POLL_EVERY_S: Final = 1.0
"""Seconds between two looks of an idle worker: no notification is sent when a message falls due."""

FIRST_PAUSE_S: Final = 0.05
"""Seconds from the look after a notification to the next one, from when on they double.

Where that look finds nothing, another worker may have locked the new records, only to leave them,
as all its lanes are busy.
"""

MAX_BATCH: Final = 160
"""Most records that are claimed together; claims of more are hardly cheaper for each of them."""

FOLLOW_UP_PAUSE_S: Final = 0.02
"""Seconds from the end of a task to the look for what it has enqueued, without notifications.

What ends meanwhile shares the look.
"""

DUE_WITHIN_S: Final = 600.0
"""Seconds ahead of which a worker remembers when messages fall due that it has refused until then.

The polls find the others.
"""

MAX_DUE_TIMES: Final = 10_000
"""The most of these times."""

LISTEN_RETRY_S: Final = 10.0
"""The fewest seconds between two tries to listen for notifications."""

LEFT_OUT_S: Final = 60.0
"""Seconds for which a worker leaves to others what its release can't run."""

MAX_LEFT_OUT: Final = 100
"""The most tasks and records that a worker leaves out. Each look names them; further records are
postponed for all workers."""

LISTEN_FAILED: Final = (
    "Can't listen for notifications of new messages for now; the worker polls instead."
)


@dataclass(frozen=True, slots=True)
class DatabaseQueue(Queue):
    """A queue with the setting `{"database": True}`, which a worker consumes."""

    is_table: ClassVar[bool] = True

    @property
    def look_terms(self) -> LookTerms:
        """See Queue."""
        return TABLE_TERMS

    @property
    def source(self) -> str:
        """See Queue."""
        return f"table/{self.name}"

    @property
    def audience(self) -> str:
        """See Queue."""
        return ""

    @classmethod
    def parse(cls, setting: str, name: str, value: object) -> Self | None:
        """See Queue."""
        match value:
            case {"database": True, **rest} if not rest:
                return cls(name)
        return None

    def make_transport(self, wiring: Wiring) -> "DatabaseTransport":
        """See Queue."""
        return DatabaseTransport()

    @classmethod
    def make_sources(cls, queues: Sequence[Queue], wiring: Wiring, *, once: bool) -> list[Source]:
        """See Queue. Returns one source for all queues, so that priorities hold among them."""
        return [DatabaseSource([queue.name for queue in queues], wiring.table_queue)]


@dataclass(frozen=True, slots=True)
class LocalQueue(DatabaseQueue):
    """A stand-in for any queue while LAMBDA_TASKS_LOCAL_WORKERS is set.

    Its messages wait in the table. Its limits are those of the queue that it stands for.
    """

    stands_for: Queue
    """The queue of the setting LAMBDA_TASKS_QUEUES."""

    @classmethod
    def of(cls, queue: Queue) -> "LocalQueue":
        """Return the stand-in for a queue."""
        return cls(queue.name, queue, max_timeout_s=queue.max_timeout_s, rate=queue.rate)

    def check_message(self, message: Message, body: str, *, is_signed: bool) -> None:
        """See Queue."""
        self.stands_for.check_message(message, body, is_signed=is_signed)

    @property
    def audience(self) -> str:
        """See Queue."""
        return self.stands_for.audience

    @property
    def is_in_aws(self) -> bool:
        """See Queue."""
        return self.stands_for.is_in_aws

    def is_fed_by(self, source: str) -> bool:
        """See Queue."""
        return source == self.source or self.stands_for.is_fed_by(source)


class DatabaseTransport:
    """A transport that accepts every message without a request, because its row is the message."""

    limits = BatchLimits(max_entries=1000, max_bytes=2**30)

    async def send(self, batch: Sequence[Outgoing]) -> Sequence[SendFailure | None]:
        """Accept all messages."""
        return [None] * len(batch)


class DatabaseSource:
    """See Source. Rows stay locked until they are claimed.

    It polls the table. It looks at once when the database notifies it of new records, or when the
    worker wakes it. Without notifications it looks soon after a task has ended, which may have
    enqueued others.
    """

    def __init__(self, queues: Collection[str], table: TableQueue) -> None:
        self._loop = asyncio.get_running_loop()
        self._queues = queues
        self._table = table
        self._wake_up = asyncio.Event()
        self._wake_up.set()
        self._pause_s = POLL_EVERY_S
        """Seconds until the next look, unless something wakes the worker."""
        self._listener: Listener | None = None
        self._descriptor = -1
        self._next_listen_at = 0.0
        self._left_out: dict[LeftOut, float] = {}
        """What this release can't run, each with the time of its next look in monotonic seconds."""
        self._postponements: set[asyncio.Task[Any]] = set()
        self._waking: asyncio.TimerHandle | None = None
        self._due_times: list[float] = []
        """A heap of the times, of the loop's clock, at which messages fall due."""
        self._look_at_next: asyncio.TimerHandle | None = None
        """The look for the message that falls due next."""

    max_batch = MAX_BATCH
    holds_received = False

    async def receive(self, limit: int) -> ReceivedBatch:
        """See Source."""
        await self._listen()
        pause_s, self._pause_s = self._pause_s, min(2 * self._pause_s, POLL_EVERY_S)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._wake_up.wait(), pause_s)
        self._wake_up.clear()
        return self._due(limit, self._still_left_out())

    def wake(self) -> None:
        """See Source."""
        self._wake_up.set()
        if self._waking is not None:
            self._waking.cancel()
            self._waking = None

    def settle(self, id: str, settlement: Settlement) -> None:
        """See Source. A finished message needs nothing more, because its row is finished."""
        if self._listener is None and self._waking is None:
            self._waking = self._loop.call_later(FOLLOW_UP_PAUSE_S, self.wake)
        wait_s = settlement.retry_after_s
        if not settlement.is_final and wait_s is not None and wait_s < DUE_WITHIN_S:
            self._wake_in(wait_s)
        left_out = settlement.left_out
        if left_out is not None and len(self._left_out) < MAX_LEFT_OUT:
            self._left_out[left_out] = time.monotonic() + LEFT_OUT_S
        elif not settlement.is_final and settlement.retry_after_s is None:
            postponement = call_database(self._table.postpone, uuid.UUID(id))
            task = asyncio.ensure_future(postponement)
            self._postponements.add(task)
            task.add_done_callback(self._end_postponement)

    def _wake_in(self, wait_s: float) -> None:
        """Look when a message falls due. A rate lets many fall due one after the other."""
        due_at = self._loop.time() + wait_s
        if len(self._due_times) < MAX_DUE_TIMES:
            heapq.heappush(self._due_times, due_at)
            if self._due_times[0] == due_at:
                self._look_at(due_at)

    def _look_at(self, due_at: float) -> None:
        if self._look_at_next is not None:
            self._look_at_next.cancel()
        self._look_at_next = self._loop.call_at(due_at, self._look_at_due)

    def _look_at_due(self) -> None:
        now = self._loop.time()
        while self._due_times and self._due_times[0] <= now:
            heapq.heappop(self._due_times)
        if self._due_times:
            # What falls due meanwhile shares the look.
            self._look_at(max(self._due_times[0], now + FOLLOW_UP_PAUSE_S))
        self._wake_up.set()

    def _still_left_out(self) -> Collection[LeftOut]:
        """Return what this worker leaves to others now, and forget what it has left for long."""
        now = time.monotonic()
        self._left_out = {each: until for each, until in self._left_out.items() if until > now}
        return list(self._left_out)

    def _end_postponement(self, task: "asyncio.Task[Any]") -> None:
        self._postponements.discard(task)
        if not task.cancelled() and task.exception() is not None:
            # The record comes again at once, and is refused again: no more than that is lost.
            logger.warning("A record could not be postponed", exc_info=task.exception())

    async def aclose(self) -> None:
        """See Source."""
        while self._postponements:
            await asyncio.wait(self._postponements)
        self._stop_listening()

    async def _listen(self) -> None:
        if self._listener is not None or time.monotonic() < self._next_listen_at:
            return
        self._next_listen_at = time.monotonic() + LISTEN_RETRY_S
        try:
            self._listener = await call_database(self._table.listen)
        except Exception:
            logger.warning(LISTEN_FAILED, exc_info=True)
        if self._listener is not None:
            self._descriptor = self._listener.fileno()
            self._loop.add_reader(self._descriptor, self._read_notifications)
            self.wake()  # for messages that were stored before it listened

    def _read_notifications(self) -> None:
        assert self._listener is not None
        # The driver closes the socket of a lost connection, and a new socket may get the same
        # descriptor at once. So the loop must forget the descriptor before.
        self._loop.remove_reader(self._descriptor)
        try:
            self._listener.clear()
        except Exception:
            logger.warning(LISTEN_FAILED, exc_info=True)
            listener, self._listener = self._listener, None
            listener.close()
        else:
            self._loop.add_reader(self._descriptor, self._read_notifications)
        self._pause_s = FIRST_PAUSE_S
        self.wake()

    def _stop_listening(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            self._loop.remove_reader(self._descriptor)
            listener.close()

    @contextmanager
    def _due(self, limit: int, left_out: Collection[LeftOut]) -> Iterator[Sequence[Delivery]]:
        with self._table.lock_due(self._queues, limit=limit, without=left_out) as due:
            yield [_delivery_of(message) for message in due]


def _delivery_of(message: Message) -> Delivery:
    return Delivery(
        id=str(message.invocation_id),
        source=message.queue or "",
        fallback_id=message.invocation_id,
        message=message,
        is_redelivered=False,
    )
