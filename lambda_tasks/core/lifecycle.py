"""The life of a record: its statuses, the verdict on a claim, and the outcomes of an attempt.

    WAITING -> QUEUED   a step of a workflow, once the steps that it waits for have ended
    QUEUED -> RUNNING -> SUCCESS | FAILED | RETRYING
    WAITING | QUEUED | RUNNING -> CANCELLED   by somebody, or by a schedule that skips a run
    RUNNING -> RUNNING   its worker died, its lease ran out, another worker took it over

A RETRYING record is finished: the retry is a new invocation. A SUCCESS record whose task continues
in another run is finished, too.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, StrEnum, auto
from typing import Any, Final, Self
from uuid import UUID

from ..errors import TaskExpired, WorkerProcessDied
from .graphs import Place
from .limits import Places
from .pickling import pickled_by_position
from .quick import quick_dataclass
from .retries import MAX_DELAY_S


class Status(StrEnum):
    """The values of a record's `status`."""

    WAITING = "WAITING"
    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    SUCCESS = "SUCCESS"
    FAILED = "FAILED"
    RETRYING = "RETRYING"
    CANCELLED = "CANCELLED"

    @property
    def is_finished(self) -> bool:
        """Whether this invocation will never run again."""
        return self not in UNFINISHED


UNFINISHED: Final = (Status.WAITING, Status.QUEUED, Status.RUNNING)

ACTIVE: Final = (Status.QUEUED, Status.RUNNING)
"""The statuses of records that somebody must look at: their `look_at` is set."""

LONGEST_VISIBILITY_TIMEOUT: Final = timedelta(hours=12)
"""The longest time that SQS hides a message (ChangeMessageVisibility, Amazon SQS API reference)."""


def visibility_timeout_s(wait_s: float) -> int:
    """Return the visibility timeout, in whole seconds, for a delivery that returns to its queue.

    Rounded up: a message that arrives early returns to its queue again, and every delivery counts
    toward maxReceiveCount.
    """
    longest_s = round(LONGEST_VISIBILITY_TIMEOUT.total_seconds())
    return min(max(0, math.ceil(wait_s)), longest_s)


GRACE: Final = timedelta(seconds=30)
"""Time for the process that stored a message to send it itself, before the relay may."""

MAX_DELAY: Final = timedelta(seconds=MAX_DELAY_S)


@pickled_by_position
@dataclass(frozen=True, slots=True)
class LookTerms:
    """A queue's rules for when somebody must look at a record that is stored for it."""

    is_sent: bool = True
    """Whether messages are sent to the queue; False where the table itself is the queue."""
    ahead: timedelta = MAX_DELAY
    """Time before a message is due, from which on the queue accepts it."""
    in_order: bool = False
    """Whether the queue keeps the order of the messages of each group (FIFO)."""

    @property
    def grace(self) -> timedelta:
        """The time after a record is stored in which nobody needs to look at it."""
        return GRACE if self.is_sent else timedelta(0)

    @property
    def can_delay(self) -> bool:
        """Whether a message that is due later can wait in the queue itself for a while."""
        return not self.is_sent or bool(self.ahead)

    def waits(self, wait_s: float) -> bool:
        """Return whether a message that is due in `wait_s` seconds waits in its row for now."""
        return self.is_sent and wait_s > self.ahead.total_seconds()


SQS_TERMS: Final = LookTerms()

FIFO_TERMS: Final = LookTerms(ahead=timedelta(0), in_order=True)
"""The terms of a FIFO queue. It can't delay one message, and a waiting one blocks its group."""

TABLE_TERMS: Final = LookTerms(is_sent=False, ahead=timedelta(0))
"""The terms of a queue that is the table itself."""


FIRST_OUTAGE_WAIT_S: Final = 30.0
"""Seconds before the second delivery of a message that met an outage of the database."""

LONGEST_OUTAGE_WAIT_S: Final = 900.0
"""The most seconds between two deliveries during an outage."""

LONGEST_COPIED_WAIT_S: Final = 60.0
"""The same for a message that can be sent again as a copy: it runs this soon after an outage."""


def outage_wait_s(receives: int, *, is_copied: bool) -> float:
    """Return the seconds until the next delivery of a message that met an outage of the database.

    The wait grows fast, because each delivery counts toward maxReceiveCount: with five, the last
    one arrives after more than 40 minutes. It stays short where the message is sent again as a
    copy (`is_copied`) before its deliveries are used up.
    """
    longest_s = LONGEST_COPIED_WAIT_S if is_copied else LONGEST_OUTAGE_WAIT_S
    return min(FIRST_OUTAGE_WAIT_S * 4.0 ** min(receives - 1, 9), longest_s)


