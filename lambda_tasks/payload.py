"""The payload of `serialize()`, which can be stored and enqueued later."""

import json
import uuid
from datetime import datetime, timedelta
from typing import Any, Self
from uuid import UUID

import pydantic
from django.db import DEFAULT_DB_ALIAS
from pydantic_core import to_jsonable_python

from . import registry, runtime
from .core.message import Outgoing, check_headers
from .core.parameter_types import SECRET_TYPES, UNSERIALIZABLE
from .core.unique import UniqueTerms
from .enqueue.prepare import check_priority, prepare
from .twins import sync_form


class SQSLambdaTaskMessage(pydantic.BaseModel):
    """The call in a payload. Unknown keys, from other releases, are ignored."""

    model_config = pydantic.ConfigDict(extra="ignore")

    task_name: str
    """The dotted name of the task."""
    kwargs: dict[str, Any] = pydantic.Field(repr=False)
    """The keyword arguments, as JSON values or as what pydantic makes JSON of."""
    n_retries: int = pydantic.Field(default=0, ge=0)
    """The number of retries before this run."""
    invocation_id: UUID = pydantic.Field(default_factory=uuid.uuid4)
    """The id of the invocation, the same each time that the payload is enqueued."""


class SQSLambdaTask(pydantic.BaseModel):
    """A payload of `task.serialize()`, with the same call forms as the task itself.

    A payload that is enqueued twice runs once, as both messages have the same invocation id.
    """

    model_config = pydantic.ConfigDict(extra="ignore")

    message: SQSLambdaTaskMessage
    delay: int = 0
    """Seconds before the task runs. Enqueueing checks them, as for a call."""
    queue: str = "default"
    """The name of the queue in LAMBDA_TASKS_QUEUES."""
    run_after: pydantic.AwareDatetime | None = None
    """The time before which the task does not run."""
    group_key: str | None = None
    """The MessageGroupId for SQS."""
    headers: dict[str, Any] | None = None
    """The headers of the call, as JSON values."""
    expires: float | pydantic.AwareDatetime | None = None
    """Seconds from when the call is due, or the time, by which the task must have begun."""
    unique: UniqueTerms | None = None
    """The terms on which the call is unique."""
    priority: int | None = None
    """The priority in database queues, from -100 to 100; None means 0."""

    @sync_form("payload.aexecute_on_commit()")
    def execute_on_commit(self) -> None:
        """Enqueue the call when the current transaction commits, or at once outside of one."""
        runtime.current().enqueuer.enqueue([self.outgoing()], using=DEFAULT_DB_ALIAS)

    async def aexecute_on_commit(self) -> None:
        """See execute_on_commit()."""
        await runtime.current().enqueuer.aenqueue([self.outgoing()], using=DEFAULT_DB_ALIAS)

    @classmethod
    def of(
        cls,
        outgoing: Outgoing,
        *,
        expires: float | timedelta | datetime | None = None,
        unique: UniqueTerms | None = None,
    ) -> Self:
        """Return the payload of an outgoing message."""
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
            headers=message.headers or None,
            expires=expires.total_seconds() if isinstance(expires, timedelta) else expires,
            unique=unique,
            priority=message.priority or None,
        )

    def outgoing(self) -> Outgoing:
        """Return the outgoing message of the call. Raises what a call of the task raises."""
        task = registry.find_task(self.message.task_name)
        kwargs = json.loads(json.dumps(self.message.kwargs, default=_to_json))
        return prepare(
            self.message.task_name,
            kwargs,
            queue=self.queue,
            durable=None if task is None else task.options.durable,
            invocation_id=self.message.invocation_id,
            n_retries=self.message.n_retries,
            delay_s=self.delay,
            run_after=self.run_after,
            group_key=self.group_key,
            headers=self.headers
            and check_headers(self.headers, what=f"the headers of {self.message.task_name}"),
            priority=0 if self.priority is None else check_priority(self.priority),
            secret=registry.secret_names(self.message.task_name),
            keeps_arguments=task is None or task.options.keep_arguments,
            expires=self.expires,
            unique=None if task is None else task.unique_call((), kwargs, self.unique),
            is_workflow=task is not None and task.options.workflow,
        )


def _to_json(value: Any) -> Any:
    if isinstance(value, SECRET_TYPES):
        raise TypeError(
            f"A payload has a {type(value).__name__}, which JSON would show as asterisks. Make the "
            "payload by the task's serialize(), or put the secret's value into it."
        )
    try:
        return to_jsonable_python(value)
    except UNSERIALIZABLE as error:
        raise TypeError(
            f"A payload has a {type(value).__name__}, which is not JSON: {error}"
        ) from error
