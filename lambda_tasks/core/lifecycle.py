"""The life of a record: statuses, what a claim finds, what an attempt ends in, what follows.

    QUEUED -> RUNNING -> SUCCESS | FAILED | RETRYING
    QUEUED | RUNNING -> CANCELLED
    RUNNING -> RUNNING   its worker died, its lease ran out, another took it over

A RETRYING record is finished: the retry is an invocation of its own. So is a SUCCESS from which
another run goes on; its record keeps the state that it has handed on.
"""

import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, StrEnum, auto
from typing import Any, Final, Self
from uuid import UUID


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
        return self not in (Status.QUEUED, Status.RUNNING)


LONGEST_WAIT: Final = timedelta(hours=12)
"""For which a delivery can be put back (ChangeMessageVisibility, Amazon SQS API reference)."""


def visibility_timeout_s(wait_s: float) -> int:
    """The whole seconds for which SQS is to put a delivery back: rather too many, as one that comes
    too early is put back again, and is one of its message's deliveries before the dead letters."""
    return min(max(0, math.ceil(wait_s)), round(LONGEST_WAIT.total_seconds()))


@dataclass(frozen=True, slots=True)
class Claim:
    """Ownership of one invocation: its proof, and which attempt this is, from 1."""

    invocation_id: UUID
    token: UUID
    attempt: int
    state: Any = None
    """What an earlier run has saved, as JSON values."""
    enqueued_at: datetime | None = None
    started_at: datetime | None = None
    worker_ids: tuple[str, ...] = ()
    """Of every attempt of this invocation, this one's last."""


class Refusal(Enum):
    """Why an invocation could not be claimed."""

    FINISHED = auto()
    CANCELLED = auto()
    HELD = auto()
    """A live lease of another worker."""
    NOT_DUE = auto()
    LATER = auto()
    """Due so late that it waits in its record, from where the relay sends it in time."""
    UNKNOWN = auto()
    """A durable message whose record is not there."""
    EXHAUSTED = auto()
    """Started too often without an outcome, or lost and not to be run again: now FAILED."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A claim that was not granted, and in how many seconds it is worth another try."""

    refusal: Refusal
    again_in_s: float = 0.0

    @property
    def acknowledge(self) -> bool:
        """The delivery is done with: nothing will ever come of it."""
        return self.refusal in (Refusal.FINISHED, Refusal.CANCELLED, Refusal.LATER)


@dataclass(frozen=True, slots=True)
class Raised:
    """What a task has raised, in words: the dotted name of its class, and the traceback."""

    exception_class: str
    traceback: str

    @classmethod
    def by(cls, error: BaseException, text: str) -> Self:
        """Of an exception, whose traceback is this text."""
        return cls(f"{type(error).__module__}.{type(error).__qualname__}", text)


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


Outcome = Succeeded | Failed | Retried | Continued
"""What an attempt ended in."""


def outcome_status(outcome: Outcome) -> Status:
    """The status that an outcome gives its record."""
    match outcome:
        case Succeeded() | Continued():
            return Status.SUCCESS
        case Failed():
            return Status.FAILED
        case Retried():
            return Status.RETRYING
