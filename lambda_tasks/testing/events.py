"""The events that Lambda makes of messages, and the captured calls that they carry."""

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from .. import conf, runtime
from ..core.message import Outgoing
from ..payload import SQSLambdaTask
from ..queues.sqs import SQSQueue


@dataclass(frozen=True, slots=True)
class CapturedTask:
    """One captured call of a task. Its arguments are JSON values."""

    outgoing: Outgoing
    """The message that would have been sent."""

    def __repr__(self) -> str:
        arguments = [repr(each) for each in self.args]
        shown = self.outgoing.message.redacted_kwargs
        arguments += [f"{name}={value!r}" for name, value in shown.items()]
        return f"<CapturedTask {self.task_name}({', '.join(arguments)})>"

    @property
    def id(self) -> uuid.UUID:
        """The invocation's id; for a call by django.tasks, its result's id as a UUID."""
        return self.outgoing.message.invocation_id

    @property
    def task_name(self) -> str:
        """The task's dotted name."""
        return self.outgoing.message.task_name

    @property
    def args(self) -> list[Any]:
        """The positional arguments, which only tasks of django.tasks have."""
        return list(self.outgoing.message.args)

    @property
    def kwargs(self) -> dict[str, Any]:
        """The keyword arguments, including secret ones."""
        return self.outgoing.message.kwargs

    @property
    def queue(self) -> str:
        """The queue's name in LAMBDA_TASKS_QUEUES."""
        return self.outgoing.queue

    @property
    def delay(self) -> int:
        """Seconds before the message becomes visible, 0 to 900."""
        return self.outgoing.delay_s

    @property
    def run_after(self) -> datetime | None:
        """The earliest time of the run, as an aware datetime; None where the call gave none."""
        return self.outgoing.message.run_after

    @property
    def expires_at(self) -> datetime | None:
        """The time by which the task must have begun; None for none."""
        return self.outgoing.message.expires_at

    @property
    def body(self) -> str:
        """The body of its SQS message."""
        return self.outgoing.body


def lambda_event(calls: Iterable[CapturedTask | Mapping[str, Any] | str]) -> dict[str, Any]:
    """Return the event that Lambda would give the handler for these calls.

    Each is a CapturedTask, a payload of `task.serialize(...)`, or an SQS body. This stores the
    records of durable calls, and signs bodies where LAMBDA_TASKS_SIGNING_KEYS is set.
    """
    return event_of([_store_and_encode(call) for call in calls])


def event_of(bodies: Iterable[str]) -> dict[str, Any]:
    """Return the event of messages whose records are stored already."""
    return {"Records": [_make_record(each) for each in bodies]}


def _store_and_encode(call: CapturedTask | Mapping[str, Any] | str) -> str:
    """Return the body of a call, and store its record if it is durable."""
    if isinstance(call, str):
        return call
    if isinstance(call, CapturedTask):
        outgoing = call.outgoing
    else:
        outgoing = SQSLambdaTask.model_validate(call).outgoing()
    if outgoing.message.durable:
        runtime.current().outbox.insert_queued([outgoing])
    return outgoing.body


def _source_queue() -> tuple[str, str]:
    """Return the source of messages to a queue of the settings, and the audience of signatures.

    The source is the ARN of an SQS queue, if there is one.
    """
    queues = conf.current().queues
    in_sqs = (each for each in queues.values() if isinstance(each, SQSQueue))
    queue = next(in_sqs, queues["default"])
    return queue.source, queue.audience


def _make_record(body: str) -> dict[str, Any]:
    arn, audience = _source_queue()
    signer = conf.current().signer(audience)
    sent_at = datetime.now(UTC)
    return {
        "messageId": str(uuid.uuid4()),
        # Without a handle, nobody asks AWS for another visibility timeout.
        "receiptHandle": "",
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
