"""The keeper of the steps of a durable function, for one run of it, on the run's thread."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Protocol
from uuid import UUID

from django.db import DatabaseError

from ..core.durable import Checkpoint
from ..core.message import CALL_HEADER, UNDO_HEADER, UNDONE_HEADER
from ..database_errors import Meaning, is_conflict, mark_as_library_error, meaning_of
from ..errors import LeaseLost, SoftTimeLimitExceeded
from ..ports import Claims
from .run import Run

WOKE: Final = "woke"
"""The key, in a run's state, of the step that the run before it waited in."""


UNDOING: Final = "undoing"
"""The key, in the state of a run of compensations, of the one that it has begun last."""


class StepTransactions(Protocol):
    """The transactions of steps: an attempt."""

    def begin_step(self) -> None:
        """Open the transaction of a step."""

    def commit_step(self, name: str, write: Callable[[], None]) -> None:
        """Write what is kept of a step, and commit it together with the step's own writes."""

    def roll_back_step(self, error: BaseException) -> None:
        """Roll back the transaction of a step, which an error has ended."""

    def is_retried(self, error: BaseException) -> bool:
        """Return whether a retry follows the run if it ends with this error."""
        ...


@dataclass(frozen=True, slots=True)
class Suspension:
    """Why a run ends before its function does, and when the next one is due."""

    name: str
    """The step in which it ends."""
    due: datetime | None = None
    """When the next run is due; None for at once, FOREVER where somebody wakes it."""
    is_parked: bool = False
    """Whether the next run waits for something else than a time."""
    steps: Sequence[Checkpoint] = ()
    """Steps to write with the end of the run."""
    write: Callable[[UUID], bool] = lambda _: True
    """A function that writes, in that transaction, what wakes the run with this id. It returns
    False where that has happened, and the run is due at once."""


class Journal:
    """The keeper of the steps of a durable function, for one run of it."""

    is_direct = False

    def __init__(self, run: Run, claims: Claims, transactions: StepTransactions) -> None:
        message, headers = run.message, run.message.headers
        first_id = message.root_id or message.invocation_id
        # Without the header it was called when the task was no durable function yet.
        self.call_id = UUID(headers[CALL_HEADER]) if CALL_HEADER in headers else first_id
        """The id of the call: the first invocation's."""
        self.n_undone = headers.get(UNDONE_HEADER, 0)
        """The number of times that the call was undone before it began again."""
        self.is_undo = UNDO_HEADER in headers
        """Whether the run executes the compensations of a call that has ended."""
        state = run.claim.state
        kept = state if isinstance(state, dict) else {}
        self.woke: str | None = kept.get(WOKE)
        """The step in which the run before this one has waited; None for none."""
        self.was_undoing: str | None = kept.get(UNDOING)
        """The compensation that was begun last before this run; None for none."""
        is_first = run.claim.attempt == 1 and not (run.message.n_continues or run.message.n_retries)
        self.may_have_run = not is_first
        """Whether an earlier run, or an attempt, may have done some steps."""
        self.is_replaying = self.may_have_run
        """Whether the code that runs now has run before."""
        self.pending: list[Checkpoint] = []
        """Steps that are written with the next one."""
        self.suspension: Suspension | None = None
        """Why the run ends; None while it goes on."""
        self.interruption: BaseException | None = None
        """An error that leaves open whether a step is done. Code that catches it must not go on, as
        the next run may find that it is."""
        self._secrets = tuple(run.message.secret_kwargs.values())
        self.look = run.look
        """The look terms of the run's queue."""
        self._run = run
        self._claims = claims
        self._transactions = transactions

    def read(self) -> Sequence[Checkpoint]:
        """Return what is kept of the steps, in order."""
        try:
            return self._claims.read_steps(self.call_id)
        except DatabaseError as error:
            mark_as_library_error(error)
            raise

    def begin(self) -> None:
        """Open the transaction of a step."""
        self._transactions.begin_step()

    def commit(self, *steps: Checkpoint) -> None:
        """Write steps, the pending ones before these, and commit. See commit_step().

        Raises LeaseLost where the claim no longer holds.
        """
        name = steps[-1].name if steps else ""
        self._transactions.commit_step(name, lambda: self.write(steps))
        self.pending.clear()  # not before, as a commit may fail, and the step be repeated

    def write(self, steps: Sequence[Checkpoint]) -> None:
        """Write steps in the current transaction, the pending ones before these."""
        claim, written = self._run.claim, [*self.pending, *steps]
        try:
            self._claims.write_steps(claim, self.call_id, written, is_secret=bool(self._secrets))
        except DatabaseError as error:
            mark_as_library_error(error)
            raise

    def note_undoing(self, name: str) -> None:
        """Note that a compensation begins now, which may not come back."""
        try:
            self._claims.save_state(self._run.claim, {UNDOING: name})
        except DatabaseError as error:
            mark_as_library_error(error)
            raise

    def flush(self) -> None:
        """Write the pending steps in a transaction of their own."""
        if not self.pending:
            return
        try:
            self.begin()
            self.commit()
        except BaseException as error:
            self.roll_back(error)
            raise

    def roll_back(self, error: BaseException) -> None:
        """Roll back the transaction of a step, which an error has ended."""
        self._transactions.roll_back_step(error)
        if meaning_of(error) is Meaning.OUTAGE:
            mark_as_library_error(error)  # which it stays, on another connection
            self.interruption = error
        elif isinstance(error, LeaseLost):
            self.interruption = error

    def receive_signal(self, name: str, *, ends: bool) -> tuple[bool, Any]:
        """Return whether a signal has come, and its value, in the current transaction."""
        return self._claims.receive_signal(self.call_id, name, ends=ends)

    def wait_for_signal(self, name: str, run_id: UUID, type: str, *, drops: bool) -> bool:
        """Let a signal wake a run; return False where it has come, unless it `drops` that."""
        return self._claims.wait_for_signal(self.call_id, name, run_id, type, drops=drops)

    def is_retried(self, error: BaseException) -> bool:
        """Return whether a retry follows the run if it ends with this error."""
        return self._transactions.is_retried(error)

    def refuse_direct(self, method: str) -> None:
        """Do nothing: this run can wait."""

    def is_outcome(self, error: BaseException) -> bool:
        """Return whether an error says something of a step, and not of database, time or claim."""
        if not isinstance(error, Exception) or isinstance(error, LeaseLost | SoftTimeLimitExceeded):
            return False
        return not is_conflict(error) and meaning_of(error) is not Meaning.OUTAGE
