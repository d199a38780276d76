"""The life of a record: statuses, what a claim finds, what an attempt ends in, what follows.

    QUEUED -> RUNNING -> SUCCESS | FAILED | RETRYING
    QUEUED | RUNNING -> CANCELLED
    RUNNING -> RUNNING   its worker died, its lease ran out, another took it over

A RETRYING record is finished: the retry is an invocation of its own. So is a SUCCESS from which
another run goes on.
"""

import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, StrEnum, auto
from typing import Any, Final, Self
from uuid import UUID

from ..errors import WorkerProcessDied
from .retries import MAX_DELAY_S


class Status(StrEnum):
    """What a record's `status` holds."""

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    SUCCESS = "SUCCESS"
    FAILED = "FAILED"
    RETRYING = "RETRYING"
    CANCELLED = "CANCELLED"

    @property
    def is_finished(self) -> bool:
        """No further run of this invocation will come."""
        return self not in UNFINISHED


UNFINISHED: Final = (Status.QUEUED, Status.RUNNING)

LONGEST_VISIBILITY_TIMEOUT: Final = timedelta(hours=12)
"""The longest time for which a delivery can be put back (ChangeMessageVisibility, Amazon SQS API
reference)."""


def visibility_timeout_s(wait_s: float) -> int:
    """The whole seconds for which SQS is to put a delivery back.

    Rounded up: a message that arrives early is put back, and every delivery counts toward
    maxReceiveCount.
    """
    longest_s = round(LONGEST_VISIBILITY_TIMEOUT.total_seconds())
    return min(max(0, math.ceil(wait_s)), longest_s)


GRACE: Final = timedelta(seconds=30)
"""So long the process that stored a message has to send it itself."""

MAX_DELAY: Final = timedelta(seconds=MAX_DELAY_S)


@dataclass(frozen=True, slots=True)
class LookTerms:
    """When somebody must look at a message that is stored for a queue, as the queue says itself.

    `ahead` is how long before its time the queue takes a message.
    """

    is_sent: bool = True
    """False where the table is the queue, and nothing is left to send."""
    ahead: timedelta = MAX_DELAY
    in_order: bool = False
    """It keeps the order of the messages of each group (FIFO)."""

    @property
    def grace(self) -> timedelta:
        """The time after it is stored in which nobody else needs to look."""
        return GRACE if self.is_sent else timedelta(0)

    @property
    def can_delay(self) -> bool:
        """What is due later may wait in the queue itself, at least for a while."""
        return not self.is_sent or bool(self.ahead)

    def waits(self, wait_s: float) -> bool:
        """A message that is due in so many seconds is not sent yet: it waits in its row."""
        return self.is_sent and wait_s > self.ahead.total_seconds()


SQS_TERMS: Final = LookTerms()

FIFO_TERMS: Final = LookTerms(ahead=timedelta(0), in_order=True)
"""A FIFO queue has one delay for all its messages. What waited in it would hold up its group."""

TABLE_TERMS: Final = LookTerms(is_sent=False, ahead=timedelta(0))
"""The terms of a queue that is the table itself."""


FIRST_OUTAGE_WAIT_S: Final = 30.0
LONGEST_OUTAGE_WAIT_S: Final = 900.0

LONGEST_IF_COPIED_S: Final = 60.0
"""So soon after an outage everything runs again that a copy can stand in for."""


def outage_wait_s(receives: int, *, is_copied: bool) -> float:
    """For how long a delivery goes back that could not be claimed, as the database is away.

    It grows fast, as each further delivery counts toward maxReceiveCount: of five the last comes
    after more than 40 minutes. Not where it is sent again as a copy before these run out.
    """
    longest_s = LONGEST_IF_COPIED_S if is_copied else LONGEST_OUTAGE_WAIT_S
    return min(FIRST_OUTAGE_WAIT_S * 4.0 ** min(receives - 1, 9), longest_s)


TURN_WAITS_S: Final = (0.0, 1.0, 5.0, 15.0, 60.0)
"""Before what has not had its turn may be claimed again; the last is that of all that follow."""


