"""A task of django.tasks, as the executor knows tasks."""

import inspect
import logging
import math
from collections.abc import Awaitable
from functools import cached_property
from typing import Any, Final

from .. import conf
from ..context import TaskContext
from ..core.arguments import unshared
from ..core.lifecycle import Claim, Outcome
from ..core.message import Message
from ..core.retries import RetryRule
from ..decorators import LambdaTaskWrapper
from ..errors import HardTimeLimitExceeded, Retry
from ..ports import Task
from . import compat
from .backend import django_task, is_direct, own_backend
from .declaring import LambdaTask, options_of
from .reporting import ReportedCall, RunningResult

logger = logging.getLogger("lambda_tasks")

AGAIN: Final = (Exception, HardTimeLimitExceeded)
"""What another attempt may mend; a SystemExit is meant to be the end."""

WAITING: Final = RetryRule()
"""When what is no failure runs again: a lock that is taken, a retry that the task has asked for."""

ASKED_FOR: Final = f"{Retry.__module__}.{Retry.__qualname__}"

GROWING: Final = RetryRule(retry_delay=5, retry_backoff=2)
"""Where the task has no `backoff`."""

LONGEST_BACKOFF_S: Final = 365 * 24 * 3600.0


class DjangoTaskRunner:
    """See ports.Task."""

    def __init__(self, task: compat.AnyTask) -> None:
        self.django_task = task
        self.name: str = task.module_path
        self.options = options_of(task)
        self.is_async: bool = inspect.iscoroutinefunction(task.func)

    @property
    def secret_names(self) -> frozenset[str]:
        """The parameters that LAMBDA_TASKS_REDACT names."""
        redact = conf.current().redact
        parameters = inspect.signature(self.django_task.func).parameters
        if any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
            return redact
        return redact.intersection(parameters)

    def is_direct(self, backend: str | None) -> bool:
        """See ports.Task. The backend says it for all of its tasks."""
        return is_direct(backend or self.django_task.backend)

    def check(self) -> None:
        """See ports.Task. What can't work is refused at the declaration."""

    def make_call(self, message: Message, claim: Claim) -> ReportedCall:
        """See ports.Task."""
        result = RunningResult(self.django_task, message, claim)
        return ReportedCall(DjangoTaskCall(self, message, result), result)


class ReportedTask:
    """See ports.Task: a @lambda_task that was enqueued through Django's interface."""

    def __init__(self, wrapper: LambdaTaskWrapper[..., Any]) -> None:
        self._wrapper = wrapper
        self.name = wrapper.name
        self.options = wrapper.options
        self.is_async = wrapper.is_async

    @property
    def secret_names(self) -> frozenset[str]:
        """See ports.Task."""
        return self._wrapper.secret_names

    @cached_property
    def django_task(self) -> LambdaTask:
        """As Django knows it."""
        return django_task(self._wrapper)

    def is_direct(self, backend: str | None) -> bool:
        """See ports.Task."""
        if backend is None or self.options.durable:
            return self._wrapper.is_direct(None)
        return is_direct(backend)

    def check(self) -> None:
        """See ports.Task."""
        self._wrapper.check()

    def make_call(self, message: Message, claim: Claim) -> ReportedCall:
        """See ports.Task."""
        call = self._wrapper.make_call(message, claim)
        return ReportedCall(call, RunningResult(self.django_task, message, claim))


class DjangoTaskCall:
    """See ports.TaskCall."""

    def __init__(self, runner: DjangoTaskRunner, message: Message, result: RunningResult) -> None:
        self._runner = runner
        self._message = message
        self._result = result

    @property
    def has_listeners(self) -> bool:
        """See ports.TaskCall."""
        return False

    def started(self) -> None:
        """See ports.TaskCall."""

    def call(self, context: TaskContext) -> Any:
        """Raises TypeError, as Django does, for a result of a type that JSON has not."""
        task, message = self._runner.django_task, self._message
        args, kwargs = [unshared(each) for each in message.args], unshared(message.kwargs)
        if task.takes_context:
            args = [compat.TaskContext(task_result=self._result.now), *args]
        value = task.func(*args, **kwargs)
        return _awaited(value) if self._runner.is_async else compat.normalize_json(value)

    def has_rule_for(self, error: BaseException) -> bool:
        """What it asks for. `max_attempts` is about failures, whatever they are."""
        return isinstance(error, Retry)

    def ignores(self, error: BaseException) -> bool:
        """A task of Django's ignores none."""
        return False

    def retry_delay_s(self, error: BaseException, *, jitter_s: float) -> float | None:
        """By the task's `max_attempts` and `backoff`."""
        if isinstance(error, Retry):
            n_retries = self._message.n_retries
            return WAITING.delay_s(error, n_retries=n_retries, jitter_s=jitter_s)
        task, failures = self._runner.django_task, self._failures()
        if not isinstance(task, LambdaTask) or not isinstance(error, AGAIN):
            return None
        if failures >= task.max_attempts:
            return None
        if task.backoff is None:
            return GROWING.delay_s(error, n_retries=failures - 1, jitter_s=jitter_s)
        return self._by_backoff(task, error)

    def ended(self, outcome: Outcome, error: BaseException | None) -> None:
        """See ports.TaskCall."""

    def _failures(self) -> int:
        """This attempt, and those before it that were none of them asked for by the task."""
        result = self._result.now
        asked_for = sum(each.exception_class_path == ASKED_FOR for each in result.errors)
        return int(result.attempts) - asked_for

    def _by_backoff(self, task: LambdaTask, error: BaseException) -> float | None:
        assert task.backoff is not None
        result = self._result.with_error(error)
        try:
            delay_s = task.backoff(error, result)
            if delay_s is None:
                return None
            if math.isnan(delay_s):
                raise ValueError(f"It returned {delay_s!r}.")
            return min(max(float(delay_s), 0.0), LONGEST_BACKOFF_S)
        except Exception:
            logger.exception("%s has no further attempt: its backoff failed", self._runner.name)
            return None


async def _awaited(value: Awaitable[Any]) -> Any:
    return compat.normalize_json(await value)


_runners: dict[str, DjangoTaskRunner] = {}
"""Made once, as checking their options takes a while."""


def adapt(found: object, backend: str | None) -> Task | None:
    """See registry.Adapt."""
    if isinstance(found, compat.Task):
        own_backend(backend or found.backend)
        runner = _runners.get(found.module_path)
        if runner is None or runner.django_task is not found:
            runner = _runners[found.module_path] = DjangoTaskRunner(found)
        return runner
    if not isinstance(found, LambdaTaskWrapper):
        return None
    if backend is not None:
        own_backend(backend)
    return ReportedTask(found)
