"""The first parameter of durable functions: how they make their steps."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any, ParamSpec, TypeVar, overload
from uuid import UUID, uuid5

from asgiref.sync import iscoroutinefunction, sync_to_async

from ..context import TaskContext
from ..core.durable import Kind
from ..workflows import Results, Step
from . import children
from .steps import Steps, check_step_function

P = ParamSpec("P")
R = TypeVar("R")


class _Context:
    """What both forms of the context share."""

    def __init__(self, context: TaskContext) -> None:
        self.context = context
        """The context of this run, for progress, headers and the time that is left."""
        self.steps = Steps(context)
        """Its steps. Internal."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.context.task_name} {self.id}>"

    @property
    def id(self) -> UUID:
        """The id of the call, which signals name: that of the invocation that the caller got."""
        call_id: UUID = self.steps.journal.call_id
        return call_id

    @property
    def is_replaying(self) -> bool:
        """Whether the code that runs now has run before, up to the next new step.

        `task_logger` writes nothing meanwhile.
        """
        return bool(self.steps.journal.is_replaying)

    def key(self, name: str) -> UUID:
        """Return a key that stays the same over all runs, for APIs that do nothing twice by it.

        It is another one once compensations have undone what was done by it: see retry_from().
        """
        n_undone = self.steps.journal.n_undone
        return uuid5(self.id, f"{name} {n_undone}" if n_undone else name)

    def on_failure(
        self, name: str, fn: Callable[P, Any], /, *args: P.args, **kwargs: P.kwargs
    ) -> None:
        """Let a function undo what was done, if this one fails or is cancelled.

        Then all of these run as steps, the last one first, in a run of their own; one that fails
        for good does not keep the others from it. `fn` is a function of a module, with arguments by
        name that are JSON values by its annotations. Raises
        ValueError for a name that this run has used, and TypeError for a function that is not found
        by its name, and for arguments that are not JSON.
        """
        if iscoroutinefunction(fn) and isinstance(self, SyncWorkflowContext):
            raise TypeError(
                f"The compensation {name!r} is an `async def`, and the durable function is a "
                "`def`. Make both the same."
            )
        self.steps.on_failure(name, fn, args, kwargs)