TURN_WAITS_S: Final = (0.0, 1.0, 5.0, 15.0, 60.0)
"""Seconds before a run whose turn did not come may be claimed again; the last one repeats."""


def turn_wait_s(n_waits: int) -> float:
    """Return the seconds before an invocation whose turn did not come may be claimed again.

    The first wait is zero. Later ones grow with `n_waits`, so that an invocation that can't run
    does not travel between queue and worker all the time.
    """
    return TURN_WAITS_S[min(n_waits, len(TURN_WAITS_S) - 1)]


LOST_WAITS_S: Final = (0.0, 2.0, 10.0, 30.0)
"""Seconds before a lost attempt is repeated: the first, the second, and so on; the last repeats."""


def lost_wait_s(attempt: int) -> float:
    """Return the seconds before an attempt that the database has cut off may be repeated.

    After a single cut there is nothing to wait for. After more of them the database may be away for
    those who connect anew only, and all attempts would be used up at once.
    """
    return LOST_WAITS_S[min(attempt, len(LOST_WAITS_S)) - 1]


@pickled_by_position
@quick_dataclass(frozen=True, slots=True)
class Claim:
    """Ownership of one invocation by one attempt."""

    invocation_id: UUID
    token: UUID
    """Proof of ownership; a new one for each claim."""
    attempt: int
    """Number of this attempt, from 1."""
    state: Any = None
    """JSON values that an earlier run has saved."""
    enqueued_at: datetime | None = None
    started_at: datetime | None = None
    """Start of the run by the database's clock; None before the start."""
    worker_ids: tuple[str, ...] = ()
    """The worker of each attempt that has started, oldest first; this attempt's last, if it has."""
    has_started: bool = True
    """Whether the record counts the start of this attempt. A run that waits for its turn has none
    yet."""
    n_waits: int = 0
    """Number of times the invocation has waited, for whatever reason."""
    cut_off_s: float = 0.0
    """Total seconds of attempts that were interrupted by shutdown of their host process."""
    places: Places | None = None
    """The places of which the run holds one until its end; None for a run without a limit."""

    @property
    def may_be_poison(self) -> bool:
        """Whether an earlier attempt may have killed its worker.

        Such an attempt started, did not end, and was not interrupted by shutdown.
        """
        return self.attempt > 1 and not self.cut_off_s

    def begun(self, started_at: datetime, worker_ids: Iterable[str]) -> "Claim":
        """Return the claim with a start that the record counts now, by these workers."""
        # Most runs of a large batch need it, and replace() takes three times as long.
        return Claim(
            invocation_id=self.invocation_id,
            token=self.token,
            attempt=self.attempt,
            state=self.state,
            enqueued_at=self.enqueued_at,
            started_at=started_at,
            worker_ids=(*self.worker_ids, *worker_ids),
            has_started=True,
            n_waits=self.n_waits,
            cut_off_s=self.cut_off_s,
            places=self.places,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """The terms on which a claim is released."""

    counts: bool
    """Whether the claim counts as an attempt; if not, it counts as a wait."""
    is_redelivered: bool = True
    """Whether the queue delivers the message again by itself; if not, the relay looks at it."""
    wait_s: float = 0.0
    """Seconds before another claim."""
    ran_s: float = 0.0
    """Seconds that the run lasted, if shutdown interrupted it."""
    is_refused: bool = False
    """Whether this release can't run it. Then Claims.refuse() counts the wait."""


class Refusal(Enum):
    """The reasons why an invocation could not be claimed."""

    FINISHED = auto()
    CANCELLED = auto()
    EXPIRED = auto()
    """The invocation had not begun when its time was over. Its record is CANCELLED now."""
    HELD = auto()
    """Another worker holds a live lease."""
    NOT_DUE = auto()
    PARKED = auto()
    """The invocation waits in its record, as it is due so late or its queue is paused; the relay
    sends it in time."""
    PACED = auto()
    """The invocation waits for the moment that a rate has reserved for it."""
    FULL = auto()
    """All places of the invocation's limit are taken. It waits in its record until one is free."""
    UNKNOWN = auto()
    """The message is durable, but there is no record of it."""
    EXHAUSTED = auto()
    """The invocation started too often without an outcome, or was lost and must not run again. Its
    record is FAILED now."""
    FOREIGN = auto()
    """The message names another task, or other arguments, than the record of its invocation."""
    UNREADABLE = auto()
    """The record's arguments, or the secret ones, are encrypted with a key this process lacks."""


FINAL_REFUSALS: Final = frozenset(
    {Refusal.FINISHED, Refusal.CANCELLED, Refusal.EXPIRED, Refusal.PARKED, Refusal.FULL}
)


@dataclass(frozen=True, slots=True)
class Refused:
    """A claim that was not granted."""

    refusal: Refusal
    retry_after_s: float = 0.0
    """Seconds after which another claim may succeed."""
    foreign: frozenset[str] = frozenset()
    """Ids of the deliveries that name another task than the record."""
    reason: "Raised | None" = None
    """Why the record is unreadable."""

    @property
    def is_final(self) -> bool:
        """Whether the delivery can be acknowledged, because it will never lead to a run."""
        return self.refusal in FINAL_REFUSALS


@quick_dataclass(frozen=True, slots=True, kw_only=True)
class RecordState:
    """The state of a record that decides about a claim, read after a try to claim it.

    Times are relative to the database's clock.
    """

    status: Status
    n_attempts: int
    is_ours: bool = False
    """Whether the record has the token of this claim."""
    due_in_s: float = 0.0
    """Seconds until the record is due; zero or less where it is due."""
    lease_left_s: float = 0.0
    """Seconds until the lease runs out; less than zero where it has."""
    has_started: bool = True
    """Whether the run of its last claim started."""
    is_expired: bool = False
    """Whether it had not begun when its time was over."""
    is_paused: bool = False
    """Whether its queue is paused."""


LOCKED: Final = Refused(Refusal.HELD, 5.0)
"""The verdict on a record that another transaction has locked.

A frozen function may hold such a lock, for example. Waiting for it could take for ever, so the
delivery comes back soon instead.
"""


NEVER_CLAIMED: Final = {
    Status.WAITING: Refusal.PARKED,  # No message of it is sent before it is released.
    Status.CANCELLED: Refusal.CANCELLED,
    Status.SUCCESS: Refusal.FINISHED,
    Status.FAILED: Refusal.FINISHED,
    Status.RETRYING: Refusal.FINISHED,
}
"""Why records with these statuses can't be claimed."""


def judge_claim(found: RecordState | None, *, may_rerun: bool, max_attempts: int) -> Refused | None:
    """Return why a record was not claimed; None where it was.

    `found` is None where there is no record. `may_rerun` says that a lost run may be repeated.
    """
    if found is None:
        return Refused(Refusal.UNKNOWN)
    if found.status in NEVER_CLAIMED:
        return Refused(NEVER_CLAIMED[found.status])
    if found.is_ours:
        return None
    if found.is_expired and (found.status is Status.QUEUED or found.lease_left_s < 0):
        return Refused(Refusal.EXPIRED)
    if found.is_paused and (found.status is Status.QUEUED or found.lease_left_s < 0):
        return Refused(Refusal.PARKED)
    is_exhausted = found.n_attempts >= max_attempts
    if found.status is Status.QUEUED:
        return Refused(Refusal.EXHAUSTED) if is_exhausted else _judge_queued(found.due_in_s)
    if found.lease_left_s >= 0:
        return Refused(Refusal.HELD, found.lease_left_s)
    may_run = not is_exhausted and (may_rerun or not found.has_started)
    return LOCKED if may_run else Refused(Refusal.EXHAUSTED)


def _judge_queued(due_in_s: float) -> Refused:
    if due_in_s <= 0:
        return LOCKED
    is_far_off = due_in_s > LONGEST_VISIBILITY_TIMEOUT.total_seconds()
    return Refused(Refusal.PARKED if is_far_off else Refusal.NOT_DUE, due_in_s)


KEEP_SECRETS_S: Final = 7 * 24 * 3600
"""Seconds that the record of a failed run keeps its secrets, unless the settings say otherwise."""

MAX_TRACEBACK_CHARS: Final = 64 * 1024
"""The most characters of a traceback: a large argument may appear in it many times."""


def _cut_middle(text: str) -> str:
    """Cut out the middle of a long text: its start shows the call, its end shows the exception."""
    if len(text) <= MAX_TRACEBACK_CHARS:
        return text
    half = MAX_TRACEBACK_CHARS // 2
    n_left_out = len(text) - 2 * half
    return f"{text[:half]}\n... {n_left_out} characters are left out ...\n{text[-half:]}"


def _escape(text: str) -> str:
    """Return text with NUL and lone surrogates escaped, as Python source has them."""
    return text.replace("\0", "\\x00").encode(errors="backslashreplace").decode()


@dataclass(frozen=True, slots=True)
class Raised:
    """An exception of a task, as text."""

    exception_class: str
    """Dotted name of the exception's class."""
    traceback: str
    """The traceback, at most about MAX_TRACEBACK_CHARS characters."""

    @classmethod
    def from_error(cls, error: BaseException, text: str) -> Self:
        """Describe an exception and its traceback; cut out the middle of a very long one.

        Characters that a database refuses are escaped, as else the failure could not be recorded.
        """
        exception_class = f"{type(error).__module__}.{type(error).__qualname__}"
        return cls(exception_class, _cut_middle(_escape(text)))


WORKER_DIED: Final = Raised.from_error(
    WorkerProcessDied(), "Its worker died before the task ended."
)

CUT_OFF: Final = Raised.from_error(
    WorkerProcessDied(), "Its host process shut down before the task ended."
)

MAX_CUT_OFF_HARD_TIMEOUTS: Final = 20
"""The most hard timeouts that an invocation may spend in attempts interrupted by shutdown.

Those attempts don't count, so without this limit it could run for ever.
"""


def cut_off_too_often(cut_off_s: float, hard_s: float) -> Raised | None:
    """Return why an invocation that was interrupted for `cut_off_s` must not run again.

    Returns None while it may. `hard_s` is its hard timeout in seconds.
    """
    if cut_off_s < MAX_CUT_OFF_HARD_TIMEOUTS * hard_s:
        return None
    return Raised.from_error(
        WorkerProcessDied(),
        f"It ran for {cut_off_s:.0f} s in all, {MAX_CUT_OFF_HARD_TIMEOUTS} times its hard timeout "
        f"of {hard_s:g} s, and each time its host process shut down before the task ended. Give "
        "the host process more time (a function's timeout, a worker's drain), or split the task "
        "into several runs with Continue.",
    )


@pickled_by_position
@quick_dataclass(frozen=True, slots=True)
class Succeeded:
    """An outcome: the task returned, or raised an exception that it ignores."""

    result: Any = None
    raised: Raised | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """An outcome: the task raised an exception that it neither ignores nor retries."""

    raised: Raised


@dataclass(frozen=True, slots=True)
class Retried:
    """An outcome: a new invocation repeats the task."""

    raised: Raised
    delay: timedelta
    """Time before the new invocation is due."""


@dataclass(frozen=True, slots=True)
class Continued:
    """An outcome: the task continues in a new invocation."""

    state: Any
    """JSON values that the new invocation starts with."""
    raised: None = None


@dataclass(frozen=True, slots=True)
class Skipped:
    """An outcome: the run of a schedule does not begin, as the one before it still runs."""

    raised: Raised
    schedule: str
    """The name of the schedule, which counts its skipped runs."""


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The end of an invocation that somebody cancelled, or that had not begun in time."""

    raised: Raised | None = None
    """Why, where nobody cancelled it."""


EXPIRED: Final = Cancelled(
    Raised.from_error(TaskExpired(), "It had not begun when its time was over (`expires`).")
)
"""The end of an invocation that had not begun in time."""

NO_START_IN_TIME: Final = Cancelled(
    Raised.from_error(
        TaskExpired(), "Its rate has no start for it before its time is over (`expires`)."
    )
)
"""The end of an invocation whose rate is booked up until it expires. It has reserved no moment."""


Outcome = Succeeded | Failed | Retried | Continued | Skipped
"""The outcome of an attempt."""

STATUS_OF: Final = {
    Succeeded: Status.SUCCESS,
    Continued: Status.SUCCESS,
    Failed: Status.FAILED,
    Retried: Status.RETRYING,
    Skipped: Status.CANCELLED,
    Cancelled: Status.CANCELLED,
}
"""The status that an end gives its record."""


@quick_dataclass(frozen=True, slots=True)
class End:
    """The end of a claimed run."""

    claim: Claim
    outcome: Outcome
    ran_for: timedelta | None = None
    """Duration of the task itself; None where it is unknown, so that the record keeps its start."""
    drops_arguments: bool = False
    """Whether the record loses its arguments; that of a failed run only when it loses secrets."""
    place: Place | None = None
    """The run's place in a workflow; None outside of one."""
    call_id: UUID | None = None
    """The call of a durable function, whose compensations follow if it fails; None for others."""
    knows_undos: bool = False
    """Whether all compensations that its function has named are stored."""

    @property
    def moves_on(self) -> bool:
        """Whether another run follows, which takes over the place in the workflow."""
        return isinstance(self.outcome, Retried | Continued)
