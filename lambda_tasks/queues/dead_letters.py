"""The dead-letter queue of an SQS queue, and what can be done with its messages."""

import math
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Self

from .aws.client import AwsClient
from .aws.errors import RequestFailed, failure_of_entry
from .base import Wiring
from .sqs import SQSQueue
from .sqs_attributes import dead_letter_target
from .sqs_deliveries import MAX_BATCH_ENTRIES, delivery_of, is_fifo
from .sqs_provision import COUNTS, read_attributes

POLL_S: Final = 1
"""Seconds of a poll: a long one asks all servers of SQS, so it misses none of few messages."""

MAX_EMPTY_POLLS: Final = 2
"""Polls without a new message after which all messages were seen."""


@dataclass(frozen=True, slots=True)
class DeadLetterMessage:
    """A message that was received from a dead-letter queue."""

    id: str
    receipt: str = field(repr=False)
    body: object = field(repr=False)
    sent_at: datetime | None
    """The time when it entered its first queue; on a FIFO queue, the dead-letter queue."""
    receives: int
    source_arn: str | None
    """The ARN of the queue that it came from, where SQS tells it."""
    group: str | None
    message_attributes: Mapping[str, Any] = field(default_factory=dict, repr=False)


class Look:
    """What a look at a dead-letter queue has seen, and whether it goes on.

    It ends after `limit` messages, or after polls without a new one.
    """

    def __init__(self, limit: float = math.inf) -> None:
        self._seen: set[str] = set()
        self._n_left = limit
        self._n_empty = 0

    @property
    def goes_on(self) -> bool:
        """Whether there may be more to see."""
        return self._n_empty < MAX_EMPTY_POLLS and self._n_left > 0

    @property
    def most(self) -> int:
        """The most messages that the next poll may receive."""
        return int(min(MAX_BATCH_ENTRIES, self._n_left))

    def add(self, received: Sequence[DeadLetterMessage]) -> list[DeadLetterMessage]:
        """Take what a poll has received; return what is seen for the first time."""
        new = [each for each in received if each.id not in self._seen]
        self._n_empty = 0 if new else self._n_empty + 1
        self._n_left -= len(new)
        self._seen.update(each.id for each in new)
        return new


class DeadLetterQueue:
    """The dead-letter queue of one SQS queue. All methods raise RequestFailed."""

    def __init__(self, client: AwsClient, url: str) -> None:
        self.url = url
        self._client = client

    @classmethod
    async def find(cls, queue: SQSQueue, wiring: Wiring) -> Self | None:
        """Return the dead-letter queue of a queue; None for a queue without, or that is missing."""
        client = queue.client(wiring)
        live = await read_attributes(client, queue.queue_url)
        target = dead_letter_target(live or {})
        return None if target is None else cls(client, queue.sibling_url(target.rpartition(":")[2]))

    @property
    def name(self) -> str:
        """Its name in SQS."""
        return self.url.rpartition("/")[2]

    async def count(self) -> dict[str, int] | None:
        """Return about how many messages it has; None where it is missing."""
        live = await read_attributes(self._client, self.url)
        if live is None:
            return None
        return {name: int(live.get(each) or 0) for name, each in COUNTS.items()}

    async def receive(self, limit: int, hidden_s: int) -> list[DeadLetterMessage]:
        """Receive up to `limit` messages, at most ten.

        They are hidden for so many seconds, unless they are released or deleted before.
        """
        answer = await self._client.call(
            "receive_message",
            QueueUrl=self.url,
            MaxNumberOfMessages=min(limit, MAX_BATCH_ENTRIES),
            WaitTimeSeconds=POLL_S,
            VisibilityTimeout=hidden_s,
            MessageSystemAttributeNames=["All"],
            MessageAttributeNames=["All"],
        )
        return [_message_of(each) for each in answer.get("Messages") or ()]

    async def release(self, messages: Sequence[DeadLetterMessage]) -> None:
        """Let others see messages again at once. One that nobody hides any more is left alone."""
        for entries in _entries(messages):
            await self._client.call(
                "change_message_visibility_batch",
                QueueUrl=self.url,
                Entries=[each | {"VisibilityTimeout": 0} for each in entries],
            )

    async def delete(self, messages: Sequence[DeadLetterMessage]) -> None:
        """Delete messages for good."""
        for entries in _entries(messages):
            answer = await self._client.call(
                "delete_message_batch", QueueUrl=self.url, Entries=entries
            )
            for failed in answer.get("Failed") or ():
                raise RequestFailed(failure_of_entry(failed))

    async def send_back(self, message: DeadLetterMessage, queue: SQSQueue, wiring: Wiring) -> None:
        """Send a message to a queue, and delete it here after the queue has accepted it.

        Whoever dies in between leaves a copy behind, which runs nothing twice: all copies have one
        invocation. The body keeps its signature.
        """
        entry: dict[str, Any] = {"MessageBody": message.body}
        if message.message_attributes:
            entry["MessageAttributes"] = message.message_attributes
        if message.group is not None:
            entry["MessageGroupId"] = message.group
        if is_fifo(queue.queue_url):
            # A new id each time: SQS would drop what it has seen within the last five minutes.
            entry["MessageDeduplicationId"] = str(uuid.uuid4())
        client = queue.client(wiring)
        await client.call("send_message", QueueUrl=queue.queue_url, **entry)
        await self.delete([message])


def _message_of(received: Mapping[str, Any]) -> DeadLetterMessage:
    attributes = received.get("Attributes") or {}
    delivery = delivery_of(received["MessageId"], received["Body"], attributes, source="")
    return DeadLetterMessage(
        id=received["MessageId"],
        receipt=received["ReceiptHandle"],
        body=received["Body"],
        sent_at=delivery.enqueued_at,
        receives=delivery.receives,
        source_arn=attributes.get("DeadLetterQueueSourceArn"),
        group=attributes.get("MessageGroupId"),
        message_attributes=received.get("MessageAttributes") or {},
    )


def _entries(messages: Iterable[DeadLetterMessage]) -> Iterator[list[dict[str, Any]]]:
    """Yield the entries of batch requests, a list for each request."""
    all_entries = [
        {"Id": str(number), "ReceiptHandle": each.receipt} for number, each in enumerate(messages)
    ]
    for start in range(0, len(all_entries), MAX_BATCH_ENTRIES):
        yield all_entries[start : start + MAX_BATCH_ENTRIES]
