"""Deliveries of SQS: to a worker, which polls, and to Lambda, which gets events."""

import asyncio
import logging
from collections.abc import Coroutine, Iterator, Mapping, Sequence
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

MAX_BATCH_ENTRIES: Final = 10
"""The most messages of one request (Amazon SQS quotas)."""

MAX_POLLS: Final = 4
"""The most requests at a time for the messages of one receive."""

LONG_POLL_S: Final = 20
"""Seconds of a long poll (ReceiveMessage, Amazon SQS API reference: 0 to 20)."""

SHORT_POLL_S: Final = 1
"""Seconds of a poll by a worker that stops when the queue is empty."""

VISIBILITY_TIMEOUT_S: Final = 60
"""Seconds after which SQS delivers the messages of a dead worker again."""

HEARTBEAT_S: Final = 20.0
"""Seconds between two heartbeats, which hide running messages again. Two of them may fail."""

DELETE_DELAY_S: Final = 0.05
"""Seconds in which deletes gather into one request."""


class SqsSource:
    """See Source: long polls, heartbeats while a task runs, and deletes in batches.

    `wait_s` is the duration of a poll of an empty queue in seconds, and `polls` is a client that
    waits as long. `arn` tells the queue from queues of the same name in other regions and accounts.
    """

    def __init__(
        self,
        queue_url: str,
        client: AwsClient,
        *,
        polls: AwsClient,
        wait_s: int = LONG_POLL_S,
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
        self._delete_task: asyncio.Task[None] | None = None
        self._heartbeat: asyncio.Task[None] | None = None
        self._is_filled = False
        """Whether the last receive found as many messages as one request can bring."""

    max_batch = MAX_POLLS * MAX_BATCH_ENTRIES
    holds_received = True

    async def receive(self, limit: int) -> ReceivedBatch:
        """See Source."""
        if self._heartbeat is None:
            self._heartbeat = asyncio.ensure_future(self._send_heartbeats())
        messages: list[Mapping[str, Any]] = []
        if self._is_filled and limit > MAX_BATCH_ENTRIES:
            messages = await self._poll_many(limit)
        if not messages:
            messages = await self._poll(min(limit, MAX_BATCH_ENTRIES), wait_s=self._wait_s)
        self._is_filled = len(messages) >= MAX_BATCH_ENTRIES
        return nullcontext([self._receive_one(each) for each in messages])

    async def _poll_many(self, limit: int) -> list[Mapping[str, Any]]:
        """Receive by several requests at once, none of which waits for messages.

        One that fails does not keep what others have received from being run. If this is cancelled,
        as the worker stops, what they bring goes back at once.
        """
        n_full, rest = divmod(limit, MAX_BATCH_ENTRIES)
        sizes = [*[MAX_BATCH_ENTRIES] * n_full, *([rest] if rest else [])]
        polls = [asyncio.ensure_future(self._poll(size, wait_s=0)) for size in sizes]
        try:
            await asyncio.wait(polls)
        except asyncio.CancelledError:
            self._start_request(self._return_all(polls))
            raise
        messages, failures = _answers_of(polls)
        if failures and not messages:
            raise failures[0]
        for error in failures:
            logger.warning(
                "A request for messages of the queue %s failed; the next one may bring them",
                self._name,
                exc_info=error,
            )
        return messages

    async def _poll(self, limit: int, *, wait_s: int) -> list[Mapping[str, Any]]:
        # One that does not wait is answered soon, or given up soon: others may depend on it.
        client = self._polls if wait_s else self._client
        answer = await client.call(
            "receive_message",
            QueueUrl=self._queue_url,
            MaxNumberOfMessages=limit,
            WaitTimeSeconds=wait_s,
            VisibilityTimeout=VISIBILITY_TIMEOUT_S,
            MessageSystemAttributeNames=[
                "SentTimestamp",
                "MessageGroupId",
                "ApproximateReceiveCount",
            ],
        )
        return answer.get("Messages") or []

    async def _return_all(self, polls: "Sequence[asyncio.Task[list[Mapping[str, Any]]]]") -> None:
        """Make what requests bring visible again: their visibility timeout would hide it longer."""
        await asyncio.wait(polls)
        messages, _ = _answers_of(polls)
        receipts = {each["MessageId"]: each["ReceiptHandle"] for each in messages}
        await self._change_visibility(receipts, seconds=0)

    def settle(self, id: str, settlement: Settlement) -> None:
        """See Source."""
        receipt = self._receipts.pop(id)
        if settlement.is_final:
            self._finished[id] = receipt
            if self._delete_task is None:
                self._delete_task = self._start_request(self._delete_soon())
        elif settlement.retry_after_s is not None:
            self._start_request(
                self._change_visibility(
                    {id: receipt}, seconds=visibility_timeout_s(settlement.retry_after_s)
                )
            )
        # Otherwise SQS delivers it again after its visibility timeout, and after maxReceiveCount
        # deliveries moves it to the dead-letter queue.

    def wake(self) -> None:
        """See Source. SQS ends a long poll by itself when a message arrives."""

    async def aclose(self) -> None:
        """See Source."""
        if self._heartbeat is not None:
            self._heartbeat.cancel()
        while self._requests:
            await asyncio.wait(self._requests)

    def _receive_one(self, message: Mapping[str, Any]) -> Delivery:
        """Return a delivery with a unique id, as SQS may deliver a message that still runs."""
        id = message["MessageId"]
        repeats = count(2)
        while id in self._receipts:
            id = f"{message['MessageId']}_{next(repeats)}"
        self._receipts[id] = message["ReceiptHandle"]
        delivery = delivery_of(
            message["MessageId"], message["Body"], message.get("Attributes"), source=self._arn
        )
        return delivery if id == delivery.id else replace(delivery, id=id)

    def _start_request(self, request: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task: asyncio.Task[None] = asyncio.ensure_future(request)
        self._requests.add(task)
        task.add_done_callback(self._requests.discard)
        return task

    async def _delete_soon(self) -> None:
        await asyncio.sleep(DELETE_DELAY_S)
        self._delete_task = None
        finished, self._finished = self._finished, {}
        for entries in _entries(finished):
            try:
                await self._client.call(
                    "delete_message_batch", QueueUrl=self._queue_url, Entries=list(entries)
                )
            except Exception:
                # SQS delivers them again. Their records are finished then, so they don't run.
                logger.warning(
                    "%d finished messages could not be deleted from the queue %s for now",
                    len(entries),
                    self._name,
                    exc_info=True,
                )

    async def _change_visibility(self, receipts: Mapping[str, str], *, seconds: int) -> None:
        for entries in _entries(receipts):
            try:
                await self._client.call(
                    "change_message_visibility_batch",
                    QueueUrl=self._queue_url,
                    Entries=[each | {"VisibilityTimeout": seconds} for each in entries],
                )
            except Exception:
                logger.warning(
                    "The visibility timeout of %d messages of the queue %s could not be changed",
                    len(entries),
                    self._name,
                    exc_info=True,
                )

    async def _send_heartbeats(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            await self._change_visibility(dict(self._receipts), seconds=VISIBILITY_TIMEOUT_S)


def _answers_of(
    polls: "Sequence[asyncio.Task[list[Mapping[str, Any]]]]",
) -> tuple[list[Mapping[str, Any]], list[BaseException]]:
    """Return the messages that requests have brought, and why others have failed."""
    failures = [error for each in polls if (error := each.exception()) is not None]
    messages = [one for each in polls if each.exception() is None for one in each.result()]
    return messages, failures


def _entries(receipts: Mapping[str, str]) -> Iterator[list[dict[str, Any]]]:
    """Yield the entries of batch requests, a list for each request."""
    entries = [{"Id": id, "ReceiptHandle": receipt} for id, receipt in receipts.items()]
    for start in range(0, len(entries), MAX_BATCH_ENTRIES):
        yield entries[start : start + MAX_BATCH_ENTRIES]


def delivery_of(message_id: str, body: object, attributes: object, *, source: str) -> Delivery:
    """Return the delivery of a message that SQS delivered to a worker or in a Lambda event.

    `source` is the name or the ARN of its queue.
    """
    attributes_by_name: Mapping[Any, Any] = attributes if isinstance(attributes, Mapping) else {}
    group = attributes_by_name.get("MessageGroupId")
    return Delivery(
        id=message_id,
        body=body,
        source=source,
        fallback_id=invocation_id_of(message_id),
        enqueued_at=_sent_at(attributes_by_name.get("SentTimestamp")),
        receives=_positive_count(attributes_by_name.get("ApproximateReceiveCount")),
        order_key=group if isinstance(group, str) and is_fifo(source) else None,
    )


def queue_name(queue_url: str) -> str:
    """Return the queue's name in SQS."""
    return queue_url.rstrip("/").rpartition("/")[2]


def is_fifo(queue: str) -> bool:
    """Return whether the queue of this name, URL or ARN is a FIFO queue, which keeps an order."""
    return queue.endswith(".fifo")


def _positive_count(number: Any) -> int:
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
