"""The options of a task beyond Django's own: attempts, backoff, timeouts, uniqueness."""

import inspect
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Final,
    Generic,
    Literal,
    ParamSpec,
    Protocol,
    TypedDict,
    TypeVar,
    Unpack,
    overload,
)

from django.utils.module_loading import import_string

from ..core.hints import parameters_of
from ..core.options import OptionNames, TaskOptions, parse_options
from ..core.unique import (
    OnConflict,
    UniqueBy,
    UniqueCall,
    UniqueTerms,
    UniqueWhile,
    refuse_secret_keys,
)
from ..errors import UnknownTask
from .compat import (
    DEFAULT_TASK_BACKEND_ALIAS,
    DEFAULT_TASK_PRIORITY,
    DEFAULT_TASK_QUEUE_NAME,
    AnyTask,
    InvalidTask,
    TaskBase,
    normalize_json,
)

if TYPE_CHECKING:
    from ..decorators import LambdaTaskWrapper
    from .typed import TypedResult

P = ParamSpec("P")
R = TypeVar("R")

Backoff = Callable[[BaseException, "TypedResult[Any]"], float | None]
"""A function of the exception and the result so far.

It returns the seconds before the next attempt, or None for no further attempt.
"""

Call = Mapping[str, Any] | Sequence[Any]
"""The keyword arguments of a call, or its positional ones."""

MAX_ATTEMPTS: Final = 32_767
"""The highest `max_attempts`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LambdaTask(TaskBase[P, R], Generic[P, R]):
    """A django.tasks Task with the options of this backend, generic in parameters and result.

    On Django 6.1 and with django-tasks, Django's own @task accepts these options. On Django 6.0
    only `lambda_tasks.backends.task` does.
    """

    max_attempts: int = 1
    """The number of attempts for the task to succeed, from 1 to 32,767.

    A run whose worker died is repeated in any case.
    """
    backoff: Backoff | None = None
    """The function that returns the seconds before the next attempt, a year at most.

    By default a retry waits for 5, 10, 20, ... seconds, and 1 to 5 seconds more.
    """
    soft_timeout: float | None = None
    """Seconds after which SoftTimeLimitExceeded is raised inside the task.

    It must be less than `hard_timeout`. By default the setting decides.
    """
    hard_timeout: float | None = None
    """Seconds after which the task is ended. By default the setting decides."""
    singleton: bool = False
    """Whether at most one call of the task runs at a time. The others wait, without an attempt."""
    limit: int | None = None
    """The most calls of the task that run at a time, 1 to 1000. The others wait."""
    limit_by: tuple[str, ...] = ()
    """Names of parameters: the limit holds for each combination of their values."""
    rate: str | None = None
    """The most starts of the task in a time, evenly spaced, like "10/m". The others wait."""
    rate_by: tuple[str, ...] = ()
    """Names of parameters: the rate holds for each combination of their values."""
    atomic: bool | None = None
    """Whether each run is in a transaction; None means that ATOMIC in the backend's OPTIONS says.

    In a transaction a run does nothing twice. Without one, a run that is repeated because its
    worker died may do its part again.
    """
    unique_by: UniqueBy | None = None
    """Names of parameters: a call joins an earlier one with the same values, and returns its
    result. "all" means all parameters, and () none."""
    unique_while: UniqueWhile | None = None
    """The time that an earlier call counts: "queued", until a worker claims it, or "unfinished",
    the default, until it has ended."""
    unique_for: float | timedelta | None = None
    """Seconds that a call counts at least, from when it is due, unless it fails."""
    on_conflict: OnConflict | None = None
    """What a call does that finds an earlier one: "return" it, the default; "replace" its arguments
    and times, while it is queued; or "raise" UniqueConflict."""
    expires: float | timedelta | None = None
    """Seconds from when a call is due; if it has not begun by then, it ends as FAILED, with
    TaskExpired as its error."""
    wrapper: "LambdaTaskWrapper[..., Any] | None" = None
    """The @lambda_task that this Task stands for; None for a function with @task."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Return how to copy or pickle the task."""
        if self.wrapper is None:
            return AnyTask.__reduce_ex__(self, protocol)
        # Django restores a Task from its dotted name, by which a @lambda_task would be found here.
        changes = {name: getattr(self, name) for name in ("priority", "queue_name", "run_after")}
        return _restore_task, (self.wrapper.name, self.backend, changes)

    def enqueue_many(self, calls: Iterable[Call]) -> "list[TypedResult[R]]":
        """Enqueue many calls, all or none, and return their results in order.

        Each call is a mapping of keyword arguments, or a sequence of positional ones. They are
        stored by one INSERT and sent in full batches. Raises what `enqueue()` raises. A backend of
        another kind, as in a project's tests, enqueues them one by one.
        """
        task: Any = self
        backend: Any = self.get_backend()
        if not hasattr(backend, "enqueue_many"):
            return [task.enqueue(*args, **kwargs) for args, kwargs in self._split(calls)]
        results: list[TypedResult[R]] = backend.enqueue_many(self, calls)
        return results

    async def aenqueue_many(self, calls: Iterable[Call]) -> "list[TypedResult[R]]":
        """See enqueue_many()."""
        task: Any = self
        backend: Any = self.get_backend()
        if not hasattr(backend, "aenqueue_many"):
            return [await task.aenqueue(*args, **kwargs) for args, kwargs in self._split(calls)]
        results: list[TypedResult[R]] = await backend.aenqueue_many(self, calls)
        return results

    def _split(self, calls: Iterable[Call]) -> list[tuple[Sequence[Any], Mapping[str, Any]]]:
        return [split_call(self, call) for call in calls]


