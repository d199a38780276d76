"""The adapters that let the executor run tasks of django.tasks like its own."""

import inspect
import logging
import math
from collections.abc import Awaitable, Mapping, Sequence
from functools import cached_property
from typing import Any, Final

from .. import conf
from ..context import TaskContext
from ..core.arguments import arguments_mismatch, copy_json, json_or_text
from ..core.lifecycle import Claim, Outcome
from ..core.message import Message
from ..core.parameters import Description, Parameter, annotation_of, is_json
from ..core.retries import RetryRule
from ..core.unique import UniqueCall, UniqueTerms
from ..decorators import LambdaTaskWrapper
from ..errors import HardTimeLimitExceeded, Retry
from ..ports import Task
from . import compat
from .backend import LambdaTasksBackend, django_task, is_direct, lambda_tasks_backend
from .declaring import LambdaTask, parameter_names, takes_any_keyword, unique_call
from .reporting import ReportedCall, RunningResult

logger = logging.getLogger("lambda_tasks")

RETRYABLE: Final = (Exception, HardTimeLimitExceeded)
"""The errors after which another attempt may succeed. SystemExit is meant to end the task."""

REQUESTED_RETRY: Final = RetryRule()
"""The delay of a retry that the task has asked for by raising Retry."""

RETRY_CLASS_PATH: Final = f"{Retry.__module__}.{Retry.__qualname__}"
"""The dotted name of Retry, as records and TaskErrors have it."""

DEFAULT_BACKOFF: Final = RetryRule(retry_delay=5, retry_backoff=2)
"""The delays of a task that declares no `backoff`: 5, 10, 20, ... seconds."""

MAX_BACKOFF_S: Final = 365 * 24 * 3600.0
"""The longest delay, in seconds, that a `backoff` can ask for: a year."""


NAMED: Final = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
"""The kinds of parameters that can be passed by name."""


def _has_json_default(parameter: inspect.Parameter) -> bool:
    return parameter.default is not inspect.Parameter.empty and is_json(parameter.default)


