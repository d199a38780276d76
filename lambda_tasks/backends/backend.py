"""The backend for TASKS, which turns Django's calls into messages and records into results."""

import difflib
from collections.abc import Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, ParamSpec, TypeVar, overload
from uuid import UUID

from asgiref.sync import sync_to_async
from django.apps import apps
from django.core.checks import CheckMessage, Error, Tags, Warning, register  # noqa: A004
from django.core.exceptions import ImproperlyConfigured
from django.db import DEFAULT_DB_ALIAS, connections
from django.utils import timezone

from .. import conf, registry, runtime
from ..core.arguments import refuse_positional
from ..core.message import Outgoing
from ..core.options import TaskOptions
from ..core.unique import UniqueCall
from ..decorators import LambdaTaskWrapper
from ..enqueue.announcing import aannounce, announce
from ..enqueue.prepare import check_run_after, prepare
from ..errors import UnknownTask
from ..ports import Joins
from ..queues.base import Queue
from ..twins import sync_form
from ..workflows import Step, references_in, refuse_unusable, step
from .compat import (
    DEFAULT_TASK_BACKEND_ALIAS,
    AnyResult,
    AnyTask,
    BaseTaskBackend,
    InvalidTask,
    InvalidTaskBackend,
    TaskResult,
    TaskResultDoesNotExist,
    TaskResultStatus,
    normalize_json,
    task_backends,
    task_enqueued,
)
from .declaring import (
    Call,
    LambdaTask,
    check_attempts,
    gone_task,
    options_of,
    parameter_names,
    split_call,
    task_for_wrapper,
    unique_call,
)
from .results import result_of

P = ParamSpec("P")
R = TypeVar("R")

OPTION_NAMES: Final = ("ATOMIC", "DATABASE", "ENQUEUE_ON_COMMIT")

PreparedCall = tuple[AnyResult, Outgoing]
"""The result that a call returns, and the message that it sends."""


