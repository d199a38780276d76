"""One attempt to run a task: its lock, its transaction and its hooks. Synchronous.

A worker process calls it directly. A lane calls it on the thread that owns the connection.
"""

import contextvars
import logging
import math
import random
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from datetime import timedelta
from functools import cached_property
from typing import Any, Final, ParamSpec, TypeVar

from django.db import Error as DatabaseErrors
from django.db import connections as django_connections
from django.db.backends.base.base import BaseDatabaseWrapper

from .. import hooks, interrupts
from ..context import (
    OVERLAP_HEADER,
    SCHEDULE_HEADER,
    TaskContext,
    boundary_run,
    current_run,
)
from ..core.arguments import copy_json
from ..core.lifecycle import Failed, Outcome, Raised
from ..core.message import UNDO_HEADER, Outgoing
from ..core.retries import JITTER_S, as_retry
from ..database_errors import Meaning, close_failed_connections, is_conflict, meaning_of
from ..errors import (
    ArgumentsMismatch,
    CompensationFailed,
    Continue,
    HardTimeLimitExceeded,
    LeaseLost,
    SingletonLockUnknown,
    SoftTimeLimitExceeded,
    Suspended,
)
from ..hooks.calling import HOOK_LIMIT_S
from ..pools import RESERVED_CONNECTIONS, PoolExhausted, acquire, add_remedy
from ..ports import Lock, Task
from . import connections
from .alarm import HARD_MESSAGE
from .finishing import (
    Finisher,
    continuation_of,
    describe,
    describe_refusal,
    follow_up_of,
    is_retried,
    next_run_of,
    outcome_of,
)
from .hook_events import announce_failed_unbegun, end_event, start_event
from .journal import Journal, Suspension
from .needs import singleton_key
from .progress import ProgressRecorder
from .run import AttemptEnd, Run
from .sessions import RunGuard

logger = logging.getLogger("lambda_tasks")

P = ParamSpec("P")
T = TypeVar("T")

MAX_CONFLICTS: Final = 3
"""The number of restarts of an atomic task that meets conflicts within one attempt."""

MAX_FIRST_PAUSE_S: Final = 0.05
"""Longest pause in seconds before the first restart; it doubles with each further one."""

WARNING_FRACTION: Final = 0.9
"""The fraction of the hard timeout that `context.remaining()` counts to without a soft one."""

MIN_LIMIT_S: Final = 0.001
"""Shortest time limit in seconds: a timer of 0 s would never fire."""

LONG_WAIT_S: Final = 1.0
"""Seconds from which a wait for a connection is taken off the task's time limits."""

MIN_COMMIT_S: Final = 1.0
"""Seconds that a commit has at least, even if the task ends just before its hard timeout."""

TimeLimits: Final = (SoftTimeLimitExceeded, HardTimeLimitExceeded)


