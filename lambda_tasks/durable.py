"""Durable functions: workflows that are written as one function, and survive every crash.

    @lambda_task(workflow=True)
    async def fulfil(workflow: WorkflowContext, *, order_id: int) -> str:
        receipt = await workflow.step("charge", charge_card, order_id=order_id)
        workflow.on_failure("refund", refund, receipt=receipt)
        await workflow.sleep("cool down", timedelta(days=14))
        return await workflow.run("survey", send_survey.step(order_id=order_id))

A step commits its writes together with its result, its *checkpoint*. The next run of the function
begins at its first line, and gets the results of the steps that are done from their checkpoints. So
the function must take the same way with the same results: put into a step what may differ, like the
time, or a query.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, ParamSpec, TypeVar, overload
from uuid import UUID

from .context import TaskContext
from .workflows import Results, Step

__all__ = [
    "DurableRun",
    "StepState",
    "SyncWorkflowContext",
    "WorkflowContext",
    "asignal",
    "signal",
]

P = ParamSpec("P")
R = TypeVar("R")


class _Context:
    """What both forms of the context share."""

    context: TaskContext
    """The context of this run, for progress, headers and the time that is left."""

    @property
    def id(self) -> UUID:
        """The id of the call, which signals name: the invocation's that the caller got."""
        raise NotImplementedError

    @property
    def is_replaying(self) -> bool:
        """Whether the code that runs now has run before, up to the next new step.

        `task_logger` writes nothing meanwhile.
        """
        raise NotImplementedError

    def key(self, name: str) -> UUID:
        """Return a key that stays the same over all runs, for APIs that do nothing twice by it."""
        raise NotImplementedError

    def on_failure(self, name: str, fn: Callable[P, Any], *args: P.args, **kwargs: P.kwargs) -> None:
        """Let a function undo what was done, if this one fails or is cancelled.

        Then all of these run as steps, the last one first. `fn` is a function of a module, sync or
        async, with keyword arguments that are JSON values by its annotations. The same name twice
        in a run is a ValueError; a function that can't be found by its name, and arguments that are
        not JSON, are a TypeError.
        """
        raise NotImplementedError


