"""One attempt that is to be made, and what it has come to: what travels to a worker process and
back."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from ..core.lifecycle import SQS_TERMS, Claim, LookTerms, Outcome, Raised
from ..core.message import Message, Outgoing


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A claimed message, the limits that hold for it, and what its task may know of the place."""

    message: Message
    claim: Claim
    queue: str
    max_retries: int
    max_continues: int = 10_000
    look: LookTerms = SQS_TERMS
    """The terms of its queue, for what follows."""
    soft_s: float = 0.0
    hard_s: float = 0.0
    place_s: float = math.inf
    """When the place where it runs ends, from its beginning on."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    retry_at_once: bool = False
    """Without a delay, where nobody would wait for it."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How an attempt ended, in its record; None where the record is another's by now."""

    outcome: Outcome | None
    following: Outgoing | None = None
    """The retry, or the next run, whose record is stored with this one's end."""
    interrupted: bool = False
    """A KeyboardInterrupt ended it: rolled back, with nothing recorded."""
    lost: Raised | None = None
    """An outage of the database ended it; the executor says what follows, by `on_lost`."""
    wait_s: float | None = None
    """It could not have the lock of a singleton, and so has not begun: it waits for so long."""
    again: bool = False
    """It is rolled back, and to begin again at once."""
    is_recorded: bool = True
    """False where it had nothing to commit, and its record is left to the executor."""
    ran_for: timedelta | None = None
