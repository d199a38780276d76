"""From the records of an invocation, and of the retries that followed it, to one TaskResult."""

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
    Status.QUEUED: TaskResultStatus.READY,
    Status.RETRYING: TaskResultStatus.READY,
    Status.RUNNING: TaskResultStatus.RUNNING,
    Status.SUCCESS: TaskResultStatus.SUCCESSFUL,
    Status.FAILED: TaskResultStatus.FAILED,
    Status.CANCELLED: TaskResultStatus.FAILED,
}
"""By the status of the last record: a retry is READY again, under the id of the first."""

CANCELLED: Final = Raised.from_error(TaskCancelled(), "It was cancelled.")

HAS_WAITED: Final = frozenset(
    {
        "lambda_tasks.execution.lock_error.SingletonLockError",
        f"{SingletonLockUnknown.__module__}.{SingletonLockUnknown.__qualname__}",
    }
)
"""What a singleton met that could not have its lock. Earlier releases let it end as RETRYING."""


def record_statuses(status: TaskResultStatus) -> list[Status]:
    """The statuses of TaskRecord that stand for one of TaskResult."""
    return [each for each, meant in RESULT_STATUSES.items() if meant == status]


def result_of(task: AnyTask, chain: "Sequence[TaskRecord]") -> AnyResult:
    """The result that these records tell, in their order, the first one first."""
    first, last = chain[0], chain[-1]
    attempts = [record for record in chain if not _has_only_waited(record)]
    started = [record.start_time for record in attempts if record.start_time is not None]
    result: AnyResult = TaskResult(
        task=_as_asked_for(task, first),
        id=str(first.root_id),
        status=RESULT_STATUSES[Status(last.status)],
        enqueued_at=first.enqueued_at,
        started_at=started[0] if started else None,
        last_attempted_at=started[-1] if started else None,
        finished_at=last.end_time if Status(last.status) is not Status.RETRYING else None,
        args=first.args or [],
        kwargs=first.kwargs,
        backend=str(first.backend),
        errors=[error for record in attempts if (error := _error(record)) is not None],
        worker_ids=[id for each in attempts for id in (each.worker_ids or "").splitlines()],
    )
    object.__setattr__(result, "_return_value", last.result)
    return result


def as_task_error(raised: Raised) -> TaskError:
    """In Django's words."""
    return TaskError(exception_class_path=raised.exception_class, traceback=raised.traceback)


def _has_only_waited(record: "TaskRecord") -> bool:
    """A singleton that did not get its lock has not begun."""
    return record.status == Status.RETRYING and record.exception_class in HAS_WAITED


def _error(record: "TaskRecord") -> TaskError | None:
    if record.exception_class is not None:
        return as_task_error(Raised(record.exception_class, record.traceback or ""))
    return as_task_error(CANCELLED) if record.status == Status.CANCELLED else None


def _as_asked_for(task: AnyTask, record: "TaskRecord") -> AnyTask:
    try:
        return task.using(
            priority=record.priority,
            queue_name=record.queue,
            run_after=record.run_after,
            backend=record.backend,
        )
    except (InvalidTask, InvalidTaskBackend):
        return task  # by now its queue has another name, say
