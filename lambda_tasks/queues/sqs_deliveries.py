"""What SQS delivers: to a worker, which polls, and to Lambda, which gets events."""

import asyncio
import logging
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any, Final

from ..core.lifecycle import visibility_timeout_s
from ..core.message import YEARS, invocation_id_of
from ..ports import Delivery, ReceivedBatch, Settlement
from .aws.client import AwsClient

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


class SqsSource:
    """See Source: long polls, heartbeats while a task runs, deletes in batches.

    `wait_s` is for how long a poll of an empty queue lasts; `polls` is a client that waits as long.
    `arn` tells the queue from those of its name in other regions and accounts.
    """

    def __init__(
        self,
        queue_url: str,
        client: AwsClient,
        *,
        polls: AwsClient,
        wait_s: int = WAIT_S,
        arn: str = "",
    ) -> None:
        self._queue_url = queue_url
        self._wait_s = wait_s
        self._name = queue_name(queue_url)
        self._arn = arn or self._name
        self._client = client
        self._polls = polls
        self._receipts: dict[str, str] = {}
        self._finished: dict[str, str] = {}
        self._requests: set[asyncio.Task[None]] = set()
        self._deleting: asyncio.Task[None] | None = None
        self._heart: asyncio.Task[None] | None = None

    async def receive(self, limit: int) -> ReceivedBatch:
        """See Source."""
        if self._heart is None:
            self._heart = asyncio.ensure_future(self._beat())
        answer = await self._polls.call(
            "receive_message",
            QueueUrl=self._queue_url,
            MaxNumberOfMessages=min(limit, REQUEST_LIMIT),
            WaitTimeSeconds=self._wait_s,
            VisibilityTimeout=VISIBILITY_S,
            MessageSystemAttributeNames=[
                "SentTimestamp",
                "MessageGroupId",
                "ApproximateReceiveCount",
            ],
        )
        return nullcontext([self._received(each) for each in answer.get("Messages") or []])

    def settle(self, id: str, settlement: Settlement) -> None:
        """See Source."""
        receipt = self._receipts.pop(id)
        if settlement.is_final:
            self._finished[id] = receipt
            if self._deleting is None:
                self._deleting = self._begin(self._delete_soon())
        elif settlement.retry_after_s is not None:
            self._begin(
                self._show({id: receipt}, seconds=visibility_timeout_s(settlement.retry_after_s))
            )
        # Otherwise it comes back when its visibility timeout is over, and so in the end to the
        # dead letters.

    def wake(self) -> None:
        """See Source. SQS ends a long poll by itself."""

    async def aclose(self) -> None:
        """See Source."""
        if self._heart is not None:
            self._heart.cancel()
        while self._requests:
            await asyncio.wait(self._requests)

    def _received(self, message: Mapping[str, Any]) -> Delivery:
        """A delivery under an id of its own: SQS may deliver a message while it still runs."""
        id = message["MessageId"]
        repeats = count(2)
        while id in self._receipts:
            id = f"{message['MessageId']}_{next(repeats)}"
        self._receipts[id] = message["ReceiptHandle"]
        delivery = delivery_of(
            message["MessageId"], message["Body"], message.get("Attributes"), source=self._arn
        )
        return replace(delivery, id=id)

    def _begin(self, request: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task: asyncio.Task[None] = asyncio.ensure_future(request)
        self._requests.add(task)
        task.add_done_callback(self._requests.discard)
        return task

    async def _delete_soon(self) -> None:
        await asyncio.sleep(DELETE_WITHIN_S)
        self._deleting = None
        finished, self._finished = self._finished, {}
        for entries in _entries(finished):
            try:
                await self._client.call(
                    "delete_message_batch", QueueUrl=self._queue_url, Entries=list(entries)
                )
            except Exception:
                # They come again, and are found finished.
                logger.warning("%s: finished messages stay for now", self._name, exc_info=True)

    async def _show(self, receipts: Mapping[str, str], *, seconds: int) -> None:
        for entries in _entries(receipts):
            try:
                await self._client.call(
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


def _entries(receipts: Mapping[str, str]) -> Iterator[list[dict[str, Any]]]:
    """The entries of batch requests, a list for each."""
    entries = [{"Id": id, "ReceiptHandle": receipt} for id, receipt in receipts.items()]
    for start in range(0, len(entries), REQUEST_LIMIT):
        yield entries[start : start + REQUEST_LIMIT]


def delivery_of(message_id: str, body: object, attributes: object, *, source: str) -> Delivery:
    """A message that SQS has delivered, itself or by way of a Lambda event, from the queue of this
    name, or ARN."""
    known: Mapping[Any, Any] = attributes if isinstance(attributes, Mapping) else {}
    group = known.get("MessageGroupId")
    return Delivery(
        id=message_id,
        body=body,
        source=source,
        fallback_id=invocation_id_of(message_id),
        enqueued_at=_sent_at(known.get("SentTimestamp")),
        receives=_count(known.get("ApproximateReceiveCount")),
        order_key=group if isinstance(group, str) and is_fifo(source) else None,
    )


def queue_name(queue_url: str) -> str:
    """The name that SQS knows the queue by."""
    return queue_url.rstrip("/").rpartition("/")[2]


def is_fifo(queue: str) -> bool:
    """Whether a queue of this name, URL or ARN keeps an order."""
    return queue.endswith(".fifo")


def _count(number: Any) -> int:
    try:
        return max(1, int(number))
    except (TypeError, ValueError, OverflowError):
        return 1


def _sent_at(milliseconds: Any) -> datetime | None:
    try:
        sent_at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=int(milliseconds))
    except (TypeError, ValueError, OverflowError):
        return None
    return sent_at if sent_at.year in YEARS else None
