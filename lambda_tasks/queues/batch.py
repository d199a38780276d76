"""AWS Batch queues: each message becomes a job that runs `python -m lambda_tasks.handler`.

The enqueuing process needn't be allowed to submit jobs. Unless the queue has `"direct": True`,
messages go through the default queue, whose consumer submits the jobs (the built-in task
`submit_batch_job`). So do messages with a delay, because Batch has no delays.
"""

import json
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Self

from django.core.exceptions import ImproperlyConfigured

from ..core.batching import BatchLimits
from ..core.lifecycle import SQS_TERMS, TABLE_TERMS, LookTerms
from ..core.message import Message, Outgoing, check_size, invocation_id_of
from ..core.signature import Signer
from ..errors import Retry
from ..ports import Delivery, SendFailure, Task, Transport
from .aws.client import AwsClient
from .aws.errors import RequestFailed
from .base import Queue, Wiring, setting_error

MESSAGE_VARIABLE: Final = "LAMBDA_TASKS_MESSAGE"

SUBMITTING_TASK: Final = "lambda_tasks.tasks.submit_batch_job"

MAX_OVERRIDES: Final = 8192
"""The most characters of a job's container overrides as JSON (SubmitJob, AWS Batch API)."""

MAX_JOB_NAME: Final = 128

RESUBMIT_DELAY_S: Final = 10
"""Seconds before a job is submitted again that AWS Batch refused and may accept later."""


@dataclass(frozen=True, slots=True)
class BatchQueue(Queue):
    """A job queue and a job definition of AWS Batch: each message becomes a job."""

    job_queue_arn: str
    job_definition_arn: str
    direct: bool = False
    """Whether the enqueuing process submits the jobs, and not the consumer of the default queue."""

    carried_by: ClassVar[str | None] = "default"

    has_workers: ClassVar[bool] = False

    @property
    def look_terms(self) -> LookTerms:
        """See Queue."""
        return SQS_TERMS

    @classmethod
    def parse(cls, setting: str, name: str, value: object) -> Self | None:
        """See Queue."""
        match value:
            case {"job_queue_arn": str(arn), "job_definition_arn": str(definition), **rest}:
                pass
            case _:
                return None
        if name == "default":
            fix = (
                "The default queue must be an SQS or database queue, because messages for AWS "
                "Batch go through it."
            )
            raise setting_error(setting, arn, fix)
        direct = rest.pop("direct", False)
        if rest or not isinstance(direct, bool):
            raise setting_error(
                setting, rest, 'Besides the two ARNs, only "direct": True is allowed.'
            )
        return cls(name, arn, definition, direct)

    def make_transport(self, wiring: Wiring) -> Transport:
        """See Queue."""
        default = wiring.transport("default")
        store = wiring.store if wiring.is_table("default") else None
        via_default = ViaDefaultQueue(default, store)
        return DirectBatchTransport(self.jobs(wiring), via_default) if self.direct else via_default

    def check_message(self, message: Message, body: str, *, is_signed: bool) -> None:
        """See Queue."""
        if message.secret_kwargs:
            raise ImproperlyConfigured(
                f"{message.task_name} has secret arguments, but the queue {self.name!r} is an AWS "
                "Batch queue, which shows a job's message to everyone who may describe the job. "
                "Pass a reference instead."
            )
        overrides = _overrides_as_json(body, is_signed=is_signed)
        check_size(overrides, task_name=message.task_name, limit_bytes=MAX_OVERRIDES)

    def problems(self, task: Task, *, hard_timeout_s: float) -> Iterator[str]:
        """See Queue."""
        yield from Queue.problems(self, task, hard_timeout_s=hard_timeout_s)
        if task.secret_names:
            yield (
                f"it has secret arguments ({', '.join(sorted(task.secret_names))}), but the queue "
                f"{self.name!r} is an AWS Batch queue, which shows them. Pass a reference instead."
            )

    def jobs(self, wiring: Wiring) -> "JobQueue":
        """Return the AWS job queue, which submits jobs."""
        here = {"region_name": self.region} if self.region else {}
        options = here | dict(wiring.aws_options)
        client = wiring.client("batch", options)
        signer = wiring.signer(self.audience)
        return JobQueue(self.job_queue_arn, self.job_definition_arn, client, signer)

    @property
    def arns(self) -> tuple[str, ...]:
        """What may be submitted: the ARNs of the job queue and of the job definition."""
        if ":" in self.job_definition_arn.rpartition("/")[2]:
            return self.job_queue_arn, self.job_definition_arn
        # Without a revision it is the latest: AWS asks for the permission of that one.
        return self.job_queue_arn, self.job_definition_arn, f"{self.job_definition_arn}:*"

    @property
    def region(self) -> str:
        """The region of the job queue; "" where its ARN has none."""
        segments = self.job_queue_arn.split(":")
        return segments[3] if len(segments) > 5 else ""

    @property
    def audience(self) -> str:
        """See Queue."""
        return self.job_queue_arn

    @property
    def source(self) -> str:
        """See Queue. A job knows only the name of its job queue."""
        return _source_of_job_queue(self.job_queue_arn.rpartition("/")[2])

    @property
    def is_in_aws(self) -> bool:
        """See Queue."""
        return True


