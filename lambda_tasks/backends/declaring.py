"""What a task of this backend may declare beyond Django's own: attempts, timeouts, singleton."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Unpack, overload

from django.utils.module_loading import import_string

from ..core.options import OptionNames, TaskOptions, parse_options
from .compat import (
    DEFAULT_TASK_BACKEND_ALIAS,
    DEFAULT_TASK_PRIORITY,
    DEFAULT_TASK_QUEUE_NAME,
    AnyResult,
    AnyTask,
    InvalidTask,
    task_backends,
)

if TYPE_CHECKING:
    from ..decorators import LambdaTaskWrapper

Backoff = Callable[[BaseException, AnyResult], float | None]
"""Seconds before the next attempt, or None for none; of the exception and the result so far."""

Call = Mapping[str, Any] | Sequence[Any]
"""Keyword arguments, or positional ones."""

MAX_ATTEMPTS: Final = 32_767


@dataclass(frozen=True, slots=True, kw_only=True)
class LambdaTask(AnyTask):
    """A django.tasks Task with the options of this backend. Times are in seconds.

    On Django 6.1 and with django-tasks, Django's own @task takes the options; on Django 6.0 it
    does not, and `lambda_tasks.backends.task` does.
    """

    max_attempts: int = 1
    """How often it may run until it succeeds. What a dying worker interrupts runs again anyway."""
    backoff: Backoff | None = None
    """Without it a retry waits for 5, 10, 20, ... seconds and 1 to 5 more."""
    soft_timeout: float | None = None
    """SoftTimeLimitExceeded is raised inside the task after so long; less than hard_timeout."""
    hard_timeout: float | None = None
    """The task is ended after so long."""
    singleton: bool = False
    """At most one running at a time, by a lock; another waits, which counts as no attempt."""
    wrapper: "LambdaTaskWrapper[..., Any] | None" = None
    """The @lambda_task that it stands for."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Its dotted name leads to the @lambda_task, and not to a Task as Django expects."""
        if self.wrapper is None:
            return AnyTask.__reduce_ex__(self, protocol)
        changes = {name: getattr(self, name) for name in ("priority", "queue_name", "run_after")}
        return _restored, (self.wrapper.name, self.backend, changes)

    def enqueue_many(self, calls: Iterable[Call]) -> list[AnyResult]:
        """Enqueue a call for each: a mapping of keyword arguments, or a sequence of positional
        ones. All are valid, or none is enqueued; one INSERT, and full batches."""
        results: list[AnyResult] = _backend_of(self).enqueue_many(self, calls)
        return results

    async def aenqueue_many(self, calls: Iterable[Call]) -> list[AnyResult]:
        """See enqueue_many()."""
        results: list[AnyResult] = await _backend_of(self).aenqueue_many(self, calls)
        return results


@overload
def task(function: Callable[..., Any], /) -> LambdaTask: ...


@overload
def task(
    *,
    priority: int = ...,
    queue_name: str = ...,
    backend: str = ...,
    takes_context: bool = ...,
    **options: Any,
) -> Callable[[Callable[..., Any]], LambdaTask]: ...


def task(
    function: Callable[..., Any] | None = None,
    /,
    *,
    priority: int = DEFAULT_TASK_PRIORITY,
    queue_name: str = DEFAULT_TASK_QUEUE_NAME,
    backend: str = DEFAULT_TASK_BACKEND_ALIAS,
    takes_context: bool = False,
    **options: Any,
) -> Any:
    """Django's @task, which takes the options of LambdaTask on every Django."""

    def make(function: Callable[..., Any]) -> AnyTask:
        return task_backends[backend].task_class(
            func=function,
            priority=priority,
            queue_name=queue_name,
            backend=backend,
            takes_context=takes_context,
            run_after=None,
            **options,
        )

    return make if function is None else make(function)


def options_of(task: AnyTask) -> TaskOptions:
    """As the executor knows them. Raises InvalidTask for what is out of range.

    A Task that was declared for another backend has none of them.
    """
    if not isinstance(task, LambdaTask):
        return TaskOptions(queue=task.queue_name)
    if task.wrapper is not None:
        return task.wrapper.options
    try:
        return _parsed(
            task.func.__qualname__,
            queue=task.queue_name,
            soft_timeout=task.soft_timeout,
            hard_timeout=task.hard_timeout,
            singleton=task.singleton,
        )
    except (TypeError, ValueError) as error:
        raise InvalidTask(str(error)) from None


@lru_cache(maxsize=1024)
def _parsed(function: str, **options: Unpack[OptionNames]) -> TaskOptions:
    """Kept, as each call of a task is validated."""
    return parse_options(function, options, parameters=())


def check_attempts(task: AnyTask) -> None:
    """Raise InvalidTask unless its attempts and its backoff can work."""
    if not isinstance(task, LambdaTask):
        return
    attempts, name = task.max_attempts, task.func.__qualname__
    is_number = isinstance(attempts, int) and not isinstance(attempts, bool)
    if not is_number or not 1 <= attempts <= MAX_ATTEMPTS:
        raise InvalidTask(f"{name}: max_attempts is {attempts!r}. Use 1 to {MAX_ATTEMPTS}.")
    if task.backoff is not None and not callable(task.backoff):
        raise InvalidTask(
            f"{name}: backoff is {task.backoff!r}. Use a function of the exception and the "
            "TaskResult that returns seconds, or None for no further attempt."
        )
    if task.backoff is not None and attempts == 1:
        raise InvalidTask(f"{name}: backoff is set and max_attempts is 1. Raise max_attempts.")


def standing_for(wrapper: "LambdaTaskWrapper[..., Any]", *, backend: str) -> LambdaTask:
    """A @lambda_task as a Task of this backend."""
    declare = task(queue_name=wrapper.options.queue, backend=backend, wrapper=wrapper)
    return declare(wrapper.__wrapped__)


def _restored(name: str, backend: str, changes: dict[str, Any]) -> AnyTask:
    """A copied or unpickled Task that stands for a @lambda_task."""
    return standing_for(import_string(name), backend=backend).using(**changes)


def _backend_of(task: AnyTask) -> Any:
    backend = task.get_backend()
    if not hasattr(backend, "enqueue_many"):
        raise InvalidTask(
            f"{task.module_path} is used with the backend {task.backend!r}, a "
            f"{type(backend).__name__}, which can't enqueue many at once."
        )
    return backend
