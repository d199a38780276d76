"""What stands between SQS and a Lambda function: polls a queue, invokes, deletes what succeeded.

Strict as the real one with ReportBatchItemFailures: an empty answer is success for the whole
batch, a malformed one, or an exception, a failure for the whole batch.
"""

import logging
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .sqs_server import make_client, queue_arn

logger = logging.getLogger("lambda_tasks")

Invoke = Callable[[dict[str, Any]], Any]


@dataclass
class LambdaContext:
    """What a function gets beside its event, with a clock that runs down from `timeout_s`."""

    timeout_s: float = 900.0
    function_name: str = "local"
    memory_limit_in_mb: int = 1024
    invoked_function_arn: str = "arn:aws:lambda:us-east-1:000000000000:function:local"
    aws_request_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    _started: float = field(default_factory=time.monotonic)

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds before the invocation is cut off."""
        return max(0, round((self._started + self.timeout_s - time.monotonic()) * 1000))


class EventSourceMapping:
    """One queue and the function that it feeds. `invoke` takes the event, returns the answer."""

    def __init__(
        self,
        queue_url: str,
        invoke: Invoke,
        *,
        client_options: dict[str, Any],
        batch_size: int = 10,
    ) -> None:
        self._queue_url = queue_url
        self._invoke = invoke
        self._client = make_client(client_options)
        self._batch_size = batch_size

    def run(self, until: Callable[[], bool], *, wait_s: int = 1) -> None:
        """Poll until `until()` says so."""
        while not until():
            self.poll_once(wait_s=wait_s)

    def poll_once(self, *, wait_s: int = 1) -> int:
        """Take one batch through the function; return how many messages it had."""
        messages = self._client.receive_message(
            QueueUrl=self._queue_url,
            MaxNumberOfMessages=self._batch_size,
            WaitTimeSeconds=wait_s,
            AttributeNames=["All"],
            MessageAttributeNames=["All"],
        ).get("Messages", [])
        if messages:
            self._delete(self._succeeded(messages))
        return len(messages)

    def _succeeded(self, messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        event = {"Records": [self._record(message) for message in messages]}
        try:
            failed = failed_ids(self._invoke(event), {each["MessageId"] for each in messages})
        except Exception:
            logger.exception("An invocation failed; its %d messages come back", len(messages))
            return []
        return [each for each in messages if each["MessageId"] not in failed]

    def _delete(self, messages: Sequence[Mapping[str, Any]]) -> None:
        if messages:
            self._client.delete_message_batch(
                QueueUrl=self._queue_url,
                Entries=[
                    {"Id": str(index), "ReceiptHandle": message["ReceiptHandle"]}
                    for index, message in enumerate(messages)
                ],
            )

    def _record(self, message: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "messageId": message["MessageId"],
            "receiptHandle": message["ReceiptHandle"],
            "body": message["Body"],
            "attributes": dict(message.get("Attributes", {})),
            "messageAttributes": dict(message.get("MessageAttributes", {})),
            "md5OfBody": message["MD5OfBody"],
            "eventSource": "aws:sqs",
            "eventSourceARN": queue_arn(self._queue_url),
            "awsRegion": "us-east-1",
        }


def failed_ids(answer: Any, known: set[str]) -> set[str]:
    """The messages that come back, as Lambda reads an answer. Raises ValueError for a bad one."""
    if answer is None or answer == {}:
        return set()
    try:
        failures = answer["batchItemFailures"] or []
        failed = {failure["itemIdentifier"] for failure in failures}
    except (TypeError, KeyError) as error:
        raise ValueError(f"The answer names no batchItemFailures: {answer!r}") from error
    if not failed <= known:
        raise ValueError(f"The answer names messages that were not sent: {failed - known!r}")
    return failed