async def submit_job(queue: Queue, wiring: Wiring, body: str) -> str:
    """Submit a job for a message of an AWS Batch queue; return the job's id.

    Raises ImproperlyConfigured for another kind of queue, Retry where AWS may accept the job
    later, and RequestFailed where it won't.
    """
    if not isinstance(queue, BatchQueue):
        raise ImproperlyConfigured(f"The queue {queue.name!r} is not an AWS Batch queue.")
    try:
        return await queue.jobs(wiring).submit(body)
    except RequestFailed as error:
        if error.failure.retryable:
            raise Retry(str(error), delay=RESUBMIT_DELAY_S) from error
        raise


class JobQueue:
    """A job queue of AWS Batch and its job definition. A signer, if given, signs each message."""

    def __init__(
        self, queue_arn: str, definition_arn: str, client: AwsClient, signer: Signer | None
    ) -> None:
        self._queue_arn = queue_arn
        self._definition_arn = definition_arn
        self._client = client
        self._signer = signer

    async def submit(self, body: str) -> str:
        """Submit a job for a message's body; return the job's id.

        Raises RequestFailed where AWS refuses the job, or can't be reached.
        """
        task_name = json.loads(body)["task_name"]
        if self._signer is not None:
            body = self._signer.sign(body, now=time.time())
        answer = await self._client.call(
            "submit_job",
            jobName=re.sub(r"[^A-Za-z0-9_-]", "_", task_name).lstrip("_-")[:MAX_JOB_NAME] or "task",
            jobQueue=self._queue_arn,
            jobDefinition=self._definition_arn,
            containerOverrides=_container_overrides(body),
        )
        job_id: str = answer["jobId"]
        return job_id


class DirectBatchTransport:
    """A transport that submits jobs itself, and sends delayed messages by `delayed_transport`."""

    limits = BatchLimits(max_entries=1, max_bytes=2**30)

    def __init__(self, jobs: JobQueue, delayed_transport: Transport) -> None:
        self._jobs = jobs
        self._delayed_transport = delayed_transport

    async def send(self, batch: Sequence[Outgoing]) -> Sequence[SendFailure | None]:
        """See ports.Transport. Sends one request for each message."""
        return [await self._send_one(outgoing) for outgoing in batch]

    async def _send_one(self, outgoing: Outgoing) -> SendFailure | None:
        if outgoing.delay_s:
            return (await self._delayed_transport.send([outgoing]))[0]
        try:
            await self._jobs.submit(outgoing.body)
        except RequestFailed as error:
            return error.failure
        return None


class ViaDefaultQueue:
    """A transport that sends messages, wrapped, to the default queue, whose consumer submits them.

    `store` writes the records of the wrapped messages first, where the default queue is the table.
    """

    def __init__(
        self,
        default: Transport,
        store: Callable[[Sequence[Outgoing]], Awaitable[None]] | None,
    ) -> None:
        self._default = default
        self._store = store

    @property
    def limits(self) -> BatchLimits:
        """The default queue's limits, far above the size of a wrapped message."""
        return self._default.limits

    async def send(self, batch: Sequence[Outgoing]) -> Sequence[SendFailure | None]:
        """See ports.Transport. Sends one request to the default queue."""
        wrapped = [self._wrap(outgoing) for outgoing in batch]
        if self._store is not None:
            await self._store(wrapped)
        return await self._default.send(wrapped)

    def _wrap(self, outgoing: Outgoing) -> Outgoing:
        """Wrap a message under a new id each time, so that the relay can send it again."""
        message = Message(
            task_name=SUBMITTING_TASK,
            kwargs={"message_json": outgoing.body, "batch_queue": outgoing.queue},
            invocation_id=uuid.uuid4(),
            durable=self._store is not None,
            run_after=outgoing.message.run_after,
            group_key=outgoing.message.group_key,
        )
        return Outgoing(
            message,
            message.encode(),
            "default",
            outgoing.delay_s,
            look=SQS_TERMS if self._store is None else TABLE_TERMS,
            is_follow_up=outgoing.is_follow_up,
        )


def _overrides_as_json(body: str, *, is_signed: bool) -> str:
    """Return a job's container overrides as JSON, whose length MAX_OVERRIDES limits."""
    if is_signed:
        body = Signer("", "").sign(body, now=time.time())  # as long as any other signature
    return json.dumps(_container_overrides(body))


def _container_overrides(body: str) -> dict[str, Any]:
    return {"environment": [{"name": MESSAGE_VARIABLE, "value": body}]}


def job_delivery(body: str, *, job_id: str | None, job_queue: str) -> Delivery:
    """Return the delivery of the message that a job was started with.

    `job_queue` is the name of the job queue.
    """
    id = job_id or str(uuid.uuid4())
    # The job definition decides about retries of the job; the default is none.
    return Delivery(
        id=id,
        body=body,
        source=_source_of_job_queue(job_queue),
        fallback_id=invocation_id_of(id),
        is_redelivered=False,
    )


def _source_of_job_queue(name: str) -> str:
    """Return the source name of a job queue, which no SQS queue can have."""
    return f"job-queue/{name}"
