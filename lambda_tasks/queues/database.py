"""Queues that are the table of the records: the QUEUED row is the message."""

import asyncio
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
from ..ports import Delivery, Listener, ReceivedBatch, SendFailure, Settlement, Source, TableQueue
from .base import Queue, Wiring

logger = logging.getLogger("lambda_tasks")

POLL_EVERY_S: Final = 1.0
"""An idle look at the table: what falls due makes no sound."""

LISTEN_AGAIN_S: Final = 10.0
"""After a connection that heard of new messages was lost."""

NOT_HEARD: Final = "New messages are not heard of for now, but polled."


@dataclass(frozen=True, slots=True)
class DatabaseQueue(Queue):
    """`{"database": True}`: consumed by a worker."""

    is_table: ClassVar[bool] = True

    @property
    def look_terms(self) -> LookTerms:
        """See Queue."""
        return TABLE_TERMS

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
        """See Queue. One for all, so that priorities hold among them."""
        return [DatabaseSource([queue.name for queue in queues], wiring.table_queue)]

    def check_message(self, message: Message, body: str, *, is_signed: bool) -> None:
        """See Queue. A row takes any."""


@dataclass(frozen=True, slots=True)
class LocalQueue(DatabaseQueue):
    """Any queue while LAMBDA_TASKS_LOCAL_WORKERS is set.

    Its messages wait in the table, and the limits are those of the queue that it stands for.
    """

    stands_for: Queue

    @classmethod
    def of(cls, queue: Queue) -> "LocalQueue":
        """The stand-in of a queue."""
        return cls(queue.name, queue, max_timeout_s=queue.max_timeout_s)

    def check_message(self, message: Message, body: str, *, is_signed: bool) -> None:
        """See Queue."""
        self.stands_for.check_message(message, body, is_signed=is_signed)


class DatabaseTransport:
    """Accepts everything, as the row is there."""

    limits = BatchLimits(max_entries=1000, max_bytes=2**30)

    async def send(self, batch: Sequence[Outgoing]) -> Sequence[SendFailure | None]:
        """Nothing to do."""
        return [None] * len(batch)


class DatabaseSource:
    """See Source. The rows are locked while they are claimed.

    Polled, and looked at at once when the database notifies of something new, or a task has ended,
    which may have asked for more.
    """

    def __init__(self, queues: Collection[str], table: TableQueue) -> None:
        self._loop = asyncio.get_running_loop()
        self._queues = queues
        self._table = table
        self._news = asyncio.Event()
        self._news.set()
        self._listener: Listener | None = None
        self._descriptor = -1
        self._may_listen_at = 0.0
        self._putting_behind: set[asyncio.Task[Any]] = set()

    async def receive(self, limit: int) -> ReceivedBatch:
        """See Source."""
        await self._listen()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._news.wait(), POLL_EVERY_S)
        self._news.clear()
        return self._due(limit)

    def wake(self) -> None:
        """See Source."""
        self._news.set()

    def settle(self, id: str, settlement: Settlement) -> None:
        """See Source. What is finished says so in its row."""
        self.wake()
        if not settlement.is_final and settlement.retry_after_s is None:
            postponing = call_database(self._table.postpone, uuid.UUID(id))
            task = asyncio.ensure_future(postponing)
            self._putting_behind.add(task)
            task.add_done_callback(self._putting_behind.discard)

    async def aclose(self) -> None:
        """See Source."""
        while self._putting_behind:
            await asyncio.wait(self._putting_behind)
        self._end_listening()

    async def _listen(self) -> None:
        if self._listener is not None or time.monotonic() < self._may_listen_at:
            return
        self._may_listen_at = time.monotonic() + LISTEN_AGAIN_S
        try:
            self._listener = await call_database(self._table.listen)
        except Exception:
            logger.warning(NOT_HEARD, exc_info=True)
        if self._listener is not None:
            self._descriptor = self._listener.fileno()
            self._loop.add_reader(self._descriptor, self._read_notifications)
            self.wake()  # for what came while nobody listened

    def _read_notifications(self) -> None:
        assert self._listener is not None
        # The driver closes the socket of a connection that is gone, whose number another's may
        # have at once: by then the loop must not know it any more.
        self._loop.remove_reader(self._descriptor)
        try:
            self._listener.clear()
        except Exception:
            logger.warning(NOT_HEARD, exc_info=True)
            listener, self._listener = self._listener, None
            listener.close()
        else:
            self._loop.add_reader(self._descriptor, self._read_notifications)
        self.wake()

    def _end_listening(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            self._loop.remove_reader(self._descriptor)
            listener.close()

    @contextmanager
    def _due(self, limit: int) -> Iterator[Sequence[Delivery]]:
        with self._table.lock_due(self._queues, limit=limit) as due:
            if due:  # there may be more
                self._loop.call_soon_threadsafe(self.wake)
            yield [_delivery_of(message) for message in due]


def _delivery_of(message: Message) -> Delivery:
    return Delivery(
        id=str(message.invocation_id),
        source=message.queue or "",
        fallback_id=message.invocation_id,
        message=message,
        is_redelivered=False,
    )
