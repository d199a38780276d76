"""A run to attempt, and the end of the attempt: what a worker process receives and returns."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import field
from datetime import timedelta
from typing import Any

from ..core.lifecycle import SQS_TERMS, Claim, LookTerms, Outcome, Raised
from ..core.message import Message, Outgoing
from ..core.pickling import pickled_by_position
from ..core.quick import quick_dataclass
from ..ports import Released


@pickled_by_position
@quick_dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A claimed message to run, with its limits."""

    message: Message
    """The message, as its record holds it."""
    claim: Claim
    """The claim that the run holds."""
    queue: str
    """The queue for retries and continuations."""
    max_retries: int
    """The number of retries after which a failure is final."""
    max_continues: int = 10_000
    """The number of continuations after which another Continue fails."""
    look: LookTerms = SQS_TERMS
    """The look terms of the queue, for the run that follows."""
    soft_s: float = 0.0
    """The soft timeout in seconds; equal to `hard_s` if there is none, infinity for no limits."""
    hard_s: float = 0.0
    """The hard timeout in seconds."""
    budget_s: float = math.inf
    """The host process's time budget for the run, in seconds from its start."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """The host process's description of itself, for the task's context."""
    leaves_record: bool = False
    """Whether the caller writes the record, with those of others, if nothing else is to commit.

    A run that is alone has nobody to share a statement with, and writes its own.
    """
    retry_at_once: bool = False
    """Whether retries have no delay, as in eager mode, where the caller would wait for it."""


@pickled_by_position
@quick_dataclass(frozen=True, slots=True)
class AttemptEnd:
    """The end of an attempt."""

    outcome: Outcome | None
    """The outcome; None if another field says what follows, or if the claim was lost."""
    following: Outgoing | None = None
    """The retry or the next run. Its record was stored together with the outcome."""
    interrupted: bool = False
    """Whether a KeyboardInterrupt ended the attempt. It was rolled back, and nothing recorded."""
    lost: Raised | None = None
    """The outage of the database that ended the attempt. The executor applies `on_lost`."""
    wait_s: float | None = None
    """Seconds until a singleton that did not get its lock tries again. It has not started."""
    refused: Raised | None = None
    """Why this release can't run the message: its arguments don't fit. It has not started."""
    restarts: bool = False
    """Whether the attempt was rolled back after a conflict and restarts at once."""
    replaces_process: bool = False
    """Whether the worker process is to be replaced, with all processes that the task started."""
    is_recorded: bool = True
    """False if the caller has to write the outcome, as there was nothing else to commit."""
    released: Sequence[Released] = ()
    """The steps of its workflow that its end has released, to be sent."""
    ran_for: timedelta | None = None
    """The time that the task ran, by the clock of its own process; None if it is unknown."""
