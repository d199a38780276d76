"""Durable functions from outside: their signals, their steps, cancel and retry."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from asgiref.sync import sync_to_async
from django.db import transaction

from .. import conf, runtime
from ..core.durable import (
    Checkpoint,
    Kind,
    check_name,
    error_text,
    find_reference,
    value_from_json,
    value_to_json,
)
from ..core.lifecycle import UNFINISHED
from ..twins import sync_form


@sync_form("asignal(...)")
def signal(id: UUID, name: str, value: object = True) -> bool:
    """Send a signal to a durable function; return False where it has one of this name already.

    `id` is that of the call. It joins the current transaction, and wakes the function after the
    commit if this waits for it. The first signal of a name counts. Raises LookupError where nobody
    can wait for it: there is no such call, it has ended, or its wait is over; TypeError for a value
    that is not JSON, or not of the type that the function waits for; ValueError for one that is too
    large.
    """
    from ..records import checkpoints, signals

    kept = value_to_json(value, what=f"the signal {check_name(name)!r}")
    with transaction.atomic(using=runtime.current().outbox.alias):
        run = checkpoints.runs_of(id).filter(status__in=UNFINISHED).order_by().first()
        if run is None:
            raise LookupError(
                f"Nobody waits for the signal {name!r}: there is no durable function {id}, or it "
                "has ended."
            )
        waiting = signals.send(id, name, kept)
        if waiting is None:
            return True  # It has come early.
        if waiting.is_over:
            raise LookupError(
                f"Nobody waits for the signal {name!r} any more: the function {id} has waited "
                "until its timeout."
            )
        if waiting.came_at is not None:
            return False
        if (type := find_reference(waiting.type)) is not None:
            value_from_json(kept, type, what=f"the signal {name!r}")
        _wake(waiting.run_id, run.queue)
    return True


async def asignal(id: UUID, name: str, value: object = True) -> bool:
    """See signal()."""
    return await sync_to_async(signal)(id, name, value)


def _wake(run_id: UUID | None, queue: str) -> None:
    from ..records import checkpoints

    grace_s = conf.current().look_terms(queue).grace.total_seconds()
    if run_id is not None and checkpoints.wake(run_id, grace_s=grace_s):
        _send([run_id])


def _send(ids: Sequence[UUID]) -> None:
    from ..records import steering

    messages = steering.stored_messages(ids, conf.current().look_terms)
    runtime.current().enqueuer.send_after_commit(messages)


@dataclass(frozen=True, slots=True)
class StepState:
    """What is known of one step of a durable function."""

    name: str
    kind: str
    """"step", "sleep", "wait_for", "run", "gather" or "on_failure"."""
    status: str
    """"done", "waiting", or "failed": with an error that the function has caught, or a compensation
    that has failed for good."""
    value: Any
    """The result as a JSON value; that of a sleep is its end."""
    began_at: datetime
    ended_at: datetime | None
    error: str | None = None
    """The class of the error and what it says; None without one."""

    def describe(self) -> str:
        """Return the step as one line: its name, what it is, and its value or what it waits for."""
        if self.status == "waiting" and self.kind in _WAITS:
            return f"{self.name}: {_WAITS[self.kind].format(self.value)}"
        if self.error is not None:
            return f"{self.name}: {self.kind}, {self.status} with {self.error}"
        shown = "" if self.value is None else f" {self.value!r:.200}"
        return f"{self.name}: {self.kind}, {self.status}{shown}"


_WAITS: Final[Mapping[str, str]] = {
    Kind.SLEEP: "sleeps until {}",
    Kind.WAIT: "waits for the signal until {}",
    Kind.RUN: "waits for its task",
    Kind.GATHER: "waits for its tasks",
    Kind.UNDO: "runs if the function fails",
}
"""What is said of steps that wait."""


@dataclass(frozen=True)
class DurableRun:
    """The handle on a durable function that was called. Can be made of an id that was kept."""

    id: UUID
    """The id of the call: `Invocation.id`."""

    @sync_form("run.asignal(...)")
    def signal(self, name: str, value: object = True) -> bool:
        """See lambda_tasks.durable.signal()."""
        return signal(self.id, name, value)

    async def asignal(self, name: str, value: object = True) -> bool:
        """See signal()."""
        return await asignal(self.id, name, value)

    @sync_form("run.asteps()")
    def steps(self) -> Sequence[StepState]:
        """Return the steps that have begun, in order; the last one may still wait.

        The values are redacted of a function that has secret arguments.
        """
        from ..records import checkpoints

        return [
            StepState(
                name=each.name,
                kind=each.kind,
                status=_status(each),
                value=each.value,
                began_at=each.began_at,
                ended_at=each.ended_at,
                error=None if each.error is None else error_text(each.error),
            )
            for each in checkpoints.read_shown(self.id)
            if each.began_at is not None
        ]

    async def asteps(self) -> Sequence[StepState]:
        """See steps()."""
        return await sync_to_async(self.steps)()

    @sync_form("run.acancel()")
    def cancel(self) -> bool:
        """Cancel the function, and all that it waits for; return False where it has ended.

        What runs can't commit any more. Then its compensations run.
        """
        from ..records import checkpoints, steering, workflows

        ids = checkpoints.unfinished_runs(self.id)
        while ids and not steering.cancel(ids):
            # That run has just ended, and left another one.
            ids = checkpoints.unfinished_runs(self.id, anew=True)
        if not ids:
            return False
        for id in checkpoints.cancelled_workflows(self.id):
            workflows.finish_cancelled(id)
        if undos := checkpoints.undo_runs(self.id):
            _send(undos)
        return True

    async def acancel(self) -> bool:
        """See cancel()."""
        return await sync_to_async(self.cancel)()

    @sync_form("run.aretry_from(...)")
    def retry_from(self, name: str, *, dry_run: bool = False) -> Sequence[str]:
        """Forget a step and all after it, and let a function that has failed run again from there.

        Returns the names of the steps that are forgotten, or would be in a dry run. Signals that
        have come stay. What compensations have undone is done anew, with new keys: see
        WorkflowContext.key(). Raises LookupError for a step that is unknown, and ValueError where
        the function has not failed or was not cancelled, or where a compensation has run that
        belongs to an earlier step.
        """
        from ..records import checkpoints, steering, workflows

        alias, look_terms = runtime.current().outbox.alias, conf.current().look_terms
        with transaction.atomic(using=alias):
            last = checkpoints.lock_last(self.id)
            if last is None or last.status not in steering.RETRYABLE:
                status = "gone" if last is None else last.status
                raise ValueError(
                    f"{self!r} is {status}, and only what has failed or was cancelled is retried."
                )
            steps = checkpoints.read(self.id)
            number = next((each.number for each in steps if each.name == name), None)
            if number is None:
                known = ", ".join(repr(each.name) for each in steps) or "none"
                raise LookupError(f"{self!r} has no step {name!r}. It has: {known}.")
            if checkpoints.undo_runs(self.id):
                raise ValueError(f"The compensations of {self!r} run now. Wait for their end.")
            done = [each.name for each in steps if each.kind == Kind.UNDO and each.is_over]
            earlier = {each.name for each in steps if each.number < number}
            if undone := [each for each in done if each in earlier]:
                raise ValueError(
                    f"{self!r} can't go on from {name!r}: {', '.join(map(repr, undone))} has "
                    "undone what was before it. Retry it from an earlier step."
                )
            if not dry_run:
                checkpoints.forget_from(self.id, number, last, was_undone=bool(done))
            changed = steering.reopen(
                [last.id], workflows.refuse_retry, look_terms, dry_run=dry_run, is_last=True
            )
            for reason in changed.skipped.values():
                raise ValueError(f"{self!r} can't be retried: {reason}.")
            if not dry_run:
                # At once, though what it has slept for may be months away.
                checkpoints.wake(last.id, grace_s=look_terms(last.queue).grace.total_seconds())
                _send([last.id])
        return [each.name for each in steps if each.number >= number]

    async def aretry_from(self, name: str, *, dry_run: bool = False) -> Sequence[str]:
        """See retry_from()."""
        return await sync_to_async(self.retry_from)(name, dry_run=dry_run)


def _status(step: Checkpoint) -> str:
    if step.error is not None:
        return "failed"
    return "done" if step.is_over else "waiting"
