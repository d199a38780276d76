"""Tells django.tasks' signals of a run: what it may be asked for is a TaskResult."""

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

END: Final[Mapping[type, TaskResultStatus]] = {
    Succeeded: TaskResultStatus.SUCCESSFUL,
    Failed: TaskResultStatus.FAILED,
}
"""A retry, or a run that goes on in another, is no end."""


class RunningResult:
    """The TaskResult of a run, as far as it has come."""

    def __init__(self, task: AnyTask, message: Message, claim: Claim) -> None:
        self._task = task
        self._message = message
        self._claim = claim

    @property
    def has_secrets(self) -> bool:
        """Whether any of its arguments is not for people's eyes."""
        return bool(self._message.secret_kwargs)

    @cached_property
    def now(self) -> AnyResult:
        """At its start. A retry's needs the database."""
        from ..records import queries

        root_id = self._message.root_id
        chain = [] if root_id is None else queries.chain(root_id)
        return result_of(self._task, chain or [queries.claimed(self._message, self._claim)])

    def with_error(self, error: BaseException) -> AnyResult:
        """As it is when this has been raised."""
        text = "".join(traceback.format_exception(error))
        raised = Raised.by(error, text)
        return replace(self.now, errors=[*self.now.errors, as_task_error(raised)])


class ReportedCall:
    """See ports.TaskCall: another one's, of which the signals' receivers hear."""

    def __init__(self, call: TaskCall, result: RunningResult) -> None:
        self._call = call
        self._result = result
        self._began_at: float | None = None

    @property
    def has_listeners(self) -> bool:
        """See ports.TaskCall."""
        return True

    def started(self) -> None:
        """Send task_started. What a receiver raises is logged, and the task runs all the same."""
        self._began_at = time.monotonic()
        _send(task_started, self._result.now)
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
        """Send task_finished, while the task's exception is being handled if there is one."""
        self._call.ended(outcome, error)
        if type(outcome) not in END:
            return
        try:
            result = self._finished(outcome)
        except Exception:
            logger.exception("What task_finished tells can't be found, and it is not sent.")
            return
        if error is None:
            _send(task_finished, result)
            return
        try:
            raise self._shown(error, outcome)
        except BaseException:
            _send(task_finished, result)

    def _shown(self, error: BaseException, outcome: Outcome) -> BaseException:
        """What receivers see handled: Django's own logs its traceback. Where secrets may be in it,
        the text that the record has stands in for the exception."""
        if outcome.raised is None or not self._result.has_secrets:
            return error
        return TaskFailed(outcome.raised.traceback)

    def _finished(self, outcome: Outcome) -> AnyResult:
        result, raised = self._result.now, outcome.raised
        errors = [] if raised is None else [as_task_error(raised)]
        finished = replace(
            result,
            status=END[type(outcome)],
            finished_at=self._finished_at(result),
            errors=[*result.errors, *errors],
        )
        if isinstance(outcome, Succeeded):
            object.__setattr__(finished, "_return_value", outcome.result)
        return finished

    def _finished_at(self, result: AnyResult) -> datetime:
        """By the database's clock, where it began here."""
        if self._began_at is None or result.last_attempted_at is None:
            return datetime.now(UTC)
        began_at: datetime = result.last_attempted_at
        return began_at + timedelta(seconds=time.monotonic() - self._began_at)


def _send(signal: Signal, result: AnyResult) -> None:
    try:
        sender: type = type(task_backends[result.backend])
    except InvalidTaskBackend:
        sender = LambdaTasksBackend  # the alias is the sending project's
    signal.send_robust(sender=sender, task_result=result)
