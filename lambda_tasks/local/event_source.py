"""The event source mapping: it polls a queue, invokes a function and deletes what succeeded.

It is as strict as Lambda's with ReportBatchItemFailures: after an empty answer the whole batch has
succeeded; after a malformed answer or an exception the whole batch has failed.
"""

import base64
import json
import logging
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Self

from .sqs_server import make_client, queue_arn

logger = logging.getLogger("lambda_tasks")

Event = dict[str, Any]
Invoke = Callable[[Event], Any]
Message = Mapping[str, Any]

REQUEST_LIMIT: Final = 10
"""The number of messages that one SQS request receives or deletes (Amazon SQS quotas)."""

BATCH_LIMIT: Final = 10_000
"""The number of records in one event of a standard queue (AWS Lambda quotas)."""


@dataclass
class LambdaContext:
    """The context that a function gets with its event. Its clock starts when it is made."""

    timeout_s: float = 900.0
    """The function's timeout, in seconds."""
    function_name: str = "local"
    memory_limit_in_mb: int = 1024
    invoked_function_arn: str = "arn:aws:lambda:us-east-1:000000000000:function:local"
    aws_request_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    _started: float = field(default_factory=time.monotonic, init=False, repr=False)

    def get_remaining_time_in_millis(self) -> int:
        """Return the milliseconds before the function's timeout, 0 after it."""
        return max(0, round((self._started + self.timeout_s - time.monotonic()) * 1000))


