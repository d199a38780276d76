"""The events that hooks are called with."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from ..context import TaskContext


@dataclass(frozen=True, slots=True, kw_only=True)
class _OfInvocation:
    """An event of one invocation."""

    task_name: str
    """The dotted name of the task."""
    invocation_id: UUID
    queue: str
    """The name of the queue in LAMBDA_TASKS_QUEUES."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Enqueued(_OfInvocation):
    """A call is enqueued. See hooks.enqueued."""

    headers: dict[str, Any]
    """The headers of the call. What a hook adds here travels with the call."""
    parent: TaskContext | None
    """The run that makes the call; None outside of a run."""
    n_together: int = 1
    """The number of calls that are made together, as the steps of a workflow are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent(_OfInvocation):
    """A queue has accepted a message. See hooks.sent."""

    headers: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Started(_OfInvocation):
    """An attempt starts. See hooks.started."""

    headers: Mapping[str, Any]
    root_id: UUID
    """The id of the first invocation of a chain of retries and continued runs."""
    attempt: int
    """The number of this execution of the invocation, from 1."""
    n_retries: int
    """The number of retries before this invocation, from 0."""
    metadata: Mapping[str, Any]
    """JSON values that describe the host process of the run."""
    started_at: datetime | None = None
    """The start of the attempt by the database's clock; None if it is unknown."""
    enqueued_at: datetime | None = None
    """The time of the call, or of the retry; None if it is unknown."""
    workflow_id: UUID | None = None
    """The id of the workflow whose step it is; None for other calls."""
    step: int | None = None
    """The number of the step in its workflow, from 0; None for other calls."""


Ending = Literal["succeeded", "failed", "retried", "continued", "lost"]
"""The end of an attempt; "lost" if the invocation runs again, here or elsewhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended(Started):
    """An attempt has ended. See hooks.ended."""

    outcome: Ending
    error: BaseException | None
    """The exception that ended it, also if the task ignores it; None for none.

    A task with secret arguments has TaskFailed here, with the redacted traceback as its text.
    """
    traceback: str | None
    """The redacted traceback, as the record has it; None without an error."""
    ran_s: float | None
    """The seconds since the attempt started; None if this process does not know them."""
    next_id: UUID | None
    """The id of the retry or of the run that continues; None for none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenBack:
    """A delivery returns to its queue. See hooks.given_back."""

    delivery_id: str
    """The queue's own id of the delivery."""
    source: str
    """The ARN of the queue where that is known, else its name in AWS."""
    reason: str
    """A short text, such as "held" or "interrupted by shutdown"."""
    retry_after_s: float | None
    """The seconds until the delivery is visible again; None where the queue decides."""
    task_name: str | None
    """The dotted name of the task; None where the message could not be read."""
    invocation_id: UUID | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedUnbegun(_OfInvocation):
    """An invocation is FAILED without a run. See hooks.failed_unbegun."""

    reason: str
    """The text that the record has as its traceback."""
    headers: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancelled(_OfInvocation):
    """An invocation was cancelled, or had not begun in time. See hooks.cancelled."""

    headers: Mapping[str, Any]
    reason: str | None = None
    """The text that the record has as its traceback; None where somebody cancelled it."""


@dataclass(frozen=True, slots=True)
class Relayed:
    """A round of the relay has ended. See hooks.relayed."""

    n_due: int
    """The number of stored messages that were due."""
    n_sent: int
    """The number of these that queues accepted."""


@dataclass(frozen=True, slots=True)
class Ticked:
    """A round of schedules and relay has ended. See hooks.ticked."""

    n_relayed: int
    """The number of stored messages that were sent."""
    n_scheduled: int = 0
    """The number of runs of schedules that were enqueued."""
    lag_s: float = 0.0
    """The seconds by which the most overdue of these was enqueued too late."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRun(_OfInvocation):
    """An attempt that a batch has started."""

    attempt: int
    """The number of this execution of the invocation, from 1."""
    outcome: Ending
    waited_s: float | None
    """The seconds from when the call was due to the start; None if they are unknown."""
    ran_s: float | None
    """The seconds that the task ran; None if it did not end by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchEnded:
    """A batch of deliveries is settled. See hooks.batch_ended."""

    runs: tuple[BatchRun, ...]
    """The attempts that it has started, in the order of their starts."""
    n_given_back: Mapping[str, int]
    """The number of deliveries that returned to their queue, by its name in LAMBDA_TASKS_QUEUES.

    That of messages that could not be read is under the empty name.
    """
