"""AWS Batch: each message becomes a job, whose container runs `python -m lambda_tasks.handler`.

Who enqueues need not be allowed to submit jobs: the message then takes the way of the default
queue, whose consumer submits it (the built-in task `submit_batch_job`). So does one with a delay,
which Batch does not have.
"""

import json
import re
import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from ...core.batching import BatchLimits
from ...core.message import Message, Outgoing
from ...core.signature import sign
from ...ports import SendFailure, Transport
from .aws import AwsClient, RequestFailed

MESSAGE_VARIABLE: Final = "LAMBDA_TASKS_MESSAGE"

SUBMITTING_TASK: Final = "lambda_tasks.tasks.submit_batch_job"

MAX_OVERRIDES: Final = 8192
"""Characters of a job's container overrides with their JSON (SubmitJob, AWS Batch API)."""

MAX_JOB_NAME: Final = 128


class JobQueue:
    """A job queue of AWS Batch and the definition of its jobs; signed where there is a key."""

    def __init__(
        self, queue_arn: str, definition_arn: str, client: AwsClient, signing_key: str | None
    ) -> None:
        self._queue_arn = queue_arn
        self._definition_arn = definition_arn
        self._client = client
        self._signing_key = signing_key

    async def submit(self, body: str) -> str:
        """Submit a job for a message's body; return the job's id. Raises RequestFailed."""
        task_name = json.loads(body)["task_name"]
        if self._signing_key is not None:
            # The job knows its queue by this name, from AWS_BATCH_JQ_NAME.
            name = self._queue_arn.rpartition("/")[2]
            body = sign(body, key=self._signing_key, queue=name)
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

    limits: Final = BatchLimits(max_entries=1, max_bytes=2**30)

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
        """Those of the default queue; a wrapped message is far smaller than it takes."""
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
        return Outgoing(message, message.encode(), "default", outgoing.delay_s)


def as_overrides(body: str, *, is_signed: bool) -> str:
    """What MAX_OVERRIDES limits, where a job has this body."""
    if is_signed:
        body = sign(body, key="", queue="")  # as long as any other signature
    return json.dumps(_overrides(body))


def _overrides(body: str) -> dict[str, Any]:
    return {"environment": [{"name": MESSAGE_VARIABLE, "value": body}]}