class DjangoOptionNames(TypedDict, total=False):
    """The keyword arguments of `@task(...)`, for type checkers, but for takes_context.

    See LambdaTask.
    """

    priority: int
    queue_name: str
    backend: str
    max_attempts: int
    backoff: Backoff | None
    soft_timeout: float | None
    hard_timeout: float | None
    singleton: bool
    limit: int | None
    limit_by: tuple[str, ...]
    rate: str | None
    rate_by: tuple[str, ...]
    atomic: bool | None
    unique_by: UniqueBy | None
    unique_while: UniqueWhile | None
    unique_for: float | timedelta | None
    on_conflict: OnConflict | None
    expires: float | timedelta | None


class _Declare(Protocol):
    """What `@task(...)` returns."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> LambdaTask[P, R]: ...

    @overload
    def __call__(self, function: Callable[P, R], /) -> LambdaTask[P, R]: ...


class _DeclareWithContext(Protocol):
    """What `@task(takes_context=True)` returns. The context's class depends on Django's version."""

    @overload
    def __call__(
        self, function: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]], /
    ) -> LambdaTask[P, R]: ...

    @overload
    def __call__(self, function: Callable[Concatenate[Any, P], R], /) -> LambdaTask[P, R]: ...


@overload
def task(function: Callable[P, Coroutine[Any, Any, R]], /) -> LambdaTask[P, R]: ...


@overload
def task(function: Callable[P, R], /) -> LambdaTask[P, R]: ...


@overload
def task(
    *, takes_context: Literal[True], **options: Unpack[DjangoOptionNames]
) -> _DeclareWithContext: ...


@overload
def task(
    *, takes_context: Literal[False] = ..., **options: Unpack[DjangoOptionNames]
) -> _Declare: ...


def task(
    function: Callable[..., Any] | None = None,
    /,
    *,
    takes_context: bool = False,
    **options: Unpack[DjangoOptionNames],
) -> Any:
    """Declare a task like Django's @task, with the options of LambdaTask on every Django.

    Raises InvalidTask for a declaration that can't work.
    """

    def make(function: Callable[..., Any]) -> Any:
        return _make(function, {**options, "takes_context": takes_context})

    return make if function is None else make(function)


def _make(function: Callable[..., Any], options: Mapping[str, Any]) -> Any:
    defaults = {
        "priority": DEFAULT_TASK_PRIORITY,
        "queue_name": DEFAULT_TASK_QUEUE_NAME,
        "backend": DEFAULT_TASK_BACKEND_ALIAS,
    }
    # A LambdaTask on any backend: the settings of a project's tests may name another.
    return LambdaTask(func=function, run_after=None, **{**defaults, **options})


def options_of(task: AnyTask, *, atomic: bool) -> TaskOptions:
    """Return a task's options for the executor. Raises InvalidTask for values out of range.

    `atomic` is what the backend says, for tasks that say nothing. A Task that was declared for
    another backend has defaults only.
    """
    if not isinstance(task, LambdaTask):
        return TaskOptions(queue=task.queue_name, atomic=atomic)
    if task.wrapper is not None:
        return task.wrapper.options
    try:
        by = task.unique_by
        return _parse_cached(
            task.func.__qualname__,
            unique_by=tuple(by) if isinstance(by, list) else by,
            unique_while=task.unique_while,
            unique_for=task.unique_for,
            on_conflict=task.on_conflict,
            expires=task.expires,
            queue=task.queue_name,
            soft_timeout=task.soft_timeout,
            hard_timeout=task.hard_timeout,
            parameters=tuple(parameter_names(task)),
            singleton=task.singleton,
            limit=task.limit,
            limit_by=tuple(task.limit_by),
            rate=task.rate,
            rate_by=tuple(task.rate_by),
            atomic=atomic if task.atomic is None else task.atomic,
        )
    except (TypeError, ValueError) as error:
        raise InvalidTask(str(error)) from None


@lru_cache(maxsize=1024)
def _parse_cached(
    function: str, *, parameters: tuple[str, ...], **options: Unpack[OptionNames]
) -> TaskOptions:
    """Return parsed options from a cache, as each call of a task validates them."""
    return parse_options(function, options, parameters=parameters)


def unique_call(
    task: AnyTask,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    terms: UniqueTerms | None,
    secret: frozenset[str],
) -> UniqueCall | None:
    """Return a call with these JSON arguments as a unique one; None without terms.

    Raises TypeError for arguments that do not fit the function, and for secret values in the key.
    """
    if terms is None:
        return None
    refuse_secret_keys(task.func.__qualname__, terms, secret)
    context = [None] if task.takes_context else []
    bound = inspect.signature(task.func).bind(*context, *args, **kwargs)
    bound.apply_defaults()
    names = parameter_names(task)
    given = {name: value for name, value in bound.arguments.items() if name in names}
    return UniqueCall(terms, {name: _as_json(value) for name, value in given.items()})


def _as_json(value: Any) -> Any:
    """Return an argument, or a default, which need not be JSON."""
    try:
        return normalize_json(value)
    except TypeError:
        return type(value).__qualname__


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
            f"{name}: backoff is {task.backoff!r}. Use a function (exception, task_result) that "
            "returns seconds, or None for no further attempt."
        )
    if task.backoff is not None and attempts == 1:
        raise InvalidTask(f"{name}: backoff is set and max_attempts is 1. Raise max_attempts.")


def task_for_wrapper(wrapper: "LambdaTaskWrapper[..., Any]", *, backend: str) -> Any:
    """Return the Task of a backend that stands for a @lambda_task."""
    options = {"queue_name": wrapper.options.queue, "backend": backend, "wrapper": wrapper}
    return _make(wrapper.__wrapped__, options)


def gone_task(name: str, *, backend: str, queues: Collection[str]) -> AnyTask:
    """Return a stand-in for a task that was renamed or removed, for its results."""

    def gone(*args: Any, **kwargs: Any) -> None:
        raise UnknownTask(f"There is no task {name!r} any more.")

    gone.__module__, _, gone.__name__ = name.rpartition(".")
    gone.__qualname__ = gone.__name__
    queue = DEFAULT_TASK_QUEUE_NAME
    if queues and queue not in queues:
        queue = next(iter(sorted(queues)))
    return LambdaTask(
        func=gone,
        priority=DEFAULT_TASK_PRIORITY,
        queue_name=queue,
        backend=backend,
        run_after=None,
    )


def _restore_task(name: str, backend: str, changes: dict[str, Any]) -> AnyTask:
    """Return the copy of a Task that stands for a @lambda_task."""
    restored: AnyTask = task_for_wrapper(import_string(name), backend=backend)
    return restored.using(**changes)


def split_call(task: AnyTask, call: Call) -> tuple[Sequence[Any], Mapping[str, Any]]:
    """Return the positional and the named arguments of one call of enqueue_many().

    Raises TypeError for a call of another kind.
    """
    if isinstance(call, Mapping):
        return (), call
    if isinstance(call, str | bytes) or not isinstance(call, Sequence):
        raise TypeError(
            f"{task.module_path}: {call!r} can't be the arguments of a call. Use a mapping of "
            "keyword arguments, or a sequence of positional ones."
        )
    return call, {}


def parameter_names(task: AnyTask) -> list[str]:
    """Return the names of a task's parameters that callers pass, in their order."""
    return list(parameters_of(task.func))[task.takes_context :]


def takes_any_keyword(task: AnyTask) -> bool:
    """Return whether a task's function has a parameter like `**kwargs`."""
    return any(each.kind is each.VAR_KEYWORD for each in parameters_of(task.func).values())
