"""The decorator `@lambda_task`, and the task object with its call forms."""

import copy
import functools
import inspect
import sys
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Generic,
    Literal,
    NoReturn,
    ParamSpec,
    Self,
    TypeVar,
    Unpack,
    overload,
)

from asgiref.sync import markcoroutinefunction
from django.db import DEFAULT_DB_ALIAS

from . import conf, registry, runtime
from .context import TaskContext
from .core.arguments import (
    Arguments,
    arguments_mismatch,
    copy_json,
    refuse_positional,
)
from .core.foreign_words import OF_TASKS, missing, telling_options
from .core.functions import CONTEXT_PARAMETER, check_function, takes_context_by_position
from .core.graphs import GroupNode, Node, source_of
from .core.hints import UnresolvedHint, parameters_of, signature_of
from .core.lifecycle import Claim, Outcome
from .core.message import UNDO_HEADER, Message, Outgoing, check_headers
from .core.options import (
    CommonOptionNames,
    OptionNames,
    TaskOptions,
    check_not_secret,
    parse_options,
    parse_unique,
)
from .core.parameters import Description
from .core.quick import quick_dataclass
from .core.redaction import REDACTED
from .core.references import GROUP_RESULT
from .core.results import ResultType
from .core.unique import (
    OnConflict,
    UniqueBy,
    UniqueCall,
    UniqueTerms,
    UniqueWhile,
    refuse_secret_keys,
)
from .durable.contexts import SyncWorkflowContext, WorkflowContext
from .durable.undoing import aundo, undo
from .enqueue.announcing import announce
from .enqueue.prepare import (
    check_delay,
    check_expires,
    check_priority,
    check_run_after,
    prepare,
)
from .invocation import Invocation
from .payload import SQSLambdaTask
from .ports import Joins, TaskCall
from .twins import sync_form
from .workflows import Chain, Step, references_in, refuse_unusable

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
"""What a direct call returns: the function's result, or a coroutine of it."""
T = TypeVar("T")

ManyCalls = Iterable[Mapping[str, Any]]
"""The keyword arguments of each of many calls."""

