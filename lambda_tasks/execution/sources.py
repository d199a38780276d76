"""Where a worker takes its tasks from: a queue of SQS, or the table of the records.

A source hands over deliveries and hears what became of each.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol

from asgiref.sync import sync_to_async

from ..core.lifecycle import visibility_timeout_s
from ..ports import DueRecords, Listener
from .delivery import Delivery, Settlement

logger = logging.getLogger("lambda_tasks")

REQUEST_LIMIT: Final = 10
"""Messages of one request (Amazon SQS quotas)."""

WAIT_S: Final = 20
"""A long poll (ReceiveMessage, Amazon SQS API reference: 0 to 20)."""

ONCE_WAIT_S: Final = 1
"""The same where the queue is only to be emptied."""

VISIBILITY_S: Final = 60
"""A dead worker's messages come back after so long."""

HEARTBEAT_S: Final = 20.0
"""How often what is being worked on is kept invisible: two beats may fail."""

DELETE_WITHIN_S: Final = 0.05
"""For deletes to gather into one request."""

POLL_EVERY_S: Final = 1.0
"""An idle look at the table: what falls due makes no sound."""

LISTEN_AGAIN_S: Final = 10.0
"""After a connection that heard of new messages was lost."""

REFUSED_FOR: Final = timedelta(minutes=1)
"""Before a record that could not be run is looked at again, perhaps by a newer release."""

Call = Callable[..., Awaitable[Any]]
"""An operation of SQS by its name, with its parameters."""

Arriving = AbstractContextManager[Sequence[Delivery]]


class Source(Protocol):
    """One or more queues."""

    async def take(self, limit: int) -> Arriving:
        """Wait a while for up to `limit` deliveries; nothing where there are none."""

    def settle(self, id: str, settlement: Settlement) -> None:
        """What has become of a delivery."""

    def look_again(self) -> None:
        """There may be something new."""

    async def aclose(self) -> None:
        """Tell the queue what is still to be told."""


class SqsSource:
    """One queue of SQS: long polls, heartbeats while a task runs, deletes in batches."""

    def __init__(self, queue_url: str, call: Call, *, wait_s: int = WAIT_S) -> None:
        self._queue_url = queue_url
        self._wait_s = wait_s
        self._name = queue_url.rpartition("/")[2]
        self._call = call
        self._receipts: dict[str, str] = {}
        self._done: dict[str, str] = {}
        self._telling: set[asyncio.Task[None]] = set()
        self._deleting: asyncio.Task[None] | None = None
        self._heart: asyncio.Task[None] | None = None

    async def take(self, limit: int) -> Arriving:
        """See Source."""
        if self._heart is None:
            self._heart = asyncio.ensure_future(self._beat())
        answer = await self._call(
            "receive_message",
            QueueUrl=self._queue_url,
            MaxNumberOfMessages=min(limit, REQUEST_LIMIT),
            WaitTimeSeconds=self._wait_s,
            VisibilityTimeout=VISIBILITY_S,
            MessageSystemAttributeNames=["SentTimestamp", "MessageGroupId"],
        )
        messages = answer.get("Messages") or []
        self._receipts |= {each["MessageId"]: each["ReceiptHandle"] for each in messages}
        return nullcontext([self._delivery(each) for each in messages])

    def settle(self, id: str, settlement: Settlement) -> None:
        """See Source."""
        receipt = self._receipts.pop(id)
        if settlement.acknowledge:
            self._done[id] = receipt
            if self._deleting is None:
                self._deleting = self._tell(self._delete_soon())
        elif settlement.again_in_s is not None:
            self._tell(
                self._show({id: receipt}, seconds=visibility_timeout_s(settlement.again_in_s))
            )
        # Otherwise it comes back when its visibility timeout is over, and so in the end to the
        # dead letters.

    def look_again(self) -> None:
        """See Source. A long poll hears of it from SQS."""

    async def aclose(self) -> None:
        """See Source."""
        if self._heart is not None:
            self._heart.cancel()
        while self._telling:
            await asyncio.wait(self._telling)

    def _tell(self, telling: Any) -> "asyncio.Task[None]":
        task: asyncio.Task[None] = asyncio.ensure_future(telling)
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)
        return task

    async def _delete_soon(self) -> None:
        await asyncio.sleep(DELETE_WITHIN_S)
        self._deleting = None
        done, self._done = self._done, {}
        for entries in _requests(done):
            try:
                await self._call(
                    "delete_message_batch", QueueUrl=self._queue_url, Entries=list(entries)
                )
            except Exception:
                # They come again, and are found finished.
                logger.warning("%s: finished messages stay for now", self._name, exc_info=True)

    async def _show(self, receipts: Mapping[str, str], *, seconds: int) -> None:
        for entries in _requests(receipts):
            try:
                await self._call(
                    "change_message_visibility_batch",
                    QueueUrl=self._queue_url,
                    Entries=[each | {"VisibilityTimeout": seconds} for each in entries],
                )
            except Exception:
                logger.warning("%s: a visibility timeout stays", self._name, exc_info=True)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            await self._show(dict(self._receipts), seconds=VISIBILITY_S)

    def _delivery(self, message: Mapping[str, Any]) -> Delivery:
        attributes = message.get("Attributes", {})
        sent_ms = int(attributes.get("SentTimestamp", 0))
        is_fifo = self._queue_url.endswith(".fifo")
        return Delivery(
            id=message["MessageId"],
            body=message["Body"],
            queue=self._name,
            fallback_id=uuid.UUID(message["MessageId"]),
            enqueued_at=datetime.fromtimestamp(sent_ms / 1000, UTC) if sent_ms else None,
            ordered_by=attributes.get("MessageGroupId") if is_fifo else None,
        )