class Attempt:
    """One attempt, used on one thread: begin(), then call(), then succeed() or fail().

    If fail() returns `restarts`, the caller repeats all of that. The task's time starts when the
    Attempt is created.
    """

    def __init__(self, run: Run, task: Task, *, finisher: Finisher, lock: Lock) -> None:
        self.run = run
        self.task = task
        self.finisher = finisher
        self.context = _context_of(run, task, finisher)
        if task.options.workflow:
            self.context = replace(self.context, journal=Journal(run, finisher.claims, self))
        self.variables = contextvars.Context()
        """The context variables of the task, which on_commit functions see, too."""
        self._call = task.make_call(run.message, run.claim)
        self._lock = lock
        self._lock_stack = ExitStack()
        self._transaction: AbstractContextManager[Any] | None = None
        self._guard: RunGuard | None = None
        self._began_at = time.monotonic()
        self._n_conflicts = 0
        self._has_waited = False
        self._pool_error: PoolExhausted | None = None
        self.error: BaseException | None = None
        """The error that the task has failed with, or None."""
        self._is_task_over = False
        self._is_called = False
        self._lock_error: BaseException | None = None
        """The error that kept a singleton from its lock."""

    @property
    def limits_s(self) -> tuple[float, float]:
        """The seconds left of the soft and of the hard timeout."""
        soft_s, hard_s = self.run.soft_s, self.run.hard_s
        if not self._n_conflicts and not self._has_waited:
            return soft_s, hard_s
        passed_s = time.monotonic() - self._began_at
        soft_s, hard_s = round(soft_s - passed_s, 3), round(hard_s - passed_s, 3)
        return max(soft_s, MIN_LIMIT_S), max(hard_s, MIN_LIMIT_S)

    @cached_property
    def _connection(self) -> BaseDatabaseWrapper:
        """The connection of the attempt's thread to the database of the records."""
        return django_connections[self.finisher.claims.alias]

    @property
    def may_defer_begin(self) -> bool:
        """Whether begin() may wait until the task uses the database for the first time."""
        goes_on = self.task.options.on_success is not None
        return not (goes_on or self._lock_keys() or self.has_listeners)

    @cached_property
    def has_listeners(self) -> bool:
        """Whether anybody was to be called at the start or the end of the attempt, at its start."""
        return self._call.has_listeners or bool(hooks.started) or bool(hooks.ended)

    @property
    def hooks_limit_s(self) -> float:
        """The seconds for one function that is connected to `started` or `ended`."""
        return min(HOOK_LIMIT_S, self.left_s + MIN_COMMIT_S)

    @property
    def left_s(self) -> float:
        """The seconds until the hard timeout; 0 after it."""
        return max(self._began_at + self.run.hard_s - time.monotonic(), 0.0)

    @property
    def commit_limit_s(self) -> float:
        """The seconds for the commit and the task's on_commit hooks."""
        return max(self.left_s, MIN_COMMIT_S)

    def begin(self) -> None:
        """Do acquire(), and open the transaction."""
        self.acquire()
        self.open_transaction()

    def acquire(self) -> None:
        """Acquire a connection, and the lock of a singleton.

        Raises SingletonLockError if another run holds the lock, SingletonLockUnknown if Redis
        can't be asked, and PoolExhausted if no connection came free in time.
        """
        connections.refresh()
        self._guard = RunGuard()
        self._acquire_connection()
        if not self._n_conflicts:
            for key in self._lock_keys():
                self._acquire_lock(key)
            if self._call.has_listeners or hooks.started:
                self._call.check_arguments()
            if self._call.has_listeners:
                self._call_at_boundary(self._call.started)

    def start_event(self) -> hooks.Started | None:
        """Return the event for hooks.started; None if there is nobody to call.

        After a conflict the attempt begins again, but has started before.
        """
        if self._n_conflicts or not hooks.started:
            return None
        self._has_waited = True  # the time of the hooks is taken off the limits
        run = self.run
        return start_event(run.message, run.claim, queue=run.queue, metadata=run.metadata)

    def end_event(self, ended: AttemptEnd) -> hooks.Ended | None:
        """Return the event for hooks.ended; None if there is nobody to call, or another does."""
        has_begun = self._is_called and ended.wait_s is None and ended.refused is None
        is_over = has_begun and ended.lost is None
        if not hooks.ended or not is_over:
            return None
        run = self.run
        return end_event(
            run.message,
            run.claim,
            queue=run.queue,
            metadata=run.metadata,
            outcome=ended.outcome,
            error=self.error,
            following=ended.following,
            ran_s=self._ran_for().total_seconds(),
        )

    def clean_up_after_hooks(self) -> None:
        """Close the connections on which hooks.ended left a transaction open."""
        if self._guard is not None:
            self._guard.close_left_open(f"A function that is called when {self.task.name} ends")
            self._clean_up()

    def open_transaction(self) -> None:
        """Open the transaction of an atomic task, after what was called at the start."""
        if self._guard is not None and self.has_listeners:
            self._guard.close_left_open(f"A function that is called when {self.task.name} starts")
        if self.task.options.atomic:
            if self._guard is not None:
                self._guard.begin_transaction()
            # After a conflict it holds what it reads: it would meet the next conflict, too.
            self._transaction = connections.open_transaction(
                self._connection, may_be_late=not self._n_conflicts
            )

    def call(self) -> Any:
        """Call the task's function; for an async task, return its coroutine."""
        self._is_called = True
        return self._call.call(self.context)

    def succeed(self, result: object) -> AttemptEnd:
        """Write SUCCESS within the task's transaction and commit both together.

        If there is nothing else to commit and the run `leaves_record`, the caller writes it.
        Raises TypeError for a result that is not JSON, TransactionManagementError if the task has
        left a transaction open, LeaseLost if the claim no longer holds, the database's errors, and
        what has interrupted a step.
        """
        if (suspension := self._suspension) is not None:
            return self._suspend(suspension)  # its function has caught that
        if self._interruption is not None:
            raise self._interruption  # as above
        self._check_transactions()
        if self._journal is not None:
            self._journal.flush()
        outcome = outcome_of(result, self.task)
        if self._transaction is None or not connections.is_untouched(self._connection):
            return self._commit(self._add_steps(), outcome)
        # The task has sent no statement, so its record needs no transaction and can be written
        # together with those of other runs.
        self._end_transaction(None)
        if self.run.leaves_record and self.may_defer_begin:
            return self._end_unrecorded(outcome)
        return self._commit(self.run, outcome)

    def succeed_without_begin(self, result: object) -> AttemptEnd:
        """Return the end of a task that ended before begin(). The caller writes the record.

        Raises TypeError for a result that is not JSON.
        """
        return self._end_unrecorded(outcome_of(result, self.task))

    # The steps of a durable function

    @property
    def _journal(self) -> Journal | None:
        journal: Journal | None = self.context.journal
        return journal

    def begin_step(self) -> None:
        """See journal.StepTransactions."""
        if self._guard is not None:
            self._guard.begin_transaction()
        self._transaction = connections.open_transaction(self._connection, may_be_late=True)

    def commit_step(self, name: str, write: Callable[[], None]) -> None:
        """See journal.StepTransactions. Raises what succeed() raises."""
        self._check_transactions()
        if self._guard is not None:
            self._guard.restore(self._connection)
        with self._library_limit():
            write()
        self._call_at_boundary(self._end_transaction, None)

    def roll_back_step(self, error: BaseException) -> None:
        """See journal.StepTransactions."""
        self._end_transaction(error)

    def is_retried(self, error: BaseException) -> bool:
        """See journal.StepTransactions."""
        return is_retried(error, self.run, self._call)

    def _go_on_later(self, error: BaseException) -> AttemptEnd | None:
        """End a run that another one continues; return None for any other run."""
        if (suspension := self._suspension) is not None:
            return self._suspend(suspension)
        if not isinstance(error, Continue):
            return None
        self._check_transactions()
        run = self._add_steps()
        return self._commit(run, *continuation_of(error, run, self.task))

    def _with_undos(self, error: BaseException) -> BaseException:
        """Store what must be undone now; return the error of the run, or LeaseLost."""
        try:
            if self._journal is not None and not isinstance(error, LeaseLost):
                self._journal.flush()
        except LeaseLost as lost:
            return lost
        return error

    @property
    def _suspension(self) -> Suspension | None:
        """Why the run of a durable function ends here; None while it goes on."""
        return None if self._journal is None else self._journal.suspension

    @property
    def _interruption(self) -> BaseException | None:
        """What has interrupted a step of a durable function; None for nothing."""
        return None if self._journal is None else self._journal.interruption

    def _suspend(self, suspension: Suspension) -> AttemptEnd:
        """End a run that waits, with all that wakes the next one."""
        journal = self.context.journal
        self._end_transaction(Suspended())  # of a step that is cut off
        self._check_transactions()
        outcome, following = next_run_of(suspension, self.run, self.task, journal.call_id)
        self.begin_step()
        journal.write(suspension.steps)
        id = following.message.invocation_id
        if not self._call_at_boundary(suspension.write, id):
            outcome, following = next_run_of(
                replace(suspension, due=None), self.run, self.task, journal.call_id
            )
        return self._commit(self.run, outcome, following)

    def fail(self, error: BaseException) -> AttemptEnd:
        """Roll back the task's writes and record what follows from the error.

        Continue is the exception: like succeed(), it commits the writes, with the record of the
        next run. A conflict or an outage of the database does not fail the task. After a conflict
        the task may restart; after an outage the attempt is lost, and the caller records that.

        Raises the database's errors. The outcome is unknown then, and the delivery must come back.
        """
        error = self._interruption or as_retry(error)
        try:
            if (ended := self._go_on_later(error)) is not None:
                return ended
        except Exception as failure:
            error = failure
        self._end_transaction(error)
        if self._prepare_restart(error):
            return AttemptEnd(None, restarts=True)
        self._lock_stack.close()
        if (ended := self._end_unbegun(error)) is not None:
            return ended
        if self._is_lost(error) and not self._is_recorded():
            close_failed_connections()
            return AttemptEnd(None, lost=self._reason_of_loss(error))
        connections.refresh()  # the error may come from a broken connection
        self.error = error = self._with_undos(error)
        ended = self._call_at_boundary(
            self.finisher.fail,
            self.run,
            self.task,
            self._call,
            error,
            self._ran_for(),
            may_retry=not (error is self._lock_error or isinstance(error, CompensationFailed)),
            knows_undos=True,
        )
        if not self._is_called and isinstance(ended.outcome, Failed):
            message, reason = self.run.message, ended.outcome.raised
            announce_failed_unbegun(message, queue=self.run.queue, reason=reason)
        return ended

    def hard_timeout(self, cause: BaseException | None = None) -> HardTimeLimitExceeded:
        """Return the exception for an exceeded hard timeout. `cause` is what it interrupted."""
        error = HardTimeLimitExceeded(HARD_MESSAGE.format(self.run.hard_s))
        error.__cause__ = cause
        return error

    def failure_of(self, error: BaseException) -> BaseException:
        """Return what ended the task: `error`, or the hard timeout if that interrupted a wait."""
        is_cut_off = not self.left_s and isinstance(error, connections.OUTAGES)
        return self.hard_timeout(error) if is_cut_off else error

    def abandon(self) -> None:
        """Roll back and leave the record unchanged: the caller or the end of the lease frees it."""
        self._end_transaction(InterruptedError())
        self._lock_stack.close()

    def _acquire_lock(self, key: str) -> None:
        try:
            self._lock_stack.enter_context(self._lock.hold(key, timeout_s=self.run.hard_s))
        except DatabaseErrors:
            raise
        except Exception as error:
            self._lock_error = error
            raise

    def _end_unbegun(self, error: BaseException) -> AttemptEnd | None:
        """Return the end of an attempt that may not begin, here or now; None for any other one."""
        if isinstance(error, ArgumentsMismatch) and not self.run.retry_at_once:
            return AttemptEnd(None, refused=describe_refusal(error, self.run.message))
        if self._skips_overlap(error):
            return self.finisher.skip(self.run, error)
        if self._waits_for_lock(error):
            return AttemptEnd(None, wait_s=self._lock_wait_s(error))
        return None

    def _waits_for_lock(self, error: BaseException) -> bool:
        """Return whether another run holds the lock and this one may wait for it once more."""
        if error is not self._lock_error or self._call.ignores(error):
            return False
        return self.run.claim.n_waits < self.run.max_retries

    def _lock_wait_s(self, error: BaseException) -> float:
        if self.run.retry_at_once:
            return 0.0
        return self.task.options.retry_rule.delay_s(
            error, n_retries=self.run.claim.n_waits, jitter_s=random.uniform(*JITTER_S)
        )

    def _acquire_connection(self) -> None:
        """Wait for a connection of the pool, if there is one, for as long as the task may run."""
        limit_s = self.left_s if self.run.soft_s < math.inf else None
        self._pool_error = None
        try:
            waited_s = acquire(self._connection, limit_s=limit_s, reserved=RESERVED_CONNECTIONS)
            self._has_waited = self._has_waited or waited_s > LONG_WAIT_S
        except PoolExhausted as error:
            self._pool_error = error
            raise

    def _prepare_restart(self, error: BaseException) -> bool:
        """Prepare a restart after a conflict; return whether the task may run once more."""
        options = self.task.options
        may_begin = (
            options.atomic and options.on_lost == "rerun" and not self._call.has_rule_for(error)
        )
        if not may_begin or self._n_conflicts == MAX_CONFLICTS or not is_conflict(error):
            return False
        if self._connection.in_atomic_block:
            return False  # a surrounding transaction, such as a TestCase's, can't be restarted
        pause_s = random.uniform(0.0, MAX_FIRST_PAUSE_S * 2**self._n_conflicts)
        if self._ran_for().total_seconds() + pause_s > self.run.soft_s:
            return False
        logger.info("%s met a conflict and restarts: %s", self.task.name, error)
        time.sleep(pause_s)
        self._n_conflicts += 1
        self._is_task_over = False
        # With a new context, code that the last try left running is refused by the lane's thread.
        self.context = replace(self.context, state=copy_json(self.run.claim.state), additions=[])
        return not self._is_claim_lost()

    def _is_recorded(self) -> bool:
        """Return whether the commit succeeded and the error came later, from a hook for example."""
        return self._is_task_over and self._is_claim_lost()

    def _is_claim_lost(self) -> bool:
        try:
            return bool(self.finisher.claims.find_lost([self.run.claim]))
        except DatabaseErrors:
            return False  # writing the end will show it

    def _is_lost(self, error: BaseException) -> bool:
        """Return whether the database, and not the task, is the reason for the error."""
        if self._call.has_rule_for(error):
            return False
        if self._pool_error and isinstance(error, TimeLimits):
            return True
        if isinstance(error, HardTimeLimitExceeded):
            return self._is_task_over
        meaning = meaning_of(error, from_library=self._is_task_over)
        is_our_conflict = meaning is Meaning.CONFLICT and self._is_task_over
        return is_our_conflict or meaning is Meaning.OUTAGE

    def _reason_of_loss(self, error: BaseException) -> Raised:
        add_remedy(error)
        return describe(self._pool_error or error, self.run.message)

    def _add_steps(self) -> Run:
        """Store what the run adds to its workflow; return the run with the place that it then has.

        As late as this, as it locks the workflow's row until the commit: steps that add some run
        side by side, and a cancel waits for none of them.
        """
        message, added = self.run.message, self.context.additions
        if not added:
            return self.run
        self._is_task_over = True
        place, kept = message.place, connections.hooks_of(self._connection)
        for each in added:
            if any(hook is each for hook in kept):  # else it went with its savepoint
                place = self._call_at_boundary(each.store, place)
        return replace(self.run, message=replace(message, place=place))

    def _commit(self, run: Run, outcome: Outcome, following: Outgoing | None = None) -> AttemptEnd:
        self._is_task_over = True
        ran_for = self._ran_for()
        if self.task.options.on_success is not None:
            following = following or self._call_at_boundary(
                follow_up_of, outcome, self.run.message, self.task
            )
        if self._transaction is None:
            self._clean_up()
        elif self._guard is not None:
            self._guard.restore(self._connection)
        with self._library_limit():
            released = self.finisher.finish(run, outcome, ran_for=ran_for, following=following)
        self._call_at_boundary(self._end_transaction, None)
        self._lock_stack.close()
        if self._call.has_listeners:
            self._call_at_boundary(self._call.ended, outcome, None)
        return AttemptEnd(outcome, following, ran_for=ran_for, released=released)

    def _library_limit(self) -> AbstractContextManager[Any]:
        """Return the time limit of the statements with which the library ends a run or a step."""
        limit_s = interrupts.statement_limit_s(
            self._connection, interrupts.LIBRARY_STATEMENT_LIMIT_S
        )
        return interrupts.interrupt_after(limit_s)

    def _end_unrecorded(self, outcome: Outcome) -> AttemptEnd:
        return AttemptEnd(outcome, is_recorded=False, ran_for=self._ran_for())

    def _ran_for(self) -> timedelta:
        return timedelta(seconds=time.monotonic() - self._began_at)

    def _check_transactions(self) -> None:
        """Raise TransactionManagementError if the task left a transaction open, or ended ours."""
        if self._guard is not None:
            own = None if self._transaction is None else self._connection
            self._guard.check(self.task.name, own)

    def _end_transaction(self, error: BaseException | None) -> None:
        """End the transaction, by a rollback if there is an error, and clean the connections up."""
        current, self._transaction = self._transaction, None
        try:
            if current is not None and error is None:
                current.__exit__(None, None, None)
            elif current is not None and error is not None:
                current.__exit__(type(error), error, error.__traceback__)
        except Exception:
            if error is None:
                raise
            # The connection is gone, and its transaction with it.
            logger.warning("%s: the rollback failed", self.task.name, exc_info=True)
        finally:
            self._clean_up()

    def _call_at_boundary(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call what calls the project's code at the start or the end of the run, but not the task.

        That code sees the task's context variables, and its log lines, calls and spans belong to
        the run. It is not held to what the run's transaction demands of the task.
        """

        def call() -> T:
            current_run.set(None)
            boundary_run.set(self.context)
            return function(*args, **kwargs)

        return self.variables.copy().run(call)

    def _clean_up(self) -> None:
        if self._guard is not None:
            self._guard.clean_up()

    def _skips_overlap(self, error: BaseException) -> bool:
        """Return whether this run of a schedule is skipped, as the one before it still runs."""
        is_held = error is self._lock_error and not isinstance(error, SingletonLockUnknown)
        message = self.run.message
        # What goes on with the work of a run before it waits for its turn.
        goes_on = message.n_continues or (self._journal is not None and self._journal.may_have_run)
        return is_held and not goes_on and message.headers.get(OVERLAP_HEADER) == "skip"

    def _lock_keys(self) -> list[str]:
        """Return the keys of a singleton, and of a schedule whose runs must not overlap."""
        headers, keys = self.run.message.headers, []
        # A claim that holds a place needs no lock beside it.
        if self.task.options.singleton and self.run.claim.places is None:
            keys.append(singleton_key(self.task, self.run.message))
        if OVERLAP_HEADER in headers and UNDO_HEADER not in headers:
            keys.append(f"lambda_tasks.schedule_lock.{headers.get(SCHEDULE_HEADER)}")
        return keys


def _context_of(run: Run, task: Task, finisher: Finisher) -> TaskContext:
    """Return the context of a run whose time starts now."""
    return TaskContext(
        task_name=run.message.task_name,
        invocation_id=run.message.invocation_id,
        root_id=run.message.root_id,
        attempt=run.claim.attempt,
        n_retries=run.message.n_retries,
        queue=run.queue,
        deadline=time.monotonic() + min(_warning_s(run), run.budget_s),
        metadata=run.metadata,
        headers=copy_json(run.message.headers) if run.message.headers else {},
        state=copy_json(run.claim.state),
        secrets=tuple(run.message.secret_kwargs.values()),
        recorder=ProgressRecorder(run.claim, run.message.task_name, finisher.claims),
        place=run.message.place,
        additions=[] if task.options.atomic else None,
    )


def _warning_s(run: Run) -> float:
    """Return the seconds until the soft timeout, or until shortly before the hard one."""
    return run.hard_s * WARNING_FRACTION if run.soft_s == run.hard_s else run.soft_s


MakeAttempt = Callable[[Run, Task], Attempt]
"""A factory of the attempt for a run and its task. The task's time starts with the call."""