CALL_OPTIONS = {"_delay": "delay", "_queue": "queue"}
"""Keyword arguments of a call that override options, and the overrides that they set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Overrides:
    """The overrides that `using()` sets for calls."""

    delay: int | None = None
    queue: str | None = None
    run_after: datetime | None = None
    using: str = DEFAULT_DB_ALIAS
    group_key: str | None = None
    priority: int = 0
    headers: dict[str, Any] = field(default_factory=dict)
    expires: timedelta | datetime | None = None
    unique_options: Mapping[str, Any] = field(default_factory=dict)
    """The options of unique calls, as they were given."""
    unique: UniqueTerms | None = None
    """The terms that follow from these and from the task's; None for the task's alone."""


class LambdaTaskWrapper(Generic[P, R_co]):
    """A function that can be called here, or enqueued to run on Lambda.

    Each form that enqueues validates first, and raises before anything is sent:
    pydantic.ValidationError for invalid arguments, TypeError for arguments that can't be sent as
    JSON, ImproperlyConfigured for an unknown queue, MessageTooLarge, and ValueError for a delay out
    of range.
    """

    __wrapped__: Callable[P, R_co]
    __name__: str
    name: str

    def __init__(self, func: Callable[P, R_co], **options: Unpack[OptionNames]) -> None:
        if isinstance(func, LambdaTaskWrapper):
            raise TypeError(
                f"{func.name} is a task already. Use one @lambda_task, with all options."
            )
        is_durable = options.get("workflow", False)
        takes_context = options.get("takes_context", False)
        check_function(func, takes_context=takes_context, is_durable=is_durable)
        self.options: TaskOptions = parse_options(
            func.__qualname__, options, parameters=list(parameters_of(func))
        )
        functools.update_wrapper(self, func)
        self._func = func
        self._overrides = _Overrides()
        self._is_found = False
        self.name = f"{func.__module__}.{func.__qualname__}"
        self.is_async: bool = inspect.iscoroutinefunction(func)
        self.arguments = Arguments(
            func, takes_context=takes_context, is_durable=self.options.workflow
        )
        if self.options.limit_by or self.options.rate_by:
            check_not_secret(func.__qualname__, self.options, self.arguments.secret_names)
        self._result_type = ResultType(func)
        self._context_is_positional = takes_context_by_position(func)
        self._unique = self.options.unique
        keeps_rows = self.options.waits_in_row or self.options.workflow or self._unique is not None
        self._durable = True if keeps_rows else self.options.durable
        with suppress(UnresolvedHint):  # check() and the first call look again
            self._check_unique()
        if self.is_async:
            markcoroutinefunction(self)
        registry.register(self)

    def __repr__(self) -> str:
        return f"<LambdaTaskWrapper {self.name}>"

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Call the function directly: without record, queue, transaction and timeout."""
        refuse_positional(self.name, args)
        passed = dict(kwargs)
        context: Any = passed.pop(CONTEXT_PARAMETER, None) if self.options.takes_context else None
        hides = bool(self.secret_names)
        return self.run(self.arguments.validate(passed, hides_inputs=hides), context)

    if not TYPE_CHECKING:  # where any name would then be right

        def __getattr__(self, name: str) -> NoReturn:
            text = missing(f"The task {self.__dict__.get('name')}", name, OF_TASKS)
            raise AttributeError(text, name=name, obj=self)

    @property
    def queue(self) -> str:
        """The name of the queue that the task declares."""
        return self.options.queue

    @property
    def retry_on(self) -> tuple[type[BaseException], ...]:
        """The exceptions after which a new invocation repeats the task."""
        return self.options.retry_on

    @property
    def retry_delay(self) -> float:
        """Seconds before a retry, without jitter."""
        return self.options.retry_delay

    @property
    def singleton(self) -> bool:
        """Whether a lock lets only one run of the task execute at a time."""
        return self.options.singleton

    @property
    def retry_singleton(self) -> bool:
        """Whether a run that can't get the lock is retried."""
        return self.options.retry_singleton

    @property
    def resolved_timeouts(self) -> tuple[float, float]:
        """The soft and the hard timeout in seconds, of the task or else of the settings.

        Both are the same for a task whose hard timeout alone is shorter than the soft one of the
        settings: it has no soft one.
        """
        from .execution.time_budget import limits_s

        return limits_s(self, conf.current())

    @property
    def has_overrides(self) -> bool:
        """Whether using() has set any override."""
        return self._overrides != _Overrides()

    @property
    def secret_names(self) -> frozenset[str]:
        """The parameters annotated as SecretStr, and those that LAMBDA_TASKS_REDACT names."""
        redact = conf.current().redact
        annotated = self.arguments.secret_names
        return annotated | redact.intersection(self.arguments.names) if redact else annotated

    def unknown_names(self, kwargs: Mapping[str, Any]) -> frozenset[str]:
        """See ports.Task."""
        return frozenset(kwargs.keys() - self.arguments.names)

    def make_call(self, message: Message, claim: Claim) -> TaskCall:
        """See ports.Task."""
        return FunctionCall(
            message=message,
            arguments=self.arguments,
            function=self.run,
            options=self.options,
            is_async=self.is_async,
        )

    @property
    def backend(self) -> None:
        """See ports.Task."""

    def arguments_to_json(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """See ports.Task."""
        return self.arguments.to_json(kwargs, hides_inputs=bool(self.secret_names))

    def check_json(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """See ports.Task."""
        if args:
            raise arguments_mismatch(self.name, f"it has {len(args)} positional ones")
        self.arguments.from_json(kwargs, hides_inputs=bool(self.secret_names))

    def read_texts(self, texts: Mapping[str, str]) -> dict[str, Any]:
        """See ports.Task."""
        return self.arguments.read_texts(texts)

    def describe(self) -> Description:
        """See ports.Task."""
        return Description(
            signature=f"{self._func.__name__}{signature_of(self._func)}",
            documentation=inspect.getdoc(self._func) or "",
            parameters=self.arguments.describe(self.secret_names),
        )

    def check(self) -> None:
        """See ports.Task."""
        self._check_name()
        self.arguments.build()
        self._check_unique()

    @property
    def result_hint(self) -> Any:
        """The annotation of the function's result; Any where it has none."""
        return self._result_type.hint

    def result_from_json(self, value: Any) -> Any:
        """See ports.Task."""
        return self._result_type.from_json(value)

    def run(
        self,
        arguments: Mapping[str, Any],
        context: TaskContext | WorkflowContext | SyncWorkflowContext | None = None,
    ) -> R_co:
        """Call the function with arguments that have been validated."""
        func: Callable[..., R_co] = self._func
        if self.options.workflow:
            return func(self._workflow_context(context), **arguments)
        if not self.options.takes_context:
            return func(**arguments)
        context = context or TaskContext(task_name=self.name)
        if self._context_is_positional:
            return func(context, **arguments)
        return func(**arguments, context=context)

    def _workflow_context(self, context: Any) -> Any:
        if isinstance(context, WorkflowContext | SyncWorkflowContext):
            return context
        kind = WorkflowContext if self.is_async else SyncWorkflowContext
        return kind(context or TaskContext(task_name=self.name))

    @overload
    def execute_on_commit(
        self: "LambdaTaskWrapper[P, Coroutine[Any, Any, T]]", /, *args: P.args, **kwargs: P.kwargs
    ) -> Invocation[T]: ...

    @overload
    def execute_on_commit(self, /, *args: P.args, **kwargs: P.kwargs) -> Invocation[R_co]: ...

    @sync_form("task.aexecute_on_commit(...)")
    def execute_on_commit(self, /, *args: P.args, **kwargs: P.kwargs) -> Invocation[Any]:
        """Enqueue a call when the current transaction commits, or at once outside of one.

        Raises EnqueueError where the task is not durable and its queue did not accept the message.
        """
        outgoing = self._outgoing(args, kwargs)
        joins = runtime.current().enqueuer.enqueue([outgoing], using=self._overrides.using)
        return self._invocation(outgoing, joins)

    @overload
    async def aexecute_on_commit(
        self: "LambdaTaskWrapper[P, Coroutine[Any, Any, T]]", /, *args: P.args, **kwargs: P.kwargs
    ) -> Invocation[T]: ...

    @overload
    async def aexecute_on_commit(
        self, /, *args: P.args, **kwargs: P.kwargs
    ) -> Invocation[R_co]: ...

    async def aexecute_on_commit(self, /, *args: P.args, **kwargs: P.kwargs) -> Invocation[Any]:
        """See execute_on_commit()."""
        outgoing = self._outgoing(args, kwargs)
        joins = await runtime.current().enqueuer.aenqueue([outgoing], using=self._overrides.using)
        return self._invocation(outgoing, joins)

    @overload
    def execute_many_on_commit(
        self: "LambdaTaskWrapper[P, Coroutine[Any, Any, T]]", calls: ManyCalls
    ) -> list[Invocation[T]]: ...

    @overload
    def execute_many_on_commit(self, calls: ManyCalls) -> list[Invocation[R_co]]: ...

    @sync_form("task.aexecute_many_on_commit(...)")
    def execute_many_on_commit(self, calls: ManyCalls) -> list[Invocation[Any]]:
        """Enqueue one call for each mapping of keyword arguments, as execute_on_commit() does.

        If any arguments are invalid, no call is enqueued. Returns the invocations in order.
        """
        outgoing = self._outgoing_many(calls)
        joins = runtime.current().enqueuer.enqueue(outgoing, using=self._overrides.using)
        return [self._invocation(each, joins) for each in outgoing]

    @overload
    async def aexecute_many_on_commit(
        self: "LambdaTaskWrapper[P, Coroutine[Any, Any, T]]", calls: ManyCalls
    ) -> list[Invocation[T]]: ...

    @overload
    async def aexecute_many_on_commit(self, calls: ManyCalls) -> list[Invocation[R_co]]: ...

    async def aexecute_many_on_commit(self, calls: ManyCalls) -> list[Invocation[Any]]:
        """See execute_many_on_commit()."""
        outgoing = self._outgoing_many(calls)
        joins = await runtime.current().enqueuer.aenqueue(outgoing, using=self._overrides.using)
        return [self._invocation(each, joins) for each in outgoing]

    @overload
    def step(
        self: "LambdaTaskWrapper[P, Coroutine[Any, Any, T]]", /, *args: P.args, **kwargs: P.kwargs
    ) -> Step[T]: ...

    @overload
    def step(self, /, *args: P.args, **kwargs: P.kwargs) -> Step[R_co]: ...

    def step(self, /, *args: P.args, **kwargs: P.kwargs) -> Step[Any]:
        """Return a call as a step of a workflow. Arguments may be the results of other steps.

        Raises what execute_on_commit() raises, and TypeError for a task that can't be a step.
        """
        is_direct = self.options.durable is False
        refuse_unusable(self.name, is_unique=self._terms is not None, is_direct=is_direct)
        references = references_in(kwargs)
        self.arguments.check_references(
            {name: _result_hint(each.source) for name, each in references.items()}
        )
        self._refuse_limiting(references)
        return Step(self._outgoing(args, kwargs, references=references.keys()), references)

    def stored_call(self) -> Outgoing:
        """Return a call without arguments, to be stored with the success of another task.

        Raises pydantic.ValidationError where it needs arguments.
        """
        (announced,) = announce([self._outgoing((), {}, references=())])
        return announced

    def then(self, task: Any, /, *, result_as: str | None = None, **kwargs: Any) -> Chain:
        """Return a chain: another task, with these arguments, once this one has succeeded.

        `result_as` names its parameter that takes the result of this one. A chain has the call
        forms of a task, with the arguments of its first one, and `then()` again.
        """
        return Chain(self, []).then(task, result_as=result_as, **kwargs)

    @property
    def using_alias(self) -> str:
        """The alias of the database whose transaction its calls join."""
        return self._overrides.using

    def _refuse_limiting(self, references: Mapping[str, Any]) -> None:
        """Raise TypeError where a result would name a limit or a lock, which is needed earlier."""
        options = self.options
        for option in ("limit_by", "rate_by", "singleton_by"):
            if names := references.keys() & set(getattr(options, option) or ()):
                raise TypeError(
                    f"{self.name}: {option} names {sorted(names)}, which is the result of another "
                    "step here, and must be known before the step is claimed. Pass a value."
                )

    def serialize(self, /, *args: P.args, **kwargs: P.kwargs) -> dict[str, Any]:
        """Return a call as a dict of JSON values, which SQSLambdaTask.model_validate() reads."""
        outgoing = self._outgoing(args, kwargs)
        payload = SQSLambdaTask.of(outgoing, expires=self._expires, unique=self._terms)
        return payload.model_dump(mode="json", exclude_none=True)

    def is_direct(self, backend: str | None) -> bool:
        """See ports.Task."""
        durable = self._durable
        return not (conf.current().durable if durable is None else durable)

    def argument_of(self, message: Message, name: str) -> Any:
        """See ports.Task."""
        if name in message.kwargs:
            return message.kwargs[name]
        return self.arguments.default_to_json(name)

    @telling_options
    def using(
        self,
        *,
        delay: int | timedelta | None = None,
        run_after: datetime | timedelta | None = None,
        queue: str | None = None,
        using: str | None = None,
        group_key: str | None = None,
        priority: int | None = None,
        headers: Mapping[str, Any] | None = None,
        expires: float | timedelta | datetime | None = None,
        unique_by: UniqueBy | None = None,
        unique_while: UniqueWhile | None = None,
        unique_for: float | timedelta | None = None,
        on_conflict: OnConflict | None = None,
    ) -> Self:
        """Return a copy of the task with these overrides, for all its call forms.

        `delay` is in seconds, from 0 to 900. `run_after` is an aware datetime or a timedelta from
        now, without a limit. `using` is the alias of the database whose transaction the call joins.
        `group_key`, such as a tenant, becomes the MessageGroupId of SQS. `priority`, from -100 to
        100, orders database queues. `headers` are JSON values by name, up to 4 KiB, that the run
        finds in its context. `expires` is an aware datetime, or seconds or a timedelta from when
        the call is due. `unique_by`, `unique_while`, `unique_for` and `on_conflict` are as in
        TaskOptions. Raises ValueError where a value is out of range, and TypeError for headers
        that are not JSON and for options of unique calls that contradict each other.
        """
        if isinstance(delay, timedelta):
            delay = round(delay.total_seconds())
        if delay is not None:
            check_delay(delay)
        given: dict[str, Any] = {
            "delay": delay,
            "run_after": None if run_after is None else check_run_after(run_after),
            "queue": queue,
            "using": using,
            "group_key": group_key,
            "priority": None if priority is None else check_priority(priority),
            "headers": None
            if headers is None
            else check_headers(dict(headers), what=f"the headers of {self.name}"),
            "expires": None if expires is None else check_expires(self.name, expires),
            **self._unique_overrides(
                unique_by=unique_by,
                unique_while=unique_while,
                unique_for=unique_for,
                on_conflict=on_conflict,
            ),
        }
        changed = copy.copy(self)
        changed._overrides = replace(
            self._overrides, **{name: value for name, value in given.items() if value is not None}
        )
        return changed

    def unique_call(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], terms: UniqueTerms | None = None
    ) -> UniqueCall | None:
        """See ports.Task."""
        terms = terms or self._terms
        if terms is None:
            return None
        refuse_secret_keys(self.name, terms, self.secret_names)
        return UniqueCall(terms, self.arguments.complete(kwargs))

    def _unique_overrides(self, **options: Any) -> dict[str, Any]:
        """Return what using() changes if it is given these options of unique calls."""
        given = {name: value for name, value in options.items() if value is not None}
        if not given:
            return {}
        given = {**self._overrides.unique_options, **given}
        changed = replace(self.options, **given)
        terms = parse_unique(self.name, changed, self.arguments.names)
        assert terms is not None
        self.arguments.check_unique(terms)
        return {"unique_options": given, "unique": terms}

    def _check_unique(self) -> None:
        if self._unique is not None:
            self.arguments.check_unique(self._unique)

    def _invocation(self, outgoing: Outgoing, joins: Joins) -> Invocation[Any]:
        id = outgoing.message.invocation_id
        if joins and id in joins:
            return Invocation(joins[id].invocation_id, self.name, created=False)
        return Invocation(id, self.name)

    @property
    def _terms(self) -> UniqueTerms | None:
        return self._overrides.unique or self._unique

    @property
    def _expires(self) -> float | timedelta | datetime | None:
        return self.options.expires if self._overrides.expires is None else self._overrides.expires

    def _check_name(self) -> None:
        """Raise TypeError unless a worker finds this task, or the one it is a copy of, by its name.

        After `send = lambda_task(_send)`, or below another decorator, something else has the name.
        """
        found: Any = getattr(sys.modules.get(self.__module__), self.__name__, None)
        registered = registry.registered(self.name)
        if registered and found is registered and registered.options == self.options:
            self._is_found = True
            return
        raise TypeError(
            f"A worker would look for the task {self.name} by this name, and there it finds "
            f"{found!r}. Write @lambda_task above the definition of {self.__name__}, above all its "
            "other decorators, and keep the name."
        )

    def _outgoing(
        self,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        *,
        references: Collection[str] | None = None,
    ) -> Outgoing:
        """Return the message of a call; that of a step has `references` among its arguments."""
        if not self._is_found:
            self._check_name()
        refuse_positional(self.name, args)
        overrides, arguments = self._overrides, kwargs
        if not CALL_OPTIONS.keys().isdisjoint(kwargs):
            arguments = {name: kwargs[name] for name in kwargs if name not in CALL_OPTIONS}
            overrides = replace(
                overrides,
                **{CALL_OPTIONS[name]: kwargs[name] for name in kwargs if name in CALL_OPTIONS},
            )
        options, secret, terms = self.options, self.secret_names, self._terms
        queue = options.queue if overrides.queue is None else overrides.queue
        hides = bool(secret)
        if references:
            named = self.arguments.some_valid(arguments, without=references, hides_inputs=hides)
        else:
            named = self.arguments.to_json(arguments, hides_inputs=hides)
        return prepare(
            self.name,
            named,
            queue=queue,
            task_queue=options.queue,
            durable=self._durable,
            is_step=references is not None,
            is_workflow=options.workflow,
            delay_s=options.delay if overrides.delay is None else overrides.delay,
            run_after=overrides.run_after,
            group_key=overrides.group_key,
            priority=overrides.priority,
            headers=overrides.headers,
            secret=secret,
            keeps_arguments=options.keep_arguments,
            expires=self._expires,
            unique=None if terms is None else self.unique_call((), named, terms),
        )

    def _outgoing_many(self, calls: ManyCalls) -> list[Outgoing]:
        if isinstance(calls, Mapping):
            raise TypeError(
                f"{self.name}: the calls are one mapping, of {list(calls)!r}. Pass a list "
                "with a mapping for each call, [{...}, {...}]; for one, use execute_on_commit(...)."
            )
        return [self._outgoing((), self._check_mapping(kwargs)) for kwargs in calls]

    def _check_mapping(self, kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
        if type(kwargs) is dict or isinstance(kwargs, Mapping):  # the second takes much longer
            return kwargs
        raise TypeError(
            f"{self.name}: the arguments of a call can't be of the type {type(kwargs).__name__}. "
            "Pass a mapping of keyword arguments for each call, [{...}, {...}]."
        )


@overload
def lambda_task(func: Callable[P, R], /) -> LambdaTaskWrapper[P, R]: ...


@overload
def lambda_task(
    *, takes_context: Literal[True], **options: Unpack[CommonOptionNames]
) -> Callable[[Callable[Concatenate[TaskContext, P], R]], LambdaTaskWrapper[P, R]]: ...


@overload
def lambda_task(
    *, workflow: Literal[True], **options: Unpack[CommonOptionNames]
) -> Callable[[Callable[Concatenate[Any, P], R]], LambdaTaskWrapper[P, R]]: ...


@overload
def lambda_task(
    *,
    takes_context: Literal[False] = ...,
    workflow: Literal[False] = ...,
    **options: Unpack[CommonOptionNames],
) -> Callable[[Callable[P, R]], LambdaTaskWrapper[P, R]]: ...


def lambda_task(
    func: Callable[..., Any] | None = None,
    /,
    *,
    takes_context: bool = False,
    workflow: bool = False,
    **options: Unpack[CommonOptionNames],
) -> Any:
    """Declare a function, `def` or `async def`, as a task.

    Works with and without parentheses. The options are those of TaskOptions. Raises TypeError or
    ValueError at decoration where the signature or an option is invalid.
    """
    given: OptionNames = {**options, "takes_context": takes_context, "workflow": workflow}
    if func is None:
        return functools.partial(LambdaTaskWrapper, **given)
    return LambdaTaskWrapper(func, **given)


def _result_hint(node: Node) -> Any:
    """Return the annotation of what a step or group returns; Any where it has none."""
    if isinstance(node, GroupNode):
        return GROUP_RESULT
    source = source_of(node)
    task: Any = registry.registered(source.label) if isinstance(source, Step) else None
    return getattr(task, "result_hint", Any)


@quick_dataclass(frozen=True, slots=True, kw_only=True)
class FunctionCall:
    """One run of a @lambda_task. See ports.TaskCall.

    It has no listeners: its start and end are only recorded and logged.
    """

    message: Message
    arguments: Arguments
    function: Callable[[Mapping[str, Any], Any], Any]
    options: TaskOptions
    is_async: bool

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
        self._typed_arguments()

    def started(self) -> None:
        """See ports.TaskCall."""

    def call(self, context: TaskContext) -> Any:
        """See ports.TaskCall."""
        if UNDO_HEADER in self.message.headers:
            return self._undo(context)
        return self.function(self._typed_arguments(), context)

    def _undo(self, context: TaskContext) -> Any:
        """Run the compensations of a durable function; return the coroutine of an async one."""

        def call(workflow: Any) -> Any:
            if REDACTED in self.message.kwargs.values():
                problem = "its secret arguments are gone"
                raise arguments_mismatch(self.message.task_name, problem)
            return self.function(self._typed_arguments(), workflow)

        return aundo(context, call) if self.is_async else undo(context, call)

    def _typed_arguments(self) -> dict[str, Any]:
        if self.message.args:
            problem = f"it has {len(self.message.args)} positional ones"
            raise arguments_mismatch(self.message.task_name, problem)
        kwargs, hides = copy_json(self.message.kwargs), bool(self.message.secret)
        return self.arguments.from_json(kwargs, hides_inputs=hides)

    def has_rule_for(self, error: BaseException) -> bool:
        """See ports.TaskCall."""
        rule = self.options.retry_rule
        return rule.ignores(error) or rule.retries(error)

    def ignores(self, error: BaseException) -> bool:
        """See ports.TaskCall."""
        return self.options.retry_rule.ignores(error)

    def retry_delay_s(self, error: BaseException, *, jitter_s: float) -> float | None:
        """See ports.TaskCall."""
        rule = self.options.retry_rule
        if not rule.retries(error):
            return None
        return rule.delay_s(error, n_retries=self.message.n_retries, jitter_s=jitter_s)

    def ended(self, outcome: Outcome, error: BaseException | None) -> None:
        """See ports.TaskCall."""
