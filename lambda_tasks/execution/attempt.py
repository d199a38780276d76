"""One attempt against the database: its lock, its transaction, its hooks. Synchronous.

A worker process calls it directly; a lane calls it by hops onto the thread of its connection.
"""

import logging
import math
import random
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

from django.db import Error as DatabaseErrors
from django.db import connections as django_connections
from django.utils.crypto import salted_hmac

from .. import interrupts
from ..context import TaskContext
from ..core.arguments import unshared
from ..core.lifecycle import Outcome, Raised
from ..core.message import Message, Outgoing
from ..core.retries import JITTER_S
from ..database_errors import Meaning, close_failed_connections, is_conflict, meaning_of
from ..errors import Continue, HardTimeLimitExceeded, SoftTimeLimitExceeded
from ..pools import RESERVED_CONNECTIONS, PoolExhausted, acquire, add_remedy
from ..ports import Lock, Task
from . import connections
from .alarm import HARD_MESSAGE
from .finishing import Finisher, continuation_of, described, outcome_of
from .progress import ProgressRecorder
from .run import Ended, Run

logger = logging.getLogger("lambda_tasks")


MOST_CONFLICTS: Final = 3
"""After which an atomic task begins again at once."""

WARNED_AT: Final = 0.9
"""The part of a hard timeout that `context.remaining()` tells of where there is no soft one."""

SHORTEST_S: Final = 0.001
"""The least that is left of a limit, as a timer of 0 s would never ring."""

LONG_S: Final = 1.0
"""A wait for a connection that is long enough to count."""

COMMIT_S: Final = 1.0
"""To commit, at least, for a task that comes to its end as its hard timeout does."""

TimeLimits: Final = (SoftTimeLimitExceeded, HardTimeLimitExceeded)

LONGEST_PAUSE_S: Final = 0.05
"""Before the first of these; the next ones are twice as long as the one before."""


