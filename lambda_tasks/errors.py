"""Every exception of the library.

Each message says what happened, to what, and what to do. None carries a secret's value. Two kinds
of errors have classes that Django developers know: Django's ImproperlyConfigured for settings, and
pydantic.ValidationError for invalid arguments.
"""

from collections.abc import Mapping
from uuid import UUID


class LambdaTasksError(Exception):
    """The root of the library's own errors."""


class NotMigrated(LambdaTasksError):
    """A table or column of the library is missing in the database."""

    def __init__(self, *, alias: str) -> None:
        option = "" if alias == "default" else f" --database {alias}"
        super().__init__(
            f"The database {alias!r} lacks a table or column of lambda_tasks. "
            f"Run `manage.py migrate{option}`."
        )


class EnqueueError(LambdaTasksError):
    """Some messages were not accepted by their queue.

    `failures` maps the invocation id of each rejected message of this caller to the queue's reason.
    All other messages of the call were accepted.
    """

    def __init__(self, failures: Mapping[UUID, str]) -> None:
        self.failures = dict(failures)
        reasons = "; ".join(f"{id}: {reason}" for id, reason in list(self.failures.items())[:10])
        more = f"; and {len(self.failures) - 10} more" if len(self.failures) > 10 else ""
        super().__init__(f"{len(self.failures)} message(s) were not accepted: {reasons}{more}")


class MessageTooLarge(LambdaTasksError, ValueError):
    """A message is larger than its queue takes, or arguments are larger than a record may keep.

    Store the data elsewhere and pass a reference (a key, a path) instead.
    """

    def __init__(
        self,
        *,
        task_name: str,
        size_bytes: int,
        limit_bytes: int,
        limited_by: str = "the queue takes",
    ) -> None:
        self.task_name = task_name
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes
        super().__init__(
            f"The message for {task_name} has {size_bytes} bytes and {limited_by} "
            f"{limit_bytes}. Store the data and pass its key instead."
        )


class UniqueConflict(LambdaTasksError):
    """Another call holds the unique key of this one, which says `on_conflict="raise"`.

    Nothing was enqueued, and the transaction can go on. `invocation_id` is that of the other call.
    """

    def __init__(self, *, task_name: str, invocation_id: UUID) -> None:
        self.task_name = task_name
        self.invocation_id = invocation_id
        super().__init__(
            f"The call of {task_name} was not enqueued: the invocation {invocation_id} holds its "
            "unique key. Wait for that one, or use on_conflict='return' to join it."
        )


class UniqueKeyBusy(LambdaTasksError):
    """It could not be found out in time whether another call holds the unique key of this one.

    Mostly, another transaction has made such a call and stays open. The transaction of this call
    can't be committed.
    """

    def __init__(self, *, task_name: str, reason: str) -> None:
        super().__init__(
            f"The call of {task_name} was not enqueued: {reason}. Roll back, and try again; keep "
            "the transactions short that enqueue."
        )


class MessageRefused(LambdaTasksError):
    """A delivered body can't be run.

    It is returned to its queue, which dead-letters it after maxReceiveCount deliveries.
    """


class NewerFormat(MessageRefused):
    """A body has a format version that only a newer release of the library can read.

    It is returned to its queue, with waits that grow.
    """


class Unrunnable(LambdaTasksError):
    """This release of the project can't run a message; an older or a newer one may.

    The message waits for LAMBDA_TASKS_DEPLOYMENT_GRACE seconds. Then its record is FAILED.
    """


class UnknownTask(Unrunnable):
    """A message names a task that this release does not have."""


class UnknownSchedule(LambdaTasksError):
    """A name is that of no schedule of this release."""


class InvalidFilter(LambdaTasksError, ValueError):
    """A filter, a window or a threshold of an operation makes no sense. Nothing was changed."""


class QueueUnavailable(LambdaTasksError):
    """A queue can't be looked at or changed: AWS refuses it, or can't be reached.

    The message has AWS's own words.
    """


class NothingToRun(InvalidFilter):
    """A call can't be run by its id: there is no record of it, it has ended, or it must wait."""


class ArgumentsMismatch(Unrunnable):
    """The arguments of a message do not fit the function, as this release declares it."""


class TaskFailed(LambdaTasksError):
    """A task ended without success. The message contains its traceback."""


class TaskCancelled(LambdaTasksError):
    """The error in the TaskResult of a cancelled task."""


