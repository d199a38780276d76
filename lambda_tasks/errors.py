"""Every exception of the library, on one page.

Each says what happened, to what, and what to do. None of them carries a secret's value.
Errors of settings are Django's own ImproperlyConfigured; bad arguments are
pydantic.ValidationError, as a Django developer would look for them.
"""

from collections.abc import Mapping
from uuid import UUID


class LambdaTasksError(Exception):
    """The root of the library's own errors."""


class EnqueueError(LambdaTasksError):
    """Some messages were not accepted by their queue.

    `failures` maps the invocation id of each message of this caller that was not accepted to the
    reason that the queue gave. Messages that it does not name were accepted.
    """

    def __init__(self, failures: Mapping[UUID, str]) -> None:
        self.failures = dict(failures)
        reasons = "; ".join(f"{id}: {reason}" for id, reason in list(self.failures.items())[:10])
        more = f"; and {len(self.failures) - 10} more" if len(self.failures) > 10 else ""
        super().__init__(f"{len(self.failures)} message(s) were not accepted: {reasons}{more}")


class MessageTooLarge(LambdaTasksError, ValueError):
    """A message is larger than its queue takes, or arguments are larger than a record may keep.
    Pass a reference (a key, a path) instead."""

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


class MessageRefused(LambdaTasksError):
    """A delivered body can't be run. It goes back to its queue, and so to the dead letters."""


class UnknownTask(MessageRefused):
    """A message names something that is no task of this release."""


class TaskFailed(LambdaTasksError):
    """A task ended without success; the message holds its traceback."""


class TaskCancelled(LambdaTasksError):
    """What a TaskResult names as the error of a task whose record was cancelled."""


class MaxRetriesExceededError(LambdaTasksError):
    """A task asked for one retry more than it may have; the record is FAILED."""

    def __init__(self, *, task_name: str, n_retries: int) -> None:
        super().__init__(
            f"{task_name} was retried {n_retries} times, which is its limit. Raise max_retries or "
            "LAMBDA_TASKS_MAX_RETRIES, or mend what fails."
        )


class MaxContinuesExceededError(LambdaTasksError):
    """A task has gone on in another run once more than it may; the record is FAILED."""

    def __init__(self, *, task_name: str, n_continues: int) -> None:
        super().__init__(
            f"{task_name} has gone on {n_continues} times, which is its limit. Raise "
            "LAMBDA_TASKS_MAX_CONTINUES, or let it come to an end."
        )


class WorkerProcessDied(LambdaTasksError):
    """The process that ran a task ended before the task did."""


class SecretUnavailable(LambdaTasksError):
    """Secrets Manager did not give a secret that the environment refers to."""


class LeaseLost(LambdaTasksError):
    """A record was taken over by another worker; what this one did is rolled back."""


class Retry(LambdaTasksError):
    """Raise it inside a task to run the task again, as a new invocation.

    `delay` is in seconds, before the jitter of 1 to 5 s; without it, the task's own retry_delay
    and retry_backoff decide. Raises ValueError for a delay that is no number from 0 up.
    """

    def __init__(self, message: str = "", *, delay: float | None = None) -> None:
        self.delay = None if delay is None else _checked_delay(type(self), delay)
        super().__init__(message or "The task asked to be run again.")


class SingletonLockUnknown(Retry):
    """Whether another run of the singleton holds its lock can't be told; this one has not begun."""


class Continue(LambdaTasksError):
    """Raise it inside a task to end this run, keep its writes, and go on in another.

    `state`, JSON values, is `context.state` of the next run. `delay` is in seconds. Raises
    ValueError for a delay that is no number from 0 to ten years.
    """

    def __init__(self, state: object, *, delay: float = 0) -> None:
        self.state = state
        self.delay = _checked_delay(type(self), delay)
        super().__init__("The task goes on in another run.")


LONGEST_DELAY_S = 10 * 365 * 24 * 3600
"""Ten years catch a slip of the finger."""


def _checked_delay(error: type[Exception], delay: object) -> float:
    is_number = isinstance(delay, int | float) and not isinstance(delay, bool)
    if not is_number or not 0 <= delay <= LONGEST_DELAY_S:  # type: ignore[operator]
        raise ValueError(
            f"{error.__name__}: delay is {delay!r}. Use seconds, from 0 up to ten years."
        )
    return delay  # type: ignore[return-value]


class SoftTimeLimitExceeded(Exception):
    """Raised inside a task when its soft timeout is over, so that it can clean up."""


class HardTimeLimitExceeded(BaseException):
    """Ends a task when its hard timeout is over.

    No Exception, so that `except Exception` in a task can't swallow it.
    """
