"""The event with which Lambda gives messages to its function."""

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from .. import conf, runtime
from ..core.message import Outgoing
from ..payload import SQSLambdaTask
from ..queues.sqs import SQSQueue

NO_QUEUE: Final = "test"
"""Where events come from in a project that has no queue in AWS."""


@dataclass(frozen=True, slots=True)
class CapturedTask:
    """One call of a task, as it would have left. Arguments are JSON values.

    `delay` is in seconds, `run_after` an aware datetime or None.
    """

    outgoing: Outgoing

    def __repr__(self) -> str:
        arguments = [repr(each) for each in self.args]
        shown = self.outgoing.message.redacted_kwargs
        arguments += [f"{name}={value!r}" for name, value in shown.items()]
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

    Each is a CapturedTask, what `task.serialize(...)` gives, or a body. This stores the records of
    durable calls, and signs bodies where LAMBDA_TASKS_SIGNING_KEYS is set.
    """
    return event_of([_stored(call) for call in calls])


def event_of(bodies: Iterable[str]) -> dict[str, Any]:
    """The event of messages whose records are stored where they need one."""
    return {"Records": [_record(each) for each in bodies]}


def _stored(call: CapturedTask | Mapping[str, Any] | str) -> str:
    """The body of a call, whose record is stored if it has one."""
    if isinstance(call, str):
        return call
    if isinstance(call, CapturedTask):
        outgoing = call.outgoing
    else:
        outgoing = SQSLambdaTask.model_validate(call).outgoing()
    if outgoing.message.durable:
        runtime.current().outbox.insert_queued([outgoing])
    return outgoing.body


def _source() -> tuple[str, str]:
    """The ARN of a queue of the settings, and what is signed for it."""
    for queue in conf.current().queues.values():
        if isinstance(queue, SQSQueue):
            return queue.arn, queue.audience
    return f"arn:aws:sqs:us-east-1:000000000000:{NO_QUEUE}", NO_QUEUE


def _record(body: str) -> dict[str, Any]:
    arn, audience = _source()
    signer = conf.current().signer(audience)
    sent_at = datetime.now(UTC)
    return {
        "messageId": str(uuid.uuid4()),
        "receiptHandle": "",  # so that nobody asks AWS for another visibility timeout
        "body": body if signer is None else signer.sign(body, now=sent_at.timestamp()),
        "attributes": {
            "ApproximateReceiveCount": "1",
            "SentTimestamp": str(round(sent_at.timestamp() * 1000)),
        },
        "messageAttributes": {},
        "eventSource": "aws:sqs",
        "eventSourceARN": arn,
        "awsRegion": "us-east-1",
    }
