"""The event with which Lambda gives messages to its function."""

import json
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from .. import conf
from ..core.message import Outgoing
from ..core.signature import sign
from ..payload import SQSLambdaTask

QUEUE: Final = "test"
"""The queue that the events come from; a message names its task's own queue itself."""


@dataclass(frozen=True, slots=True)
class CapturedTask:
    """One call of a task, as it would have left. Arguments are JSON values.

    `delay` is in seconds, `run_after` an aware datetime or None.
    """

    outgoing: Outgoing

    def __repr__(self) -> str:
        arguments = [repr(each) for each in self.args]
        arguments += [f"{name}={value!r}" for name, value in self.kwargs.items()]
        return f"<CapturedTask {self.task_name}({', '.join(arguments)})>"

    @property
    def id(self) -> uuid.UUID:
        """The invocation's id: the id of a django.tasks result, as a UUID."""
        return self.outgoing.message.invocation_id

    @property
    def task_name(self) -> str:
        """The task's dotted name."""
        return self.outgoing.message.task_name

    @property
    def args(self) -> list[Any]:
        """Positional arguments, which only tasks of django.tasks have."""
        return self.outgoing.message.args

    @property
    def kwargs(self) -> dict[str, Any]:
        """Keyword arguments."""
        return self.outgoing.message.kwargs

    @property
    def queue(self) -> str:
        """The queue's name in LAMBDA_TASKS_QUEUES."""
        return self.outgoing.queue

    @property
    def delay(self) -> int:
        """Seconds before the message becomes visible."""
        return self.outgoing.delay_s

    @property
    def run_after(self) -> datetime | None:
        """When it is to run at the earliest."""
        return self.outgoing.message.run_after

    @property
    def body(self) -> str:
        """The body of its SQS message."""
        return self.outgoing.body


def lambda_event(calls: Iterable[CapturedTask | Mapping[str, Any] | str]) -> dict[str, Any]:
    """What Lambda gives to the handler for these messages.

    Each is a CapturedTask, what `task.serialize(...)` gives, or a body. Bodies are signed where
    LAMBDA_TASKS_SIGNING_KEYS is set.
    """
    return {"Records": [_record(_body(call)) for call in calls]}


def _body(call: CapturedTask | Mapping[str, Any] | str) -> str:
    if isinstance(call, str):
        return call
    if isinstance(call, CapturedTask):
        return call.body
    payload = SQSLambdaTask.model_validate(call)
    return json.dumps(payload.message.model_dump(mode="json"), separators=(",", ":"))


def _record(body: str) -> dict[str, Any]:
    key = conf.current().signing_key
    sent_at = datetime.now(UTC)
    return {
        "messageId": str(uuid.uuid4()),
        "receiptHandle": "test",
        "body": body if key is None else sign(body, key=key, queue=QUEUE),
        "attributes": {
            "ApproximateReceiveCount": "1",
            "SentTimestamp": str(round(sent_at.timestamp() * 1000)),
        },
        "messageAttributes": {},
        "eventSource": "aws:sqs",
        "eventSourceARN": f"arn:aws:sqs:us-east-1:000000000000:{QUEUE}",
        "awsRegion": "us-east-1",
    }