def turn_wait_s(n_waits: int) -> float:
    """For how long an invocation goes back whose turn did not come, after so many waits.

    At once at first; then it grows, so that what has no chance does not go round and round.
    """
    return TURN_WAITS_S[min(n_waits, len(TURN_WAITS_S) - 1)]


@dataclass(frozen=True, slots=True)
class Claim:
    """Ownership of one invocation: its proof, and which attempt this is, from 1."""

    invocation_id: UUID
    token: UUID
    attempt: int
    state: Any = None
    """JSON values that an earlier run has saved."""
    enqueued_at: datetime | None = None
    started_at: datetime | None = None
    worker_ids: tuple[str, ...] = ()
    """One for each attempt that has begun, this one's last if it has."""
    has_begun: bool = True
    """The record counts its start. What has to wait for its turn begins later."""
    n_waits: int = 0
    """How often the invocation has waited, for whatever reason."""
    cut_off_s: float = 0.0
    """For how long it has run, in all, in attempts that the end of their place cut off."""

    @property
    def is_suspect(self) -> bool:
        """An earlier attempt may have killed its worker: it has begun and neither ended nor been
        cut off."""
        return self.attempt > 1 and not self.cut_off_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """How a claim is given back. Times are in seconds."""

    counts: bool
    """It was an attempt; otherwise it has waited once more."""
    is_redelivered: bool = True
    """The delivery does, by itself; otherwise the record is looked at again."""
    wait_s: float = 0.0
    """Before another claim."""
    ran_s: float = 0.0
    """For how long it ran, if the end of its place cut it off."""


class Refusal(Enum):
    """Why an invocation could not be claimed."""

    FINISHED = auto()
    CANCELLED = auto()
    HELD = auto()
    """Another worker has a live lease."""
    NOT_DUE = auto()
    PARKED = auto()
    """Due so late that it waits in its record; the relay sends it in time."""
    UNKNOWN = auto()
    """The message is durable, and its record is not there."""
    EXHAUSTED = auto()
    """Started too often without an outcome, or lost and not to be run again: now FAILED."""
    FOREIGN = auto()
    """The message asks for another task, or other arguments, than the record of its invocation."""
    UNREADABLE = auto()
    """Its secrets, or all of its arguments, are encrypted with a key that is not known here."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A claim that was not granted. Another try is worth it after `retry_after_s` seconds."""

    refusal: Refusal
    retry_after_s: float = 0.0
    foreign: frozenset[str] = frozenset()
    """The deliveries, by their ids, that ask for another task than the record's."""

    @property
    def is_final(self) -> bool:
        """Nothing will ever come of this delivery, so it can be acknowledged."""
        return self.refusal in (Refusal.FINISHED, Refusal.CANCELLED, Refusal.PARKED)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordState:
    """What decides about a claim, read after an attempt to claim; times by the database's clock."""

    status: Status
    n_attempts: int
    is_ours: bool = False
    """It bears the token of this claim."""
    due_in_s: float = 0.0
    """Zero or less: due."""
    lease_left_s: float = 0.0
    """Less than zero: the lease has run out."""
    has_begun: bool = True
    """Its last claim came to its turn: the task was begun."""


LOCKED: Final = Refused(Refusal.HELD, 5.0)
"""Nothing speaks against a claim but that another transaction has locked the record: the rest of a
run that was frozen, say. Who waited for it could wait for ever; its queue looks again soon."""


def judge_claim(found: RecordState | None, *, may_rerun: bool, max_attempts: int) -> Refused | None:
    """Why a record was not claimed; None where it was.

    `found` is None where there is no record. `may_rerun` says that a lost run may be repeated.
    """
    if found is None:
        return Refused(Refusal.UNKNOWN)
    if found.status is Status.CANCELLED:
        return Refused(Refusal.CANCELLED)
    if found.status.is_finished:
        return Refused(Refusal.FINISHED)
    if found.is_ours:
        return None
    is_exhausted = found.n_attempts >= max_attempts
    if found.status is Status.QUEUED:
        return Refused(Refusal.EXHAUSTED) if is_exhausted else _judge_queued(found.due_in_s)
    if found.lease_left_s >= 0:
        return Refused(Refusal.HELD, found.lease_left_s)
    may_run = not is_exhausted and (may_rerun or not found.has_begun)
    return LOCKED if may_run else Refused(Refusal.EXHAUSTED)