class DjangoTaskRunner:
    """The adapter of a function with Django's @task, as one backend runs it. See ports.Task."""

    def __init__(self, task: compat.AnyTask, backend: LambdaTasksBackend) -> None:
        self.django_task = task
        self.name: str = task.module_path
        self.options = backend.options_of(task)
        self.is_async: bool = inspect.iscoroutinefunction(task.func)

    @cached_property
    def signature(self) -> inspect.Signature:
        """The function's signature, its context included."""
        return inspect.signature(self.django_task.func)

    @property
    def secret_names(self) -> frozenset[str]:
        """The parameters that LAMBDA_TASKS_REDACT names."""
        redact = conf.current().redact
        if takes_any_keyword(self.django_task):
            return redact
        return redact.intersection(parameter_names(self.django_task))

    def unknown_names(self, kwargs: Mapping[str, Any]) -> frozenset[str]:
        """See ports.Task."""
        if takes_any_keyword(self.django_task):
            return frozenset()
        return frozenset(kwargs.keys() - set(parameter_names(self.django_task)))

    def is_direct(self, backend: str | None) -> bool:
        """See ports.Task. The backend decides for its tasks that are not unique or limited."""
        if self.options.waits_in_row or self.options.unique_by is not None:
            return False
        return is_direct(backend or self.django_task.backend)

    @property
    def backend(self) -> str:
        """See ports.Task."""
        return str(self.django_task.backend)

    def arguments_to_json(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """See ports.Task."""
        self.bind((), kwargs)
        named: dict[str, Any] = compat.normalize_json(dict(kwargs))
        return named

    def check_json(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """See ports.Task. Django's tasks have no types, so the parameters decide."""
        try:
            self.bind(args, kwargs)
        except TypeError as error:
            raise arguments_mismatch(self.name, str(error)) from error

    def read_texts(self, texts: Mapping[str, str]) -> dict[str, Any]:
        """See ports.Task."""
        return {name: json_or_text(text) for name, text in texts.items()}

    def describe(self) -> Description:
        """See ports.Task. Without types, each parameter takes any JSON value."""
        func = self.django_task.func
        parameters = self.signature.parameters
        return Description(
            signature=f"{func.__name__}{self.signature}",
            documentation=inspect.getdoc(func) or "",
            parameters=[
                Parameter(
                    name=name,
                    annotation=annotation_of(parameters[name]),
                    is_nullable=True,
                    is_required=parameters[name].default is inspect.Parameter.empty,
                    is_secret=name in self.secret_names,
                    default=parameters[name].default
                    if _has_json_default(parameters[name])
                    else None,
                )
                for name in parameter_names(self.django_task)
                if parameters[name].kind in NAMED
            ],
        )

    def unique_call(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], terms: UniqueTerms | None = None
    ) -> UniqueCall | None:
        """See ports.Task."""
        terms = terms or self.options.unique
        secret = self.secret_names
        return unique_call(self.django_task, args, kwargs, terms=terms, secret=secret)

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Raise TypeError for arguments that do not fit the function's parameters."""
        self.signature.bind(*([None] if self.django_task.takes_context else []), *args, **kwargs)

    def check(self) -> None:
        """See ports.Task. Nothing is left to check: the declaration has raised every mistake."""

    def result_from_json(self, value: Any) -> Any:
        """See ports.Task. Django's interface returns results as JSON values."""
        return value

    def argument_of(self, message: Message, name: str) -> Any:
        """See ports.Task."""
        passed = dict(zip(parameter_names(self.django_task), message.args, strict=False))
        passed |= message.kwargs
        default = self.signature.parameters[name].default
        return passed.get(name, None if default is inspect.Parameter.empty else default)

    def make_call(self, message: Message, claim: Claim) -> ReportedCall:
        """See ports.Task."""
        result = RunningResult(self.django_task, message, claim)
        return ReportedCall(DjangoTaskCall(self, message, result), result)


class ReportedTask:
    """The adapter of a @lambda_task that sends Django's signals. See ports.Task."""

    def __init__(self, wrapper: LambdaTaskWrapper[..., Any]) -> None:
        self._wrapper = wrapper
        self.name = wrapper.name
        self.options = wrapper.options
        self.is_async = wrapper.is_async

    @property
    def secret_names(self) -> frozenset[str]:
        """See ports.Task."""
        return self._wrapper.secret_names

    def unknown_names(self, kwargs: Mapping[str, Any]) -> frozenset[str]:
        """See ports.Task."""
        return self._wrapper.unknown_names(kwargs)

    def argument_of(self, message: Message, name: str) -> Any:
        """See ports.Task."""
        return self._wrapper.argument_of(message, name)

    @cached_property
    def django_task(self) -> LambdaTask[..., Any]:
        """The Django Task that stands for the @lambda_task."""
        return django_task(self._wrapper)

    def is_direct(self, backend: str | None) -> bool:
        """See ports.Task."""
        keeps_rows = self.options.waits_in_row or self.options.unique_by is not None
        if backend is None or self.options.durable or keeps_rows:
            return self._wrapper.is_direct(None)
        return is_direct(backend)

    @property
    def backend(self) -> str | None:
        """See ports.Task."""
        return self._wrapper.backend

    def arguments_to_json(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """See ports.Task."""
        return self._wrapper.arguments_to_json(kwargs)

    def check_json(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """See ports.Task."""
        self._wrapper.check_json(args, kwargs)

    def read_texts(self, texts: Mapping[str, str]) -> dict[str, Any]:
        """See ports.Task."""
        return self._wrapper.read_texts(texts)

    def describe(self) -> Description:
        """See ports.Task."""
        return self._wrapper.describe()

    def unique_call(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], terms: UniqueTerms | None = None
    ) -> UniqueCall | None:
        """See ports.Task."""
        return self._wrapper.unique_call(args, kwargs, terms)

    def check(self) -> None:
        """See ports.Task."""
        self._wrapper.check()

    def result_from_json(self, value: Any) -> Any:
        """See ports.Task."""
        return self._wrapper.result_from_json(value)

    def make_call(self, message: Message, claim: Claim) -> ReportedCall:
        """See ports.Task."""
        call = self._wrapper.make_call(message, claim)
        return ReportedCall(call, RunningResult(self.django_task, message, claim))


class DjangoTaskCall:
    """One run of a function with Django's @task. See ports.TaskCall."""

    def __init__(self, runner: DjangoTaskRunner, message: Message, result: RunningResult) -> None:
        self._runner = runner
        self._message = message
        self._result = result

    @property
    def has_listeners(self) -> bool:
        """See ports.TaskCall."""
        return False

    @property
    def logs_failures(self) -> bool:
        """See ports.TaskCall."""
        return False

    def check_arguments(self) -> None:
        """See ports.TaskCall."""
        self._runner.check_json(self._message.args, self._message.kwargs)

    def started(self) -> None:
        """See ports.TaskCall."""

    def call(self, context: TaskContext) -> Any:
        """See ports.TaskCall. Raises TypeError, as Django does, for a result that is not JSON."""
        task, message = self._runner.django_task, self._message
        args, kwargs = [copy_json(each) for each in message.args], copy_json(message.kwargs)
        if task.takes_context:
            args = [compat.TaskContext(task_result=self._result.at_start), *args]
        value = task.func(*args, **kwargs)
        return _await_result(value) if self._runner.is_async else compat.normalize_json(value)

    def has_rule_for(self, error: BaseException) -> bool:
        """See ports.TaskCall. True for Retry only: `max_attempts` holds for every other error."""
        return isinstance(error, Retry)

    def ignores(self, error: BaseException) -> bool:
        """See ports.TaskCall. Django's tasks have no option to ignore errors."""
        return False

    def retry_delay_s(self, error: BaseException, *, jitter_s: float) -> float | None:
        """See ports.TaskCall. The task's `max_attempts` and `backoff` decide."""
        if isinstance(error, Retry):
            n_retries = self._message.n_retries
            return REQUESTED_RETRY.delay_s(error, n_retries=n_retries, jitter_s=jitter_s)
        task, failures = self._runner.django_task, self._count_failures()
        if not isinstance(task, LambdaTask) or not isinstance(error, RETRYABLE):
            return None
        if failures >= task.max_attempts:
            return None
        if task.backoff is None:
            return DEFAULT_BACKOFF.delay_s(error, n_retries=failures - 1, jitter_s=jitter_s)
        return self._backoff_delay_s(task, error)

    def ended(self, outcome: Outcome, error: BaseException | None) -> None:
        """See ports.TaskCall."""

    def _count_failures(self) -> int:
        """Return the number of attempts so far, without those that ended in a requested retry."""
        result = self._result.at_start
        n_requested = sum(each.exception_class_path == RETRY_CLASS_PATH for each in result.errors)
        return int(result.attempts) - n_requested

    def _backoff_delay_s(self, task: LambdaTask[..., Any], error: BaseException) -> float | None:
        assert task.backoff is not None
        result: Any = self._result.with_error(error)
        try:
            delay_s = task.backoff(error, result)
            if delay_s is None:
                return None
            if math.isnan(delay_s):
                raise ValueError(f"It returned {delay_s!r}.")
            return min(max(float(delay_s), 0.0), MAX_BACKOFF_S)
        except Exception:
            # Raised, this would hide the task's own error, which the record has to show.
            logger.exception("%s gets no further attempt: its backoff failed.", self._runner.name)
            return None


async def _await_result(value: Awaitable[Any]) -> Any:
    return compat.normalize_json(await value)


_runners: dict[tuple[str, bool], DjangoTaskRunner] = {}
"""The adapters by dotted name, and whether the backend runs tasks in a transaction.

Each is made once, as checking a task's options takes time.
"""


def adapt(found: object, backend: str | None) -> Task | None:
    """Return the adapter of a task. See registry.Adapt."""
    if isinstance(found, compat.Task):
        runs_it = lambda_tasks_backend(backend or found.backend)
        key = found.module_path, runs_it.is_atomic
        runner = _runners.get(key)
        if runner is None or runner.django_task is not found:
            runner = _runners[key] = DjangoTaskRunner(found, runs_it)
        return runner
    if not isinstance(found, LambdaTaskWrapper):
        return None
    if backend is not None:
        lambda_tasks_backend(backend)
    return ReportedTask(found)