class RunSkipped(TaskCancelled):
    """A schedule with `overlap="skip"` has skipped a run, as the one before it still ran."""


class TaskExpired(TaskCancelled):
    """The error in the record of a task that had not begun when its `expires` was over."""


class MaxRetriesExceededError(LambdaTasksError):
    """A task asked for more retries than its limit allows. Its record is FAILED."""

    def __init__(self, *, task_name: str, n_retries: int) -> None:
        super().__init__(
            f"{task_name} has no retry left: its limit is {n_retries}. Raise max_retries or "
            "LAMBDA_TASKS_MAX_RETRIES, or fix the failure."
        )


class MaxContinuesExceededError(LambdaTasksError):
    """A task raised Continue more often than its limit allows. Its record is FAILED."""

    def __init__(self, *, task_name: str, n_continues: int) -> None:
        super().__init__(
            f"{task_name} has continued {n_continues} times, which is its limit. Raise "
            "LAMBDA_TASKS_MAX_CONTINUES, or make the task end sooner."
        )


class WorkerProcessDied(LambdaTasksError):
    """The process that ran a task ended before the task did."""


class SecretUnavailable(LambdaTasksError):
    """A secret or parameter that the environment refers to could not be fetched from AWS."""


class LeaseLost(LambdaTasksError):
    """Another worker has taken the invocation over, or it was cancelled.

    The writes of this run are rolled back.
    """


class Retry(LambdaTasksError):
    """A request of a task to run again, as a new invocation. Raise it inside the task.

    `delay` is in seconds; a jitter of 1 to 5 s is added. Without it the task's retry_delay and
    retry_backoff decide. Raises ValueError where the delay is not a number from 0 to ten years.
    """

    def __init__(self, message: str = "", *, delay: float | None = None) -> None:
        self.delay = None if delay is None else _checked_delay(type(self), delay)
        super().__init__(message or "The task asked to be run again.")


class SingletonLockUnknown(Retry):
    """A singleton's lock could not be checked, so the run has not started and is retried."""


class Continue(LambdaTasksError):
    """A request of a task to continue in another run. Raise it inside the task.

    The run ends as SUCCESS and keeps its writes. `state`, a JSON value, becomes `context.state` of
    the next run. `delay` is in seconds. Raises ValueError where the delay is not a number from 0 to
    ten years.
    """

    def __init__(self, state: object, *, delay: float = 0) -> None:
        self.state = state
        self.delay = _checked_delay(type(self), delay)
        super().__init__("The task continues in another run.")


class StepFailed(LambdaTasksError):
    """A step of a durable function has failed in an earlier run, with an error that is gone.

    Its class is not there any more, so that the error itself can't be raised again.
    """

    def __init__(self, error_class: str, args: object) -> None:
        super().__init__(f"The step has failed with {error_class.replace(':', '.')}: {args!r:.500}")


class CompensationFailed(LambdaTasksError):
    """Compensations of a durable function have failed for good. All others have run.

    `failed` has their names. Repair the fault, and retry the run: it runs those that have failed.
    """

    def __init__(self, failures: Mapping[str, str], *, task_name: str) -> None:
        self.failed = tuple(failures)
        reasons = "; ".join(f"{name!r} with {reason}" for name, reason in failures.items())
        super().__init__(
            f"{len(failures)} compensation(s) of {task_name} have failed, and no other is left: "
            f"{reasons}. Repair the fault, and retry this run: it runs those again."
        )


class Suspended(BaseException):
    """A run of a durable function ends here, and another one goes on.

    A BaseException, so that `except Exception` in the function lets it pass.
    """


MAX_DELAY_S = 10 * 365 * 24 * 3600
"""Ten years. A longer delay is most likely a mistake, such as milliseconds in place of seconds."""


def _checked_delay(error: type[Exception], delay: object) -> float:
    is_number = isinstance(delay, int | float) and not isinstance(delay, bool)
    if not is_number or not 0 <= delay <= MAX_DELAY_S:  # type: ignore[operator]
        raise ValueError(
            f"{error.__name__}: delay is {delay!r}. Use seconds, from 0 up to ten years."
        )
    return delay  # type: ignore[return-value]


class SoftTimeLimitExceeded(Exception):
    """The soft timeout of a task is over. Raised inside the task, so that it can clean up."""


class HardTimeLimitExceeded(BaseException):
    """The hard timeout of a task is over, and the task ends.

    A BaseException, so that `except Exception` in a task can't swallow it.
    """