def _judge_queued(due_in_s: float) -> Refused:
    if due_in_s <= 0:
        return LOCKED
    is_far_off = due_in_s > LONGEST_VISIBILITY_TIMEOUT.total_seconds()
    return Refused(Refusal.PARKED if is_far_off else Refusal.NOT_DUE, due_in_s)


KEEP_SECRETS_S: Final = 7 * 24 * 3600
"""For how long a failed run keeps its secrets, where the settings say nothing."""

MAX_TRACEBACK: Final = 64 * 1024
"""Characters. An argument of a megabyte may be named again and again in one."""


def _shortened(text: str) -> str:
    """A text with its beginning and its end, which say what was called and what was raised."""
    if len(text) <= MAX_TRACEBACK:
        return text
    half = MAX_TRACEBACK // 2
    left_out = len(text) - 2 * half
    return f"{text[:half]}\n... {left_out} characters are left out ...\n{text[-half:]}"


@dataclass(frozen=True, slots=True)
class Raised:
    """What a task has raised, in words: the dotted name of its class, and the traceback."""

    exception_class: str
    traceback: str

    @classmethod
    def by(cls, error: BaseException, text: str) -> Self:
        """Describe an exception whose traceback is this text; a very long one is cut in its
        middle."""
        return cls(f"{type(error).__module__}.{type(error).__qualname__}", _shortened(text))


WORKER_DIED: Final = Raised.by(WorkerProcessDied(), "Its worker died before the task ended.")

CUT_OFF: Final = Raised.by(WorkerProcessDied(), "The place where it ran ended before the task.")

MOST_CUT_OFF: Final = 20
"""Hard timeouts for which an invocation may run, in all, in attempts that do not count as the end
of their place cut them off."""


def cut_off_too_often(cut_off_s: float, hard_s: float) -> Raised | None:
    """Why an invocation is not to run again that was cut off for so long; None while it may."""
    if cut_off_s < MOST_CUT_OFF * hard_s:
        return None
    return Raised.by(
        WorkerProcessDied(),
        f"It ran for {cut_off_s:.0f} s in all, {MOST_CUT_OFF} times its hard timeout of "
        f"{hard_s:g} s, and each time the place where it ran ended before the task. Give the place "
        "more time (a function's timeout, a worker's drain), or let the task go on in several runs "
        "with Continue.",
    )


@dataclass(frozen=True, slots=True)
class Succeeded:
    """The task returned, or raised an exception that it ignores."""

    result: Any = None
    raised: Raised | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """The task raised what it neither ignores nor retries."""

    raised: Raised


@dataclass(frozen=True, slots=True)
class Retried:
    """Another invocation follows, after `delay`."""

    raised: Raised
    delay: timedelta


@dataclass(frozen=True, slots=True)
class Continued:
    """The task's work is done for this run, and another goes on from `state`."""

    state: Any
    raised: None = None


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Somebody has cancelled the invocation."""

    raised: None = None


Outcome = Succeeded | Failed | Retried | Continued
"""What an attempt ended in."""

STATUS_OF: Final = {
    Succeeded: Status.SUCCESS,
    Continued: Status.SUCCESS,
    Failed: Status.FAILED,
    Retried: Status.RETRYING,
    Cancelled: Status.CANCELLED,
}
"""The status that an end gives its record."""


@dataclass(frozen=True, slots=True)
class End:
    """The end of a claimed run, and how long the task itself ran."""

    claim: Claim
    outcome: Outcome
    ran_for: timedelta | None = None
    """None where that is not known: the record keeps the time of its claim as the start."""
