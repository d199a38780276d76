"""The run that executes the compensations of a durable function which has failed or was cancelled.

It begins with the function itself, up to its first step that was not done: the function may have
said what must be undone, and have met its end before that was stored.
"""

import logging
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import replace
from itertools import count
from typing import Any

from asgiref.sync import iscoroutinefunction, sync_to_async

from ..context import TaskContext
from ..core.durable import (
    Checkpoint,
    Kind,
    error_text,
    error_to_json,
    find_reference,
    value_from_json,
)
from ..core.redaction import redact
from ..core.retries import errors_in
from ..database_errors import Meaning, meaning_of
from ..errors import CompensationFailed, LeaseLost, SoftTimeLimitExceeded, Suspended
from ..execution.journal import Suspension
from ..logging import attributes_of
from .contexts import SyncWorkflowContext, WorkflowContext
from .steps import Steps, hint_of, refuse_awaitable

logger = logging.getLogger("lambda_tasks")


def undo(context: TaskContext, call: Callable[[SyncWorkflowContext], Any]) -> None:
    """Run the compensations of a function that is a `def`; `call` calls it."""
    workflow = SyncWorkflowContext(context)
    undoing = Undoing(workflow.steps)
    undoing.load()
    try:
        call(workflow)
    except BaseException as ended:
        undoing.note_replay(ended)
    for kept in undoing.waiting():
        undoing.begin(kept)
        undoing.run(kept)
    undoing.raise_failures()


async def aundo(context: TaskContext, call: Callable[[WorkflowContext], Awaitable[Any]]) -> None:
    """Run the compensations of a function that is an `async def`; see undo()."""
    workflow = WorkflowContext(context)
    undoing = Undoing(workflow.steps)
    await sync_to_async(undoing.load)()
    try:
        await call(workflow)
    except BaseException as ended:
        await sync_to_async(undoing.note_replay)(ended)
    for kept in await sync_to_async(undoing.waiting)():
        await sync_to_async(undoing.begin)(kept)
        await undoing.arun(kept)
    undoing.raise_failures()


class Undoing:
    """The compensations of a call, in one run of them.

    One that fails for good is kept with its error, and the others go on. The first run, and so one
    that somebody retries, tries again what has failed before.
    """

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self._journal = steps.journal
        self._context = steps.context
        self._failures: dict[str, str] = {}
        self._errors: list[Exception] = []

    def load(self) -> None:
        """Read what is kept of the function's steps."""
        self._steps.load()

    def note_replay(self, ended: BaseException) -> None:
        """Note how the function has ended that was replayed to learn what must be undone.

        Raises that again where it says nothing of the function: what it names may be missing.
        """
        if not all(isinstance(each, Suspended | Exception) for each in errors_in(ended)):
            raise ended
        if meaning_of(ended) is not Meaning.REFUSAL:
            raise ended
        if not isinstance(ended, Suspended):
            logger.info(
                "[%s] %s is undone; up to its last step it ended with %s",
                self._context.invocation_id, self._context.task_name, type(ended).__name__,
                extra=attributes_of(self._context),
            )  # fmt: skip

    def waiting(self) -> list[Checkpoint]:
        """Return the compensations to run, the last one first."""
        self._journal.flush()  # what the function has said once more, and no step had written
        found = [each for each in self._journal.read() if each.kind == Kind.UNDO]
        if self._journal.may_have_run:
            failed = [each for each in found if each.error is not None and not each.is_over]
            self._failures = {each.name: error_text(each.error) for each in failed}
        waiting = [each for each in found if not (each.is_over or each.name in self._failures)]
        waiting.sort(key=lambda each: each.number, reverse=True)
        if not self._journal.may_have_run:
            # What has ended the run that is retried, by a hard timeout for example, comes last.
            waiting.sort(key=lambda each: bool(each.name == self._journal.was_undoing))
        return waiting

    def begin(self, kept: Checkpoint) -> None:
        """Begin a compensation, if there is time for it: see Steps.may_begin()."""
        self._steps.may_begin(kept.name)
        self._journal.note_undoing(kept.name)

    def run(self, kept: Checkpoint) -> None:
        """Run a compensation whose function is a `def`, and commit, or keep its failure."""
        for n_tries in count():
            try:
                self._journal.begin()
                fn, kwargs = self._call_of(kept)
                refuse_awaitable(fn, fn(**kwargs))
                self._commit(kept)
            except BaseException as error:
                self._journal.roll_back(error)
                if self._steps.repeats(error, n_tries):
                    continue
                self._failed(kept, error)
            return

    async def arun(self, kept: Checkpoint) -> None:
        """Run a compensation; see run()."""
        if not iscoroutinefunction(find_reference(kept.function)):
            await sync_to_async(self.run)(kept)
            return
        for n_tries in count():
            try:
                await sync_to_async(self._journal.begin)()
                fn, kwargs = self._call_of(kept)
                await fn(**kwargs)
                await sync_to_async(self._commit)(kept)
            except BaseException as error:
                await sync_to_async(self._journal.roll_back)(error)
                if self._steps.repeats(error, n_tries):
                    continue
                await sync_to_async(self._failed)(kept, error)
            return

    def raise_failures(self) -> None:
        """Raise CompensationFailed where any have failed, in this run or an earlier one of these.

        With secret arguments it has no cause, whose text nobody could redact.
        """
        if not self._failures:
            return
        failed = CompensationFailed(self._failures, task_name=self._context.task_name)
        if self._context.secrets or not self._errors:
            raise failed
        if len(self._errors) == 1:
            raise failed from self._errors[0]
        raise failed from ExceptionGroup("compensations have failed", self._errors)

    def _call_of(self, kept: Checkpoint) -> tuple[Callable[..., Any], dict[str, Any]]:
        """Return a compensation's function, and its arguments as its annotations have them.

        Raises LookupError where this release has no such function.
        """
        fn = find_reference(kept.function)
        if fn is None:
            raise LookupError(
                f"The compensation {kept.name!r} of {self._context.task_name} can't run: there is "
                f"no {kept.function.replace(':', '.')} in this release. Bring it back under this "
                "name, and retry this run."
            )
        kwargs = {
            name: value_from_json(each, hint_of(fn, name), what=f"{name} of {kept.name!r}")
            for name, each in kept.value.items()
        }
        return fn, kwargs

    def _commit(self, kept: Checkpoint) -> None:
        self._journal.commit(replace(kept, error=None, is_over=True))
        self._steps.n_new += 1

    def _failed(self, kept: Checkpoint, error: BaseException) -> None:
        """Keep the failure of a compensation. Raises it where the run ends with it, or is retried.

        One that had less than a whole run is tried again in the next.
        """
        if isinstance(error, SoftTimeLimitExceeded) and self._steps.n_new:
            self._steps.suspend(Suspension(kept.name))
        if not isinstance(error, Exception) or isinstance(error, LeaseLost):
            raise error
        if meaning_of(error) is Meaning.OUTAGE or self._journal.is_retried(error):
            raise error
        secrets = (*self._context.secrets, kept.value) if self._context.secrets else ()
        text = "".join(traceback.format_exception(error))
        logger.error(
            "[%s] The compensation %r of %s has failed, and the others go on:\n%s",
            self._context.invocation_id, kept.name, self._context.task_name,
            redact(text, secrets),
            extra=attributes_of(self._context),
        )  # fmt: skip
        failure = error_to_json(error, secrets)
        self._journal.pending.append(replace(kept, error=failure))
        self._journal.flush()
        self._failures[kept.name] = error_text(failure)
        self._errors.append(error)
        self._steps.n_new += 1
