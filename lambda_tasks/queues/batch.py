"""AWS Batch: each message becomes a job, whose container runs `python -m lambda_tasks.handler`.

Who enqueues need not be allowed to submit jobs: the message then takes the way of the default
queue, whose consumer submits it (the built-in task `submit_batch_job`). So does one with a delay,
which Batch does not have.
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
from ..core.lifecycle import SQS_TERMS, TABLE_TERMS
from ..core.message import Message, Outgoing, check_size, invocation_id_of
from ..core.signature import Signer
from ..errors import Retry
from ..ports import Delivery, SendFailure, Source, Task, Transport
from .aws.client import AwsClient, RequestFailed
from .base import Queue, Wiring, mistake

MESSAGE_VARIABLE: Final = "LAMBDA_TASKS_MESSAGE"

SUBMITTING_TASK: Final = "lambda_tasks.tasks.submit_batch_job"

MAX_OVERRIDES: Final = 8192
"""Characters of a job's container overrides with their JSON (SubmitJob, AWS Batch API)."""

MAX_JOB_NAME: Final = 128

SUBMIT_AGAIN_S: Final = 10
"""After AWS Batch has not taken a job, and may yet."""


@dataclass(frozen=True, slots=True)
class BatchQueue(Queue):
    """Two ARNs: each task is a job of its own."""

    job_queue_arn: str
    job_definition_arn: str
    direct: bool = False
    """Who enqueues submits the jobs, and not the consumer of the default queue."""

    passes: ClassVar[str | None] = "default"

    has_workers: ClassVar[bool] = False

    @classmethod
    def parse(cls, setting: str, name: str, value: object) -> Self | None:
        """See Queue."""
        match value:
            case {"job_queue_arn": str(arn), "job_definition_arn": str(definition), **rest}:
                pass
            case _:
                return None
        if name == "default":
            fix = "The default queue is SQS's or a database queue: jobs pass it."
            raise mistake(setting, arn, fix)
        direct = rest.pop("direct", False)
        if rest or not isinstance(direct, bool):
            raise mistake(setting, rest, 'Besides the two ARNs there is "direct": True.')
        return cls(name, arn, definition, direct)

    def make_transport(self, wiring: Wiring) -> Transport:
        """See Queue."""
        default = wiring.transport("default")
        store = wiring.store if wiring.is_table("default") else None
        via_default = ViaDefaultQueue(default, store)
        return DirectBatchTransport(self.jobs(wiring), via_default) if self.direct else via_default

    @classmethod
    def make_sources(cls, queues: Sequence[Queue], wiring: Wiring, *, once: bool) -> list[Source]:
        """See Queue."""
        raise ImproperlyConfigured(
            f"The queue {queues[0].name!r} is AWS Batch's, whose jobs no worker consumes."
        )

    def check_message(self, message: Message, body: str, *, is_signed: bool) -> None:
        """See Queue."""
        if message.secret_kwargs:
            raise ImproperlyConfigured(
                f"{message.task_name} has secret arguments, and the queue {self.name!r} is AWS "
                "Batch's, which shows a job's message to whoever may describe it. Pass a reference "
                "instead."
            )
        overrides = _as_overrides(body, is_signed=is_signed)
        check_size(overrides, task_name=message.task_name, limit_bytes=MAX_OVERRIDES)

    def problems(self, task: Task, *, hard_timeout_s: float) -> Iterator[str]:
        """See Queue."""
        yield from Queue.problems(self, task, hard_timeout_s=hard_timeout_s)
        if task.secret_names:
            yield (
                f"it has secret arguments ({', '.join(sorted(task.secret_names))}), and the queue "
                f"{self.name!r} is AWS Batch's, which shows them. Pass a reference instead."
            )

    def jobs(self, wiring: Wiring) -> "JobQueue":
        """What submits its jobs."""
        segments = self.job_queue_arn.split(":")
        region = segments[3] if len(segments) > 5 else ""
        options = ({"region_name": region} if region else {}) | dict(wiring.aws_options)
        client = wiring.client("batch", options)
        signer = wiring.signer(self.audience)
        return JobQueue(self.job_queue_arn, self.job_definition_arn, client, signer)

    @property
    def audience(self) -> str:
        """See Queue."""
        return self.job_queue_arn

    def is_fed_by(self, source: str) -> bool:
        """See Queue. A job knows its queue by its name."""
        return _job_queue(self.job_queue_arn.rpartition("/")[2]) == source


