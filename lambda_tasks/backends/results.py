"""The TaskResult of an invocation, made of its record and those of its retries."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from ..core.lifecycle import Raised, Status
from ..errors import SingletonLockUnknown, TaskCancelled
from .compat import (
    AnyResult,
    AnyTask,
    InvalidTask,
    InvalidTaskBackend,
    TaskError,
    TaskResult,
    TaskResultStatus,
)

if TYPE_CHECKING:
    from ..records.tables import TaskRecord

RESULT_STATUSES: Final[Mapping[Status, TaskResultStatus]] = {
    Status.WAITING: TaskResultStatus.READY,
    Status.QUEUED: TaskResultStatus.READY,
    Status.RETRYING: TaskResultStatus.READY,
    Status.RUNNING: TaskResultStatus.RUNNING,
    Status.SUCCESS: TaskResultStatus.SUCCESSFUL,
    Status.FAILED: TaskResultStatus.FAILED,
    Status.CANCELLED: TaskResultStatus.FAILED,
}
"""The TaskResult's status, by the status of the last record.

A task that is to be retried is READY again, under the id of the first invocation.
"""

CANCELLED_ERROR: Final = Raised.from_error(TaskCancelled(), "It was cancelled.")
"""The error of a cancelled task, whose record has none."""

LOCK_WAIT_ERRORS: Final = frozenset(
    {
        "lambda_tasks.execution.lock_error.SingletonLockError",
        f"{SingletonLockUnknown.__module__}.{SingletonLockUnknown.__qualname__}",
    }
)
"""The errors of a singleton that waited for its lock, in records of earlier releases.

These recorded each wait as a RETRYING run. The first class is named, as its module loads redis.
"""


def record_statuses(status: TaskResultStatus) -> list[Status]:
    """Return the statuses of TaskRecord that a status of TaskResult stands for."""
    return [each for each, meant in RESULT_STATUSES.items() if meant == status]


def result_of(task: AnyTask, chain: "Sequence[TaskRecord]") -> AnyResult:
    """Return the result of a task from its records: the first invocation, then its retries."""
    first, last = chain[0], chain[-1]
    attempts = [record for record in chain if not _has_only_waited(record)]
    started = [record.start_time for record in attempts if record.start_time is not None]
    result: AnyResult = TaskResult(
        task=_as_enqueued(task, first),
        id=str(first.root_id),
        status=RESULT_STATUSES[Status(last.status)],
        enqueued_at=first.enqueued_at,
        started_at=started[0] if started else None,
        last_attempted_at=started[-1] if started else None,
        finished_at=last.end_time if Status(last.status) is not Status.RETRYING else None,
        args=first.args or [],
        kwargs=first.kwargs,
        backend=str(first.backend),
        errors=[error for record in attempts if (error := _task_error_of(record)) is not None],
        worker_ids=[id for each in attempts for id in (each.worker_ids or "").splitlines()],
    )
    object.__setattr__(result, "_return_value", last.result)
    return result


def as_task_error(raised: Raised) -> TaskError:
    """Return an error of a run as a TaskError."""
    return TaskError(exception_class_path=raised.exception_class, traceback=raised.traceback)


def _has_only_waited(record: "TaskRecord") -> bool:
    """Return whether this was a singleton that waited for its lock, which is no attempt."""
    return record.status == Status.RETRYING and record.exception_class in LOCK_WAIT_ERRORS


def _task_error_of(record: "TaskRecord") -> TaskError | None:
    if record.exception_class is not None:
        return as_task_error(Raised(record.exception_class, record.traceback or ""))
    return as_task_error(CANCELLED_ERROR) if record.status == Status.CANCELLED else None


def _as_enqueued(task: AnyTask, record: "TaskRecord") -> AnyTask:
    try:
        return task.using(
            priority=record.priority,
            queue_name=record.queue,
            run_after=record.run_after,
            backend=record.backend,
        )
    except (InvalidTask, InvalidTaskBackend):
        return task  # The queue or backend of the call may have been renamed since.