class WorkflowContext(_Context):
    """What a durable function that is an `async def` gets as its first parameter, `workflow`."""

    @overload
    async def step(
        self, name: str, fn: Callable[P, Awaitable[R]], *args: P.args, **kwargs: P.kwargs
    ) -> R: ...

    @overload
    async def step(
        self, name: str, fn: Callable[P, R], *args: P.args, **kwargs: P.kwargs
    ) -> R: ...

    async def step(self, name: str, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a function, sync or async, in a transaction with its checkpoint; return its result.

        The result has the type of its return annotation; without one it is a JSON value. If the
        function raises, its writes are rolled back and the error is raised here. An error that your
        code catches becomes the step's outcome, too, as soon as the next step begins. A run that is
        short of time goes on in a new one before the step begins.

        Raises ValueError for a name that this run has used, or a result that is too large; TypeError
        for one that is not JSON; RuntimeError within another step; and LeaseLost where the run was
        taken over or cancelled.
        """
        raise NotImplementedError

    async def run(self, name: str, step: Step[R]) -> R:
        """Run a task as an invocation of its own, and return its result: `task.step(...)`.

        This run ends, and the next one begins when the task has ended. Raises TaskFailed, with the
        traceback, if it fails in the end or is cancelled; TypeError for what is no step.
        """
        raise NotImplementedError

    async def gather(self, name: str, steps: Iterable[Step[R]]) -> Results[R]:
        """Run tasks at the same time, and return their results when all of them have ended.

        `failed` of the results is the number of those that have not succeeded.
        """
        raise NotImplementedError

    async def sleep(self, name: str, until: timedelta | datetime) -> None:
        """Sleep for a time, or until one, up to ten years. Nothing runs meanwhile.

        Raises ValueError for a datetime without a time zone, and for a longer time.
        """
        raise NotImplementedError

    @overload
    async def wait_for(self, name: str, type: type[R], timeout: timedelta) -> R | None: ...

    @overload
    async def wait_for(self, name: str, type: type[R], timeout: None = None) -> R: ...

    async def wait_for(
        self, name: str, type: type[Any], timeout: timedelta | None = None
    ) -> Any:
        """Wait for the signal of this name, and return its value; None after the timeout.

        A signal that came earlier counts. Nothing runs meanwhile. Raises TypeError for a value that
        is not of the type.
        """
        raise NotImplementedError


class SyncWorkflowContext(_Context):
    """What a durable function that is a `def` gets as its first parameter, `workflow`."""

    def step(self, name: str, fn: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """See WorkflowContext.step(). The function is a `def`, too."""
        raise NotImplementedError

    def run(self, name: str, step: Step[R]) -> R:
        """See WorkflowContext.run()."""
        raise NotImplementedError

    def gather(self, name: str, steps: Iterable[Step[R]]) -> Results[R]:
        """See WorkflowContext.gather()."""
        raise NotImplementedError

    def sleep(self, name: str, until: timedelta | datetime) -> None:
        """See WorkflowContext.sleep()."""
        raise NotImplementedError

    @overload
    def wait_for(self, name: str, type: type[R], timeout: timedelta) -> R | None: ...

    @overload
    def wait_for(self, name: str, type: type[R], timeout: None = None) -> R: ...

    def wait_for(self, name: str, type: type[Any], timeout: timedelta | None = None) -> Any:
        """See WorkflowContext.wait_for()."""
        raise NotImplementedError


def signal(id: UUID, name: str, value: object = True) -> bool:
    """Send a signal to a durable function; return False where it has one of this name already.

    `id` is that of the call. It joins the current transaction, and wakes the function after the
    commit if this waits for it. The first signal of a name counts. Raises LookupError where nobody
    can wait for it: there is no such call, it has ended, or its wait is over; TypeError for a value
    that is not JSON, or not of the type that the function waits for; ValueError for one that is too
    large.
    """
    raise NotImplementedError


async def asignal(id: UUID, name: str, value: object = True) -> bool:
    """See signal()."""
    raise NotImplementedError


@dataclass(frozen=True, slots=True)
class StepState:
    """What is known of one step of a durable function."""

    name: str
    kind: str
    """"step", "sleep", "wait_for", "run", "gather" or "on_failure"."""
    status: str
    """"done", "failed" for an error that the function has caught, or "waiting"."""
    value: Any
    """The result as a JSON value; that of a sleep is its end."""
    began_at: datetime
    ended_at: datetime | None


@dataclass(frozen=True)
class DurableRun:
    """The handle on a durable function that was called. Can be made of an id that was kept."""

    id: UUID
    """The id of the call: `Invocation.id`."""

    def signal(self, name: str, value: object = True) -> bool:
        """See lambda_tasks.durable.signal()."""
        raise NotImplementedError

    async def asignal(self, name: str, value: object = True) -> bool:
        """See signal()."""
        raise NotImplementedError

    def steps(self) -> Sequence[StepState]:
        """Return the steps that have begun, in order; the last one may still wait."""
        raise NotImplementedError

    async def asteps(self) -> Sequence[StepState]:
        """See steps()."""
        raise NotImplementedError

    def cancel(self) -> bool:
        """Cancel the function, and all that it waits for; return False where it has ended.

        What runs can't commit any more. Then its compensations run.
        """
        raise NotImplementedError

    async def acancel(self) -> bool:
        """See cancel()."""
        raise NotImplementedError

    def retry_from(self, name: str) -> None:
        """Forget a step and all after it, and let a function that has failed run again from there.

        Signals that have come stay. Raises LookupError for a step that is unknown, and ValueError
        where the function has not failed or was not cancelled, or where a compensation has run that
        belongs to an earlier step.
        """
        raise NotImplementedError

    async def aretry_from(self, name: str) -> None:
        """See retry_from()."""
        raise NotImplementedError
