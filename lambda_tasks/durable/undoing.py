"""The run that executes the compensations of a durable function which has failed or was cancelled.

It begins with the function itself, up to its first step that was not done: the function may have
said what must be undone, and have met its end before that was stored.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from asgiref.sync import iscoroutinefunction, sync_to_async

from ..context import TaskContext
from ..core.durable import Checkpoint
from ..errors import Suspended
from .contexts import SyncWorkflowContext, WorkflowContext
from .steps import Steps


def undo(context: TaskContext, call: Callable[[SyncWorkflowContext], Any]) -> None:
    """Run the compensations of a function that is a `def`; `call` calls it."""
    workflow = SyncWorkflowContext(context)
    steps = workflow.steps
    steps.load()
    try:
        call(workflow)
    except (Suspended, Exception) as ended:
        steps.note_replay(ended)
    for kept in steps.undos():
        steps.may_begin(kept.name)
        steps.run_undo(kept)


async def aundo(context: TaskContext, call: Callable[[WorkflowContext], Awaitable[Any]]) -> None:
    """Run the compensations of a function that is an `async def`; see undo()."""
    workflow = WorkflowContext(context)
    steps = workflow.steps
    await sync_to_async(steps.load)()
    try:
        await call(workflow)
    except (Suspended, Exception) as ended:
        steps.note_replay(ended)
    for kept in await sync_to_async(steps.undos)():
        await sync_to_async(steps.may_begin)(kept.name)
        await _run(steps, kept)


async def _run(steps: Steps, kept: Checkpoint) -> None:
    fn, kwargs = steps.undo_call(kept)
    if not iscoroutinefunction(fn):
        await sync_to_async(steps.run_undo)(kept)
        return
    await sync_to_async(steps.journal.begin)()
    try:
        await fn(**kwargs)
        await sync_to_async(steps.commit_undo)(kept)
    except Exception as error:
        await sync_to_async(steps.journal.roll_back)(error)
        raise
