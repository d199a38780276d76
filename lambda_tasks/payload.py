"""A stored call: what `serialize()` gives, and how to enqueue it later."""

import uuid
from typing import Any, Self
from uuid import UUID

import pydantic
from django.db import DEFAULT_DB_ALIAS

from . import registry, runtime
from .core.message import Outgoing
from .enqueue.prepare import check_priority, prepare


class SQSLambdaTaskMessage(pydantic.BaseModel):
    """What is to run. Keys of other releases are ignored."""

    model_config = pydantic.ConfigDict(extra="ignore")

    task_name: str
    kwargs: dict[str, Any] = pydantic.Field(repr=False)
    n_retries: int = pydantic.Field(default=0, ge=0)
    invocation_id: UUID = pydantic.Field(default_factory=uuid.uuid4)


class SQSLambdaTask(pydantic.BaseModel):
    """A payload of `task.serialize()`, enqueued with the same call forms as the task itself.

    The same payload enqueued twice runs once: its invocation id says that it is the same.
    """

    model_config = pydantic.ConfigDict(extra="ignore")

    message: SQSLambdaTaskMessage
    delay: int = pydantic.Field(default=0, ge=0, le=900)
    queue: str = "default"
    run_after: pydantic.AwareDatetime | None = None
    group_key: str | None = None
    priority: int | None = None

    def execute_on_commit(self) -> None:
        """Enqueue it when the current transaction commits, at once outside of one."""
        runtime.current().enqueuer.enqueue([self.outgoing()], using=DEFAULT_DB_ALIAS)

    async def aexecute_on_commit(self) -> None:
        """See execute_on_commit()."""
        await runtime.current().enqueuer.aenqueue([self.outgoing()], using=DEFAULT_DB_ALIAS)

    @classmethod
    def of(cls, outgoing: Outgoing) -> Self:
        """The payload of a message that is ready to leave."""
        message = outgoing.message
        return cls(
            message=SQSLambdaTaskMessage(
                task_name=message.task_name,
                kwargs=message.kwargs,
                n_retries=message.n_retries,
                invocation_id=message.invocation_id,
            ),
            delay=outgoing.delay_s,
            queue=outgoing.queue,
            run_after=message.run_after,
            group_key=message.group_key,
            priority=message.priority or None,
        )

    def outgoing(self) -> Outgoing:
        """The message, ready to leave. Raises what a call of the task raises."""
        task = registry.find_task(self.message.task_name)
        return prepare(
            self.message.task_name,
            self.message.kwargs,
            queue=self.queue,
            durable=None if task is None else task.options.durable,
            invocation_id=self.message.invocation_id,
            n_retries=self.message.n_retries,
            delay_s=self.delay,
            run_after=self.run_after,
            group_key=self.group_key,
            priority=0 if self.priority is None else check_priority(self.priority),
            secret=registry.secret_names(self.message.task_name),
        )