class DatabaseSource:
    """The queues that are the table itself: locked while they are claimed.

    Polled, and looked at at once when the database tells of something new, or a task has ended,
    which may have asked for more.
    """

    def __init__(self, queues: Collection[str], records: DueRecords) -> None:
        self._loop = asyncio.get_running_loop()
        self._queues = queues
        self._records = records
        self._news = asyncio.Event()
        self._news.set()
        self._listener: Listener | None = None
        self._may_listen_at = 0.0
        self._telling: set[asyncio.Task[None]] = set()

    async def take(self, limit: int) -> Arriving:
        """See Source."""
        await self._listen()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._news.wait(), POLL_EVERY_S)
        self._news.clear()
        return self._look(limit)

    def look_again(self) -> None:
        """See Source."""
        self._news.set()

    def settle(self, id: str, settlement: Settlement) -> None:
        """See Source. What is finished says so in its row."""
        self.look_again()
        if not settlement.acknowledge and settlement.again_in_s is None:
            postponing = sync_to_async(self._records.postpone)(uuid.UUID(id), REFUSED_FOR)
            task = asyncio.ensure_future(postponing)
            self._telling.add(task)
            task.add_done_callback(self._telling.discard)

    async def aclose(self) -> None:
        """See Source."""
        while self._telling:
            await asyncio.wait(self._telling)
        self._end_listening()

    async def _listen(self) -> None:
        if self._listener is not None or time.monotonic() < self._may_listen_at:
            return
        self._may_listen_at = time.monotonic() + LISTEN_AGAIN_S
        self._listener = await sync_to_async(self._records.listen)()
        if self._listener is not None:
            self._loop.add_reader(self._listener.fileno(), self._hear)
            self.look_again()  # at what came while nobody listened

    def _hear(self) -> None:
        assert self._listener is not None
        try:
            self._listener.clear()
        except Exception:
            logger.warning("New messages are not heard of for now, but polled.", exc_info=True)
            self._end_listening()
        self.look_again()

    def _end_listening(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            self._loop.remove_reader(listener.fileno())
            listener.close()

    @contextmanager
    def _look(self, limit: int) -> Iterator[Sequence[Delivery]]:
        with self._records.due(self._queues, limit=limit) as due:
            if due:  # there may be more
                self._loop.call_soon_threadsafe(self.look_again)
            yield [
                Delivery(
                    id=str(each.message.invocation_id),
                    body=each.body,
                    queue=each.queue,
                    fallback_id=each.message.invocation_id,
                    is_row=True,
                    comes_back=False,
                )
                for each in due
            ]


def _requests(receipts: Mapping[str, str]) -> Iterator[list[dict[str, Any]]]:
    """Entries of batch requests."""
    entries = [{"Id": id, "ReceiptHandle": receipt} for id, receipt in receipts.items()]
    for start in range(0, len(entries), REQUEST_LIMIT):
        yield entries[start : start + REQUEST_LIMIT]