async def submit_job(queue: Queue, wiring: Wiring, body: str) -> str:
    """Submit a job for a message of an AWS Batch queue; return the job's id.

    Raises ImproperlyConfigured for another kind of queue, Retry where AWS may yet take it.
    """
    if not isinstance(queue, BatchQueue):
        raise ImproperlyConfigured(f"The queue {queue.name!r} is not AWS Batch's.")
    try:
        return await queue.jobs(wiring).submit(body)
    except RequestFailed as error:
        if error.failure.retryable:
            raise Retry(str(error), delay=SUBMIT_AGAIN_S) from error
        raise


class JobQueue:
    """A job queue of AWS Batch and the definition of its jobs; signed where there is a key."""

    def __init__(
        self, queue_arn: str, definition_arn: str, client: AwsClient, signer: Signer | None
    ) -> None:
        self._queue_arn = queue_arn
        self._definition_arn = definition_arn
        self._client = client
        self._signer = signer

    async def submit(self, body: str) -> str:
        """Submit a job for a message's body; return the job's id. Raises RequestFailed."""
        task_name = json.loads(body)["task_name"]
        if self._signer is not None:
            body = self._signer.sign(body, now=time.time())
        answer = await self._client.call(
            "submit_job",
            jobName=re.sub(r"[^A-Za-z0-9_-]", "_", task_name).lstrip("_-")[:MAX_JOB_NAME] or "task",
            jobQueue=self._queue_arn,
            jobDefinition=self._definition_arn,
            containerOverrides=_overrides(body),
        )
        job_id: str = answer["jobId"]
        return job_id


class DirectBatchTransport:
    """Submits the jobs itself, those that are due."""

    limits = BatchLimits(max_entries=1, max_bytes=2**30)

    def __init__(self, jobs: JobQueue, if_delayed: Transport) -> None:
        self._jobs = jobs
        self._if_delayed = if_delayed

    async def send(self, batch: Sequence[Outgoing]) -> Sequence[SendFailure | None]:
        """One request for each."""
        return [await self._send_one(outgoing) for outgoing in batch]

    async def _send_one(self, outgoing: Outgoing) -> SendFailure | None:
        if outgoing.delay_s:
            return (await self._if_delayed.send([outgoing]))[0]
        try:
            await self._jobs.submit(outgoing.body)
        except RequestFailed as error:
            return error.failure
        return None


class ViaDefaultQueue:
    """Sends messages of a Batch queue, wrapped, to the queue whose consumer submits them.

    `store` keeps them first, where that queue is the table of the records.
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
        """The default queue's limits; a wrapped message is far smaller than they allow."""
        return self._default.limits

    async def send(self, batch: Sequence[Outgoing]) -> Sequence[SendFailure | None]:
        """One request of the default queue."""
        wrapped = [self._wrapped(outgoing) for outgoing in batch]
        if self._store is not None:
            await self._store(wrapped)
        return await self._default.send(wrapped)

    def _wrapped(self, outgoing: Outgoing) -> Outgoing:
        """Under an id of its own each time: the relay must be able to send once more."""
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


def _as_overrides(body: str, *, is_signed: bool) -> str:
    """What MAX_OVERRIDES limits, where a job has this body."""
    if is_signed:
        body = Signer("", "").sign(body, now=time.time())  # as long as any other signature
    return json.dumps(_overrides(body))


def _overrides(body: str) -> dict[str, Any]:
    return {"environment": [{"name": MESSAGE_VARIABLE, "value": body}]}


def job_delivery(body: str, *, job_id: str | None, job_queue: str) -> Delivery:
    """The message that a job was started with; `job_queue` is the job queue's name."""
    id = job_id or str(uuid.uuid4())
    # A job is tried again as its definition says; that may be never.
    return Delivery(
        id=id,
        body=body,
        source=_job_queue(job_queue),
        fallback_id=invocation_id_of(id),
        is_redelivered=False,
    )


def _job_queue(name: str) -> str:
    """A job queue as the source of deliveries: SQS may have a queue of the same name."""
    return f"job-queue/{name}"
