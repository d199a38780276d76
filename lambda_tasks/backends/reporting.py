"""The signals task_started and task_finished of django.tasks, with the TaskResult of the run."""

import logging
import time
import traceback
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, Final

from django.dispatch import Signal

from ..context import TaskContext
from ..core.lifecycle import Claim, Failed, Outcome, Raised, Succeeded
from ..core.message import Message
from ..errors import TaskFailed
from ..ports import TaskCall
from .backend import LambdaTasksBackend
from .compat import (
    AnyResult,
    AnyTask,
    InvalidTaskBackend,
    TaskResultStatus,
    task_backends,
    task_finished,
    task_started,
)
from .results import as_task_error, result_of

logger = logging.getLogger("lambda_tasks")

FINAL_STATUSES: Final[Mapping[type, TaskResultStatus]] = {
    Succeeded: TaskResultStatus.SUCCESSFUL,
    Failed: TaskResultStatus.FAILED,
}
"""The statuses of the outcomes that send task_finished.

A run that is retried, or continued by another one, does not finish its task.
"""


class RunningResult:
    """The TaskResult of a run that has not ended."""

    def __init__(self, task: AnyTask, message: Message, claim: Claim) -> None:
        self._task = task
        self._message = message
        self._claim = claim

    @property
    def has_secrets(self) -> bool:
        """Whether the message has secret arguments."""
        return bool(self._message.secret_kwargs)

    @cached_property
    def at_start(self) -> AnyResult:
        """The result as of the start of the run. For a retry it reads the earlier records."""
        from ..records import queries

        root_id = self._message.root_id
        chain = [] if root_id is None else queries.chain(root_id)
        return result_of(self._task, chain or [queries.claimed(self._message, self._claim)])

    def with_error(self, error: BaseException) -> AnyResult:
        """Return the result with this error added, as it is when the task has raised it."""
        text = "".join(traceback.format_exception(error))
        raised = Raised.from_error(error, text)
        return replace(self.at_start, errors=[*self.at_start.errors, as_task_error(raised)])


class ReportedCall:
    """The TaskCall that sends signals for another TaskCall. See ports.TaskCall."""

    def __init__(self, call: TaskCall, result: RunningResult) -> None:
        self._call = call
        self._result = result
        self._started_at: float | None = None

    @property
    def has_listeners(self) -> bool:
        """See ports.TaskCall."""
        return True

    @property
    def logs_failures(self) -> bool:
        """See ports.TaskCall. Django's own receiver of task_finished does."""
        return True

    def check_arguments(self) -> None:
        """See ports.TaskCall."""
        self._call.check_arguments()

    def started(self) -> None:
        """Send task_started. Errors of receivers are logged; the task runs all the same."""
        self._started_at = time.monotonic()
        _send(task_started, self._result.at_start)
        self._call.started()

    def call(self, context: TaskContext) -> Any:
        """See ports.TaskCall."""
        return self._call.call(context)

    def has_rule_for(self, error: BaseException) -> bool:
        """See ports.TaskCall."""
        return self._call.has_rule_for(error)

    def ignores(self, error: BaseException) -> bool:
        """See ports.TaskCall."""
        return self._call.ignores(error)

    def retry_delay_s(self, error: BaseException, *, jitter_s: float) -> float | None:
        """See ports.TaskCall."""
        return self._call.retry_delay_s(error, jitter_s=jitter_s)

    def ended(self, outcome: Outcome, error: BaseException | None) -> None:
        """Send task_finished if the outcome is final. Errors of receivers are logged.

        Receivers run while the task's exception, if any, is being handled.
        """
        self._call.ended(outcome, error)
        if type(outcome) not in FINAL_STATUSES:
            return
        try:
            result = self._finished_result(outcome)
        except Exception:
            logger.exception("task_finished was not sent: its TaskResult could not be read.")
            return
        if error is None:
            _send(task_finished, result)
            return
        # Django's own receiver logs the exception that is being handled, so raise it once more.
        try:
            raise self._shown_error(error, outcome)
        except BaseException:
            _send(task_finished, result)

    def _shown_error(self, error: BaseException, outcome: Outcome) -> BaseException:
        """Return the exception that receivers see.

        Where it may hold secrets, this is a TaskFailed with the redacted traceback of the record.
        """
        if outcome.raised is None or not self._result.has_secrets:
            return error
        return TaskFailed(outcome.raised.traceback)

    def _finished_result(self, outcome: Outcome) -> AnyResult:
        result, raised = self._result.at_start, outcome.raised
        errors = [] if raised is None else [as_task_error(raised)]
        finished = replace(
            result,
            status=FINAL_STATUSES[type(outcome)],
            finished_at=self._finished_at(result),
            errors=[*result.errors, *errors],
        )
        if isinstance(outcome, Succeeded):
            object.__setattr__(finished, "_return_value", outcome.result)
        return finished

    def _finished_at(self, result: AnyResult) -> datetime:
        """Return the end of the run by the database's clock, if the run started in this process."""
        if self._started_at is None or result.last_attempted_at is None:
            return datetime.now(UTC)
        started_at: datetime = result.last_attempted_at
        return started_at + timedelta(seconds=time.monotonic() - self._started_at)


def _send(signal: Signal, result: AnyResult) -> None:
    try:
        sender: type = type(task_backends[result.backend])
    except InvalidTaskBackend:
        sender = LambdaTasksBackend  # The alias is one of the project that sent the message.
    signal.send_robust(sender=sender, task_result=result)