class WorkflowContext(_Context):
    """What a durable function that is an `async def` gets as its first parameter, `workflow`.

    Steps that are awaited at the same time run one after the other.
    """

    def __init__(self, context: TaskContext) -> None:
        super().__init__(context)
        self._lock = asyncio.Lock()

    @overload
    async def step(
        self, name: str, fn: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> R: ...

    @overload
    async def step(
        self, name: str, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> R: ...

    async def step(self, name: str, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Call a function, sync or async, in a transaction with its checkpoint; return its result.

        The result has the type of its return annotation; without one it is a JSON value. If the
        function raises, its writes are rolled back and the error is raised here. An error that your
        code catches becomes the step's outcome, too, as soon as the next step begins. A run that is
        short of time goes on in a new one before the step begins.

        Raises ValueError for a name that this run has used, or a result that is too large;
        TypeError for one that is not JSON; RuntimeError within another step, or behind one that was
        cancelled from outside of it; and LeaseLost where the run was taken over or cancelled.
        """
        check_step_function(name, fn, is_async=True)
        async with self._turn(name) as steps:
            found = steps.enter(name, Kind.STEP)
            if found is not None:
                return steps.result_of(found, fn)
            with steps.active(name):
                await sync_to_async(steps.may_begin)(name)
                try:
                    if iscoroutinefunction(fn):
                        return await self._run_async_step(name, fn, args, kwargs)
                    return await sync_to_async(steps.run_step)(name, fn, args, kwargs)
                except asyncio.CancelledError as cancelled:
                    steps.cancelled(name)
                    # Behind a `def`, which still runs on its thread.
                    await sync_to_async(steps.journal.roll_back)(cancelled)
                    raise

    async def _run_async_step(
        self, name: str, fn: Callable[..., Any], args: Any, kwargs: Any, n_tries: int = 0
    ) -> Any:
        steps = self.steps
        try:
            await sync_to_async(steps.journal.begin)()
            result = await fn(*args, **kwargs)
            return await sync_to_async(steps.commit)(name, fn, result)
        except Exception as error:
            await sync_to_async(steps.journal.roll_back)(error)
            if not steps.repeats(error, n_tries):
                await sync_to_async(steps.failed)(name, error)
                raise
        return await self._run_async_step(name, fn, args, kwargs, n_tries + 1)

    async def run(self, name: str, step: Step[R]) -> R:
        """Run a task as an invocation of its own, and return its result: `task.step(...)`.

        This run ends, and the next one begins when the task has ended. Raises TaskFailed, with the
        traceback, if it fails in the end or is cancelled; TypeError for what is no step.
        """
        async with self._turn(name) as steps:
            result: R = await sync_to_async(children.run)(steps, name, step)
            return result

    async def gather(self, name: str, steps: Iterable[Step[R]]) -> Results[R]:
        """Run tasks at the same time, and return their results when all of them have ended.

        `failed` of the results is the number of those that have not succeeded.
        """
        async with self._turn(name) as own:
            return await sync_to_async(children.gather)(own, name, list(steps))

    async def sleep(self, name: str, until: timedelta | datetime) -> None:
        """Sleep for a time, or until one, up to ten years. Nothing runs meanwhile.

        Raises ValueError for a datetime without a time zone, and for a longer time.
        """
        async with self._turn(name) as steps:
            steps.sleep(name, until)

    @overload
    async def wait_for(self, name: str, type: type[R], timeout: timedelta) -> R | None: ...

    @overload
    async def wait_for(self, name: str, type: type[R], timeout: None = None) -> R: ...

    async def wait_for(self, name: str, type: Any, timeout: timedelta | None = None) -> Any:
        """Wait for the signal of this name, and return its value; None after the timeout.

        A signal that came earlier counts. Nothing runs meanwhile. Raises TypeError for a value that
        is not of the type.
        """
        async with self._turn(name) as steps:
            return await sync_to_async(steps.wait_for)(name, type, timeout)

    @asynccontextmanager
    async def _turn(self, name: str) -> AsyncIterator[Steps]:
        """Wait for the steps that run, as they share a connection; within one, refuse."""
        self.steps.refuse_nested(name)
        async with self._lock:
            if not self.steps.is_loaded:
                await sync_to_async(self.steps.load)()
            yield self.steps


class SyncWorkflowContext(_Context):
    """What a durable function that is a `def` gets as its first parameter, `workflow`."""

    def step(self, name: str, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """See WorkflowContext.step(). The function is a `def`, too."""
        check_step_function(name, fn, is_async=False)
        steps = self._loaded()
        found = steps.enter(name, Kind.STEP)
        if found is not None:
            result: R = steps.result_of(found, fn)
            return result
        with steps.active(name):
            steps.may_begin(name)
            done: R = steps.run_step(name, fn, args, kwargs)
            return done

    def run(self, name: str, step: Step[R]) -> R:
        """See WorkflowContext.run()."""
        result: R = children.run(self._loaded(), name, step)
        return result

    def gather(self, name: str, steps: Iterable[Step[R]]) -> Results[R]:
        """See WorkflowContext.gather()."""
        return children.gather(self._loaded(), name, list(steps))

    def sleep(self, name: str, until: timedelta | datetime) -> None:
        """See WorkflowContext.sleep()."""
        self._loaded().sleep(name, until)

    @overload
    def wait_for(self, name: str, type: type[R], timeout: timedelta) -> R | None: ...

    @overload
    def wait_for(self, name: str, type: type[R], timeout: None = None) -> R: ...

    def wait_for(self, name: str, type: Any, timeout: timedelta | None = None) -> Any:
        """See WorkflowContext.wait_for()."""
        return self._loaded().wait_for(name, type, timeout)

    def _loaded(self) -> Steps:
        if not self.steps.is_loaded:
            self.steps.load()
        return self.steps