class Attempt:
    """Call begin(), then the task, then succeed() or fail(), all on one thread; and all that once
    more where fail() says so.

    The task's own time begins when the attempt is made.
    """

    def __init__(self, run: Run, task: Task, *, finisher: Finisher, lock: Lock) -> None:
        self.run = run
        self.task = task
        self.finisher = finisher
        self.context = _context_of(run, finisher)
        self._call = task.make_call(run.message, run.claim)
        self._lock = lock
        self._held = ExitStack()
        self._transaction: AbstractContextManager[Any] | None = None
        self._began_at = time.monotonic()
        self._n_conflicts = 0
        self._has_waited = False
        self._waited_in_vain: PoolExhausted | None = None
        self._is_task_over = False
        self._lock_error: BaseException | None = None
        """Why it could not have the lock of a singleton."""

    @property
    def limits_s(self) -> tuple[float, float]:
        """What is left of the soft and the hard timeout."""
        soft_s, hard_s = self.run.soft_s, self.run.hard_s
        if not self._n_conflicts and not self._has_waited:
            return soft_s, hard_s
        passed_s = time.monotonic() - self._began_at
        soft_s, hard_s = round(soft_s - passed_s, 3), round(hard_s - passed_s, 3)
        return max(soft_s, SHORTEST_S), max(hard_s, SHORTEST_S)

    @property
    def may_begin_late(self) -> bool:
        """Nothing happens before the task's first statement that anybody could miss."""
        return not self.task.options.singleton and not self._call.has_listeners

    @property
    def left_s(self) -> float:
        """Seconds until its hard timeout; 0 after it."""
        return max(self._began_at + self.run.hard_s - time.monotonic(), 0.0)

    @property
    def end_s(self) -> float:
        """Seconds for its commit, and for the hooks that the task has put there."""
        return max(self.left_s, COMMIT_S)

    def begin(self) -> None:
        """Take the lock of a singleton and open the transaction. Raises SingletonLockError,
        SingletonLockUnknown, PoolExhausted."""
        connections.refresh()
        self._take_connection()
        if not self._n_conflicts:
            if self.task.options.singleton:
                self._take_lock()
            self._call.started()
        if self.task.options.atomic:
            self._transaction = connections.begun_transaction(self.finisher.claims.alias)

    def call(self) -> Any:
        """Call the function; of an async one this makes the coroutine."""
        return self._call.call(self.context)

    def succeed(self, result: object, *, may_leave_record: bool = False) -> Ended:
        """Write SUCCESS in the task's own transaction and commit the two together.

        Where there is nothing to commit with it, the record may be left to the caller.
        Raises TypeError for a result that is no JSON, LeaseLost, and what the database raises.
        """
        outcome = outcome_of(result, self.task)
        if self._transaction is None or not connections.is_untouched(self.finisher.claims.alias):
            return self._commit(outcome)
        # There is nothing to commit together with the record, so it needs no transaction.
        self._end_transaction(None)
        if may_leave_record and self.may_begin_late:
            return self._unrecorded(outcome)
        return self._commit(outcome)

    def succeed_unbegun(self, result: object) -> Ended:
        """succeed() of a task that has come to its end before begin(): the record is left to the
        caller. Raises TypeError for a result that is no JSON."""
        return self._unrecorded(outcome_of(result, self.task))

    def fail(self, error: BaseException) -> Ended:
        """Roll the task's writes back and write what follows from the error.

        Continue commits them instead, as succeed() does, with the record of the next run. What the
        database did to the task is none of its failures: it may begin again, or its attempt is
        lost, which the caller has to write. Raises what the database raises: then nothing is known,
        and the delivery must come back.
        """
        if isinstance(error, Continue):
            try:
                return self._commit(*continuation_of(error, self.run, self.task))
            except Exception as failure:
                error = failure
        self._end_transaction(error)
        if self._is_to_begin_again(error):
            return Ended(None, again=True)
        self._held.close()
        if self._waits_for_lock(error):
            return Ended(None, wait_s=self._lock_wait_s(error))
        if self._is_lost(error) and not self._is_recorded():
            close_failed_connections()
            return Ended(None, lost=self._reason_of_loss(error))
        connections.refresh()  # it may be the connection that has failed
        return self.finisher.fail(
            self.run,
            self.task,
            self._call,
            error,
            self._ran_for(),
            may_retry=error is not self._lock_error,
        )

    def hard_timeout(self, cause: BaseException | None = None) -> HardTimeLimitExceeded:
        """What ends it when that is over; `cause` is what it was doing then."""
        error = HardTimeLimitExceeded(HARD_MESSAGE.format(self.run.hard_s))
        error.__cause__ = cause
        return error

    def failure_of(self, error: BaseException) -> BaseException:
        """What has ended it where this was raised: its hard timeout, if that has cut off what it
        waited for in the database."""
        is_cut_off = not self.left_s and isinstance(error, connections.OUTAGES)
        return self.hard_timeout(error) if is_cut_off else error

    def abandon(self) -> None:
        """Roll back and leave the record as it is: the lease brings the task back."""
        self._end_transaction(InterruptedError())
        self._held.close()

    def _take_lock(self) -> None:
        key = self._lock_key()
        try:
            self._held.enter_context(self._lock.hold(key, timeout_s=self.run.hard_s))
        except DatabaseErrors:
            raise
        except Exception as error:
            self._lock_error = error
            raise

    def _waits_for_lock(self, error: BaseException) -> bool:
        """Whether it has not begun, as another has its lock, and may wait once more."""
        if error is not self._lock_error or self._call.ignores(error):
            return False
        return self.run.claim.n_waits < self.run.max_retries

    def _lock_wait_s(self, error: BaseException) -> float:
        if self.run.retry_at_once:
            return 0.0
        return self.task.options.retry_rule.delay_s(
            error, n_retries=self.run.claim.n_waits, jitter_s=random.uniform(*JITTER_S)
        )

    def _take_connection(self) -> None:
        """Wait for one of the pool, where there is a pool, for as long as the task may run."""
        connection = django_connections[self.finisher.claims.alias]
        limit_s = self.left_s if self.run.soft_s < math.inf else None
        self._waited_in_vain = None
        try:
            waited_s = acquire(connection, limit_s=limit_s, reserved=RESERVED_CONNECTIONS)
            self._has_waited = self._has_waited or waited_s > LONG_S
        except PoolExhausted as error:
            self._waited_in_vain = error
            raise

    def _is_to_begin_again(self, error: BaseException) -> bool:
        """Whether it met a conflict, and may run once more in its time; then it is ready to."""
        options = self.task.options
        may_begin = (
            options.atomic and options.on_lost == "rerun" and not self._call.has_rule_for(error)
        )
        if not may_begin or self._n_conflicts == MOST_CONFLICTS or not is_conflict(error):
            return False
        if django_connections[self.finisher.claims.alias].in_atomic_block:
            return False  # in the transaction of another, as in a TestCase
        pause_s = random.uniform(0.0, LONGEST_PAUSE_S * 2**self._n_conflicts)
        if self._ran_for().total_seconds() + pause_s > self.run.soft_s:
            return False
        logger.info("%s met a conflict and begins again: %s", self.task.name, error)
        time.sleep(pause_s)
        self._n_conflicts += 1
        self._is_task_over = False
        # A new one: what the last run has left behind can't use the database in its name.
        self.context = replace(self.context, state=unshared(self.run.claim.state))
        return not self._is_claim_lost()

    def _is_recorded(self) -> bool:
        """Whether its commit went through, and what has failed came after it: a hook, say."""
        return self._is_task_over and self._is_claim_lost()

    def _is_claim_lost(self) -> bool:
        try:
            return bool(self.finisher.claims.find_lost([self.run.claim]))
        except DatabaseErrors:
            return False  # its end will tell

    def _is_lost(self, error: BaseException) -> bool:
        """Whether it is not for the task that it has not come to its end."""
        if self._call.has_rule_for(error):
            return False
        if self._waited_in_vain and isinstance(error, TimeLimits):
            return True
        if isinstance(error, HardTimeLimitExceeded):
            return self._is_task_over
        meaning = meaning_of(error, from_library=self._is_task_over)
        is_our_conflict = meaning is Meaning.CONFLICT and self._is_task_over
        return is_our_conflict or meaning is Meaning.OUTAGE

    def _reason_of_loss(self, error: BaseException) -> Raised:
        add_remedy(error)
        return described(self._waited_in_vain or error, self.run.message)

    def _commit(self, outcome: Outcome, following: Outgoing | None = None) -> Ended:
        self._is_task_over = True
        alias = self.finisher.claims.alias
        limit_s = interrupts.statement_limit_s(
            django_connections[alias], interrupts.LIBRARY_STATEMENT_LIMIT_S
        )
        with interrupts.interrupt_after(limit_s):
            self.finisher.finish(self.run, outcome, ran_for=self._ran_for(), following=following)
        self._end_transaction(None)
        self._held.close()
        self._call.ended(outcome, None)
        return Ended(outcome, following)

    def _unrecorded(self, outcome: Outcome) -> Ended:
        return Ended(outcome, is_recorded=False, ran_for=self._ran_for())

    def _ran_for(self) -> timedelta:
        return timedelta(seconds=time.monotonic() - self._began_at)

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

    def _lock_key(self) -> str:
        values = [
            f"{name}={_shown(self.run.message, name)}" for name in self.task.options.singleton_by
        ]
        return ".".join(["lambda_tasks.singleton_lock", self.task.name, *values])


def _shown(message: Message, name: str) -> str:
    """What a lock's key says of an argument: of a secret one, whether it is the same."""
    text = repr(message.kwargs.get(name))
    if name not in message.secret:
        return text
    return salted_hmac("lambda_tasks.lock", text, algorithm="sha256").hexdigest()


def _context_of(run: Run, finisher: Finisher) -> TaskContext:
    """What the task of a run may know of it, from now on."""
    return TaskContext(
        task_name=run.message.task_name,
        invocation_id=run.message.invocation_id,
        attempt=run.claim.attempt,
        n_retries=run.message.n_retries,
        deadline=time.monotonic() + min(_until_warned_s(run), run.place_s),
        metadata=run.metadata,
        state=unshared(run.claim.state),
        secrets=tuple(run.message.secret_kwargs.values()),
        recorder=ProgressRecorder(run.claim, run.message.task_name, finisher.claims),
    )


def _until_warned_s(run: Run) -> float:
    """Until its soft timeout; where it has none, until shortly before its hard one."""
    return run.hard_s * WARNED_AT if run.soft_s == run.hard_s else run.soft_s


MakeAttempt = Callable[[Run, Task], Attempt]
"""Makes the attempt of a run, whose time begins now, with its task."""