class LambdaTasksBackend(BaseTaskBackend):
    """The django.tasks backend for LAMBDA_TASKS_QUEUES, with results in TaskRecord.

    OPTIONS["ENQUEUE_ON_COMMIT"], True by default, stores the message in the caller's transaction
    and sends it after the commit. With False the message is sent at once, even if the transaction
    rolls back later. OPTIONS["ATOMIC"], False by default, is for tasks that say nothing themselves:
    whether each run is in a transaction. OPTIONS["DATABASE"], "default" by default, is the alias of
    the database whose transaction is joined.
    """

    task_class = LambdaTask
    supports_defer = True
    supports_async_task = True
    supports_get_result = True

    @property
    def supports_priority(self) -> bool:  # type: ignore[override]
        """Whether any queue has priorities: database queues have them, SQS does not."""
        return any(queue.is_table for queue in self._allowed_queues())

    def validate_task(self, task: AnyTask) -> None:
        """Raise InvalidTask unless the task can run on this backend."""
        if conf.errors():
            # manage.py check reports them, and has to import this task's module for that.
            return
        super().validate_task(task)
        options = self.options_of(task)
        check_attempts(task)
        _check_run_after(task)
        settings = conf.current()
        queue = settings.queues.get(task.queue_name)
        if queue is None:
            return  # Django lets a task be declared for a queue that a call refuses.
        if task.priority and not queue.is_table:
            raise InvalidTask(
                f"priority is {task.priority}, but the queue {task.queue_name!r} has no "
                "priorities: SQS and AWS Batch do not support them. Use a separate queue, or a "
                "database queue."
            )
        if options.hard_timeout is not None and options.hard_timeout > queue.max_timeout_s:
            raise InvalidTask(
                f"hard_timeout is {options.hard_timeout} s and the queue {task.queue_name!r} "
                f"allows {queue.max_timeout_s} s."
            )

    @sync_form("task.aenqueue(...)")
    def enqueue(self, task: AnyTask, args: Sequence[Any], kwargs: Mapping[str, Any]) -> AnyResult:
        """Enqueue one call and return its result, which is READY.

        Raises InvalidTask for a task that this backend can't run, and for an unknown queue;
        TypeError for arguments that are not JSON, MessageTooLarge for too long arguments, and
        EnqueueError where a direct message was not accepted.
        """
        return self._enqueue([self._prepare(task, args, kwargs)])[0]

    async def aenqueue(
        self, task: AnyTask, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> AnyResult:
        """See enqueue()."""
        return (await self._aenqueue([self._prepare(task, args, kwargs)]))[0]

    @sync_form("task.aenqueue_many(...)")
    def enqueue_many(self, task: AnyTask, calls: Iterable[Call]) -> list[AnyResult]:
        """Enqueue many calls, all or none, and return their results in order. See LambdaTask."""
        return self._enqueue(self._prepare_many(task, calls))

    async def aenqueue_many(self, task: AnyTask, calls: Iterable[Call]) -> list[AnyResult]:
        """See enqueue_many()."""
        return await self._aenqueue(self._prepare_many(task, calls))

    def make_step(self, task: AnyTask, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Step[Any]:
        """Return a call as a step of a workflow. See workflows.step()."""
        wrapper = task.wrapper if isinstance(task, LambdaTask) else None
        if wrapper is not None:
            refuse_positional(wrapper.name, args)
            return step(wrapper, **kwargs)
        named = references_in({str(index): each for index, each in enumerate(args)} | dict(kwargs))
        given = [None if str(index) in named else each for index, each in enumerate(args)]
        rest = {name: value for name, value in kwargs.items() if name not in named}
        _, outgoing = self._prepare(task, given, rest, is_step=True)
        refuse_unusable(
            task.module_path, is_unique=outgoing.message.unique is not None, is_direct=False
        )
        return Step(outgoing, named)

    def get_result(self, result_id: str) -> AnyResult:
        """Return the result of an enqueued task, with all its attempts.

        Raises TaskResultDoesNotExist for an unknown or malformed id, and for a direct call that has
        not started yet, as it has no record.
        """
        try:
            root_id = UUID(str(result_id))
        except ValueError:
            raise TaskResultDoesNotExist(result_id) from None
        from ..records.queries import chain as chain_of

        chain = chain_of(root_id)
        if not chain or chain[0].backend != self.alias:
            raise TaskResultDoesNotExist(result_id)
        return result_of(self._task_of(chain[0].task_name), chain)

    def _task_of(self, task_name: str) -> AnyTask:
        """Return the Task of a name, or a stand-in if there is none of that name any more."""
        try:
            task: Any = registry.resolve(task_name, self.alias)
        except UnknownTask:
            return gone_task(task_name, backend=self.alias, queues=self.queues)
        found: AnyTask = task.django_task
        return found

    def check(self, **kwargs: Any) -> list[CheckMessage]:
        """Return the mistakes in this backend's entry of TASKS, for manage.py check."""
        return [
            Error(f"TASKS[{self.alias!r}]: {problem}", id="lambda_tasks.E003")
            for problem in self._problems()
        ]

    def options_of(self, task: AnyTask) -> TaskOptions:
        """Return the options with which this backend runs a task.

        Raises InvalidTask for values out of range.
        """
        return options_of(task, atomic=self.is_atomic)

    def _is_durable(self, task: AnyTask) -> bool:
        """Return whether a task is durable on a backend that sends at once, too."""
        options = self.options_of(task)
        return bool(options.durable) or options.waits_in_row

    @property
    def is_atomic(self) -> bool:
        """Whether tasks that say nothing themselves run in a transaction."""
        return bool(self.options.get("ATOMIC", False))

    @property
    def enqueues_on_commit(self) -> bool:
        """Whether messages are stored in the caller's transaction."""
        return bool(self.options.get("ENQUEUE_ON_COMMIT", True))

    @property
    def _database(self) -> str:
        return str(self.options.get("DATABASE", DEFAULT_DB_ALIAS))

    def _prepare_many(self, task: AnyTask, calls: Iterable[Call]) -> list[PreparedCall]:
        return [self._prepare(task, *split_call(task, call)) for call in calls]

    def _prepare(
        self,
        task: AnyTask,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        *,
        is_step: bool = False,
    ) -> PreparedCall:
        self.validate_task(task)
        _check_queue(task)
        positional, named, secret = _encode_arguments(task, args, kwargs)
        now = timezone.now()
        options = self.options_of(task)
        outgoing = prepare(
            task.module_path,
            named,
            queue=task.queue_name,
            # A task that is declared durable stays durable on a backend that sends at once.
            durable=self.enqueues_on_commit or self._is_durable(task),
            args=positional,
            backend=self.alias,
            delay_s=options.delay,
            run_after=task.run_after,
            priority=int(task.priority),
            secret=secret,
            keeps_arguments=self.options_of(task).keep_arguments,
            enqueued_at=now,
            expires=options.expires,
            unique=_unique_call(task, options, positional, named, secret),
            is_step=is_step,
        )
        message = outgoing.message
        result: AnyResult = TaskResult(
            task=task,
            id=str(message.invocation_id),
            status=TaskResultStatus.READY,
            enqueued_at=now,
            started_at=None,
            last_attempted_at=None,
            finished_at=None,
            args=list(message.args),
            kwargs=message.redacted_kwargs,
            backend=self.alias,
            errors=[],
            worker_ids=[],
        )
        return result, outgoing

    def _enqueue(self, ready: Sequence[PreparedCall]) -> list[AnyResult]:
        results, messages = [each for each, _ in ready], [each for _, each in ready]
        enqueuer, send_signals = runtime.current().enqueuer, partial(self._send_enqueued, results)
        if self._waits_for_commit(messages):
            enqueuer.enqueue(messages, using=self._database, on_stored=send_signals)
        else:
            enqueuer.send_now(announce(messages))
            send_signals({})
        if conf.current().eager:
            self._refresh_all(results, messages)
        return results

    async def _aenqueue(self, ready: Sequence[PreparedCall]) -> list[AnyResult]:
        results, messages = [each for each, _ in ready], [each for _, each in ready]
        enqueuer, send_signals = runtime.current().enqueuer, partial(self._send_enqueued, results)
        if self._waits_for_commit(messages):
            await enqueuer.aenqueue(messages, using=self._database, on_stored=send_signals)
        else:
            await enqueuer.asend_now(await aannounce(messages))
            await sync_to_async(send_signals)({})
        if conf.current().eager:
            await sync_to_async(self._refresh_all)(results, messages)
        return results

    def _waits_for_commit(self, messages: Sequence[Outgoing]) -> bool:
        """Return whether any message is stored: its row can't be read before the commit."""
        return self.enqueues_on_commit or any(each.message.durable for each in messages)

    def _send_enqueued(self, results: list[AnyResult], joins: Joins) -> None:
        """Send the signals of new calls; put the results of others in place of those that joined.

        Called on the thread of the connection.
        """
        for number, result in enumerate(results):
            if joined := joins.get(UUID(result.id)):
                results[number] = self.get_result(str(joined.root_id))
            else:
                task_enqueued.send(sender=type(self), task_result=result)

    def _refresh_all(self, results: Sequence[AnyResult], messages: Sequence[Outgoing]) -> None:
        """Refresh the results in eager mode, unless the calls wait for the commit."""
        if self._waits_for_commit(messages) and connections[self._database].in_atomic_block:
            return
        for result in results:
            with suppress(TaskResultDoesNotExist):
                result.refresh()

    def _problems(self) -> Iterator[str]:
        if not apps.is_installed("lambda_tasks"):
            yield "add 'lambda_tasks' to INSTALLED_APPS: its table keeps the results."
        for name in self.options:
            if name not in OPTION_NAMES:
                close = difflib.get_close_matches(name, OPTION_NAMES, n=1, cutoff=0.3)
                yield f"OPTIONS has no {name!r}. Did you mean {(close or OPTION_NAMES)[0]!r}?"
        if self._database not in connections:
            yield f"OPTIONS['DATABASE'] is {self._database!r}, which is no alias of DATABASES."
        if not conf.errors():
            yield from self._problems_of_queues()

    def _problems_of_queues(self) -> Iterator[str]:
        settings = conf.current()
        queues = settings.queues
        for name in sorted(self.queues - queues.keys()):
            known = ", ".join(map(repr, queues))
            yield f"QUEUES names {name!r}, but LAMBDA_TASKS_QUEUES has only {known}."
        for queue in self._allowed_queues():
            if not self.enqueues_on_commit and queue.is_table and not settings.local_workers:
                yield (
                    f"ENQUEUE_ON_COMMIT is False, but the queue {queue.name!r} is a table, whose "
                    "messages can't be read before the commit. Use an SQS queue, or True."
                )

    def _allowed_queues(self) -> Iterator[Queue]:
        for name, queue in conf.current().queues.items():
            if not self.queues or name in self.queues:
                yield queue


@overload
def django_task(
    wrapper: LambdaTaskWrapper[P, Coroutine[Any, Any, R]], *, backend: str | None = ...
) -> LambdaTask[P, R]: ...


@overload
def django_task(
    wrapper: LambdaTaskWrapper[P, R], *, backend: str | None = ...
) -> LambdaTask[P, R]: ...


def django_task(wrapper: LambdaTaskWrapper[P, Any], *, backend: str | None = None) -> Any:
    """Return a @lambda_task as a Django Task: `django_task(send_mail).enqueue(user_id=1)`.

    `backend` is an alias of TASKS. By default it is the first LambdaTasksBackend that has the
    task's queue, and "default" comes first.

    Raises ImproperlyConfigured where TASKS has no LambdaTasksBackend, and TypeError for a copy that
    `using()` has returned. Call `using()` of the Django Task instead.
    """
    if wrapper.has_overrides:
        raise TypeError(
            f"{wrapper.name} comes from using(). Pass the task itself, and call using() of what "
            "django_task() returns."
        )
    return task_for_wrapper(wrapper, backend=backend or _alias_for(wrapper.options.queue))


def lambda_tasks_backend(alias: str) -> LambdaTasksBackend:
    """Return the LambdaTasksBackend of an alias. Raises UnknownTask where TASKS has none."""
    try:
        backend = task_backends[alias]
    except InvalidTaskBackend:
        backend = None
    if not isinstance(backend, LambdaTasksBackend):
        raise UnknownTask(
            f"The message names the backend {alias!r} of TASKS, but this project has no "
            "LambdaTasksBackend of that name."
        )
    return backend


def is_direct(alias: str) -> bool:
    """Return whether calls of this backend have no record until they run. Raises UnknownTask."""
    return not lambda_tasks_backend(alias).enqueues_on_commit


@register("lambda_tasks", Tags.security, deploy=True)
def check_direct_backends(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    """Warn, with --deploy, of backends by which unsigned messages can run any task."""
    if conf.errors() or conf.current().signing_keys or not conf.current().is_open_to_others:
        return []
    return [
        Warning(
            "Whoever can send to a queue of LAMBDA_TASKS_QUEUES can run every task that is not "
            "declared with durable=True, with any arguments. A message that names the backend "
            f"{alias!r} of TASKS, whose ENQUEUE_ON_COMMIT is False, needs no record, and nothing "
            "is signed.",
            hint="Set LAMBDA_TASKS_SIGNING_KEYS.",
            id="lambda_tasks.W007",
        )
        for alias in _direct_aliases()
    ]


def _direct_aliases() -> Iterator[str]:
    for alias in task_backends:
        with suppress(UnknownTask):  # It is not a LambdaTasksBackend.
            if is_direct(alias):
                yield alias


def _alias_for(queue: str) -> str:
    aliases = sorted(task_backends, key=lambda alias: alias != DEFAULT_TASK_BACKEND_ALIAS)
    ours = [alias for alias in aliases if isinstance(task_backends[alias], LambdaTasksBackend)]
    if not ours:
        raise ImproperlyConfigured(
            "No backend in TASKS runs a @lambda_task. Add one: "
            'TASKS = {"default": {"BACKEND": "lambda_tasks.backends.LambdaTasksBackend"}}'
        )
    matching = (alias for alias in ours if queue in (task_backends[alias].queues or {queue}))
    return next(matching, ours[0])


def _unique_call(
    task: AnyTask,
    options: TaskOptions,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    secret: frozenset[str],
) -> UniqueCall | None:
    if isinstance(task, LambdaTask) and task.wrapper is not None:
        return task.wrapper.unique_call(args, kwargs)
    return unique_call(task, args, kwargs, terms=options.unique, secret=secret)


def _check_queue(task: AnyTask) -> None:
    queues = conf.current().queues
    if task.queue_name not in queues:
        known = ", ".join(map(repr, queues))
        raise InvalidTask(
            f"{task.module_path}: there is no queue {task.queue_name!r} in LAMBDA_TASKS_QUEUES, "
            f"which has {known}."
        )


def _check_run_after(task: AnyTask) -> None:
    """Raise InvalidTask unless `run_after` is an aware datetime in the years that are allowed."""
    try:
        if task.run_after is not None:
            check_run_after(task.run_after)
    except ValueError as error:
        raise InvalidTask(f"{task.module_path}: {error}") from None


def _encode_arguments(
    task: AnyTask, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[list[Any], dict[str, Any], frozenset[str]]:
    """Return positional and named arguments as JSON values, and the names of secret ones."""
    wrapper = task.wrapper if isinstance(task, LambdaTask) else None
    if wrapper is not None:
        refuse_positional(wrapper.name, args)
        secret = wrapper.secret_names
        return [], wrapper.arguments.to_json(kwargs, hides_inputs=bool(secret)), secret
    positional, named = normalize_json(list(args)), normalize_json(dict(kwargs))
    secret = conf.current().redact
    if not secret:
        return positional, named, secret
    parameters = parameter_names(task)
    for name in parameters[: len(positional)]:
        if name in secret:
            raise TypeError(
                f"{task.module_path}: LAMBDA_TASKS_REDACT names the parameter {name!r}. Pass it by "
                "keyword: secrets are recognized by their names."
            )
    return positional, named, secret.intersection((*parameters, *named))
