"""One attempt against the database: its transaction, its outcome, its record. Synchronous.

A worker process calls it directly; a lane calls it by hops onto the thread of its connection.
"""

import logging
import random
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Final
from uuid import UUID

from django.db import transaction

from ..context import TaskContext
from ..core.arguments import to_json_values
from ..core.lifecycle import Claim, Continued, Failed, Outcome, Raised, Retried, Succeeded
from ..core.message import Message, Outgoing
from ..core.redaction import redact
from ..core.retries import JITTER_S, MAX_DELAY_S, continuation_id, retry_id
from ..errors import Continue, LeaseLost, MaxRetriesExceededError
from ..ports import Lock, Records, Task
from . import connections
from .journal import RunJournal, checked_state

logger = logging.getLogger("lambda_tasks")

PACKAGE: Final = str(Path(__file__).parents[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What is to be run: a claimed message and the limits that hold for it."""

    message: Message
    claim: Claim
    queue: str
    soft_s: float
    hard_s: float
    max_retries: int
    retry_at_once: bool = False
    """Without a delay, where nobody would wait for it."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How an attempt ended, in its record; None where the record is another's by now."""

    outcome: Outcome | None
    following: Outgoing | None = None
    """The retry, or the next run, whose record is stored with this one's end."""
    interrupted: bool = False
    """By a KeyboardInterrupt: rolled back, with nothing recorded."""
    is_recorded: bool = True
    """False where it had nothing to commit, and its record is left to the executor."""
    ran_for: timedelta | None = None


def context_of(run: Run, metadata: Mapping[str, Any], *, records: Records) -> TaskContext:
    """What the task of a run may know of it, from now on."""
    return TaskContext(
        task_name=run.message.task_name,
        invocation_id=run.message.invocation_id,
        attempt=run.claim.attempt,
        n_retries=run.message.n_retries,
        deadline=time.monotonic() + run.soft_s,
        metadata=metadata,
        state=run.claim.state,
        secrets=tuple(run.message.secret_kwargs.values()),
        journal=RunJournal(run.claim, run.message.task_name, records=records),
    )


class Attempt:
    """Call start_clock(), begin(), then the task, then succeed() or fail(), all on one thread."""

    def __init__(self, run: Run, task: Task, *, records: Records, lock: Lock) -> None:
        self.run = run
        self.task = task
        self._call = task.begin(run.message, run.claim)
        self.records = records
        self._lock = lock
        self._held = ExitStack()
        self._transaction: AbstractContextManager[Any] | None = None
        self._began_at: float | None = None

    @property
    def may_begin_late(self) -> bool:
        """Nothing happens before the task's first statement that anybody could miss."""
        return not self.task.options.singleton and not self._call.has_listeners

    def start_clock(self) -> None:
        """The task's own time begins."""
        self._began_at = time.monotonic()

    def begin(self) -> None:
        """Take the lock of a singleton and open the transaction. Raises SingletonLockError,
        SingletonLockUnknown."""
        connections.refresh()
        if self.task.options.singleton:
            self._held.enter_context(self._lock.held(self._lock_key(), timeout_s=self.run.hard_s))
        self._call.started()
        if self.task.options.atomic:
            self._transaction = transaction.atomic(using=self.records.alias)
            self._transaction.__enter__()

    def call(self, context: TaskContext) -> Any:
        """Call the function; of an async one this makes the coroutine."""
        return self._call.call(context)

    def succeed(self, result: object, *, may_leave_record: bool = False) -> Ended:
        """Write SUCCESS in the task's own transaction and commit the two together.

        Where there is nothing to commit with it, the record may be left to the caller.
        Raises TypeError for a result that is no JSON, LeaseLost, and what the database raises.
        """
        outcome = self._succeeded(result)
        if self._transaction is None or not connections.is_untouched(self.records.alias):
            return self._commit(outcome)
        # There is nothing to commit together with the record, so it needs no transaction.
        self._end_transaction(None)
        if may_leave_record and self.may_begin_late:
            return self._unrecorded(outcome)
        return self._commit(outcome)

    def succeed_unbegun(self, result: object) -> Ended:
        """succeed() of a task that has come to its end before begin(): the record is left to the
        caller. Raises TypeError for a result that is no JSON."""
        return self._unrecorded(self._succeeded(result))

    def fail(self, error: BaseException) -> Ended:
        """Roll the task's writes back and write what follows from the error.

        Of Continue: commit them, as succeed() does, with the record of the next run.
        Raises what the database raises: then nothing is known, and the delivery must come back.
        """
        if isinstance(error, Continue):
            try:
                return self._go_on(error)
            except Exception as failure:
                error = failure
        self._end_transaction(error)
        self._held.close()
        if isinstance(error, LeaseLost):
            return Ended(None)
        outcome, retry = self._consequence(error)
        try:
            self.records.close(self.run.claim, outcome, ran_for=self._ran_for(), following=retry)
        except LeaseLost:
            # Also where the commit went through and only its answer, or a hook after it, failed.
            logger.exception(
                "%s (%s) had an error after its record was closed",
                self.task.name, self.run.message.invocation_id, exc_info=error,
            )  # fmt: skip
            return Ended(None)
        self._call.ended(outcome, error)
        return Ended(outcome, retry)

    def abandon(self) -> None:
        """Roll back and leave the record as it is: the lease brings the task back."""
        self._end_transaction(InterruptedError())
        self._held.close()

    def _go_on(self, request: Continue) -> Ended:
        state = checked_state(request.state, task_name=self.task.name)
        delay_s = min(request.delay, MAX_DELAY_S)
        next_id = continuation_id(self.run.message.invocation_id)
        return self._commit(Continued(state), self._next(next_id, delay_s=delay_s))

    def _commit(self, outcome: Outcome, following: Outgoing | None = None) -> Ended:
        self.records.close(self.run.claim, outcome, ran_for=self._ran_for(), following=following)
        self._end_transaction(None)
        self._held.close()
        self._call.ended(outcome, None)
        return Ended(outcome, following)

    def _succeeded(self, result: object) -> Succeeded:
        return Succeeded(to_json_values(result, what=f"the result of {self.task.name}"))

    def _unrecorded(self, outcome: Outcome) -> Ended:
        return Ended(outcome, is_recorded=False, ran_for=self._ran_for())

    def _ran_for(self) -> timedelta | None:
        """None where this object only writes the end of what ran in a process that died."""
        began_at = self._began_at
        return None if began_at is None else timedelta(seconds=time.monotonic() - began_at)

    def _end_transaction(self, error: BaseException | None) -> None:
        current, self._transaction = self._transaction, None
        if current is None:
            return
        if error is None:
            current.__exit__(None, None, None)
            return
        try:
            current.__exit__(type(error), error, error.__traceback__)
        except Exception:
            # The connection is gone, and its transaction with it.
            logger.warning("%s: the rollback failed", self.task.name, exc_info=True)

    def _consequence(self, error: BaseException) -> tuple[Outcome, Outgoing | None]:
        n_retries = self.run.message.n_retries
        text = redact(_format(error), self.run.message.secret_kwargs.values())
        raised = Raised.by(error, text)
        if self._call.ignores(error):
            return Succeeded(raised=raised), None
        delay_s = self._call.retry_delay_s(error, jitter_s=random.uniform(*JITTER_S))
        if delay_s is None:
            return Failed(raised), None
        if n_retries >= self.run.max_retries:
            limit = MaxRetriesExceededError(task_name=self.task.name, n_retries=n_retries)
            return Failed(replace(raised, traceback=f"{text}\n{_format(limit)}")), None
        if self.run.retry_at_once:
            delay_s = 0.0
        next_id = retry_id(self.run.message.invocation_id)
        retry = self._next(next_id, delay_s=delay_s, n_retries=n_retries + 1)
        return Retried(raised, timedelta(seconds=delay_s)), retry

    def _next(self, id: UUID, *, delay_s: float, n_retries: int = 0) -> Outgoing:
        """The message of the invocation that follows this one."""
        message = self.run.message
        following = replace(
            message,
            invocation_id=id,
            n_retries=n_retries,
            durable=True,
            run_after=_moment_after(delay_s),
            root_id=message.root_id or message.invocation_id,
            retry_of=message.invocation_id,
        )
        seconds = min(round(delay_s), MAX_DELAY_S)
        return Outgoing(following, following.encode(), self.run.queue, seconds)

    def _lock_key(self) -> str:
        kwargs = self.run.message.kwargs
        values = [f"{name}={kwargs.get(name)!r}" for name in self.task.options.singleton_by]
        return ".".join(["lambda_tasks.singleton_lock", self.task.name, *values])


def _moment_after(delay_s: float) -> datetime | None:
    """Of a delay that is longer than a queue's own can be."""
    return datetime.now(UTC) + timedelta(seconds=delay_s) if delay_s > MAX_DELAY_S else None


def _format(error: BaseException) -> str:
    """The traceback from the task's own code on."""
    return "".join(traceback.format_exception(type(error), error, _from_the_task(error)))


def _from_the_task(error: BaseException) -> TracebackType | None:
    step = error.__traceback__
    while step is not None and step.tb_frame.f_code.co_filename.startswith(PACKAGE):
        step = step.tb_next
    return step or error.__traceback__


MakeAttempt = Callable[[Run, Mapping[str, Any]], tuple[Attempt, TaskContext]]
"""Of a run, and of what the place where it runs tells of itself."""