class EventSourceMapping:
    """One queue and the function that it feeds.

    `invoke` is called with an event and returns the function's answer. `batch_size` is a number of
    messages, from 1 to 10,000.

    Raises ValueError for another `batch_size`, and for a queue whose visibility timeout is shorter
    than `function_timeout_s`, as AWS does: its messages would be delivered again while they run.
    """

    def __init__(
        self,
        queue_url: str,
        invoke: Invoke,
        *,
        client_options: dict[str, Any],
        batch_size: int = 10,
        function_timeout_s: float | None = None,
    ) -> None:
        if not 1 <= batch_size <= BATCH_LIMIT:
            raise ValueError(f"batch_size is {batch_size}, but must be 1 to {BATCH_LIMIT}.")
        self._queue_url = queue_url
        self._invoke = invoke
        self._client = make_client(client_options)
        self._batch_size = batch_size
        if function_timeout_s is not None:
            self._check_visibility_timeout(function_timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections to SQS."""
        self._client.close()

    def run(self, until: Callable[[], bool], *, wait_s: int = 1) -> None:
        """Poll until `until()` is true. After an error of SQS it polls again.

        `wait_s` is the long poll's time in seconds.
        """
        from botocore.exceptions import BotoCoreError, ClientError

        while not until():
            try:
                self.poll_once(wait_s)
            except (BotoCoreError, ClientError) as error:
                # botocore has waited between its own attempts, so this loop doesn't spin.
                logger.warning("The queue %s does not answer: %s", self._queue_url, error)

    def poll_once(self, wait_s: int = 1) -> int:
        """Receive one batch and invoke the function with it; return the number of messages."""
        messages = self._receive(wait_s)
        if messages:
            self._delete(self._succeeded(messages))
        return len(messages)

    def _receive(self, wait_s: int) -> list[Message]:
        messages: list[Message] = []
        while n_wanted := min(REQUEST_LIMIT, self._batch_size - len(messages)):
            received = self._client.receive_message(
                QueueUrl=self._queue_url,
                MaxNumberOfMessages=n_wanted,
                # With messages at hand, it is better to invoke than to wait for more.
                WaitTimeSeconds=0 if messages else wait_s,
                AttributeNames=["All"],
                MessageAttributeNames=["All"],
            ).get("Messages", [])
            messages += received
            if len(received) < n_wanted:
                break
        return messages

    def _succeeded(self, messages: Sequence[Message]) -> list[Message]:
        event = sqs_event(messages, self._queue_url, self._client.meta.region_name)
        try:
            # On AWS both travel as JSON. Done here too, this finds values that JSON can't hold.
            answer = json.loads(json.dumps(self._invoke(json.loads(json.dumps(event)))))
            failed = failed_ids(answer, {each["MessageId"] for each in messages})
        except Exception:
            logger.exception("An invocation failed; its %d messages return.", len(messages))
            return []
        return [each for each in messages if each["MessageId"] not in failed]

    def _delete(self, messages: Sequence[Message]) -> None:
        for chunk in _chunks(messages):
            self._client.delete_message_batch(
                QueueUrl=self._queue_url,
                Entries=[
                    {"Id": str(index), "ReceiptHandle": message["ReceiptHandle"]}
                    for index, message in enumerate(chunk)
                ],
            )

    def _check_visibility_timeout(self, function_timeout_s: float) -> None:
        name = "VisibilityTimeout"
        attributes = self._client.get_queue_attributes(
            QueueUrl=self._queue_url, AttributeNames=[name]
        )["Attributes"]
        if int(attributes[name]) < function_timeout_s:
            self.close()
            raise ValueError(
                f"The queue's visibility timeout of {attributes[name]} s is shorter than the"
                f" function's timeout of {function_timeout_s} s. Lambda refuses such a mapping;"
                f" AWS advises six times the function's timeout."
            )


def sqs_event(messages: Sequence[Message], queue_url: str, region: str) -> Event:
    """Return the event that Lambda makes of received messages."""
    arn = queue_arn(queue_url, region)
    return {"Records": [_record(message, arn, region) for message in messages]}


def failed_ids(answer: Any, known: set[str]) -> set[str]:
    """Return the ids of the failed messages in a function's answer, as Lambda reads it.

    `known` are the ids of the batch. Raises ValueError for an answer that Lambda would not accept.
    """
    if answer is None or answer == {}:
        return set()
    if not isinstance(answer, dict) or "batchItemFailures" not in answer:
        raise ValueError(f"The answer has no batchItemFailures: {answer!r}")
    failures = answer["batchItemFailures"]
    if failures is None:
        return set()
    if not isinstance(failures, list):
        raise ValueError(f"batchItemFailures is not a list: {failures!r}")
    return {_failed_id(failure, known) for failure in failures}


def _failed_id(failure: Any, known: set[str]) -> str:
    id = failure.get("itemIdentifier") if isinstance(failure, dict) else None
    if not isinstance(id, str) or not id:
        raise ValueError(f"A failure has no itemIdentifier: {failure!r}")
    if id not in known:
        raise ValueError(f"A failure names a message that was not in the batch: {id!r}")
    return id


def _record(message: Message, arn: str, region: str) -> dict[str, Any]:
    attributes = message.get("MessageAttributes", {})
    record = {
        "messageId": message["MessageId"],
        "receiptHandle": message["ReceiptHandle"],
        "body": message["Body"],
        "attributes": dict(message.get("Attributes", {})),
        "messageAttributes": {name: _attribute(each) for name, each in attributes.items()},
        "md5OfBody": message["MD5OfBody"],
        "eventSource": "aws:sqs",
        "eventSourceARN": arn,
        "awsRegion": region,
    }
    if "MD5OfMessageAttributes" in message:
        record["md5OfMessageAttributes"] = message["MD5OfMessageAttributes"]
    return record


def _attribute(attribute: Mapping[str, Any]) -> dict[str, Any]:
    """Return a message attribute as events spell it, which differs from SQS."""
    value: dict[str, Any] = {"stringListValues": [], "binaryListValues": []}
    if "StringValue" in attribute:
        value["stringValue"] = attribute["StringValue"]
    if "BinaryValue" in attribute:
        value["binaryValue"] = base64.b64encode(attribute["BinaryValue"]).decode()
    return value | {"dataType": attribute["DataType"]}


def _chunks(messages: Sequence[Message]) -> Iterator[Sequence[Message]]:
    for start in range(0, len(messages), REQUEST_LIMIT):
        yield messages[start : start + REQUEST_LIMIT]
